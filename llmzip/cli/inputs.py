"""Several inputs in one run: which files, where each result goes, and what the run ends with.

Owns the walk through directories and going on after a failure. Knows nothing of the work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import typer

from llmzip.cli.console import PipeClosed
from llmzip.cli.failures import exit_code_of, print_error
from llmzip.cli.names import is_result_of
from llmzip.cli.signals import answer_between
from llmzip.cli.sources import STDIO
from llmzip.cli.startup import check_path
from llmzip.errors import InputError, Interrupted, SettingsError

Names: TypeAlias = Callable[[str], Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Input:
    """A file to be worked on."""

    path: str
    relative: str  # to the directory it was found in; else its own name
    target: str | None = None  # where the result goes by default; None: not known yet


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
        if not file:
            raise SettingsError("the name of a file is empty")
        if file != STDIO:
            check_path(file)
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
    if output_dir == "":
        raise SettingsError("--output-dir is empty", hint="name a directory, or leave it out")
    if output is not None and output_dir is not None:
        raise SettingsError("--output and --output-dir do not go together")
    if several and output is not None and not (may_join and output == STDIO):
        raise SettingsError(
            f"--output names one file, and there are {len(found)} inputs",
            hint="--output-dir names a directory for the results",
        )
    if output_dir is not None and any(each.path == STDIO for each in found):
        raise SettingsError("what comes from standard input has no name for --output-dir")


def with_targets(found: Sequence[Input], *, output_dir: str | None, names: Names) -> list[Input]:
    """Each input with where its result goes: beside it, or below `output_dir`.

    names: what a result may be called, best first. Where results would meet, each gets the last of
    its names; refuse inputs that meet all the same: with --force the last would be all there is.
    Raises SettingsError.
    """
    choices = [_choices(one, output_dir, names) for one in found]
    while meeting := _meeting(choices):
        movable = [index for index in meeting if len(choices[index]) > 1]
        if not movable:
            first, second = meeting[:2]
            raise SettingsError(
                f"{found[first].path} and {found[second].path} would both become "
                f"{choices[first][0]}",
                hint="name each file once, and files of one name in runs of their own",
            )
        for index in movable:
            choices[index] = choices[index][-1:]
    return [
        replace(one, target=own[0]) if own else one for one, own in zip(found, choices, strict=True)
    ]


def _choices(one: Input, output_dir: str | None, names: Names) -> Sequence[str]:
    """Where a result may go; nowhere: standard output, or what is wrong is told in its turn."""
    if one.path == STDIO:
        return ()
    try:
        return _places(one, output_dir, names)
    except InputError:
        return ()


def _places(one: Input, output_dir: str | None, names: Names) -> Sequence[str]:
    """Where the result of a file may go, best first. Raises InputError."""
    found = names(one.path)
    if output_dir is not None:
        folder = os.path.join(output_dir, os.path.dirname(one.relative))
        found = [os.path.join(folder, os.path.basename(name)) for name in found]
    # A result of an earlier run keeps its name, whoever would meet it there.
    return found[:1] if is_result_of(one.path, found[0]) else found


def _meeting(choices: Sequence[Sequence[str]]) -> list[int]:
    """The first inputs there are whose best names lead to one place."""
    places: dict[str, list[int]] = {}
    for index, own in enumerate(choices):
        if own:
            places.setdefault(os.path.realpath(own[0]), []).append(index)
    return next((found for found in places.values() if len(found) > 1), [])


def result_in(output_dir: str | None, one: Input, names: Names) -> str | None:
    """Where a result goes below `output_dir`, whose directories are made; None without one, and
    for standard input. Raises InputError, also for what `with_targets` has left to be told."""
    if output_dir is None or one.path == STDIO:
        return None
    target = one.target or _places(one, output_dir, names)[0]
    check_path(target)
    try:
        os.makedirs(os.path.dirname(target) or os.curdir, exist_ok=True)
    except FileExistsError as error:
        raise InputError(
            f"{error.filename} is not a directory", hint="choose another --output-dir"
        ) from error
    except OSError as error:
        raise InputError(f"cannot make {os.path.dirname(target)}: {error.strerror}") from error
    return target


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
    except (Interrupted, PipeClosed):
        raise
    except typer.Exit as end:
        return end.exit_code
    except Exception as error:
        print_error(error, name=one.path)
        return exit_code_of(error)
    return 0
