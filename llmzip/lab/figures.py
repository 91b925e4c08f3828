"""What the pictures of the lab have in common, and how one becomes two files.

Owns the looks of texts, models and published figures; `llmzip.inspect.style` owns those of all
pictures. Does not know what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from llmzip.inspect.style import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    QUIET,
    SKY,
    YELLOW,
    axis_of,
    figure_text,
    label,
    png_bytes,
    style,
    svg_text,
)
from llmzip.lab.folder import write_whole

P = ParamSpec("P")

HATCH = "////"  # of published figures

_SOURCE_COLOURS = {
    "natural": BLUE, "pg19": BLUE, "random": ORANGE, "fanfics": GREEN, "table": PURPLE,
}  # fmt: skip


def picture(
    name: str,
) -> Callable[[Callable[P, Figure]], Callable[Concatenate[Path, P], list[Path]]]:
    """Make a function that draws a figure take a folder first, and save the figure there.

    It then returns the paths of NAME.png and NAME.svg, and raises InputError.
    """

    def decorate(draw: Callable[P, Figure]) -> Callable[Concatenate[Path, P], list[Path]]:
        @wraps(draw)
        def saved(folder: Path, /, *args: P.args, **kwargs: P.kwargs) -> list[Path]:
            with style():
                return save(draw(*args, **kwargs), folder, name)

        return saved

    return decorate


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.png and NAME.svg, each whole or not at all. Raises InputError."""
    files = [folder / f"{name}.png", folder / f"{name}.svg"]
    write_whole(files[0], png_bytes(figure))
    write_whole(files[1], svg_text(figure))
    return files


def short_model(model: str) -> str:
    """A model's name without its owner."""
    return label(model.rsplit("/", 1)[-1])


def source_colour(source: str, sources: Sequence[str] = ()) -> str:
    """The colour of texts of one kind, the same in all pictures; of an unknown kind, by its
    position among the unknown ones."""
    known = _SOURCE_COLOURS.get(source.casefold())
    if known is not None:
        return known
    others = [each for each in sources if each.casefold() not in _SOURCE_COLOURS]
    palette = (YELLOW, SKY, PURPLE)
    return palette[others.index(source) % len(palette)] if source in others else QUIET


def count_axis(axes: Axes, which: str, *, ticks: Sequence[float] = ()) -> None:
    """A logarithmic axis, base 2, that shows whole numbers."""
    (axes.set_xscale if which == "x" else axes.set_yscale)("log", base=2)
    axis = axis_of(axes, which)
    if ticks:
        axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: figure_text(value)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, keys: Sequence[Artist] | None = None, *, columns: int = 3) -> None:
    """A legend under the whole figure. keys: its entries; None: those of the axes."""
    entries = {} if keys is None else {"handles": list(keys)}
    figure.legend(loc="outside lower center", ncols=columns, **entries)


def note(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **look: Any
) -> None:
    """Words beside a point. offset: of their beginning, in typographic points."""
    axes.annotate(text, at, xytext=offset, textcoords="offset points", **look)


def bar_look(colour: str, *, is_published: bool) -> dict[str, Any]:
    """How a bar is filled: ours with its colour, a published one with a hatch."""
    face, hatch = ("white", HATCH) if is_published else (colour, None)
    return {"color": face, "edgecolor": colour, "hatch": hatch}


def published_key(text: str = "published", *, colour: str = QUIET) -> Patch:
    """A legend's entry for published bars."""
    return Patch(facecolor="white", edgecolor=colour, hatch=HATCH, label=text)


def mark_key(marker: str, text: str, *, filled: bool, colour: str = QUIET) -> Line2D:
    """A legend's entry for a mark."""
    face = colour if filled else "white"
    return Line2D(
        [], [], marker=marker, linestyle="none", color=colour, markerfacecolor=face, label=text
    )
