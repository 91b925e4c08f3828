"""What is looked at before a long run: room on the disk, memory, time.

Owns what is refused, what is asked and what is only said. Called by `cli.job`.
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
from llmzip.errors import InputError, Interrupted, LimitExceeded
from llmzip.progress import Outlook
from llmzip.store.disk import directory_of

LONG_SECONDS = 600.0
_SPARE_BYTES = 1 << 20


def check_disk(target: Target, wanted_bytes: int) -> None:
    """Refuse to begin where the result, and the work that is kept, will not fit. Raises
    InputError."""
    if target.path is None or target.is_stream:
        return
    directory = directory_of(target.path)
    try:
        free = shutil.disk_usage(directory).free
    except OSError:  # not every file system says
        return
    if free < wanted_bytes + _SPARE_BYTES:
        raise InputError(
            f"{directory} has {size_text(free)} left; the result may take "
            f"{size_text(wanted_bytes + _SPARE_BYTES)}",
            hint="make room, or choose another place with -o",
        )


def consider(
    outlook: Outlook, *, yes: bool, paused: Callable[[], AbstractContextManager[None]]
) -> None:
    """Go on, or raise LimitExceeded for want of memory, Interrupted where a person declines.

    yes: everything is wanted, whatever it takes. paused: holds what is drawn while it is asked.
    """
    if yes:
        return
    needs, free = outlook.needs_bytes, outlook.free_bytes
    if needs is not None and free is not None and needs > free:
        raise LimitExceeded(
            f"the model needs about {size_text(needs)} of memory, {size_text(free)} are free",
            hint="close something, take a smaller model, or go on all the same with -y",
        )
    if outlook.seconds is None or outlook.seconds <= LONG_SECONDS:
        return
    line = f"this will take about {time_text(outlook.seconds)}"
    if not (os.isatty(2) and sys.stdin is not None and sys.stdin.isatty()):
        say(line)
        return
    with paused():
        if not _agrees(f"{line}; go on? [Y/n] "):
            raise Interrupted(
                "declined; nothing was written",
                hint="--preset fast and --codec arith take less time, --time-budget bounds it",
            )


def _agrees(question: str) -> bool:
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
