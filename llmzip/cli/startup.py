"""The process of the command: its working directory, how threads wait, faster imports and memory.

Owns the settings of the whole process that the command changes; the library changes none of them.

Threads of OpenMP, with which torch computes, wait for each other in a loop for milliseconds. On an
idle machine that is fastest. Beside another busy process, the loop takes the core from the thread
that is waited for, and a run takes up to four times as long (docs/LOG.md). So where the machine is
busy when the command starts, the threads give up their core almost at once.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from llmzip.errors import InputError

# Turns of the loop where the machine is busy; the default of the library is about 300,000.
_BUSY_SPINS = "1000"
_USERS_CHOICE = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_BUSY_CORES = 0.5  # used by other processes; less may be one that is about to end
_LEAST_SECONDS = 0.2  # between two samples, as the system counts hundredths of a second
_STAT = Path("/proc/stat")
# Parameters of glibc's mallopt and their values in bytes: so much may stay unused at the end of the
# heap, and larger blocks come from the system one by one.
_KEPT_MEMORY = {-1: 256 << 20, -3: 32 << 20}
_MEMORY_CHOICE = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
_BUSY_FIELDS = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """Seconds: time of the clock, of work of all cores, of work of this process."""

    at: float
    busy: float
    own: float


_first: _Sample | None = None
_lost_directory = False  # the working directory has been removed


def prepare_process() -> None:
    """Prepare the process as soon as the command starts. Where the working directory has been
    removed, change to the root directory, as importing torch would end the process otherwise;
    `check_path` then refuses relative paths."""
    global _first, _lost_directory
    _lost_directory = False
    try:
        os.getcwd()
    except OSError:
        _lost_directory = True
        os.chdir(os.path.sep)
    if "torch" not in sys.modules and not any(name in os.environ for name in _USERS_CHOICE):
        _first = _sample()


def check_path(path: str) -> None:
    """Raise InputError for a relative path where the working directory has been removed."""
    if _lost_directory and not os.path.isabs(path):
        raise InputError(
            f"cannot find {path}: the working directory is no longer there",
            hint="go to a directory that is there, or name files by their whole paths",
        )


@contextmanager
def heavy_imports() -> Iterator[None]:
    """A block that imports torch: decides how threads wait and what memory is kept for reuse, and
    switches garbage collection off inside the block. Importing torch makes hundreds of thousands of
    objects that all stay, and searching them for garbage takes a tenth of the time of the import.
    """
    _choose_waiting()
    _keep_freed_memory()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _keep_freed_memory() -> None:
    """Let the heap keep what the optimiser frees at the end of a step until the next one needs it:
    otherwise the system takes it back and fills it with zeros again, 160 MB in each step."""
    is_chosen = any(name in os.environ for name in _MEMORY_CHOICE)
    if sys.platform.startswith("linux") and not is_chosen:
        import ctypes  # takes milliseconds, which only such blocks have

        # Only glibc has it; other allocators return memory by themselves or not at all.
        with suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            for parameter, value in _KEPT_MEMORY.items():
                mallopt(parameter, value)


def _choose_waiting() -> None:
    """Set how threads wait, in an environment variable that OpenMP reads when torch is loaded."""
    global _first
    before, _first = _first, None
    if before is None:
        return
    time.sleep(max(0.0, before.at + _LEAST_SECONDS - time.monotonic()))
    after = _sample()
    if after is not None and _others_cores(before, after) > _BUSY_CORES:
        os.environ["GOMP_SPINCOUNT"] = _BUSY_SPINS


def _others_cores(before: _Sample, after: _Sample) -> float:
    """How many cores other processes have kept busy between two samples."""
    others = (after.busy - before.busy) - (after.own - before.own)
    return others / (after.at - before.at)


def _sample() -> _Sample | None:
    """A sample now; None where the system has no such figures (it is not Linux)."""
    try:
        lines = _STAT.read_text().splitlines()
        mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        cores = [words[1:] for words in map(str.split, lines) if words[:1] and words[0] in mine]
        ticks = sum(int(core[field]) for core in cores for field in _BUSY_FIELDS)
        second = os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return None
    return _Sample(at=time.monotonic(), busy=ticks / second, own=sum(os.times()[:4]))
