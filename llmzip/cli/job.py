"""One file in, one file out: the frame that compress and decompress share.

Owns the order of things: refuse what cannot end well, read, work, publish; a dry job ends with the
work. Also what is said of work that is kept when a job ends early. Knows nothing of what the work
is. Called by `cli.compress`, `cli.decompress` and `cli.test`.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from llmzip.cli.console import say
from llmzip.cli.events import JsonEvents
from llmzip.cli.files import STDIO, Source, Target, open_source, plan_target, publish
from llmzip.cli.preflight import check_disk, consider
from llmzip.cli.progress import Timer, show_progress, status_line
from llmzip.cli.signals import Stop, stop_on_signals
from llmzip.errors import FormatError, InputError, ResumeRefused, SettingsError
from llmzip.progress import OnOutlook, OnProgress, Outlook, Progress, check_cancelled
from llmzip.report import printable
from llmzip.store.disk import sync_name

if TYPE_CHECKING:
    from llmzip.store.journal import Journal

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """What the user said about files and messages."""

    file: str
    output: str | None = None
    force: bool = False
    restart: bool = False  # drop what an earlier run left
    remove: bool = False  # the input, once the result is safely on disk
    json: bool
    tells: bool = False  # what happens is told in JSON, too, not only what came of it
    quiet: bool
    verbose: bool
    watch: bool = False  # show a chunk under way, on a terminal
    figures: bool = True  # of progress
    yes: bool = False  # do not ask


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What a job lends to its work."""

    on_progress: OnProgress
    on_outlook: OnOutlook
    stop: Stop
    journal: Journal | None = None


Work: TypeAlias = Callable[[bytes, Tools], _Result]
OnRead: TypeAlias = Callable[[bytes], None]


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
    keeps_work: bool = False,
    on_read: OnRead = lambda data: None,
    most_bytes: Callable[[bytes], int] = lambda data: 0,
) -> Outcome:
    """Read, `work`, publish. `on_read` sees the input before the work. Raises LlmzipError.

    keeps_work: beside an output that is a file, what is done is kept until it is published.
    most_bytes: that the result of an input and the work kept may take.
    """
    started = time.monotonic()
    with stop_on_signals() as stop:
        with _opened(settings.file, stop) as source:
            target = plan_target(
                source,
                settings.output,
                default=default_target,
                force=settings.force,
                is_binary=is_binary,
                is_result=lambda path: keeps_work and not settings.restart and _was_published(path),
            )
            if settings.json and target.path is None:
                raise SettingsError(
                    "--json and the result cannot both go to standard output",
                    hint="use -o FILE, or leave --json out",
                )
            data = _read(source, stop)
        check_disk(target, most_bytes(data), yes=settings.yes)
        with _kept_work(target, settings, stop) if keeps_work else nullcontext() as kept:
            result = _work(data, settings, work, on_read, stop, kept)
            if kept:
                kept.note_result(result)
            with stop.at_once("the output is incomplete") if target.is_stream else nullcontext():
                publish(target, result, source)
            if kept:
                kept.remove()
        if source.has_changed(size=len(data)):
            say(f"warning: {_name(source)} has changed; the result is of what it was when read")
        elif settings.remove and not target.is_stream:
            _remove(source)
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


def _remove(source: Source) -> None:
    """The input, whose result is on disk, read back and synced."""
    if source.path is None:
        return
    try:
        os.unlink(source.path)
        sync_name(source.path)
    except OSError as error:
        raise InputError(f"cannot remove {source.path}: {error.strerror}") from error


class _Kept:
    """The work of a job on disk, and how far it is."""

    def __init__(self, journal: Journal, stop: Stop) -> None:
        self.journal = journal
        self._stop = stop
        self._last = Progress(stage="model")

    def follow(self, event: Progress) -> None:
        """Note an event. With the first of the work itself there is something to lose."""
        if event.stage != "model":
            self._stop.waits = True
        if event.chunks_done and event.stage == "cram":
            self._last = event

    def note_result(self, result: bytes) -> None:
        """Before it is published: a run that is killed at that leaves the result and the work."""
        from llmzip.store.journal import RESULT

        self.journal.keep(RESULT, _fingerprint(result))

    def remove(self) -> None:
        """The work is done."""
        try:
            self.journal.remove()
        except OSError as error:
            say(f"warning: cannot remove {printable(self.journal.path)}: {error.strerror}")

    def leave(self) -> None:
        """Tell what is kept and how to go on; where nothing is, leave nothing."""
        if self.journal.can_go_on:
            self._stop.outcome = self.describe()
            self._stop.hint = f"resume: {shlex.join(['llmzip', *sys.argv[1:]])}"
        else:
            self.journal.close()

    def describe(self) -> str:
        name = printable(self.journal.path)
        if not self._last.chunks_done:
            return f"the work so far is kept in {name}"
        return f"{self._last.chunks_done} of {self._last.chunks_total} chunks are kept in {name}"


@contextmanager
def _kept_work(target: Target, settings: JobSettings, stop: Stop) -> Iterator[_Kept | None]:
    """The journal beside the target; work in it outlives every end but a good one."""
    if target.path is None or target.is_stream:
        yield None
        return
    from llmzip.store.journal import SUFFIX, Journal

    journal = Journal.open(target.path + SUFFIX)
    kept = _Kept(journal, stop)
    stop.before_exit = kept.leave
    try:
        if settings.restart:
            journal.restart()
        elif journal.torn_bytes and not settings.quiet:
            say(
                f"note: the last {journal.torn_bytes:,} bytes of {printable(journal.path)} are torn"
            )
        yield kept
    except BaseException as error:
        if stop.cancel.is_set() or isinstance(error, KeyboardInterrupt):
            kept.leave()
        elif journal.can_go_on and not isinstance(error, (ResumeRefused, FormatError)):
            say(f"note: {kept.describe()}; the same command goes on from there")
        raise
    finally:
        journal.close()


def _was_published(path: str) -> bool:
    """Whether the file at `path` is what a run gave that was killed before its work was removed."""
    from llmzip.store.journal import RESULT, SUFFIX, Journal

    try:
        if not os.path.exists(path + SUFFIX):
            return False
        with closing(Journal.open(path + SUFFIX)) as journal:
            noted = journal.kept(RESULT)[-1:]
        size = int.from_bytes(noted[0][:8], "little") if noted else -1
        if size != os.path.getsize(path):
            return False
        with open(path, "rb") as file:
            return [_fingerprint(file.read())] == noted
    except (OSError, InputError):
        return False


def _fingerprint(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little") + blake2b(data, digest_size=32).digest()


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
    on_read: OnRead,
    stop: Stop,
    kept: _Kept | None = None,
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

        def consider_outlook(outlook: Outlook) -> None:
            with stop.at_once():  # a question is answered by a signal, too
                if not consider(
                    outlook, yes=settings.yes, quiet=settings.quiet, paused=show.paused
                ):
                    stop.give_up()

        above = "\n" if show.holds_line else ""
        stop.status = lambda: above + status_line(last, seconds=timer.seconds(last.stage))
        tools = Tools(
            on_progress=tell, on_outlook=consider_outlook, stop=stop,
            journal=kept.journal if kept else None,
        )  # fmt: skip
        result = work(data, tools)
    check_cancelled(stop.cancel)
    return result


def _name(source: Source) -> str:
    return "standard input" if source.name == STDIO else printable(source.name)
