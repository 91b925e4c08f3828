"""A chunk coming into focus: what `compress --watch` shows.

Owns the picture of one chunk under way, and how often it is drawn. Knows nothing of how chunks are
crammed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llmzip.cli.status import Timer, status_line
from llmzip.inspect.figures import printable
from llmzip.progress import Progress

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.text import Text

    from llmzip.progress import ChunkView

_SECONDS_A_FRAME = 0.15
_BARS = "▁▂▃▄▅▆▇█"
_MOST_STEPS_SHOWN = 60  # of the line of what is missing
_FULL_BAR = 4.0  # logits by which a token leads whose bar is full
_RIGHT, _THIN, _WRONG, _WAITING = "green", "yellow", "red", "bright_black"
_NEW_LINES = str.maketrans({"\n": "⏎", "\r": "␍", "\t": " "})


@contextmanager
def show_watch() -> Iterator[Screen]:
    """What draws events on stderr, a terminal, until the block ends."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False) as live:
        yield Screen(live)


class Screen:
    """What was seen so far of the chunk that is looked at."""

    holds_line = True

    def __init__(self, live: object) -> None:
        self._live = live
        self._timer = Timer()
        self._watched = -1  # its first token
        self._missing: list[float] = []  # mean logits short, step by step
        self._next_frame = 0.0

    def __call__(self, event: Progress) -> None:
        live, seconds = self._live, self._timer.seconds(event.stage)
        if event.message:
            live.console.print(printable(event.message), markup=False, highlight=False)  # type: ignore[attr-defined]
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

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the picture away for a while."""
        self._live.stop()  # type: ignore[attr-defined]
        yield
        self._live.start()  # type: ignore[attr-defined]

    def _draw(self, what: RenderableType) -> None:
        self._next_frame = time.monotonic() + _SECONDS_A_FRAME
        self._live.update(what, refresh=True)  # type: ignore[attr-defined]


def picture(view: ChunkView, missing: list[float], line: str) -> Group:
    """One chunk: its tokens coloured by whether they are right, a bar for the margin of each, and
    how much was missing at each look. line: of the whole run."""
    from rich.console import Group
    from rich.text import Text

    right = sum(margin >= view.wanted for margin in view.margins)
    phase = "onto the grid" if view.is_fixing else "free"
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
    """Values as a line of bars, the largest full; the last ones, if there are many."""
    shown = values[-_MOST_STEPS_SHOWN:]
    most = max(shown, default=0.0)
    if most <= 0:
        return _BARS[0] * len(shown)
    return "".join(_BARS[min(len(_BARS) - 1, int(len(_BARS) * v / most))] for v in shown)


def _margins(view: ChunkView) -> Text:
    from rich.text import Text

    text = Text("margin ", no_wrap=False)
    for margin in view.margins:
        share = 0.0 if margin <= 0 else min(1.0, margin / _FULL_BAR)
        text.append(_BARS[int(share * (len(_BARS) - 1))], style=_style(margin, view.wanted))
    return text


def _text(view: ChunkView) -> Text:
    from rich.text import Text

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
    from rich.text import Text

    return Text(text, no_wrap=True, overflow="ellipsis")
