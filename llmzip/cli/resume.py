"""The work in progress of a job, kept on disk for the case that the job ends early.

Owns when a command opens, removes or keeps the journal beside an output, and the messages about it.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from hashlib import blake2b
from typing import TYPE_CHECKING

from llmzip.cli.console import say
from llmzip.cli.files import Target
from llmzip.cli.signals import Stop
from llmzip.errors import FormatError, InputError, ResumeRefused
from llmzip.inspect.report import printable
from llmzip.progress import Progress

if TYPE_CHECKING:
    from llmzip.store.journal import Journal


class Kept:
    """The work in progress of a job on disk, and how far it is."""

    def __init__(self, journal: Journal, stop: Stop) -> None:
        self.journal = journal
        self._stop = stop
        self._last = Progress(stage="model")

    def follow(self, event: Progress) -> None:
        """Note a progress event."""
        if event.stage != "model":  # from here on, a stop should wait for the step to be kept
            self._stop.waits = True
        if event.chunks_done and event.stage == "cram":
            self._last = event

    def note_result(self, result: bytes) -> None:
        """Note which bytes are the result, before it is published: a run that is killed between
        publishing and removing the journal leaves both, and the next run can tell."""
        from llmzip.store.journal import RESULT

        self.journal.keep(RESULT, _fingerprint(result))

    def remove(self) -> None:
        """Remove the journal, as the work is finished."""
        try:
            self.journal.remove()
        except OSError as error:
            say(f"warning: cannot remove {printable(self.journal.path)}: {error.strerror}")

    def leave(self) -> None:
        """Let the last message say what is kept and how to resume; remove an empty journal."""
        if self.journal.can_go_on:
            self._stop.outcome = self.describe()
            self._stop.hint = f"resume: {shlex.join(['llmzip', *_resuming(sys.argv[1:])])}"
        else:
            self.journal.close()

    def describe(self) -> str:
        """What is kept, in words."""
        name = printable(self.journal.path)
        if not self._last.chunks_done:
            return f"the work so far is kept in {name}"
        return f"{self._last.chunks_done} of {self._last.chunks_total} chunks are kept in {name}"


def _resuming(arguments: Sequence[str]) -> list[str]:
    """The arguments of the command that resumes the work: without --restart, which discards it."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return [word for place, word in enumerate(arguments) if word != "--restart" or place > end]


@contextmanager
def kept_work(target: Target, stop: Stop, *, restart: bool, quiet: bool) -> Iterator[Kept | None]:
    """The journal beside the target; None for a stream. It is kept unless the job succeeds."""
    if target.path is None or target.is_stream:
        yield None
        return
    from llmzip.store.journal import Journal
    from llmzip.store.journal_records import journal_path

    journal = Journal.open(journal_path(target.path))
    kept = Kept(journal, stop)
    stop.before_exit = kept.leave
    try:
        if restart:
            journal.restart()
        elif journal.torn_bytes and not quiet:
            say(
                f"note: the last {journal.torn_bytes:,} bytes of {printable(journal.path)} are torn"
            )
        yield kept
    except BaseException as error:
        if stop.cancel.is_set() or isinstance(error, KeyboardInterrupt):
            kept.leave()
        elif journal.can_go_on and not isinstance(error, (ResumeRefused, FormatError)):
            say(f"note: {kept.describe()}; the same command continues from there")
        raise
    finally:
        journal.close()


def remove_finished_work(path: str) -> None:
    """Remove the journal of the work whose result is the file at `path`, left by a run that was
    killed after it had published the file. A journal of other work stays."""
    from llmzip.store.journal import RESULT, Journal
    from llmzip.store.journal_records import journal_path

    place = journal_path(path)
    if not os.path.exists(place):
        return
    with suppress(OSError, InputError), closing(Journal.open(place)) as journal:
        with open(path, "rb") as file:
            if journal.kept(RESULT)[-1:] == [_fingerprint(file.read())]:
                journal.remove()


def _fingerprint(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little") + blake2b(data, digest_size=32).digest()
