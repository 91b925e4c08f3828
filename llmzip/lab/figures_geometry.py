"""The picture of where vectors lie that hold the same text.

Owns the picture of the study `geometry`. Reads no files and computes no projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from llmzip.inspect.style import (
    BLUE,
    HALO,
    INK,
    MARKERS,
    ORANGE,
    QUIET,
    SERIES,
    new_figure,
    percent_axis,
    style,
)
from llmzip.lab.figures import (
    save,
)

# From light to dark, so that it says the same without colour.
_STEPS = LinearSegmentedColormap.from_list("steps", ["#cfe1f2", "#4f9bcb", "#08306b"])


@dataclass(frozen=True, kw_only=True)
class SolutionPath:
    """The way of one run's vectors, on two principal components."""

    seed: int
    steps: Sequence[int]
    points: Sequence[tuple[float, float]]  # one for each of the steps


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Accuracy along something: (share of the way or distance, accuracy) each."""

    title: str
    points: Sequence[tuple[float, float]]


def draw_geometry(
    folder: Path,
    paths: Sequence[SolutionPath],
    interpolation: Sequence[Curve] = (),
    neighbours: Sequence[Curve] = (),
    *,
    shown_variance: tuple[float, float] | None = None,
    name: str = "geometry",
) -> list[Path]:
    """Paths of several seeds, accuracy between their ends and around them. shown_variance: shares
    of the two components. Raises InputError."""
    with style():
        figure = new_figure(6.8)
        parts = figure.subplot_mosaic(
            [["paths", "paths"], ["between", "around"]], height_ratios=[1.6, 1]
        )
        _draw_paths(figure, parts["paths"], paths, shown_variance)
        _draw_curves(parts["between"], interpolation, BLUE)
        parts["between"].set_title("Between two solutions")
        parts["between"].set_xlabel("share of the way from one to the other")
        _draw_curves(parts["around"], neighbours, ORANGE)
        parts["around"].set_title("Around a solution")
        parts["around"].set_xlabel("distance, as a share of the vector's length")
        return save(figure, folder, name)


def _draw_paths(
    figure: Figure,
    axes: Axes,
    paths: Sequence[SolutionPath],
    shown_variance: tuple[float, float] | None,
) -> None:
    last = max((step for path in paths for step in path.steps), default=1)
    scale = Normalize(0, max(1, last))
    for index, path in enumerate(paths):
        xs, ys = [x for x, _ in path.points], [y for _, y in path.points]
        axes.plot(xs, ys, color=QUIET, linewidth=0.6, alpha=0.6, zorder=1)
        axes.scatter(
            xs, ys, c=list(path.steps), cmap=_STEPS, norm=scale, s=16, linewidths=0, zorder=2
        )
        axes.plot(
            xs[:1],
            ys[:1],
            "o",
            markersize=7,
            markerfacecolor="white",
            markeredgecolor=INK,
            zorder=3,
        )
        marker = MARKERS[(index + 1) % len(MARKERS)]
        axes.plot(xs[-1:], ys[-1:], marker, markersize=7.5, color=INK, zorder=3)
        if path.points:
            axes.annotate(
                f"seed {path.seed}", path.points[-1], xytext=(7, 0), textcoords="offset points",
                va="center", path_effects=HALO, zorder=4,
            )  # fmt: skip
    shares = ["", ""] if shown_variance is None else [f" ({100 * v:.0f} %)" for v in shown_variance]
    axes.set_xlabel(f"first principal component{shares[0]}")
    axes.set_ylabel(f"second principal component{shares[1]}")
    axes.set_title("Ways to a solution: start ○, end filled")
    axes.margins(0.1)
    bar = figure.colorbar(ScalarMappable(scale, _STEPS), ax=axes, aspect=25, pad=0.02)
    bar.set_label("steps")
    bar.outline.set_visible(False)


def _draw_curves(axes: Axes, curves: Sequence[Curve], colour: str) -> None:
    is_many = len(curves) > len(SERIES)
    for index, curve in enumerate(curves):
        axes.plot(
            [x for x, _ in curve.points], [y for _, y in curve.points],
            color=colour if is_many or len(curves) == 1 else SERIES[index],
            alpha=0.45 if is_many else 1, label=curve.title,
        )  # fmt: skip
    axes.set_ylim(0, 1.06)
    axes.set_ylabel("tokens right")
    percent_axis(axes, "y")
    if 1 < len(curves) and not is_many:
        axes.legend(loc="best", fontsize=7.5)
