"""Several inputs in one run: which files, where each result goes, and what the run ends with.

Owns the walk through directories and going on after a failure. Knows nothing of the work. Called by
`cli.compress`, `cli.decompress` and `cli.test`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import typer

from llmzip.cli.failures import exit_code_of, print_error
from llmzip.cli.files import STDIO
from llmzip.errors import InputError, Interrupted, LlmzipError, SettingsError


@dataclass(frozen=True, kw_only=True)
class Input:
    """A file to be worked on."""

    path: str
    relative: str  # to the directory it was found in; else its own name


def inputs_of(
    files: Sequence[str], *, recursive: bool, is_wanted: Callable[[str], bool]
) -> list[Input]:
    """The files named, and with `recursive` those that are wanted below the directories named.

    Hidden ones, and links to directories, are left out. Raises InputError for a directory without
    wanted files.
    """
    found: list[Input] = []
    for file in files:
        if not (recursive and os.path.isdir(file)):
            found.append(Input(path=file, relative=os.path.basename(file)))
            continue
        below = [
            Input(path=path, relative=os.path.relpath(path, os.path.dirname(file.rstrip("/"))))
            for path in _below(file)
            if is_wanted(path)
        ]
        if not below:
            raise InputError(f"{file} has no files for this in it")
        found.extend(below)
    return found


def _below(directory: str) -> Iterator[str]:
    for where, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and os.path.isfile(os.path.join(where, name)):
                yield os.path.join(where, name)


def check_together(
    found: Sequence[Input],
    *,
    output: str | None,
    output_dir: str | None,
    may_join: bool,
) -> None:
    """Refuse what cannot be meant. may_join: standard output takes several results."""
    several = len(found) > 1
    if output is not None and output_dir is not None:
        raise SettingsError("--output and --output-dir do not go together")
    if several and output is not None and not (may_join and output == STDIO):
        raise SettingsError(
            f"--output names one file, and there are {len(found)} inputs",
            hint="--output-dir names a directory for the results",
        )
    if output_dir is not None and any(each.path == STDIO for each in found):
        raise SettingsError("what comes from standard input has no name for --output-dir")


def target_in(output_dir: str | None, one: Input, default: Callable[[str], str]) -> str | None:
    """Where a result goes; None: beside its input. Makes directories. Raises InputError."""
    if output_dir is None:
        return None
    target = os.path.join(output_dir, default(one.relative))
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {os.path.dirname(target)}: {error.strerror}") from error
    return target


def run_each(found: Sequence[Input], run: Callable[[Input], None]) -> None:
    """`run` on every input. What fails is told, and the others follow; the run then ends with the
    highest exit code there was. A signal ends it at once."""
    if len(found) == 1:
        run(found[0])
        return
    worst = 0
    for one in found:
        try:
            run(one)
        except Interrupted:
            raise
        except typer.Exit as end:
            worst = max(worst, end.exit_code)
        except (LlmzipError, OSError) as error:
            print_error(error, name=one.path)
            worst = max(worst, exit_code_of(error))
    if worst:
        raise typer.Exit(worst)
