"""Before a long run: its forecast, and whether disk, memory and patience suffice for it.

Owns the text of a forecast (`compress --dry-run`), of times and of sizes; what is refused, what the
user is asked, and what is only reported. Does not know how a forecast is made.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from llmzip.cli.console import say
from llmzip.cli.files import Target
from llmzip.config import CompressSettings
from llmzip.errors import LimitExceeded
from llmzip.inspect.report import MODEL_NOT_COUNTED
from llmzip.progress import Forecast
from llmzip.store.atomic import directory_of
from llmzip.store.figures import STORED

if TYPE_CHECKING:
    from llmzip.codecs.base import Estimate

SCHEMA = 1
LONG_SECONDS = 600.0
_SPARE_BYTES = 1 << 20


def check_disk(target: Target, wanted_bytes: int, *, yes: bool) -> None:
    """Refuse to begin where the disk may not have room for the result and the work in progress.
    Raises LimitExceeded, but not with `yes` (the option -y)."""
    if yes or target.path is None or target.is_stream:
        return
    directory = directory_of(target.path)
    try:
        free = shutil.disk_usage(directory).free
    except OSError:  # not every file system tells
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
    """Whether to go on; False where the user declines. Raises LimitExceeded for want of memory.

    yes: go on whatever it takes (the option -y). quiet: print nothing where nobody can be asked.
    paused: a context in which no progress is drawn, for the question.
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
    """Whether a user can see a question and answer it. Not one of a background job: the system
    would stop it when it reads from its terminal."""
    if sys.stdin is None or not (sys.stdin.isatty() and os.isatty(2)):
        return False
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, AttributeError):  # not every platform has such groups
        return True


def agrees(question: str) -> bool:
    """Ask the user at the terminal. An empty line counts as yes."""
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
    """A size as people write it: "1.2 MB"."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} bytes"


def forecast_fields(estimate: Estimate, settings: CompressSettings) -> dict[str, object]:
    """A forecast, ready for JSON. Under one `schema`, fields may be added; none changes meaning."""
    return {
        "schema": SCHEMA,
        "dry_run": True,
        "codec": estimate.codec,
        "original_bytes": estimate.original_bytes,
        "container_bytes": estimate.container_bytes,
        "file_bits_per_byte": estimate.bits_per_byte(estimate.container_bytes),
        "seconds": estimate.seconds,
        "time_budget_s": settings.time_budget_s,
        "num_chunks": estimate.num_chunks,
        "num_vectors": estimate.num_vectors,
        "steps_a_chunk": estimate.steps_a_chunk,
        "tried_chunks": estimate.tried_chunks,
        "xz_9e_bytes": estimate.xz_bytes,
        "xz_9e_bits_per_byte": estimate.bits_per_byte(estimate.xz_bytes),
    }


def forecast_text(name: str, estimate: Estimate, settings: CompressSettings) -> str:
    """A forecast as plain lines, the last one with its newline. `name` is ready to print."""
    rate = estimate.bits_per_byte(estimate.container_bytes)
    if rate is None:
        return f"{name}: empty; the container takes {estimate.container_bytes:,} bytes\n"
    sizes = (
        f"{estimate.original_bytes:,} → about {estimate.container_bytes:,} bytes "
        f"({rate:.2f} bits per byte)"
    )
    xz = f"xz -9e {estimate.xz_bytes:,} ({estimate.bits_per_byte(estimate.xz_bytes):.2f})"
    if estimate.codec == STORED:
        return f"{name}: {sizes}, stored without the model in a moment; {xz}\n"
    lines = [
        f"{name}: about {time_text(estimate.seconds)}, {sizes}, {estimate.result}; {xz} "
        f"({MODEL_NOT_COUNTED})",
        f"forecast from {estimate.sample}; nothing was written",
        *_notes(estimate, settings),
    ]
    return "\n".join(lines) + "\n"


def _notes(estimate: Estimate, settings: CompressSettings) -> list[str]:
    """What a forecast leaves out of account."""
    budget, notes = settings.time_budget_s, []
    if estimate.keeps_budget and budget is not None and budget < estimate.seconds:
        notes.append(
            f"note: more than the time budget of {time_text(budget)}; what is not crammed by then "
            "would be stored, so the file would be another size"
        )
    if estimate.left_out:
        left_out = " and ".join(estimate.left_out)
        notes.append(f"note: the work of {left_out} is not in this forecast")
    return notes


def time_text(seconds: float) -> str:
    """A time as people write it: "40 s", "14 min", "2 h 10 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours:,} h {rest} min" if rest else f"{hours:,} h"
