"""What the pictures of the lab have in common, and how one becomes two files.

Owns the looks of texts, models and published figures; `llmzip.inspect.style` owns those of all
pictures. Does not know what is drawn.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from llmzip.errors import InputError
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
    svg_text,
)
from llmzip.lab.folder import write_whole

HATCH = "////"  # of published figures

_SOURCE_COLOURS = {
    "natural": BLUE, "pg19": BLUE, "random": ORANGE, "fanfics": GREEN, "table": PURPLE,
}  # fmt: skip


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.png and NAME.svg, each whole or not at all. Raises InputError."""
    files = [folder / f"{name}.png", folder / f"{name}.svg"]
    new = files[0].with_name(files[0].name + ".new")
    try:
        new.write_bytes(png_bytes(figure))
        os.replace(new, files[0])
    except OSError as error:
        raise InputError(f"cannot write {files[0]}: {error.strerror}") from error
    write_whole(files[1], svg_text(figure))
    return files


def short_model(model: str) -> str:
    """A model's name without its owner."""
    return label(model.rsplit("/", 1)[-1])


def source_colour(source: str, sources: Sequence[str] = ()) -> str:
    """Texts of one kind have one colour in all pictures; other kinds, by their place."""
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


def bar_look(colour: str, *, is_published: bool) -> dict[str, Any]:
    """A bar of ours is full, a published one hatched."""
    face, hatch = ("white", HATCH) if is_published else (colour, None)
    return {"color": face, "edgecolor": colour, "hatch": hatch}


def published_key(text: str = "published", *, colour: str = QUIET) -> Patch:
    """A legend's entry for published bars."""
    return Patch(facecolor="white", edgecolor=colour, hatch=HATCH, label=text)


def key(marker: str, text: str, *, filled: bool, colour: str = QUIET) -> Line2D:
    """A legend's entry for a mark."""
    face = colour if filled else "white"
    return Line2D(
        [], [], marker=marker, linestyle="none", color=colour, markerfacecolor=face, label=text
    )
