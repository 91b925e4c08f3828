"""Disks that fill up, fail and change: real small ones, a limit on a file's size, errors injected.

Owns how full a disk is and what is expected then: one line that names a file, exit code 1, no part
of a file under the final name, the old file kept, and the work, from which the next run goes on
once there is room. The rest is in `failures`.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from tests.soak import faults
from tests.soak.child import in_child
from tests.soak.failures import check_failed, fail_all
from tests.soak.forks import Tuning, check_ours
from tests.soak.mounts import NoDisk, SmallDisk, small_disk
from tests.soak.outcome import Outcome, Tally
from tests.soak.scenes import (
    ARITH,
    FEW,
    FORCE,
    GRID,
    RAW,
    SHORT,
    Variant,
    Workplace,
    go_on,
    look,
    new_tally,
    require,
    try_case,
    workplace,
)

_TOO_LARGE, _NO_SPACE = "File too large", "No space left on device"
_MOST = 400  # blocks or files; no run here needs more
COMPACTED = replace(RAW, name="compacted", tuning=Tuning(save_seconds=-1.0, compact_bytes=250_000))


def run(*, seed: int, full: bool) -> list[Outcome]:
    """All of it; if not `full`, of runs with a model a few. Nothing is drawn at random."""
    return in_child(__name__, "fail_disks", timeout_s=7200 if full else 900, full=full)


def fail_disks(*, full: bool) -> list[Outcome]:
    """In a process that forks."""
    with workplace() as place:
        outcomes = [*fail_all(place, full=full), limit_sizes(place, full)]
        try:
            with small_disk() as disk:
                on_disk = replace(place, root=disk.path)
                outcomes += [fill_disks(on_disk, disk, full), freeze_disks(on_disk, disk)]
        except NoDisk as reason:
            note = f"full disks: skipped: {reason}"
            outcomes.append(Outcome(name="full disks", cases=0, notes=(note,)))
        return outcomes


def fill_disks(place: Workplace, disk: SmallDisk, full: bool) -> Outcome:
    """Every free size from nothing to enough, block by block, and every number of free files."""
    tally = new_tally("full disks")
    for variant in SHORT:
        _sweep(tally, place, disk, variant, "blocks")
        _sweep(tally, place, disk, variant, "files")
    _sweep(tally, place, disk, RAW, "files")
    for variant in (RAW, FORCE, ARITH, GRID, COMPACTED) if full else (RAW,):
        _sweep(tally, place, disk, variant, "blocks", step=1 if full else 10)
    outcome = tally.outcome()
    return replace(outcome, notes=(f"full disks: {disk.way}", *outcome.notes))


def _sweep(
    tally: Tally, place: Workplace, disk: SmallDisk, variant: Variant, unit: str, step: int = 1
) -> None:
    """Ever more room, until it is enough."""
    is_enough: list[bool] = []
    for room in range(0, _MOST, step):
        case = partial(_fill, place, disk, variant, unit, room, is_enough)
        try_case(tally, case, f"{variant.name}: room for {room} {unit}")
        if is_enough:
            return
    try_case(tally, partial(require, False, "it was never enough"), f"{variant.name}: {unit}")


def _fill(
    place: Workplace,
    disk: SmallDisk,
    variant: Variant,
    unit: str,
    room: int,
    is_enough: list[bool],
) -> None:
    plain = place.undisturbed(variant)
    with place.directory(variant) as directory:
        if unit == "blocks":
            disk.fill(but_blocks=room)
        else:
            disk.fill(but_files=room)
        try:
            ended = place.start(variant, directory, around=None).end()
            if ended.code == 0:
                is_enough.append(True)
                left = look(directory, variant, plain)
                require(left.is_complete, f"there is no result: {ended}")
                return
            left = check_failed(directory, variant, plain, ended, _NO_SPACE)
        finally:
            disk.make_room()
        go_on(place, directory, variant, plain, left)


def freeze_disks(place: Workplace, disk: SmallDisk) -> Outcome:
    """A file system that takes nothing."""
    tally = new_tally("read-only disks")
    for variant in (*SHORT, RAW):
        try_case(tally, partial(_freeze, place, disk, variant), variant.name)
    return tally.outcome()


def _freeze(place: Workplace, disk: SmallDisk, variant: Variant) -> None:
    plain = place.undisturbed(variant)
    with place.directory(variant) as directory:
        with disk.read_only():
            ended = place.start(variant, directory, around=None).end()
            left = check_failed(directory, variant, plain, ended, "Read-only file system")
        go_on(place, directory, variant, plain, left)


def limit_sizes(place: Workplace, full: bool) -> Outcome:
    """A limit on the size of a file, from nothing to enough."""
    tally = new_tally("limits on a file's size")
    for variant in (*SHORT, RAW, ARITH) if full else FEW[1:]:
        for limit in _limits(max(len(place.undisturbed(variant).data), 200_000 if full else 400)):
            try_case(tally, partial(_limit, place, variant, limit), f"{variant.name}: {limit}")
    return tally.outcome()


def _limits(most: int) -> Sequence[int]:
    """Closer where little is written."""
    found = [0]
    while found[-1] < most:
        found.append(found[-1] + 1 + found[-1] // 4)
    return found


def _limit(place: Workplace, variant: Variant, limit: int) -> None:
    plain = place.undisturbed(variant)
    reader, writer = os.pipe()  # the limit is on the files of messages, too
    with place.directory(variant) as directory:
        try:
            child = place.start(variant, directory, around=None, prepare=_limiter(limit, writer))
            ended = child.end()
            os.set_blocking(reader, False)
            os.close(writer)
            ended = replace(ended, err=os.read(reader, 1 << 16).decode())
        finally:
            os.close(reader)
        check_ours(ended)
        if ended.code == 0:
            left = look(directory, variant, plain)
            require(left.is_complete, f"there is no result: {ended}")
        else:
            left = check_failed(directory, variant, plain, ended, _TOO_LARGE)
        go_on(place, directory, variant, plain, left)


def _limiter(limit: int, writer: int) -> Callable[[], None]:
    def prepare() -> None:
        os.dup2(writer, 2)
        faults.log_to(-1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return prepare
