"""Pictures of curves: scaling, cross-entropy, rate, and the geometry of solutions.

Owns the pictures of these four studies. Reads no files and computes no projection.

Full marks are ours, hollow ones published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from llmzip.inspect import style
from llmzip.lab.figures import count_axis, legend, note, picture, short_model, source_colour
from llmzip.lab.measures import CapacityFigures, Threshold
from llmzip.lab.published import PublishedCapacity
from llmzip.lab.rate import RateFigures

_BIT_TICKS = (1, 2, 3, 4, 6, 8, 16)
# From light to dark, so that the picture says the same without colour.
_STEPS = LinearSegmentedColormap.from_list("steps", ["#cfe1f2", "#4f9bcb", "#08306b"])

Points = Sequence[tuple[float, float]]


def _split(points: Points) -> tuple[list[float], list[float]]:
    """The x and the y of all points."""
    return [x for x, _ in points], [y for _, y in points]


def _marker(index: int) -> str:
    return style.MARKERS[index % len(style.MARKERS)]


@picture("scaling")
def draw_scaling(
    figures: Sequence[CapacityFigures], published: Sequence[PublishedCapacity] = ()
) -> Figure:
    """Tokens and bits per dimension, by number of vectors (Figure 4 of Kuratov et al. 2025)."""
    groups: dict[tuple[str, str], list[CapacityFigures]] = {}
    for ours in figures:
        groups.setdefault((ours.model, ours.source), []).append(ours)
    others: dict[str, list[PublishedCapacity]] = {}
    for other in published:
        others.setdefault(other.model, []).append(other)
    figure = style.new_figure(4.3)
    left, right = figure.subplots(1, 2)
    for index, ((model, source), group) in enumerate(groups.items()):
        title = f"{short_model(model)}, {style.label(source)}"
        _draw_own_scaling(left, right, index, title, group)
    for index, (model, rows) in enumerate(others.items()):
        _draw_other_scaling(left, right, _marker(-1 - index), style.label(model), rows)
    counts = sorted({e.num_mem for e in figures} | {e.num_mem for e in published})
    ends = min(counts, default=1) / 1.25, max(counts, default=1) * 1.25
    for axes in (left, right):
        count_axis(axes, "x", ticks=counts)
        axes.set(xlabel="vectors", xlim=ends)
    count_axis(left, "y")
    left.set(title="Tokens held", ylabel="tokens")
    top = 1.1 * right.get_ylim()[1]
    right.set(title="Information per dimension", ylabel="bits per dimension", ylim=(0, top))
    keys: list[Artist] = list(left.get_legend_handles_labels()[0])
    hollow = partial(Line2D, [], [], color=style.QUIET, markerfacecolor="white")
    if figures:
        keys.append(hollow(label="as many times one vector", linestyle="--"))
    if any(each.capacity_tokens_at_99 for each in figures):
        keys.append(hollow(label="ours, the paper's way (99 %)", linestyle=":", marker="o"))
    keys.append(hollow(label="published (99 %)", linewidth=0.9, marker=_marker(-1)))
    legend(figure, keys, columns=2)
    return figure


def _draw_own_scaling(
    left: Axes, right: Axes, index: int, title: str, group: Sequence[CapacityFigures]
) -> None:
    colour, marker = style.SERIES[index % len(style.SERIES)], _marker(index)
    rows = sorted((each for each in group if each.exact_tokens.mean > 0), key=lambda e: e.num_mem)
    if not rows:
        return
    counts, means = [e.num_mem for e in rows], [e.exact_tokens.mean for e in rows]
    stds = [min(e.exact_tokens.std, 0.9 * e.exact_tokens.mean) for e in rows]
    left.errorbar(counts, means, yerr=stds, color=colour, fmt="none", capsize=2.5)
    left.plot(counts, means, color=colour, marker=marker, label=title)
    one = means[0] / counts[0]
    left.plot(counts, [one * k for k in counts], "--", color=colour, linewidth=1, alpha=0.7)
    tried = [(e.num_mem, e.capacity_tokens_at_99) for e in rows if e.capacity_tokens_at_99]
    if tried:
        left.plot(*_split(tried), ":", color=colour, marker=marker, markerfacecolor="white")
    right.plot(counts, [e.bits_a_dimension for e in rows], color=colour, marker=marker)


def _draw_other_scaling(
    left: Axes, right: Axes, marker: str, model: str, rows: Sequence[PublishedCapacity]
) -> None:
    rows = sorted(rows, key=lambda each: each.num_mem)
    held = [(each.num_mem, each.tokens) for each in rows if each.tokens]
    gains = [(each.num_mem, each.bits_a_dimension) for each in rows if each.bits_a_dimension]
    for axes, points, offset, sides in (
        (left, held, (5, 6), {"ha": "right"}),
        (right, gains, (8, 0), {"ha": "left", "va": "center"}),
    ):
        if points:
            axes.plot(
                *_split(points), color=style.QUIET, marker=marker, markerfacecolor="white",
                linewidth=0.9, zorder=1.5,
            )  # fmt: skip
            look = {"color": style.QUIET, "fontsize": 7.5, "zorder": 5, "path_effects": style.HALO}
            note(axes, model, points[-1], offset, **look, **sides)


@picture("entropy")
def draw_entropy(points: Mapping[str, Points], threshold: Threshold | None = None) -> Figure:
    """Bits before and after cramming, a pair for each text (Figure 3 of Kuratov et al. 2025)."""
    sources = list(points)
    xs, ys = _split([pair for pairs in points.values() for pair in pairs])
    longest, highest = max(xs, default=1.0), max(ys, default=1.0)
    end, top = longest * 1.06, max(highest, 0.35 * longest) * 1.12
    figure = style.new_figure(4.6)
    axes = figure.subplots()
    axes.set(xlim=(0, end), ylim=(-0.025 * top, top))
    axes.plot([0, end], [0, end], color=style.QUIET, linewidth=0.9)
    look: dict[str, Any] = {"ha": "right", "va": "bottom", "color": style.QUIET}
    note(axes, "no gain: after = before", (0.72 * top, 0.72 * top), (-6, 4), **look)
    for index, source in enumerate(sources):
        axes.plot(
            *_split(points[source]), _marker(index),
            color=source_colour(source, sources), alpha=0.65, markeredgewidth=0,
            label=style.label(source), clip_on=False, zorder=3,
        )  # fmt: skip
    if threshold is not None:
        _draw_threshold(axes, threshold, longest, top)
    title = "Cross-entropy before and after cramming"
    before, after = "bits of the text without vectors", "bits left with vectors"
    axes.set(title=title, xlabel=before, ylabel=after)
    style.thousands_axis(axes, "x")
    style.thousands_axis(axes, "y")
    legend(figure, columns=4)
    return figure


def _draw_threshold(axes: Axes, threshold: Threshold, longest: float, top: float) -> None:
    limit, bias, end = threshold.threshold_bits, threshold.bias, longest * 1.06
    axes.axvline(limit, color=style.INK, linestyle="--", linewidth=1.1)
    offset, side = ((-5, -2), "right") if limit > 0.5 * longest else ((5, -2), "left")
    text = f"threshold {style.figure_text(limit)} bits"
    note(axes, text, (limit, top), offset, ha=side, va="top", path_effects=style.HALO)
    line = [bias.slope * x + bias.intercept for x in (limit, end)]
    axes.plot([limit, end], line, color=style.INK, linewidth=1.1, zorder=4)
    sign = "+" if bias.intercept >= 0 else "−"
    text = f"beyond it, left = {style.figure_text(bias.slope)} × before {sign} "
    axes.annotate(
        text + style.figure_text(abs(bias.intercept)), (0.985, 0.09), xycoords="axes fraction",
        ha="right", path_effects=style.HALO, zorder=5,
    )  # fmt: skip


@picture("rate")
def draw_rate(figures: Sequence[RateFigures]) -> Figure:
    """Stored bits against the bits that they hold, and what each of these costs."""
    figure = style.new_figure(4.4)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    groups: dict[int, list[RateFigures]] = {}
    for each in sorted(figures, key=lambda each: each.coded_bits_a_dimension):
        groups.setdefault(each.num_mem, []).append(each)
    for index, (num_mem, group) in enumerate(groups.items()):
        colour, marker = style.SERIES[index % len(style.SERIES)], _marker(index)
        _draw_rate(left, right, f"{num_mem} mem", colour, marker, group)
    stored = [each.stored_bits for each in figures]
    ends = min(stored, default=1) / 2, max(stored, default=1) * 2
    left.plot(ends, ends, color=style.QUIET, linewidth=0.9, linestyle="--")
    look: dict[str, Any] = {"color": style.QUIET, "path_effects": style.HALO}
    note(left, "1 stored bit a bit of text", (ends[1], ends[1]), (-30, -8), ha="right", **look)
    right.axhline(1, color=style.QUIET, linewidth=0.9, linestyle="--")
    count_axis(left, "x")
    count_axis(left, "y")
    left.set(title="Bits held", xlabel="stored bits", ylabel="bits of text", xlim=ends)
    for axes in (left, right):
        axes.tick_params(axis="x", labelsize=7.5)
    count_axis(right, "x", ticks=_BIT_TICKS)
    top = max(right.get_ylim()[1] * 1.12, 1e-9)
    right.set(title="Cost", xlabel="stored bits a dimension", ylim=(0, top))
    right.set_ylabel("stored bits a bit of text")
    legend(figure, left.get_legend_handles_labels()[0], columns=4)
    return figure


def _draw_rate(
    left: Axes, right: Axes, name: str, colour: str, marker: str, group: Sequence[RateFigures]
) -> None:
    """One number of vectors, fewest bits first."""
    held = [each for each in group if each.stored_bits_an_information_bit is not None]
    points = [(each.stored_bits, each.exact_bits.mean) for each in held]
    stds = np.nan_to_num([min(each.exact_bits.std, 0.9 * each.exact_bits.mean) for each in held])
    if points:
        left.errorbar(*_split(points), yerr=stds, color=colour, fmt="none", capsize=2.5)
    left.plot(*_split(points), color=colour, marker=marker, label=name)
    for each, point in zip(held, points, strict=True):
        is_line = len(held) > 1  # its words stand below it, those of single points above
        words = f"{each.bits}-bit" if is_line else f"{each.num_mem} x {each.bits}-bit"
        offset, side = ((7, -10), "left") if is_line else ((-4, 8), "right")
        note(left, words, point, offset, ha=side, fontsize=7.5)
    costs = [(e.coded_bits_a_dimension, e.stored_bits_an_information_bit or 0.0) for e in held]
    right.plot(*_split(costs), color=colour, marker=marker)
    for cost in costs if len(costs) > 1 else ():
        note(right, style.figure_text(cost[1]), cost, (0, 6), ha="center", fontsize=7.5)


@dataclass(frozen=True, kw_only=True)
class SolutionPath:
    """The path of one run's vectors, on two principal components."""

    seed: int
    steps: Sequence[int]
    points: Points  # one for each of the steps


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Accuracy along a line: (share of the way or distance, accuracy) each."""

    title: str
    points: Points


@picture("geometry")
def draw_geometry(
    paths: Sequence[SolutionPath],
    interpolation: Sequence[Curve] = (),
    neighbours: Sequence[Curve] = (),
    shown_variance: tuple[float, float] | None = None,
) -> Figure:
    """Paths of several seeds, accuracy between their ends and around them. shown_variance: shares
    of the two components."""
    figure = style.new_figure(6.8)
    parts = figure.subplot_mosaic(
        [["paths", "paths"], ["between", "around"]], height_ratios=[1.6, 1]
    )
    _draw_paths(figure, parts["paths"], paths, shown_variance)
    between, around = parts["between"], parts["around"]
    _draw_curves(between, interpolation, style.BLUE)
    between.set(title="Between two solutions", xlabel="share of the way from one to the other")
    _draw_curves(around, neighbours, style.ORANGE)
    around.set(title="Around a solution", xlabel="distance, as a share of the vector's length")
    return figure


def _draw_paths(
    figure: Figure,
    axes: Axes,
    paths: Sequence[SolutionPath],
    shown_variance: tuple[float, float] | None,
) -> None:
    last = max((step for path in paths for step in path.steps), default=1)
    scale = Normalize(0, max(1, last))
    start_look: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": style.INK}
    for index, path in enumerate(paths):
        xs, ys = _split(path.points)
        axes.plot(xs, ys, color=style.QUIET, linewidth=0.6, alpha=0.6, zorder=1)
        steps: dict[str, Any] = {"c": list(path.steps), "cmap": _STEPS, "norm": scale}
        axes.scatter(xs, ys, s=16, linewidths=0, zorder=2, **steps)
        axes.plot(xs[:1], ys[:1], "o", markersize=7, zorder=3, **start_look)
        axes.plot(xs[-1:], ys[-1:], _marker(index + 1), markersize=7.5, color=style.INK, zorder=3)
        if path.points:
            look: dict[str, Any] = {"va": "center", "path_effects": style.HALO, "zorder": 4}
            note(axes, f"seed {path.seed}", path.points[-1], (7, 0), **look)
    shares = ["", ""] if shown_variance is None else [f" ({100 * v:.0f} %)" for v in shown_variance]
    axes.set_xlabel(f"first principal component{shares[0]}")
    axes.set_ylabel(f"second principal component{shares[1]}")
    axes.set_title("Ways to a solution: start ○, end filled")
    axes.margins(0.1)
    bar = figure.colorbar(ScalarMappable(scale, _STEPS), ax=axes, aspect=25, pad=0.02)
    bar.set_label("steps")
    bar.outline.set_visible(False)


def _draw_curves(axes: Axes, curves: Sequence[Curve], colour: str) -> None:
    is_many = len(curves) > len(style.SERIES)
    for index, curve in enumerate(curves):
        axes.plot(
            *_split(curve.points), label=curve.title, alpha=0.45 if is_many else 1,
            color=colour if is_many or len(curves) == 1 else style.SERIES[index],
        )  # fmt: skip
    axes.set(ylabel="tokens right", ylim=(0, 1.06))
    style.percent_axis(axes, "y")
    if 1 < len(curves) and not is_many:
        axes.legend(loc="best", fontsize=7.5)
