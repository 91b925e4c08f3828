"""What the command arranges before it works: where it runs, how threads wait, faster imports.

Owns what is changed of the process, whose owner the command is; the library changes none of it.

Threads of OpenMP, which torch computes with, wait for each other in a loop, milliseconds long. On
an idle machine that is quickest. Beside another busy process it takes the core from the very thread
that is waited for, and a run takes up to four times as long (docs/LOG.md). So they give the core up
almost at once where the machine is busy when the command starts.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmzip.errors import InputError

# Turns of the loop, where the machine is busy; the library's own number is some 300,000.
_BUSY_SPINS = "1000"
_USERS_CHOICE = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_BUSY_CORES = 0.5  # that others keep busy; less may be a process that just ends
_LEAST_SECONDS = 0.2  # between two looks: the system counts in hundredths
_STAT = Path("/proc/stat")
_BUSY_FIELDS = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal


@dataclass(frozen=True, kw_only=True)
class _Look:
    """Seconds: of the clock, that the cores have been busy, of these for this process."""

    at: float
    busy: float
    own: float


_first: _Look | None = None
_is_astray = False  # the working directory is gone


def prepare_process() -> None:
    """As soon as the command starts. Where the working directory is gone, go to the root: torch's
    library would end the process. Relative paths mean nothing then (`check_path`)."""
    global _first, _is_astray
    _is_astray = False
    try:
        os.getcwd()
    except OSError:
        _is_astray = True
        os.chdir(os.path.sep)
    if "torch" not in sys.modules and not any(name in os.environ for name in _USERS_CHOICE):
        _first = _look()


def check_path(path: str) -> None:
    """Raise InputError for a path from a working directory that is gone."""
    if _is_astray and not os.path.isabs(path):
        raise InputError(
            f"cannot find {path}: the working directory is no longer there",
            hint="go to a directory that is there, or name files by their whole paths",
        )


@contextmanager
def heavy_imports() -> Iterator[None]:
    """For importing torch: decides how threads wait, and has no garbage collection inside the
    block, as before after it. Importing torch makes hundreds of thousands of objects that all stay,
    and looking for garbage among them takes a tenth of the import's time."""
    _choose_waiting()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _choose_waiting() -> None:
    """Set how threads wait; torch's library reads it when it is loaded."""
    global _first
    before, _first = _first, None
    if before is None:
        return
    time.sleep(max(0.0, before.at + _LEAST_SECONDS - time.monotonic()))
    after = _look()
    if after is not None and _others_cores(before, after) > _BUSY_CORES:
        os.environ["GOMP_SPINCOUNT"] = _BUSY_SPINS


def _others_cores(before: _Look, after: _Look) -> float:
    """How many cores others have kept busy."""
    others = (after.busy - before.busy) - (after.own - before.own)
    return others / (after.at - before.at)


def _look() -> _Look | None:
    """None where the system does not tell (it is not Linux)."""
    try:
        lines = _STAT.read_text().splitlines()
        mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        cores = [words[1:] for words in map(str.split, lines) if words[:1] and words[0] in mine]
        ticks = sum(int(core[field]) for core in cores for field in _BUSY_FIELDS)
        second = os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return None
    return _Look(at=time.monotonic(), busy=ticks / second, own=sum(os.times()[:4]))
