"""Progress drawn on a terminal: a bar, or with `compress --watch` the tokens of the chunk whose
vectors are optimised.

Owns both pictures, and how often a chunk is drawn. Knows nothing of how chunks are crammed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from llmzip.cli.events import Timer, describe, status_line
from llmzip.inspect.report import printable
from llmzip.progress import ChunkView, Progress

_SECONDS_A_FRAME = 0.15
_WIDE = 110  # columns of a terminal that has room for a long bar and all figures
_BARS = "▁▂▃▄▅▆▇█"
_MOST_STEPS_SHOWN = 60  # in the line of shortfalls
_FULL_BAR = 4.0  # the margin in logits that has a full bar
_RIGHT, _THIN, _WRONG, _WAITING = "green", "yellow", "red", "bright_black"
_NEW_LINES = str.maketrans({"\n": "⏎", "\r": "␍", "\t": " "})


@contextmanager
def show_watch() -> Iterator[Screen]:
    """Yields an object that draws events on stderr, a terminal, until the block ends."""
    console = Console(stderr=True)
    with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False) as live:
        yield Screen(live)


@contextmanager
def show_bar() -> Iterator[Bar]:
    """Yields an object that draws events as a bar on stderr, a terminal, until the block ends."""
    console = Console(stderr=True)
    with RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=_bar_width(console)),
        TextColumn("{task.fields[figures]}", markup=False),
        console=console,
        transient=True,
        redirect_stdout=False,
        refresh_per_second=4,
    ) as bar:
        yield Bar(bar)


class Drawing:
    """Something that is drawn again with each event, and messages above it."""

    holds_line = True  # the cursor stays in a drawn line: other output begins with a line break

    def __init__(self, live: Live | RichProgress) -> None:
        self._live = live
        self._timer = Timer()

    def __call__(self, event: Progress) -> None:
        if event.message:
            self._live.console.print(printable(event.message), markup=False, highlight=False)
        self._show(event, self._timer.seconds(event.stage))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Remove the picture inside the block."""
        self._live.stop()
        yield
        self._live.start()

    def _show(self, event: Progress, seconds: float) -> None:
        raise NotImplementedError


class Bar(Drawing):
    """One bar for the current stage."""

    def __init__(self, bar: RichProgress) -> None:
        super().__init__(bar)
        self._bar = bar
        self._task = bar.add_task("start", total=None, figures="")

    def _show(self, event: Progress, seconds: float) -> None:
        done, total = event.bytes_done, event.bytes_total
        if event.tokens_total:
            done, total = event.tokens_right, event.tokens_total
        elif not event.bytes_total:
            done, total = event.chunks_done, event.chunks_total
        console = self._bar.console
        # Columns beside the stage's name and the bar, with a space each.
        room = console.width - len(event.stage) - _bar_width(console) - 2
        self._bar.update(
            self._task,
            description=event.stage,
            completed=done,
            total=total or None,
            figures=describe(event, seconds=seconds, width=room),
        )


def _bar_width(console: Console) -> int:
    return 24 if console.width >= _WIDE else 10


class Screen(Drawing):
    """The chunk in progress and how its shortfall has developed."""

    def __init__(self, live: Live) -> None:
        super().__init__(live)
        self._screen = live
        self._watched = -1  # its first token
        self._missing: list[float] = []  # mean shortfall in logits, for each step drawn
        self._next_frame = 0.0

    def _show(self, event: Progress, seconds: float) -> None:
        line = status_line(event, seconds=seconds)
        if event.view is None:
            if time.monotonic() >= self._next_frame and event.chunk is None:
                self._draw(_line(line))
            return
        if time.monotonic() < self._next_frame and self._missing:
            return
        view = event.view()
        if view.first_token != self._watched:
            self._watched, self._missing = view.first_token, []
        self._missing.append(view.shortfall)
        self._draw(picture(view, self._missing, line))

    def _draw(self, what: RenderableType) -> None:
        self._next_frame = time.monotonic() + _SECONDS_A_FRAME
        self._screen.update(what, refresh=True)


def picture(view: ChunkView, missing: list[float], line: str) -> Group:
    """One chunk: its tokens coloured by whether they are right, a bar for the margin of each, and
    the shortfall at each step drawn. line: the status line of the whole run."""
    from rich.console import Group

    right = sum(margin >= view.wanted for margin in view.margins)
    phase = "signs" if view.sees_signs else "free"
    head = (
        f"chunk at token {view.first_token:,}  step {view.step}, {phase}  "
        f"{right}/{len(view.margins)} tokens  {view.shortfall:.2f} logits short"
    )
    return Group(
        _line(head),
        _line(f"short  {spark(missing)}"),
        _margins(view),
        Text(),
        _text(view),
        Text(),
        _line(line),
    )


def spark(values: list[float]) -> str:
    """Values as a line of bars, the largest one full. Of many values, only the last are shown."""
    shown = values[-_MOST_STEPS_SHOWN:]
    most = max(shown, default=0.0)
    if most <= 0:
        return _BARS[0] * len(shown)
    return "".join(_BARS[min(len(_BARS) - 1, int(len(_BARS) * v / most))] for v in shown)


def _margins(view: ChunkView) -> Text:
    text = Text("margin ", no_wrap=False)
    for margin in view.margins:
        share = 0.0 if margin <= 0 else min(1.0, margin / _FULL_BAR)
        text.append(_BARS[int(share * (len(_BARS) - 1))], style=_style(margin, view.wanted))
    return text


def _text(view: ChunkView) -> Text:
    text = Text()
    for piece, margin in zip(view.pieces, view.margins, strict=True):
        words = printable(piece.decode("utf-8", "replace").translate(_NEW_LINES))
        style = _style(margin, view.wanted)
        text.append(words, style=style if style != _WRONG else f"{style} underline")
    return text


def _style(margin: float, wanted: float) -> str:
    if margin == -math.inf:
        return _WAITING
    if margin <= 0:
        return _WRONG
    return _RIGHT if margin >= wanted else _THIN


def _line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")
