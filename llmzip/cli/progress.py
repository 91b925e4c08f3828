"""How progress events look on stderr.

Owns when anything is drawn: a terminal on stderr, not `-q`. Knows nothing of the work itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from llmzip.cli.console import is_dumb_terminal, say
from llmzip.cli.status import Timer, describe, status_line
from llmzip.inspect.figures import printable
from llmzip.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress

LINE_SECONDS, VERBOSE_LINE_SECONDS = 60.0, 30.0
_WIDE = 110  # columns that take a long bar and all figures


class Drawer(Protocol):
    """Draws events."""

    @property
    def holds_line(self) -> bool:
        """Whether the cursor stays in a line that is drawn again and again."""

    def __call__(self, event: Progress) -> None: ...

    def paused(self) -> AbstractContextManager[None]:
        """Nothing is drawn inside the block: somebody is asked something."""


@contextmanager
def show_progress(
    *, quiet: bool, verbose: bool, watch: bool = False, figures: bool = True
) -> Iterator[Drawer]:
    """What draws events until the block ends: a bar, lines, or next to nothing; with `watch`, where
    there is a bar, a chunk under way.

    A bar needs a terminal that can move its cursor. A log gets a line a minute, and more with
    `verbose`. figures: without them, only what a run says.
    """
    is_terminal = os.isatty(2)  # rich's own idea of a terminal bends to FORCE_COLOR
    is_dumb = is_dumb_terminal()
    if quiet or not figures:
        yield Lines(says=not quiet, seconds=None)
    elif is_terminal and not is_dumb and watch:
        from llmzip.cli.watch import show_watch

        with show_watch() as screen:
            yield screen
    elif is_terminal and not is_dumb:
        with _rich_progress() as bar:
            yield _Bar(bar)
    else:
        is_close = verbose or is_terminal
        seconds = VERBOSE_LINE_SECONDS if is_close else LINE_SECONDS
        yield Lines(seconds=seconds, at_once=is_close)


class Lines:
    """Plain lines: messages, and figures now and then."""

    holds_line = False

    def __init__(self, *, seconds: float | None, at_once: bool = False, says: bool = True) -> None:
        """seconds: between two lines of figures; None: there are none. at_once: a stage begins with
        one."""
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
        """Lines are not in anybody's way."""
        yield


class _Bar:
    """One bar for the current stage, messages above it."""

    holds_line = True

    def __init__(self, bar: RichProgress) -> None:
        self._bar = bar
        self._timer = Timer()
        self._task = bar.add_task("start", total=None, figures="")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the bar away for a while."""
        self._bar.stop()
        yield
        self._bar.start()

    def __call__(self, event: Progress) -> None:
        if event.message:
            self._bar.console.print(printable(event.message), markup=False, highlight=False)
        seconds = self._timer.seconds(event.stage)
        done, total = event.bytes_done, event.bytes_total
        if event.tokens_total:
            done, total = event.tokens_right, event.tokens_total
        elif not event.bytes_total:
            done, total = event.chunks_done, event.chunks_total
        self._bar.update(
            self._task,
            description=event.stage,
            completed=done,
            total=total or None,
            figures=describe(event, seconds=seconds, width=self._room(event.stage)),
        )

    def _room(self, stage: str) -> int:
        """Columns beside the stage's name and the bar, with a space each."""
        return self._bar.console.width - len(stage) - _bar_width(self._bar.console) - 2


def _bar_width(console: Console) -> int:
    return 24 if console.width >= _WIDE else 10


def _rich_progress() -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    console = Console(stderr=True)
    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=_bar_width(console)),
        TextColumn("{task.fields[figures]}", markup=False),
        console=console,
        transient=True,
        redirect_stdout=False,
        refresh_per_second=4,
    )
