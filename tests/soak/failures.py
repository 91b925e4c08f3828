"""Calls that fail, files that may not be touched, and inputs that change.

Owns what is injected, what is changed behind a run's back, and what a failed run must say and
leave.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from llmzip.cli.sources import Source
from tests.soak import faults, forks
from tests.soak.forks import Ended, told_chunks
from tests.soak.outcome import Outcome
from tests.soak.scenes import (
    FEW,
    FINAL,
    INPUT,
    PART,
    RAW,
    RESTORE,
    RESTORE_FORCE,
    SHORT,
    STORED,
    STORED_FORCE,
    Left,
    Undisturbed,
    Variant,
    Workplace,
    Wrong,
    check_clean,
    go_on,
    look,
    new_tally,
    require,
    try_case,
)

_ALL = (*faults.CHANGING, *faults.LOOKING)
_DENIED = "Permission denied"
# After these fail, a file that is in nobody's way may stay until the next run.
_TIDYING = ("unlink", "lstat", "fstat", "close", "open")


def fail_all(place: Workplace, *, full: bool) -> list[Outcome]:
    """All of it; if not `full`, a run with a model fails at every eighth call."""
    return [
        fail_calls(place, SHORT if full else FEW[1:]),
        fail_calls(place, (RAW,), every=1 if full else 8),
        deny(place),
        change_inputs(place),
    ]


def check_failed(
    directory: Path,
    variant: Variant,
    plain: Undisturbed,
    ended: Ended,
    words: str,
    *,
    is_tidy: bool = True,
) -> Left:
    """A run that fails says so in one line, and leaves nothing but its work."""
    left = look(directory, variant, plain, told=told_chunks(ended.err))
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    require(ended.code == 1 and len(errors) == 1, f"it does not fail as it should: {ended}")
    require(words in errors[0] and "cannot " in errors[0], f"it does not say {words!r}: {ended}")
    require(not left.is_complete or "cannot" in ended.err, f"it says it failed: {ended}")
    names = set(os.listdir(directory)) - {variant.source, variant.final, PART}
    require(not is_tidy or not names, f"left behind: {sorted(names)}; {ended}")
    require(("kept in" not in ended.err) or left.has_part, f"nothing is kept: {ended}")
    return left


def fail_calls(place: Workplace, variants: Sequence[Variant], every: int = 1) -> Outcome:
    """An error at every call on a file, torn writes, and calls that do little at a time."""
    tally = new_tally("failing calls")
    for variant in variants:
        with place.directory(variant) as directory:
            calls = place.start(variant, directory, names=_ALL).end().logged("call")
        case = partial(_fail_call, place, variant, faults.little, 0, "")
        try_case(tally, case, f"{variant.name}, little at a time")
        case = partial(_lied_to, place, variant)
        try_case(tally, case, f"{variant.name}, a disk that gives back other bytes")
        for at in range(0, len(calls), every):
            name = calls[at].split()[0]
            ways = [("before", errno.EIO)]
            if name == "write":
                ways.append(("torn", errno.ENOSPC))
            for when, error in ways:
                around = faults.fail(at, error, when)
                case = partial(_fail_call, place, variant, around, error, name)
                label = f"{variant.name}, {errno.errorcode[error]} {when} call {at}: {calls[at]}"
                try_case(tally, case, label)
    return tally.outcome()


def _fail_call(
    place: Workplace, variant: Variant, around: faults.Around, error: int, name: str
) -> None:
    plain = place.undisturbed(variant)
    with place.directory(variant) as directory:
        ended = place.start(variant, directory, around=around, names=_ALL).end()
        if ended.code == 0:  # one that it can do without
            left = look(directory, variant, plain)
            require(left.is_complete, f"there is no result: {ended}")
        else:
            require(error != 0, f"it fails: {ended}")
            tidy = name not in _TIDYING
            left = check_failed(directory, variant, plain, ended, os.strerror(error), is_tidy=tidy)
        go_on(place, directory, variant, plain, left)


def _lied_to(place: Workplace, variant: Variant) -> None:
    plain = place.undisturbed(variant)
    with place.directory(variant) as directory:
        ended = place.start(variant, directory, around=faults.lie).end()
        require(ended.code == 1 and "gives back other bytes" in ended.err, str(ended))
        left = look(directory, variant, plain, told=told_chunks(ended.err))
        go_on(place, directory, variant, plain, left)


def deny(place: Workplace) -> Outcome:
    """Files and directories that the user may not read or write."""
    tally = new_tally("denied")

    def closed(directory: Path, name: str, mode: int) -> None:
        (directory / name).chmod(mode)

    for variant in SHORT:
        for what, name, mode in (
            ("directory", ".", 0o555), ("input", variant.source, 0o000),
        ):  # fmt: skip
            change = partial(closed, name=name, mode=mode)
            case = partial(_denied, place, variant, change)
            try_case(tally, case, f"{variant.name}: {what} that is closed")
    for variant in (STORED_FORCE, RESTORE_FORCE):
        change = partial(closed, name=variant.final, mode=0o000)
        case = partial(_replaced, place, variant, change)
        try_case(tally, case, f"{variant.name}: old file that may not be written")
    try_case(tally, partial(_unreadable, place), "input that gives an error")
    return tally.outcome()


def _denied(place: Workplace, variant: Variant, change: Callable[[Path], None]) -> None:
    plain = place.undisturbed(variant)
    with place.directory(variant) as directory:
        for path in (directory, *directory.iterdir()):
            forks.give_away(path)
        change(directory)
        ended = place.start(variant, directory, around=None, prepare=forks.drop_root).end()
        directory.chmod(0o755)
        check_failed(directory, variant, plain, ended, _DENIED)


def _replaced(place: Workplace, variant: Variant, change: Callable[[Path], None]) -> None:
    """Only its directory matters: the new file takes its name."""
    plain = place.undisturbed(variant)
    with place.directory(variant) as directory:
        for path in (directory, *directory.iterdir()):
            forks.give_away(path)
        change(directory)
        ended = place.start(variant, directory, around=None, prepare=forks.drop_root).end()
        require(ended.code == 0, str(ended))
        require(look(directory, variant, plain).is_complete, "it was not replaced")
        check_clean(directory, variant)


def _unreadable(place: Workplace) -> None:
    """A file of the system that can be opened, and reading it is a real error."""
    with place.directory(STORED) as directory:
        command = ("compress", "/proc/self/mem", "-o", FINAL)
        ended = forks.start(command, directory, place.notes).end()
        check_failed(directory, STORED, place.undisturbed(STORED), ended, "Input/output error")
        require("/proc/self/mem" in ended.err, str(ended))


def change_inputs(place: Workplace) -> Outcome:
    """Inputs and directories that change while a run reads, and while it works."""
    tally = new_tally("inputs changed")
    for variant in (RAW, STORED, RESTORE):
        for name, change in _CHANGES.items():
            case = partial(_changed_while_read, place, variant, change)
            try_case(tally, case, f"{variant.name}: {name} while it was read")
    for name, change in _CHANGES.items():
        case = partial(_changed_later, place, change, name)
        try_case(tally, case, f"{name} during the work")
    try_case(tally, partial(_directory_gone, place), "the output's directory is removed")
    try_case(tally, partial(_journal_gone, place), "the journal is removed")
    return tally.outcome()


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"and more")


def _rewrite(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[::-1])


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _replace(path: Path) -> None:
    """By another file of the same size and time."""
    other, status = path.with_name("other"), path.stat()
    other.write_bytes(path.read_bytes()[::-1])
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(path)


_CHANGES: dict[str, Callable[[Path], None]] = {
    "appended to": _append,
    "rewritten": _rewrite,
    "cut": _cut,
    "replaced": _replace,
    "deleted": Path.unlink,
}


def _changed_while_read(place: Workplace, variant: Variant, change: Callable[[Path], None]) -> None:
    """A file that is deleted was read whole all the same."""
    plain = place.undisturbed(variant)
    with place.directory(variant) as directory:

        def prepare() -> None:
            real = Source.read

            def read(source: Source) -> bytes:
                change(directory / variant.source)
                return real(source)

            Source.read = read  # type: ignore[method-assign]

        ended = place.start(variant, directory, around=None, prepare=prepare).end()
        left = look(directory, variant, plain)
        if change == Path.unlink:
            require(ended.code == 0 and left.is_complete, str(ended))
        else:
            require(ended.code == 1 and "changed while it was read" in ended.err, str(ended))
            require(not left.is_complete, f"there is a result in spite of {ended}")
        check_clean(directory, variant)


def _changed_later(place: Workplace, change: Callable[[Path], None], name: str) -> None:
    """The result is of what was read, and a change is said."""
    plain = place.undisturbed(RAW)
    with place.directory(RAW) as directory:
        child = place.start(RAW, directory, around=None)
        require(child.wait_until(lambda: "kept plan " in child.log), "it does not get there")
        change(directory / INPUT)
        ended = child.end()
        require(ended.code == 0 and look(directory, RAW, plain).is_complete, str(ended))
        warns = "warning: book.txt has changed" in ended.err
        require(warns == (change != Path.unlink), f"{name}: {ended}")
        check_clean(directory, RAW)


def _directory_gone(place: Workplace) -> None:
    with place.directory(RAW) as directory:
        out = directory / "out"
        out.mkdir()
        command = (*place.command(RAW), "-o", f"out/{FINAL}")
        child = forks.start(command, directory, place.notes)
        require(child.wait_until(lambda: "kept plan " in child.log), "it does not get there")
        shutil.rmtree(out)
        ended = child.end()
        require(ended.code == 1 and os.strerror(errno.ENOENT) in ended.err, str(ended))
        require("kept in" not in ended.err, f"nothing is kept: {ended}")
        require(sorted(os.listdir(directory)) == [INPUT], "something is left behind")


def _journal_gone(place: Workplace) -> None:
    plain = place.undisturbed(RAW)
    with place.directory(RAW) as directory:
        child = place.start(RAW, directory, around=None)
        require(child.wait_until(lambda: "kept plan " in child.log), "it does not get there")
        (directory / PART).unlink()
        ended = child.end()
        if ended.code or (directory / FINAL).read_bytes() != plain.data:
            raise Wrong(str(ended))
        check_clean(directory, RAW)
