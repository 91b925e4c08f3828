"""How every picture looks, and how it becomes bytes.

Owns colours, letters, and that the same numbers make the same bytes. Does not know what is drawn.

Nothing of a process's own matplotlib settings is used or changed.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter

from llmzip.inspect.report import printable

WIDTH = 7.0  # inches: 700 pixels of a screen, where a point is 1.4 pixels
PNG_DPI = 150

INK, QUIET, FAINT, STRIPE = "#1b1f24", "#59636e", "#d5dae0", "#f4f6f8"
# Told apart by people who see no red or no green, too (after Okabe and Ito).
BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW = (
    "#0072b2", "#d55e00", "#009e73", "#aa4499", "#56b4e9", "#e69f00",
)  # fmt: skip
SERIES = (BLUE, ORANGE, GREEN, PURPLE, YELLOW, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
HALO = [withStroke(linewidth=2.5, foreground="white")]  # of words over lines and points

_LONGEST_LABEL = 34
_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.parse_math": False,  # names of models and texts are no formulas
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), QUIET),
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "hatch.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "savefig.facecolor": "white",
    "svg.hashsalt": "llmzip",
    "svg.fonttype": "path",
}


@contextmanager
def style() -> Iterator[None]:
    """Settings for all that is made and saved inside; the process's own are back afterwards."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        usual: Any = matplotlib.rcParamsDefault
        kept = ("backend", "backend_fallback")  # these two would not be given back
        matplotlib.rcParams.update({k: v for k, v in usual.items() if k not in kept})
        matplotlib.rcParams.update(_SETTINGS)
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # shown as a box
        yield


def new_figure(height: float) -> Figure:
    """An empty figure of usual width. height: inches."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(w_pad=0.06, h_pad=0.06, wspace=0.04, hspace=0.04)  # type: ignore[call-arg]
    return figure


def png_bytes(figure: Figure) -> bytes:
    """The picture for screens."""
    png = io.BytesIO()
    with style():
        FigureCanvasAgg(figure)
        figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return png.getvalue()


def svg_text(figure: Figure) -> str:
    """The picture for print."""
    svg = io.StringIO()
    with style():
        FigureCanvasSVG(figure)
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return svg.getvalue()


def label(text: str) -> str:
    """A name from a file, fit for a picture: what can be seen, and not too much of it."""
    shown = printable(text)
    return shown if len(shown) <= _LONGEST_LABEL else shown[: _LONGEST_LABEL - 1] + "…"


def thousands_axis(axes: Axes, which: str) -> None:
    """An axis of counts, shown as 1,000."""
    axis_of(axes, which).set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def percent_axis(axes: Axes, which: str) -> None:
    """An axis of shares, 0 to 1, shown in per cent."""
    axis_of(axes, which).set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def bare(axes: Axes, *, grid: str) -> None:
    """Names instead of numbers on one axis: a grid along the other alone."""
    axes.grid(False)
    axes.grid(True, axis="x" if grid == "x" else "y")
    axes.tick_params(axis="y" if grid == "x" else "x", length=0)


def figure_text(value: float, std: float | None = None) -> str:
    """ "1,440", "38.5", "0.84"; with a standard deviation, "38.5 ± 14.1"."""
    if abs(value) >= 100:
        digits = 0
    elif abs(value) >= 10 or value == int(value):
        digits = 0 if value == int(value) and not std else 1
    else:
        digits = 2
    shown = f"{value:,.{digits}f}"
    return f"{shown} ± {std:,.{digits}f}" if std else shown


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """A line of bars for each name, from the top."""
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(max(1, len(names)) - 0.5, -0.5)
    bare(axes, grid="x")
    axes.spines["left"].set_visible(False)


def axis_of(axes: Axes, which: str) -> Axis:
    return axes.xaxis if which == "x" else axes.yaxis
