"""SIGINT and SIGTERM as an orderly stop.

Owns the handlers while a command runs and the exit code that a signal leads to. Knows nothing of
what is being stopped. Called by `cli.job` and `cli.model`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from llmzip.errors import Interrupted

HINT = "run the same command again"
NOTHING_WRITTEN = "nothing was written"
_EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 143}


class Stop:
    """What the signals so far ask for. The first sets `cancel`; a second one does not wait."""

    def __init__(self) -> None:
        self.cancel = threading.Event()
        self.exit_code = 130
        self._outcome = NOTHING_WRITTEN
        self._waits = True
        self._num_signals = 0

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """The handler: remember, and raise KeyboardInterrupt unless this is the first."""
        self._num_signals += 1
        if self._num_signals == 1:
            self.exit_code = _EXIT_CODES[signal.Signals(number).name]
        self.cancel.set()
        if self._num_signals > 2:  # something swallowed the exception of the second
            os._exit(self.exit_code)
        if self._num_signals == 2 or not self._waits:
            raise KeyboardInterrupt
        if os.isatty(2):
            os.write(2, b"\nstopping after this step; once more to stop at once\n")

    @contextmanager
    def at_once(self, outcome: str = NOTHING_WRITTEN) -> Iterator[None]:
        """For what may block and leaves nothing half done: here the first signal raises, too."""
        before = self._outcome, self._waits
        self._outcome, self._waits = outcome, False
        if self.cancel.is_set():
            raise KeyboardInterrupt
        yield
        self._outcome, self._waits = before  # kept after an exception: it says what was going on

    def interrupted(self) -> Interrupted:
        return Interrupted(self._outcome, exit_code=self.exit_code, hint=HINT)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Handle signals until the block ends. Raises Interrupted if one of them ended it.

    A signal that was ignored before (`nohup`, a shell's background job) stays ignored.
    """
    stop = Stop()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in _EXIT_CODES:
            number = getattr(signal, name, None)  # not every platform has all of them
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, stop.on_signal)
    try:
        yield stop
    except KeyboardInterrupt as cause:
        raise stop.interrupted() from cause
    except Exception as cause:
        if not stop.cancel.is_set():
            raise
        raise stop.interrupted() from cause
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
