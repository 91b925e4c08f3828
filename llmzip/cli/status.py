"""The words of a progress line.

Owns which figures of an event are shown, in which order, and what makes way on a narrow terminal.
Does not know how a line is drawn.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from llmzip.progress import Progress


def status_line(event: Progress, *, seconds: float) -> str:
    """How far a run is, in one line."""
    return f"{event.stage}  {describe(event, seconds=seconds)}".rstrip()


def describe(event: Progress, *, seconds: float, width: int | None = None) -> str:
    """The figures of an event, `seconds` after its stage began. width: columns that there are; the
    figures that matter least make way."""
    parts: list[tuple[int, str]] = []  # what each is worth, and its words
    is_stream = event.stage in ("decode", "verify") and event.tokens_total > 0
    if is_stream and event.chunks_total > 1:
        parts.append((4, f"{event.chunks_done:,}/{event.chunks_total:,} segments"))
    elif event.chunks_total and not is_stream:
        unit = "texts" if event.stage == "lab" else "chunks"
        parts.append((4, f"{event.chunks_done:,}/{event.chunks_total:,} {unit}"))
    if event.tokens_total:
        unit = "steps" if event.stage == "share" else "tokens"
        parts.append((2, f"{event.tokens_right:,}/{event.tokens_total:,} {unit}"))
    done = event.bytes_done
    if is_stream:  # a segment's bytes are done all at once, its tokens one after another
        done = max(done, event.bytes_total * event.tokens_right // event.tokens_total)
    new = done - event.bytes_kept
    if new > 0 and seconds >= 1:
        rate = new / seconds
        parts.append((1, f"{rate:,.0f} bytes/s" if rate >= 10 else f"{rate:.1f} bytes/s"))
        if event.bytes_total > done:
            parts.append((3, f"{_clock((event.bytes_total - done) / rate)} left"))
    if event.output_bytes:
        parts.append((0, f"{event.output_bytes:,} bytes so far"))
    while width is not None and len(parts) > 1 and len(_joined(parts)) > width:
        parts.remove(min(parts))
    return _joined(parts)


def _joined(parts: Sequence[tuple[int, str]]) -> str:
    return "  ".join(words for _, words in parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Timer:
    """Seconds since the current stage began."""

    def __init__(self) -> None:
        self.stage = ""
        self._began = 0.0

    def seconds(self, stage: str) -> float:
        now = time.monotonic()
        if stage != self.stage:
            self.stage, self._began = stage, now
        return now - self._began
