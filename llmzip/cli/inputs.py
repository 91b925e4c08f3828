"""Several inputs in one run: which files, where each result goes, and the exit code of the run.

Owns the walk through directories, and that a failure does not end the run. Knows nothing of the
work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import typer

from llmzip.cli.console import PipeClosed, exit_code_of, print_error
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
    relative: str  # path from the directory that was named; its own name for a file that was named
    target: str | None = None  # default path of the result; None: not known yet


def inputs_of(
    files: Sequence[str], *, recursive: bool, is_wanted: Callable[[str], bool]
) -> list[Input]:
    """The files named, and with `recursive` those that are wanted below the directories named.

    Hidden files and directories, and links to directories, are left out. A directory that cannot be
    read is among the results, so that opening it fails and reports it. Raises InputError for a
    directory without wanted files.
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
        if name in ("", os.curdir, os.pardir):  # no name for a directory of results
            name = ""
        below = [
            Input(path=path, relative=os.path.join(name, os.path.relpath(path, file)))
            for path in _below(file)
            if is_wanted(path) or os.path.isdir(path)
        ]
        if not below:
            raise InputError(f"{file} has no files for this command in it")
        found.extend(below)
    return found


def _below(directory: str) -> Iterator[str]:
    """The files below a directory, then the directories that cannot be read."""
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
    found: Sequence[Input], *, output: str | None, output_dir: str | None, may_join: bool
) -> None:
    """Raise SettingsError for options that do not fit these inputs. may_join: several results may
    go to standard output one after the other."""
    if output_dir == "":
        raise SettingsError("--output-dir is empty", hint="name a directory, or leave it out")
    if output is not None and output_dir is not None:
        raise SettingsError("--output and --output-dir do not go together")
    if len(found) > 1 and output is not None and not (may_join and output == STDIO):
        raise SettingsError(
            f"--output names one file, and there are {len(found)} inputs",
            hint="--output-dir names a directory for the results",
        )
    if output_dir is not None and any(each.path == STDIO for each in found):
        raise SettingsError("what comes from standard input has no name for --output-dir")


def with_targets(found: Sequence[Input], *, output_dir: str | None, names: Names) -> list[Input]:
    """The inputs with the paths of their results: beside each input, or below `output_dir`.

    names: the possible names of a result, best first. Where two results would get the same path,
    both get the last of their names. Raises SettingsError where their paths are the same even then:
    with --force, the second would replace the first.
    """
    choices = [_choices(one, output_dir, names) for one in found]
    while same := _with_same_path(choices):
        movable = [index for index in same if len(choices[index]) > 1]
        if not movable:
            first, second = same[:2]
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
    """As `_places`; none for standard input, and where the error is reported in its turn."""
    if one.path == STDIO:
        return ()
    try:
        return _places(one, output_dir, names)
    except InputError:
        return ()


def _places(one: Input, output_dir: str | None, names: Names) -> Sequence[str]:
    """The possible paths of the result of a file, best first. Raises InputError."""
    found = names(one.path)
    if output_dir is not None:
        folder = os.path.join(output_dir, os.path.dirname(one.relative))
        found = [os.path.join(folder, os.path.basename(name)) for name in found]
    # A result of an earlier run keeps its name, even where another input would get the same.
    return found[:1] if is_result_of(one.path, found[0]) else found


def _with_same_path(choices: Sequence[Sequence[str]]) -> list[int]:
    """The indices of the first inputs whose best paths are the same; empty where all differ."""
    places: dict[str, list[int]] = {}
    for index, own in enumerate(choices):
        if own:
            places.setdefault(os.path.realpath(own[0]), []).append(index)
    return next((found for found in places.values() if len(found) > 1), [])


def result_in(output_dir: str | None, one: Input, names: Names) -> str | None:
    """The path of a result below `output_dir`, whose directories are made; None without an
    `output_dir`, and for standard input. Raises InputError, also for errors that `with_targets` has
    left for later."""
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
    """Call `run` on every input. A failure is reported, and the next inputs follow; the run then
    ends with the highest exit code of all. A signal ends it at once."""
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
