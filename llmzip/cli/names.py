"""Names of files: what ours end in, what a result is called, what somebody may have meant.

Owns the suffix, and how an original's own suffix goes into a container and comes back.
"""

from __future__ import annotations

import os
import stat
from glob import escape, iglob

from llmzip.errors import FormatError, InputError
from llmzip.store.suffix import is_suffix

SUFFIX = ".crm"
_NEVER_REPLACED = (SUFFIX, ".part")  # the name would be that of the input, or of the work kept


def is_crm(path: str) -> bool:
    """Whether a file is one of ours, by its name."""
    return path.lower().endswith(SUFFIX)


def packed_names(path: str) -> tuple[str, ...]:
    """What `compress` makes of a file's name: its suffix replaced, for as long as no other input
    would get that name, or else added to."""
    full = path + SUFFIX
    stem, suffix = os.path.splitext(path)
    return (stem + SUFFIX, full) if _comes_back(stem, suffix) else (full,)


def kept_suffix(source: str | None, target: str | None) -> str:
    """What the container keeps of the original's name for `decompress` to put back: its suffix,
    but not where the container's own name has it. None: standard input or output."""
    stem, suffix = os.path.splitext(source or "")
    if not _comes_back(stem, suffix):
        return ""
    if target is not None and is_crm(target) and target[: -len(SUFFIX)].endswith(suffix):
        return ""
    return suffix


def _comes_back(stem: str, suffix: str) -> bool:
    """Whether a container can keep the suffix, and `restored_names` will add it: not to what ends
    in it already."""
    is_own = suffix.lower() in _NEVER_REPLACED
    return is_suffix(suffix) and not is_own and not stem.endswith(suffix)


def restored_names(path: str) -> tuple[str]:
    """What `decompress` makes of a file's name. Reads its header for the suffix. Raises
    InputError."""
    stem = strip_suffix(path)
    suffix = _suffix_in(path)
    return (stem if stem.endswith(suffix) else stem + suffix,)


def is_result_of(source: str, target: str) -> bool:
    """Whether a container is there that keeps the suffix of this file. Raises InputError."""
    suffix = kept_suffix(source, target)
    return is_crm(target) and suffix != "" and _suffix_in(target) == suffix


def strip_suffix(path: str) -> str:
    """A name without what ours end in. Raises InputError."""
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
    except (FileNotFoundError, FormatError):  # which the work will say
        return ""
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return header.suffix


def partner(path: str) -> str:
    """A hint for a file that is not there, or is not one of ours: which other one is meant. Empty
    where none is."""
    if path.endswith(f"{SUFFIX}.part") and os.path.isfile(path):
        return "it is unfinished work: the command that began it goes on with it"
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
