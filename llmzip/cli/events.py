"""Progress events as text: a status line for people, JSON lines on standard output for programs.

Owns which figures of an event a line shows, in which order, and which are left out on a narrow
terminal; and the JSON schema, which docs/EVENTS.md describes. Does not know how a line is drawn.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from llmzip.cli.console import PipeClosed, describe_error, exit_code_of, say, write_json
from llmzip.errors import InputError, SettingsError
from llmzip.progress import Progress

if TYPE_CHECKING:
    from llmzip.cli.work import JobSettings, Outcome
    from llmzip.inspect.report import Report

SCHEMA = 1


class JsonEvents:
    """Writes a line for each stage, chunk and message of one file's work."""

    def __init__(self, name: str) -> None:
        """name: the file's."""
        self._name = name
        self._stage = ""

    def __call__(self, event: Progress) -> None:
        if event.stage != self._stage:
            self._stage = event.stage
            totals = _figures(event, "chunks_total", "tokens_total", "bytes_total")
            self._write("stage", stage=event.stage, **totals)
        if event.message:
            self._write("message", stage=event.stage, message=event.message)
        if event.chunk is not None:
            counts = ("chunks_done", "chunks_total", "bytes_done", "output_bytes")
            self._write("chunk", **asdict(event.chunk), **_figures(event, *counts))

    def error(self, message: str, hint: str, exit_code: int) -> None:
        """The work has ended with an error."""
        self._write("error", message=message, hint=hint, exit_code=exit_code)

    def _write(self, event: str, **fields: Any) -> None:
        write_json({"schema": SCHEMA, "event": event, "file": self._name, **fields})


@contextmanager
def errors_told(job: JobSettings) -> Iterator[None]:
    """Write an error that ends the block as a JSON line, too, where the job writes events. Errors
    of usage are left out: they come before it is known what standard output is for."""
    try:
        yield
    except (typer.Exit, SettingsError, PipeClosed):
        raise
    except Exception as error:
        if job.tells:
            message, hint = describe_error(error)
            with suppress(InputError, PipeClosed):  # nobody reads standard output
                JsonEvents(job.file).error(message, hint, exit_code_of(error))
        raise


def done_event(outcome: Outcome, report: Report) -> dict[str, object]:
    """The event that ends the work on a file: its report and the time it took."""
    fields = {**report.to_dict(), "seconds": outcome.seconds, "already_there": not outcome.is_new}
    return {**fields, "event": "done", "file": outcome.source_name, "output": outcome.target_name}


def show_outcome(
    job: JobSettings, outcome: Outcome, report: Report, lines: Iterable[str], *, name: str
) -> None:
    """Show what a job did: as an event, in lines, and with `verbose` the report, of this name."""
    if job.json:
        write_json(done_event(outcome, report))
    if job.quiet:
        return
    for line in lines:
        say(line)
    if job.verbose:
        say(f"{report.to_text(name=name)}seconds   {outcome.seconds:.1f}")


def _figures(event: Progress, *names: str) -> dict[str, int]:
    return {name: getattr(event, name) for name in names}


def status_line(event: Progress, *, seconds: float) -> str:
    """One line that says how far a run is, `seconds` after the current stage began."""
    return f"{event.stage}  {describe(event, seconds=seconds)}".rstrip()


def describe(event: Progress, *, seconds: float, width: int | None = None) -> str:
    """The figures of an event, `seconds` after its stage began. width: columns that the terminal
    has for them; the least important figures are left out where there are too few."""
    parts: list[tuple[int, str]] = []  # importance and text of each
    is_stream = event.stage in ("decode", "verify") and event.tokens_total > 0
    if is_stream and event.chunks_total > 1:
        parts.append((5, f"{event.chunks_done:,}/{event.chunks_total:,} segments"))
    elif event.chunks_total and not is_stream:
        unit = "texts" if event.stage == "lab" else "chunks"
        parts.append((5, f"{event.chunks_done:,}/{event.chunks_total:,} {unit}"))
    if event.tokens_total:
        unit = "steps" if event.stage == "share" else "tokens"
        parts.append((3, f"{event.tokens_right:,}/{event.tokens_total:,} {unit}"))
    done = event.bytes_done
    if is_stream:  # a segment's bytes are done all at once, its tokens one after another
        done = max(done, event.bytes_total * event.tokens_right // event.tokens_total)
    work, new = event.work_done, float(done - event.bytes_kept)
    left = float(event.bytes_total - done)
    if work:  # chunks that are half finished count, so that the time left does not jump
        parts.insert(0, (5, f"{100 * work:.0f} %"))
        new, left = ((work - event.work_kept) * event.bytes_total, (1 - work) * event.bytes_total)
    if new > 0 and seconds >= 1:
        rate = new / seconds
        parts.append((2, f"{rate:,.0f} bytes/s" if rate >= 10 else f"{rate:.1f} bytes/s"))
        if left > 0:
            parts.append((4, f"{_clock(left / rate)} left"))
    if event.output_bytes:
        parts.append((1, f"{event.output_bytes:,} bytes so far"))
    if event.min_margin is not None:
        parts.append((0, f"margin {event.min_margin:.2g}"))
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
    """Measures how long the current stage has taken."""

    def __init__(self) -> None:
        self.stage = ""
        self._began = 0.0

    def seconds(self, stage: str) -> float:
        """Seconds since this stage began, which is now where it is another one than before."""
        now = time.monotonic()
        if stage != self.stage:
            self.stage, self._began = stage, now
        return now - self._began
