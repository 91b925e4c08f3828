"""Names of files: the suffix .crm, the name of a result, a suggestion for a name without a file.

Owns the suffix, how an original's own suffix goes into a container and comes back, and what the
shell is offered when it completes a value. Where nothing is offered, the shell completes names of
files by itself.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable
from glob import escape, iglob

from llmzip.errors import FormatError, InputError
from llmzip.store.original import is_suffix

SUFFIX = ".crm"
_NEVER_REPLACED = (SUFFIX, ".part")  # the name would be that of the input, or of the work kept


def is_crm(path: str) -> bool:
    """Whether the name of a file ends in .crm."""
    return path.lower().endswith(SUFFIX)


def packed_names(path: str) -> tuple[str, ...]:
    """The names that `compress` may give the result of a file, best first: with its suffix replaced
    by .crm, which two inputs may have in common, and with .crm added."""
    full = path + SUFFIX
    stem, suffix = os.path.splitext(path)
    return (stem + SUFFIX, full) if _comes_back(stem, suffix) else (full,)


def kept_suffix(source: str | None, target: str | None) -> str:
    """The suffix of the original that the container keeps, so that `decompress` can put it back;
    empty where the container's own name has it. None: standard input or output."""
    stem, suffix = os.path.splitext(source or "")
    if not _comes_back(stem, suffix):
        return ""
    if target is not None and is_crm(target) and target[: -len(SUFFIX)].endswith(suffix):
        return ""
    return suffix


def _comes_back(stem: str, suffix: str) -> bool:
    """Whether a container can keep the suffix and `restored_names` will add it to the stem, which
    it does not where the stem ends in it already."""
    is_own = suffix.lower() in _NEVER_REPLACED
    return is_suffix(suffix) and not is_own and not stem.endswith(suffix)


def restored_names(path: str) -> tuple[str]:
    """The name that `decompress` gives the result of a file, alone in a tuple. Reads the file's
    header for the suffix. Raises InputError."""
    stem = strip_suffix(path)
    suffix = _suffix_in(path)
    return (stem if stem.endswith(suffix) else stem + suffix,)


def is_result_of(source: str, target: str) -> bool:
    """Whether `target` is a container that keeps the suffix of `source`. Raises InputError."""
    suffix = kept_suffix(source, target)
    return is_crm(target) and suffix != "" and _suffix_in(target) == suffix


def strip_suffix(path: str) -> str:
    """A name without .crm. Raises InputError for a name without it."""
    stem, suffix = path[: -len(SUFFIX)], path[-len(SUFFIX) :]
    if suffix.lower() != SUFFIX or not stem or stem[-1] in "/\\":
        raise InputError(
            f"{path} does not end in {SUFFIX}", hint=partner(path) or "name the output with -o"
        )
    return stem


def _suffix_in(path: str) -> str:
    from llmzip.store.header import MOST_START_BYTES, read_header

    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a FIFO would be empty after this
            return ""
        with open(path, "rb") as file:
            header, _ = read_header(file.read(MOST_START_BYTES))
    except (FileNotFoundError, FormatError):  # the work itself will report it
        return ""
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return header.suffix


def partner(path: str) -> str:
    """A hint for a file that is not there, or is no .crm file: the name of another one that may be
    meant. Empty where there is none."""
    if path.endswith(f"{SUFFIX}.part") and os.path.isfile(path):
        return "it is unfinished work: run the command that began it again, to continue"
    if is_crm(path):
        stem = path[: -len(SUFFIX)]
        found = sorted(iglob(f"{escape(stem)}.*{SUFFIX}"))
        plain = [name for name in (stem, *sorted(iglob(f"{escape(stem)}.*"))) if not is_crm(name)]
    else:
        found = [name for name in packed_names(path) if os.path.isfile(name)]
        plain = [] if os.path.exists(path) else sorted(iglob(f"{escape(path)}.*"))
    if found:
        return f"{found[0]} is there"
    plain = [name for name in plain if os.path.isfile(name) and not name.endswith(".part")]
    if plain and is_crm(path):
        return f"{plain[0]} is there, not compressed yet"
    return f"{plain[0]} is there" if plain else ""


def any_of(words: str) -> Callable[[str], list[str]]:
    """A completion function for values such as "auto|cpu|cuda", as an option's help shows them."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words.split("|") if word.startswith(incomplete)]

    return complete


def model_names(incomplete: str) -> list[str]:
    """Completes to the named models; other models are directories or ORG/NAME of the hub."""
    from llmzip.lm.zoo import MODELS

    return [name for name in MODELS if name.startswith(incomplete)]


def crm_files(incomplete: str) -> list[str]:
    """Completes to files that end in .crm and to directories beside them.

    Offers nothing where there is no such file, or where a name needs quotes: the shell adds quotes
    only to names that it completes itself.
    """
    found = sorted(iglob(escape(incomplete) + "*"))
    files = [path for path in found if is_crm(path) and os.path.isfile(path)]
    folders = [path + os.sep for path in found if os.path.isdir(path)]
    names = files + folders
    return names if files and all(shlex.quote(name) == name for name in names) else []
