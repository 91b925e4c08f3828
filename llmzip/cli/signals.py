"""SIGINT and SIGTERM as an orderly stop, SIGUSR1 as a question.

Owns the handlers while a command runs, the exit code that a signal leads to, and that the command
ends in time whatever it is doing. Knows nothing of what is being stopped.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from llmzip.errors import Interrupted

HINT = "run the same command again"
NOTHING_WRITTEN = "nothing was written"
_EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 143}
_QUESTIONS = ("SIGUSR1", "SIGINFO")
# How long the command has to end by itself after a first and a second signal: while a library
# works, Python sees neither. What is to be kept is on disk before there is a signal.
_FIRST_SECONDS, _SECOND_SECONDS = 1.5, 0.5


class Stop:
    """What the signals so far ask for. The first sets `cancel`; a second one does not wait."""

    def __init__(self) -> None:
        self.cancel = threading.Event()
        self.exit_code = 130
        self.outcome = NOTHING_WRITTEN  # said if a signal ends the command
        self.hint = HINT
        self.before_exit: Callable[[], None] = lambda: None  # of a command that does not end itself
        self.waits = True  # the first signal is obeyed between two steps
        self.status: Callable[[], str] = lambda: "nothing is under way yet"  # when a signal asks
        self._num_signals = 0

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """The handler: remember, and raise KeyboardInterrupt unless this is the first."""
        self._num_signals += 1
        if self._num_signals == 1:
            self.exit_code = _EXIT_CODES[signal.Signals(number).name]
        self.cancel.set()
        if self._num_signals > 2:  # something swallowed the exception of the second
            os._exit(self.exit_code)
        if self._num_signals == 2 or not self.waits:
            raise KeyboardInterrupt
        if os.isatty(2):
            _write("\nstopping; once more to stop at once")

    def on_question(self, number: int, frame: FrameType | None) -> None:
        """The handler of a signal that only asks how far it is."""
        _write(self.status())

    def give_up(self) -> NoReturn:
        """End as after a signal: somebody who was asked does not want to go on."""
        self.cancel.set()
        raise KeyboardInterrupt

    @contextmanager
    def at_once(self, outcome: str = NOTHING_WRITTEN) -> Iterator[None]:
        """For what may block and leaves nothing half done: here the first signal raises, too."""
        before = self.outcome, self.waits
        self.outcome, self.waits = outcome, False
        if self.cancel.is_set():
            raise KeyboardInterrupt
        yield
        self.outcome, self.waits = before  # kept after an exception: it says what was going on

    def interrupted(self) -> Interrupted:
        return Interrupted(self.outcome, exit_code=self.exit_code, hint=self.hint)


def _write(line: str) -> None:
    """To stderr itself: Python may be in the middle of a line of its own. Where stderr was closed
    from the start, another file may have its number."""
    if sys.stderr is not None:
        with suppress(OSError):
            os.write(2, f"{line}\n".encode(errors="backslashreplace"))


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Handle signals until the block ends. Raises Interrupted if one of them ended it.

    A signal that was ignored before (`nohup`, a shell's background job) stays ignored.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    with (
        _handled(_QUESTIONS, stop.on_question),
        _handled(_EXIT_CODES, stop.on_signal) as numbers,
    ):
        try:
            with _watched(stop, numbers):
                yield stop
        except KeyboardInterrupt as cause:
            raise stop.interrupted() from cause
        except Exception as cause:
            if not stop.cancel.is_set():
                raise
            raise stop.interrupted() from cause


@contextmanager
def answer_between(line: str) -> Iterator[None]:
    """Where a run goes from one piece of work to the next, a question gets this line: it must not
    end the run, as such signals do by default."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handled(_QUESTIONS, lambda number, frame: _write(line)):
        yield


@contextmanager
def _handled(
    names: Iterable[str], handler: Callable[[int, FrameType | None], None]
) -> Iterator[Collection[int]]:
    """Handle the signals of these names that the platform has and nobody ignores: their numbers.
    As before after it."""
    before = {}
    for name in names:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, handler)
    try:
        yield before
    finally:
        for number, old in before.items():
            signal.signal(number, old if old is not None else signal.SIG_DFL)


@contextmanager
def _watched(stop: Stop, numbers: Collection[int]) -> Iterator[None]:
    """A thread that ends the process in time, should Python be busy elsewhere."""
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        watcher = threading.Thread(target=_watch, args=(reader, stop, numbers), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            writer.close()
            watcher.join()


def _watch(reader: socket.socket, stop: Stop, numbers: Collection[int]) -> None:
    first, deadline = 0, math.inf
    while True:
        left = deadline - time.monotonic()
        reader.settimeout(None if math.isinf(left) else max(left, 1e-3))
        try:
            found = reader.recv(1)
        except TimeoutError:
            code = _EXIT_CODES[signal.Signals(first).name]
            stop.before_exit()
            _write(f"interrupted: {stop.outcome} [exit {code}]\nhint: {stop.hint}")
            os._exit(code)
        if not found:  # the command has ended
            return
        if found[0] in numbers:
            patience = _SECOND_SECONDS if first else _FIRST_SECONDS
            deadline = min(deadline, time.monotonic() + patience)
            first = first or found[0]
