"""Pictures of what becomes of bits: cross-entropy before and after, bits per dimension, and greedy
decoding.

Owns the pictures of the studies `entropy`, `rate` and `greedy`. Reads no files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from llmzip.inspect.style import (
    BLUE,
    FAINT,
    GREEN,
    HALO,
    INK,
    MARKERS,
    ORANGE,
    QUIET,
    figure_text,
    label,
    name_rows,
    new_figure,
    percent_axis,
    style,
    thousands_axis,
)
from llmzip.lab.figures import (
    bar_look,
    count_axis,
    published_key,
    save,
    source_colour,
)
from llmzip.lab.folder import Row
from llmzip.lab.measures import Spread, Threshold
from llmzip.lab.published import PublishedGreedy
from llmzip.lab.rows import greedy_accuracy, number

_BIT_TICKS = (1, 2, 3, 4, 6, 8, 16)


@dataclass(frozen=True, kw_only=True)
class GreedyPoint:
    """What one stop rule gives: shares of tokens that are right."""

    rule: str
    teacher_forced: Spread
    greedy: Spread


@dataclass(frozen=True, kw_only=True)
class RatePoint:
    """What vectors of so many bits a dimension hold."""

    bits: float  # stored, entropy-coded, on average
    tokens: Spread
    exact_bits: Spread
    stored_bits_an_information_bit: float | None  # None: nothing is held


def greedy_points(rows: Sequence[Row]) -> list[GreedyPoint]:
    """Of decoded rows, a point for each `setting`, in the order they first appear."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["greedy_right"] is not None and number(row, "num_tokens"):
            groups.setdefault(str(row["setting"]), []).append(row)
    return [
        GreedyPoint(
            rule=rule,
            teacher_forced=Spread.of(number(row, "accuracy") for row in group),
            greedy=Spread.of(map(greedy_accuracy, group)),
        )
        for rule, group in groups.items()
    ]


def draw_entropy(
    folder: Path,
    points: Mapping[str, Sequence[tuple[float, float]]],
    threshold: Threshold | None = None,
    *,
    name: str = "entropy",
) -> list[Path]:
    """Bits of texts before and after cramming, by source: (before, after) each (Figure 3 of Kuratov
    et al. 2025). Raises InputError."""
    sources = list(points)
    longest = max((x for pairs in points.values() for x, _ in pairs), default=1.0)
    highest = max((y for pairs in points.values() for _, y in pairs), default=1.0)
    with style():
        figure = new_figure(4.6)
        axes = figure.subplots()
        top = max(highest, 0.35 * longest) * 1.12
        axes.set_xlim(0, longest * 1.06)
        axes.set_ylim(-0.025 * top, top)
        axes.plot([0, longest * 1.06], [0, longest * 1.06], color=QUIET, linewidth=0.9)
        _along(axes, 0.72 * top, 0.72 * top, "no gain: after = before", above=True)
        for index, source in enumerate(sources):
            axes.plot(
                [x for x, _ in points[source]], [y for _, y in points[source]],
                MARKERS[index % len(MARKERS)], color=source_colour(source, sources), alpha=0.65,
                markeredgewidth=0, label=label(source), clip_on=False, zorder=3,
            )  # fmt: skip
        if threshold is not None:
            _draw_threshold(axes, threshold, longest, top)
        axes.set_xlabel("bits of the text without vectors")
        axes.set_ylabel("bits left with vectors")
        axes.set_title("Cross-entropy before and after cramming")
        thousands_axis(axes, "x")
        thousands_axis(axes, "y")
        figure.legend(loc="outside lower center", ncols=4)
        return save(figure, folder, name)


def draw_rate(folder: Path, points: Sequence[RatePoint], *, name: str = "rate") -> list[Path]:
    """What vectors hold and cost, by bits per dimension. Raises InputError."""
    points = sorted(points, key=lambda point: point.bits)
    places = [point.bits for point in points]
    with style():
        figure = new_figure(6.6)
        first, second, third = figure.subplots(3, 1, sharex=True)
        _spread_line(first, places, [point.tokens for point in points], BLUE, "o")
        _spread_line(second, places, [point.exact_bits for point in points], GREEN, "s")
        costs = [
            (point.bits, point.stored_bits_an_information_bit)
            for point in points
            if point.stored_bits_an_information_bit is not None
        ]
        third.plot([x for x, _ in costs], [y for _, y in costs], color=ORANGE, marker="^")
        for x, y in costs:
            _above(third, x, y, figure_text(y))
        third.axhline(1, color=QUIET, linewidth=0.9, linestyle="--")
        third.annotate(
            "1: vectors as small as what they hold", (1, 1), xycoords=("axes fraction", "data"),
            xytext=(0, 4), textcoords="offset points", ha="right", color=QUIET,
        )  # fmt: skip
        titles = ("Tokens held", "Information held", "Cost")
        units = ("tokens", "bits", "stored bits per\ninformation bit")
        for axes, title, unit in zip((first, second, third), titles, units, strict=True):
            axes.set_title(title)
            axes.set_ylabel(unit)
            axes.set_ylim(0, max(axes.get_ylim()[1] * 1.18, 1e-9))
            count_axis(axes, "x", ticks=_BIT_TICKS)
            axes.set_xlim(min(places) / 1.25, max(places) * 1.25)
        figure.align_ylabels()
        third.set_xlabel("stored bits per dimension, entropy-coded")
        return save(figure, folder, name)


def draw_greedy(
    folder: Path,
    points: Sequence[GreedyPoint],
    published: Sequence[PublishedGreedy] = (),
    *,
    name: str = "greedy",
) -> list[Path]:
    """Tokens right when teacher-forced beside tokens right when decoded greedily, by stop rule.
    Raises InputError."""
    names = [label(point.rule) for point in points]
    names += [_published_name(each) for each in published]
    with style():
        figure = new_figure(1.3 + 0.42 * len(names))
        axes = figure.subplots()
        for place, point in enumerate(points):
            _pair(axes, place, point.teacher_forced, point.greedy, is_published=False)
        for place, each in enumerate(published, len(points)):
            forced = Spread(mean=each.teacher_forced, std=0, count=1)
            greedy = Spread(mean=each.greedy, std=each.greedy_std or 0, count=1)
            _pair(axes, place, forced, greedy, is_published=True)
        if points and published:
            axes.axhline(len(points) - 0.5, color=QUIET, linewidth=0.8)
        name_rows(axes, names)
        axes.set_ylim(len(names) - 0.45, -0.55)
        axes.set_xlim(0, 1.14)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        percent_axis(axes, "x")
        axes.set_xlabel("tokens right")
        axes.set_title("Teacher-forced accuracy and greedy decoding")
        keys = [
            Patch(facecolor=FAINT, edgecolor=QUIET, label="teacher-forced"),
            Patch(facecolor=BLUE, edgecolor=BLUE, label="greedy, ours"),
        ]
        if published:
            keys.append(published_key("greedy, published", colour=BLUE))
        figure.legend(handles=keys, loc="outside lower center", ncols=3)
        return save(figure, folder, name)


def _draw_threshold(axes: Axes, threshold: Threshold, longest: float, top: float) -> None:
    limit, bias = threshold.threshold_bits, threshold.bias
    axes.axvline(limit, color=INK, linestyle="--", linewidth=1.1)
    is_right = limit > 0.5 * longest
    axes.annotate(
        f"threshold {figure_text(limit)} bits", (limit, top), xytext=(-5 if is_right else 5, -2),
        textcoords="offset points", ha="right" if is_right else "left", va="top",
        path_effects=HALO,
    )  # fmt: skip
    begin, end = limit, longest * 1.06
    axes.plot(
        [begin, end], [bias.slope * x + bias.intercept for x in (begin, end)], color=INK,
        linewidth=1.1, zorder=4,
    )  # fmt: skip
    sign = "+" if bias.intercept >= 0 else "−"
    text = f"beyond it, left = {figure_text(bias.slope)} × before {sign} "
    axes.annotate(
        text + figure_text(abs(bias.intercept)), (0.985, 0.09), xycoords="axes fraction",
        ha="right", path_effects=HALO, zorder=5,
    )  # fmt: skip


def _along(axes: Axes, x: float, y: float, text: str, *, above: bool) -> None:
    axes.annotate(
        text, (x, y), xytext=(-6, 4 if above else -4), textcoords="offset points", ha="right",
        va="bottom" if above else "top", color=QUIET,
    )  # fmt: skip


def _above(axes: Axes, x: float, y: float, text: str) -> None:
    axes.annotate(text, (x, y), xytext=(0, 6), textcoords="offset points", ha="center")


def _spread_line(
    axes: Axes, places: Sequence[float], spreads: Sequence[Spread], colour: str, marker: str
) -> None:
    means = [each.mean for each in spreads]
    stds = [each.std if math.isfinite(each.std) else 0.0 for each in spreads]
    low = [mean - std for mean, std in zip(means, stds, strict=True)]
    high = [mean + std for mean, std in zip(means, stds, strict=True)]
    axes.fill_between(places, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.plot(places, means, color=colour, marker=marker)
    for x, mean in zip(places, means, strict=True):
        if math.isfinite(mean):
            _above(axes, x, mean, figure_text(mean))


def _pair(axes: Axes, place: int, forced: Spread, greedy: Spread, *, is_published: bool) -> None:
    axes.barh(place - 0.2, forced.mean, height=0.34, color=FAINT, edgecolor=QUIET, linewidth=0.6)
    axes.barh(place + 0.18, greedy.mean, height=0.36, **bar_look(BLUE, is_published=is_published))
    for y, spread in ((place - 0.2, forced), (place + 0.18, greedy)):
        if math.isfinite(spread.mean):
            axes.annotate(
                f"{100 * spread.mean:.4g} %", (spread.mean, y), xytext=(5, 0),
                textcoords="offset points", va="center", fontsize=7.5,
            )  # fmt: skip


def _published_name(each: PublishedGreedy) -> str:
    tail = ", weighted loss" if each.loss.startswith("margin") else ""
    return f"{each.model}, {each.rule}{tail}"
