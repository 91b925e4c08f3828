"""What is looked at before a long run: room on the disk, memory, time.

Owns what is refused, what is asked and what is only said.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

from llmzip.cli.console import say
from llmzip.cli.files import Target
from llmzip.cli.forecast import time_text
from llmzip.errors import LimitExceeded
from llmzip.progress import Forecast
from llmzip.store.atomic import directory_of

LONG_SECONDS = 600.0
_SPARE_BYTES = 1 << 20


def check_disk(target: Target, wanted_bytes: int, *, yes: bool) -> None:
    """Refuse to begin where the result, and the work that is kept, may not fit. Raises
    LimitExceeded, unless everything is wanted (yes)."""
    if yes or target.path is None or target.is_stream:
        return
    directory = directory_of(target.path)
    try:
        free = shutil.disk_usage(directory).free
    except OSError:  # not every file system says
        return
    if free < wanted_bytes + _SPARE_BYTES:
        raise LimitExceeded(
            f"{directory} has {size_text(free)} left; the result may take "
            f"{size_text(wanted_bytes + _SPARE_BYTES)}",
            hint="make room, choose another place with -o, or go on all the same with -y",
        )


def consider(
    forecast: Forecast,
    *,
    yes: bool,
    quiet: bool,
    paused: Callable[[], AbstractContextManager[None]],
) -> bool:
    """Whether to go on: False where a person declines. Raises LimitExceeded for want of memory.

    yes: everything is wanted, whatever it takes. quiet: nothing is said where nobody is asked.
    paused: holds what is drawn while it is asked.
    """
    if yes:
        return True
    needs, free = forecast.needs_bytes, forecast.free_bytes
    if needs is not None and free is not None and needs > free:
        raise LimitExceeded(
            f"the model needs about {size_text(needs)} of memory, {size_text(free)} are free",
            hint="close something, take a smaller model, or go on all the same with -y",
        )
    if forecast.seconds is None or forecast.seconds <= LONG_SECONDS:
        return True
    line = f"this will take about {time_text(forecast.seconds)}"
    if not somebody_answers():
        if not quiet:
            say(line)
        return True
    with paused():
        is_agreed = agrees(f"{line}; go on? [Y/n] ")
    if not is_agreed:
        say("note: --preset fast and --codec arith take less time, --time-budget bounds it")
    return is_agreed


def somebody_answers() -> bool:
    """Whether a question would be seen and answered. A job in the background that reads from its
    terminal is stopped."""
    if sys.stdin is None or not (sys.stdin.isatty() and os.isatty(2)):
        return False
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, AttributeError):  # not every platform has such groups
        return True


def agrees(question: str) -> bool:
    """What a person at the terminal answers; nothing counts as yes."""
    while True:
        print(question, end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
        if not answer:  # the terminal is gone
            return False
        if answer.strip().lower() in ("", "y", "yes"):
            return True
        if answer.strip().lower() in ("n", "no"):
            return False


def size_text(num_bytes: int) -> str:
    """Bytes as people say them."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} bytes"
