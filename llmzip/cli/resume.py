"""Work under way on disk, while a job runs and when it ends early.

Owns the journal beside an output from the command's side: when it is opened, removed or left, and
what is said of it.
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
from llmzip.inspect.figures import printable
from llmzip.progress import Progress

if TYPE_CHECKING:
    from llmzip.store.journal import Journal


class Kept:
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
            self._stop.hint = f"resume: {shlex.join(['llmzip', *_resuming(sys.argv[1:])])}"
        else:
            self.journal.close()

    def describe(self) -> str:
        name = printable(self.journal.path)
        if not self._last.chunks_done:
            return f"the work so far is kept in {name}"
        return f"{self._last.chunks_done} of {self._last.chunks_total} chunks are kept in {name}"


def _resuming(arguments: Sequence[str]) -> list[str]:
    """The arguments that go on with what these have begun: --restart would throw it away."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return [word for place, word in enumerate(arguments) if word != "--restart" or place > end]


@contextmanager
def kept_work(target: Target, stop: Stop, *, restart: bool, quiet: bool) -> Iterator[Kept | None]:
    """The journal beside the target; work in it outlives every end but a good one."""
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
            say(f"note: {kept.describe()}; the same command goes on from there")
        raise
    finally:
        journal.close()


def remove_finished_work(path: str) -> None:
    """The work that gave the file at `path`, left by a run that was killed when it had published
    it. Other work stays."""
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
