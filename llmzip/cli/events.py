"""Progress as JSON lines on standard output, for programs.

Owns the schema, which docs/EVENTS.md describes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from llmzip.cli.console import PipeClosed, write_json
from llmzip.cli.failures import describe_error, exit_code_of
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
            self._write("stage", stage=event.stage, **_totals(event))
        if event.message:
            self._write("message", stage=event.stage, message=event.message)
        if event.chunk is not None:
            self._write("chunk", **asdict(event.chunk), **_counts(event))

    def error(self, message: str, hint: str, exit_code: int) -> None:
        """The work has ended badly."""
        self._write("error", message=message, hint=hint, exit_code=exit_code)

    def _write(self, event: str, **fields: Any) -> None:
        write_json({"schema": SCHEMA, "event": event, "file": self._name, **fields})


@contextmanager
def errors_told(job: JobSettings) -> Iterator[None]:
    """An error that ends the block is told to programs, too; one of usage is not, as it is before
    it is known what standard output is for."""
    try:
        yield
    except (typer.Exit, SettingsError, PipeClosed):
        raise
    except Exception as error:
        if job.tells:
            message, hint = describe_error(error)
            with suppress(InputError, PipeClosed):  # nobody listens
                JsonEvents(job.file).error(message, hint, exit_code_of(error))
        raise


def done_event(outcome: Outcome, report: Report) -> dict[str, object]:
    """The last line of a file's work: all of its report, and the time it took."""
    fields = {**report.to_dict(), "seconds": outcome.seconds, "already_there": not outcome.is_new}
    return {**fields, "event": "done", "file": outcome.source_name, "output": outcome.target_name}


def _totals(event: Progress) -> dict[str, int]:
    return {
        "chunks_total": event.chunks_total,
        "tokens_total": event.tokens_total,
        "bytes_total": event.bytes_total,
    }


def _counts(event: Progress) -> dict[str, int]:
    return {
        "chunks_done": event.chunks_done,
        "chunks_total": event.chunks_total,
        "bytes_done": event.bytes_done,
        "output_bytes": event.output_bytes,
    }
