"""Signals: SIGINT and SIGTERM stop a command in order, SIGUSR1 prints how far it is.

Owns the handlers while a command runs, the exit code of each signal, and that the command ends in
time whatever it is doing. Knows nothing of the work that is stopped.
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
_STATUS_SIGNALS = ("SIGUSR1", "SIGINFO")
# How long the command has to end by itself after a first and a second signal. Python runs no
# handler while a library computes, so a thread ends the process then; finished work is on disk.
_FIRST_SECONDS, _SECOND_SECONDS = 1.5, 0.5


class Stop:
    """What the signals so far ask for. The first sets `cancel`; the second ends the command."""

    def __init__(self) -> None:
        self.cancel = threading.Event()
        self.exit_code = 130
        self.outcome = NOTHING_WRITTEN  # the message if a signal ends the command
        self.hint = HINT
        # Called where a thread ends the process:
        self.before_exit: Callable[[], None] = lambda: None
        self.waits = True  # whether the first signal takes effect only between two steps
        self.status: Callable[[], str] = lambda: "nothing is under way yet"  # for SIGUSR1
        self._num_signals = 0

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal that stops: set `cancel`, and raise KeyboardInterrupt where this is the
        second one, or the first one need not wait."""
        self._num_signals += 1
        if self._num_signals == 1:
            self.exit_code = _EXIT_CODES[signal.Signals(number).name]
        self.cancel.set()
        if self._num_signals > 2:  # some code has suppressed the exception of the second
            os._exit(self.exit_code)
        if self._num_signals == 2 or not self.waits:
            raise KeyboardInterrupt
        if os.isatty(2):
            _write("\nstopping; press Ctrl-C again to stop at once")

    def on_status_signal(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal that asks how far the command is."""
        _write(self.status())

    def give_up(self) -> NoReturn:
        """End as after a signal, as the user has answered a question with no."""
        self.cancel.set()
        raise KeyboardInterrupt

    @contextmanager
    def at_once(self, outcome: str = NOTHING_WRITTEN) -> Iterator[None]:
        """In this block even the first signal raises KeyboardInterrupt: for code that may block and
        can be stopped anywhere. outcome: the message then."""
        before = self.outcome, self.waits
        self.outcome, self.waits = outcome, False
        if self.cancel.is_set():
            raise KeyboardInterrupt
        yield
        self.outcome, self.waits = before  # after an exception it stays, for the message

    def interrupted(self) -> Interrupted:
        """The error for a command that a signal has ended."""
        return Interrupted(self.outcome, exit_code=self.exit_code, hint=self.hint)


def _write(line: str) -> None:
    """Write a line to file descriptor 2, as Python may be in the middle of writing to stderr."""
    if sys.stderr is not None:  # closed from the start: another file may have the descriptor
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
        _handled(_STATUS_SIGNALS, stop.on_status_signal),
        _handled(_EXIT_CODES, stop.on_signal) as numbers,
    ):
        try:
            with _watched(stop, numbers):
                yield stop
        except (KeyboardInterrupt, Exception) as cause:
            if not (isinstance(cause, KeyboardInterrupt) or stop.cancel.is_set()):
                raise
            raise stop.interrupted() from cause


@contextmanager
def answer_between(line: str) -> Iterator[None]:
    """Print this line for a SIGUSR1 that arrives between two inputs, where no command handles it:
    by default the signal would end the run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handled(_STATUS_SIGNALS, lambda number, frame: _write(line)):
        yield


@contextmanager
def _handled(
    names: Iterable[str], handler: Callable[[int, FrameType | None], None]
) -> Iterator[Collection[int]]:
    """Handle the signals of these names in the block, and yield their numbers. Signals that the
    platform does not have, or that are ignored, are left out."""
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
    """Let a thread end the process in time where Python cannot run a signal handler."""
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
