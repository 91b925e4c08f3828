"""Progress events on stderr: a bar on a terminal, lines in a log.

Owns whether and how events are drawn. Knows nothing of the work itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llmzip.cli.console import is_dumb_terminal, say
from llmzip.cli.events import Timer, status_line
from llmzip.inspect.report import printable
from llmzip.progress import Progress

if TYPE_CHECKING:
    from llmzip.cli.watch import Drawing

LINE_SECONDS, VERBOSE_LINE_SECONDS = 60.0, 30.0


@contextmanager
def show_progress(
    *, quiet: bool, verbose: bool, watch: bool = False, figures: bool = True
) -> Iterator[Lines | Drawing]:
    """Yields an object that draws events until the block ends: a bar, lines, or messages only. With
    `watch`, a chunk in progress is drawn instead of a bar.

    A bar needs a terminal that can move its cursor. A log gets a line a minute, and more with
    `verbose`. quiet: draw nothing. figures: False for messages only.
    """
    is_terminal = os.isatty(2)  # rich would count a pipe as a terminal where FORCE_COLOR is set
    if quiet or not figures:
        yield Lines(says=not quiet, seconds=None)
    elif is_terminal and not is_dumb_terminal():
        from llmzip.cli.watch import show_bar, show_watch

        with show_watch() if watch else show_bar() as drawing:
            yield drawing
    else:
        is_close = verbose or is_terminal
        seconds = VERBOSE_LINE_SECONDS if is_close else LINE_SECONDS
        yield Lines(seconds=seconds, at_once=is_close)


class Lines:
    """Plain lines: messages, and figures now and then."""

    holds_line = False

    def __init__(self, *, seconds: float | None, at_once: bool = False, says: bool = True) -> None:
        """seconds: between two lines of figures; None: without figures. at_once: a stage begins
        with a line of figures. says: print messages."""
        self._seconds, self._at_once, self._says = seconds, at_once, says
        self._timer = Timer()
        self._next_line = time.monotonic() + (seconds or 0.0)

    def __call__(self, event: Progress) -> None:
        if event.message and self._says:
            say(printable(event.message))
        is_new = event.stage != self._timer.stage
        seconds = self._timer.seconds(event.stage)
        if self._seconds is None or event.stage == "model":
            return
        if (is_new and self._at_once) or time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + self._seconds
            say(status_line(event, seconds=seconds))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Does nothing, as lines disturb no question."""
        yield
