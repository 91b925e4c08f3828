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
from llmzip.cli.signals import answer_between
from llmzip.errors import InputError, Interrupted, SettingsError


@dataclass(frozen=True, kw_only=True)
class Input:
    """A file to be worked on."""

    path: str
    relative: str  # to the directory it was found in; else its own name


def inputs_of(
    files: Sequence[str], *, recursive: bool, is_wanted: Callable[[str], bool]
) -> list[Input]:
    """The files named, and with `recursive` those that are wanted below the directories named.

    Hidden ones, and links to directories, are left out; a directory that cannot be read stands for
    what is in it, and fails when it is opened. Raises InputError for a directory without wanted
    files.
    """
    found: list[Input] = []
    for file in files:
        if not (recursive and os.path.isdir(file)):
            found.append(Input(path=file, relative=os.path.basename(file)))
            continue
        name = os.path.basename(file.rstrip("/"))
        if name in ("", os.curdir, os.pardir):  # no name that a result could be put under
            name = ""
        below = [
            Input(path=path, relative=os.path.join(name, os.path.relpath(path, file)))
            for path in _below(file)
            if is_wanted(path) or os.path.isdir(path)
        ]
        if not below:
            raise InputError(f"{file} has no files for this in it")
        found.extend(below)
    return found


def _below(directory: str) -> Iterator[str]:
    """Files, and directories that cannot be read."""
    refused: list[str] = []
    for where, folders, names in os.walk(
        directory, onerror=lambda error: refused.append(str(error.filename))
    ):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and os.path.isfile(os.path.join(where, name)):
                yield os.path.join(where, name)
    yield from refused


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


def check_apart(
    found: Sequence[Input], *, output_dir: str | None, default: Callable[[str], str]
) -> None:
    """Refuse inputs whose results would have the same name: with --force the last would be all
    there is."""
    seen: dict[str, str] = {}
    for one in found:
        if one.path == STDIO:
            continue
        try:
            target = _target(output_dir, one, default) or default(one.path)
        except InputError:  # is told when its turn comes
            continue
        place = os.path.realpath(target)
        if place in seen:
            raise SettingsError(
                f"{seen[place]} and {one.path} would both become {target}",
                hint="name each file once, and files of one name in runs of their own",
            )
        seen[place] = one.path


def target_in(output_dir: str | None, one: Input, default: Callable[[str], str]) -> str | None:
    """Where a result goes; None: beside its input. Makes directories. Raises InputError."""
    target = _target(output_dir, one, default)
    if target is None:
        return None
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {os.path.dirname(target)}: {error.strerror}") from error
    return target


def _target(output_dir: str | None, one: Input, default: Callable[[str], str]) -> str | None:
    return None if output_dir is None else os.path.join(output_dir, default(one.relative))


def run_each(found: Sequence[Input], run: Callable[[Input], None]) -> None:
    """`run` on every input. Whatever fails is told, and the others follow; the run then ends with
    the highest exit code there was. A signal ends it at once."""
    if len(found) == 1:
        run(found[0])
        return
    with answer_between("between two files"):
        worst = max([_code_of(one, run) for one in found])
    if worst:
        raise typer.Exit(worst)


def _code_of(one: Input, run: Callable[[Input], None]) -> int:
    try:
        run(one)
    except Interrupted:
        raise
    except typer.Exit as end:
        return end.exit_code
    except Exception as error:
        print_error(error, name=one.path)
        return exit_code_of(error)
    return 0
