"""One file in, one file out: the frame that compress and decompress share.

Owns the order of things: refuse what cannot end well, read, work, publish; a dry job ends with the
work. Knows nothing of what the work is. Called by `cli.compress` and `cli.decompress`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from llmzip.cli.files import STDIO, Source, open_source, plan_target, publish
from llmzip.cli.progress import show_progress
from llmzip.cli.signals import Stop, stop_on_signals
from llmzip.errors import SettingsError
from llmzip.progress import OnProgress, check_cancelled
from llmzip.report import printable

_Result = TypeVar("_Result")
Work: TypeAlias = Callable[[bytes, OnProgress, Stop], _Result]
OnRead: TypeAlias = Callable[[bytes], None]


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """What the user said about files and messages."""

    file: str
    output: str | None
    force: bool
    json: bool
    quiet: bool
    verbose: bool


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a job did. The names are ready to print."""

    source_name: str
    target_name: str
    source_data: bytes
    result: bytes
    seconds: float


def run_job(
    settings: JobSettings,
    work: Work[bytes],
    *,
    default_target: Callable[[str], str],
    is_binary: bool,
    on_read: OnRead = lambda data: None,
) -> Outcome:
    """Read, `work`, publish. `on_read` sees the input before the work. Raises LlmzipError."""
    started = time.monotonic()
    with stop_on_signals() as stop:
        with _opened(settings.file, stop) as source:
            target = plan_target(
                source,
                settings.output,
                default=default_target,
                force=settings.force,
                is_binary=is_binary,
            )
            if settings.json and target.path is None:
                raise SettingsError(
                    "--json and the result cannot both go to standard output",
                    hint="use -o FILE, or leave --json out",
                )
            data = _read(source, stop)
        result = _work(data, settings, work, on_read, stop)
        with stop.at_once("the output is incomplete") if target.is_stream else nullcontext():
            publish(target, result, source)
    return Outcome(
        source_name=_name(source),
        target_name="standard output" if target.path is None else printable(target.path),
        source_data=data,
        result=result,
        seconds=time.monotonic() - started,
    )


def run_dry(
    settings: JobSettings, work: Work[_Result], *, on_read: OnRead = lambda data: None
) -> tuple[str, _Result]:
    """Read and `work`; no output is looked at. Returns the input's name, ready to print, and what
    the work gave. Raises LlmzipError."""
    with stop_on_signals() as stop:
        with _opened(settings.file, stop) as source:
            data = _read(source, stop)
        return _name(source), _work(data, settings, work, on_read, stop)


@contextmanager
def _opened(file: str, stop: Stop) -> Iterator[Source]:
    with stop.at_once():
        source = open_source(file)
    with closing(source):
        yield source


def _read(source: Source, stop: Stop) -> bytes:
    with stop.at_once():
        return source.read()


def _work(
    data: bytes, settings: JobSettings, work: Work[_Result], on_read: OnRead, stop: Stop
) -> _Result:
    on_read(data)
    with show_progress(quiet=settings.quiet, verbose=settings.verbose) as on_progress:
        result = work(data, on_progress, stop)
    check_cancelled(stop.cancel)
    return result


def _name(source: Source) -> str:
    return "standard input" if source.name == STDIO else printable(source.name)
