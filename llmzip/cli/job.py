"""One file in, one file out: the frame that compress and decompress share.

Owns the order of things: refuse what cannot end well, read, work, publish; a dry job ends with the
work. Knows nothing of what the work is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import TypeVar

from llmzip.cli.console import say
from llmzip.cli.events import JsonEvents, Timer, status_line
from llmzip.cli.files import Target, already_there, plan_target, publish
from llmzip.cli.names import kept_suffix
from llmzip.cli.preflight import check_disk, consider
from llmzip.cli.progress import show_progress
from llmzip.cli.resume import Kept, kept_work, remove_finished_work
from llmzip.cli.signals import Stop, stop_on_signals
from llmzip.cli.sources import STDIO, Source, naming, open_source
from llmzip.cli.work import JobSettings, OnRead, Outcome, Task, Tools, Work
from llmzip.codecs.context import Context
from llmzip.errors import InputError, SettingsError
from llmzip.inspect.report import printable
from llmzip.progress import Forecast, Progress, check_cancelled
from llmzip.store.atomic import sync_file, sync_name

_Result = TypeVar("_Result")


def run_job(settings: JobSettings, task: Task) -> Outcome:
    """Read, work, publish. Raises LlmzipError."""
    started = time.monotonic()
    # What is wrong with the content of a file is not said of one that becomes a container.
    with stop_on_signals() as stop, nullcontext() if task.keeps_work else naming(settings.file):
        with _opened(settings.file, stop) as source:
            target = plan_target(
                source,
                settings.output,
                default=lambda path: settings.target or task.default_target(path),
                force=settings.force,
                is_binary=task.is_binary,
                may_exist=task.find is not None,
            )
            if settings.json and target.path is None:
                raise SettingsError(
                    "--json and the result cannot both go to standard output",
                    hint="use -o FILE, or leave --json out",
                )
            data = _read(source, stop)
        suffix = kept_suffix(source.path, None if target.is_stream else target.path)
        if target.exists:
            result = _found(task, data, target.name, suffix)
        else:
            check_disk(target, task.most_bytes(data), yes=settings.yes)
            result = _made(data, settings, task, source, target, suffix, stop)
        if source.has_changed():
            say(f"warning: {_name(source)} has changed; the result is of what it was when read")
        elif settings.remove and not target.is_stream:
            _remove(source)
            if target.exists and not settings.quiet:
                say(f"{_name(source)} is removed")
        elif settings.remove:
            say(f"note: {_name(source)} stays: what goes to {printable(target.name)} may be lost")
    return Outcome(
        source_name=_name(source),
        target_name="standard output" if target.path is None else printable(target.path),
        source_data=data,
        result=result,
        seconds=time.monotonic() - started,
        is_new=not target.exists,
    )


def _found(task: Task, data: bytes, path: str, suffix: str) -> bytes:
    """The result that is there already, safely on disk. Raises InputError for another file."""
    assert task.find is not None
    found = task.find(data, path, suffix)
    if isinstance(found, str):
        raise already_there(path, found)
    sync_file(path)
    if task.keeps_work:
        remove_finished_work(path)
    return found


def _made(
    data: bytes,
    settings: JobSettings,
    task: Task,
    source: Source,
    target: Target,
    suffix: str,
    stop: Stop,
) -> bytes:
    """The result, published."""
    own = kept_work(target, stop, restart=settings.restart, quiet=settings.quiet)
    with own if task.keeps_work else nullcontext() as kept:
        result = _work(data, settings, task.work, suffix, task.on_read, stop, kept)
        if kept:
            kept.note_result(result)
        with stop.at_once("the output is incomplete") if target.is_stream else nullcontext():
            publish(target, result, source)
        if kept:
            kept.remove()
    return result


def run_dry(
    settings: JobSettings, work: Work[_Result], *, on_read: OnRead = lambda data: None
) -> tuple[str, _Result]:
    """Read and `work`; no output is looked at. Returns the input's name, ready to print, and what
    the work gave. Raises LlmzipError."""
    with stop_on_signals() as stop, naming(settings.file):
        with _opened(settings.file, stop) as source:
            data = _read(source, stop)
        return _name(source), _work(data, settings, work, "", on_read, stop)


def _remove(source: Source) -> None:
    """The input, whose result is on disk, read back and synced."""
    if source.path is None:
        return
    try:
        os.unlink(source.path)
        sync_name(source.path)
    except OSError as error:
        raise InputError(f"cannot remove {source.path}: {error.strerror}") from error


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
    data: bytes,
    settings: JobSettings,
    work: Work[_Result],
    suffix: str,
    on_read: OnRead,
    stop: Stop,
    kept: Kept | None = None,
) -> _Result:
    on_read(data)
    tells = JsonEvents(settings.file) if settings.tells else None
    with (
        show_progress(
            quiet=settings.quiet, verbose=settings.verbose, watch=settings.watch,
            figures=settings.figures,
        ) as show,
        stop.at_once(),
    ):  # fmt: skip
        last, timer = Progress(stage="model"), Timer()

        def tell(event: Progress) -> None:
            nonlocal last
            last = event
            timer.seconds(event.stage)
            if kept:
                kept.follow(event)
            if tells:
                tells(event)
            show(event)

        def consider_forecast(forecast: Forecast) -> None:
            with stop.at_once():  # a question is answered by a signal, too
                if not consider(
                    forecast, yes=settings.yes, quiet=settings.quiet, paused=show.paused
                ):
                    stop.give_up()

        above = "\n" if show.holds_line else ""
        stop.status = lambda: above + status_line(last, seconds=timer.seconds(last.stage))
        context = Context(
            on_progress=tell,
            on_forecast=consider_forecast,
            cancel=stop.cancel,
            journal=kept.journal if kept else None,
        )
        result = work(data, Tools(context=context, suffix=suffix))
    check_cancelled(stop.cancel)
    return result


def _name(source: Source) -> str:
    return "standard input" if source.name == STDIO else printable(source.name)
