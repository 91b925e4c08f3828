"""Pictures with a row for each result: capacity, lengths, utilisation and greedy decoding.

Owns the pictures of these four studies. Reads no files.

Full marks are ours, hollow or hatched ones published.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from llmzip.inspect import style
from llmzip.lab.figures import (
    bar_look,
    count_axis,
    legend,
    mark_key,
    note,
    picture,
    published_key,
    short_model,
    source_colour,
)
from llmzip.lab.folder import Row
from llmzip.lab.measures import CapacityFigures, Spread, greedy_accuracy, grouped, number, spread_of
from llmzip.lab.published import PublishedCapacity, PublishedGreedy

_ROW = 0.36  # inches of a row of bars
_MARKERS = {"at 99": "D", "exact": "o", "exact, low-dimensional": "^"}  # of published figures
_Key = Line2D | Patch


@dataclass(frozen=True, kw_only=True)
class _Bar:
    """A row of the picture of capacity: of tokens and of bits. What is not finite is not drawn."""

    name: str
    colour: str
    values: Sequence[float | None]
    stds: Sequence[float | None]
    at_99: Sequence[float | None] = (None, None)
    is_published: bool = False


@picture("capacity")
def draw_capacity(
    figures: Sequence[CapacityFigures], published: Sequence[PublishedCapacity] = ()
) -> Figure:
    """Tokens and bits that vectors hold, ours above, published ones below."""
    sources = [each.source for each in figures]
    bars = [
        _Bar(
            name=_own_name(each, figures), colour=source_colour(each.source, sources),
            values=(each.exact_tokens.mean, each.exact_bits.mean),
            stds=(each.exact_tokens.std, each.exact_bits.std),
            at_99=(each.capacity_tokens_at_99, each.info_gain_bits_above.mean),
        )
        for each in figures
    ] + [
        _Bar(
            name=f"{each.model}, {each.source}, {each.measure_name}",
            colour=source_colour(each.source), values=(each.tokens, each.info_gain_bits),
            stds=(each.tokens_std, each.info_gain_bits_std), is_published=True,
        )
        for each in published
    ]  # fmt: skip
    figure = style.new_figure(1.35 + _ROW * len(bars))
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_bars(left, bars, 0, "Tokens held", "tokens")
    _draw_bars(right, bars, 1, "Information held", "bits")
    keys: list[_Key] = [Patch(facecolor=style.QUIET, label="ours, exact: greedy decoding")]
    if any(_finite(at_99) is not None for bar in bars for at_99 in bar.at_99):
        keys.append(mark_key("D", "ours, the paper's way (99 %)", filled=False))
    if published:
        keys.append(published_key())
    legend(figure, keys)
    return figure


def _own_name(ours: CapacityFigures, figures: Sequence[CapacityFigures]) -> str:
    parts = [short_model(ours.model), style.label(ours.source)]
    if len({each.num_mem for each in figures}) > 1:
        parts.append(f"{ours.num_mem} vector" + "s" * (ours.num_mem > 1))
    return ", ".join(parts)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _draw_bars(axes: Axes, bars: Sequence[_Bar], half: int, title: str, unit: str) -> None:
    ends = [0.0]
    for row, bar in enumerate(bars):
        value, std, at_99 = map(_finite, (bar.values[half], bar.stds[half], bar.at_99[half]))
        end = max(value or 0, at_99 or 0)
        text, colour = "not published", style.QUIET
        if value is not None:
            text, colour = style.figure_text(value, std), style.INK
            look = bar_look(bar.colour, is_published=bar.is_published)
            axes.barh(row, value, height=0.62, **look)
            if std:
                axes.errorbar(
                    value, row, xerr=std, color=colour, linewidth=1, capsize=2.5, zorder=3
                )
                end = max(end, value + std)
        if at_99 is not None:
            look = {"markerfacecolor": "white", "markeredgecolor": style.INK}
            axes.plot(at_99, row, "D", markersize=6.5, zorder=4, **look)
        note(axes, text, (end, row), (9, 0), va="center", color=colour)
        ends.append(end)
    axes.set(title=title, xlabel=unit, xlim=(0, max(*ends, 1e-9) * 1.5))  # room for the figures
    style.thousands_axis(axes, "x")
    style.name_rows(axes, [bar.name for bar in bars])


@picture("lengths")
def draw_lengths(
    figures: Sequence[CapacityFigures], published: Sequence[PublishedCapacity] = ()
) -> Figure:
    """Longest texts, a row for each model, longest on top (Figure 1 of Kuratov et al. 2025)."""
    sources = list(dict.fromkeys([e.source for e in figures] + [e.source for e in published]))
    colours: dict[str, list[str]] = {}  # sources of one kind have one colour
    for source in sources:
        colours.setdefault(source_colour(source, sources), []).append(source)
    best: dict[str, float] = {}
    for model, tokens in [
        *((short_model(each.model), each.exact_tokens.mean) for each in figures),
        *((each.model, each.tokens or 0) for each in published),
    ]:
        best[model] = max(best.get(model, 0), tokens)
    models = sorted((model for model in best if best[model] > 0), key=lambda model: -best[model])

    def place(model: str, source: str) -> tuple[float, str]:
        """Row and colour: the sources are side by side on a model's row."""
        colour = source_colour(source, sources)
        beside = list(colours).index(colour) - (len(colours) - 1) / 2
        return models.index(model) + 0.22 * beside, colour

    figure = style.new_figure(1.5 + _ROW * len(models))
    axes = figure.subplots()
    for each in published:
        if each.tokens:
            row, colour = place(each.model, each.source)
            look: dict[str, Any] = {
                "marker": _MARKERS[each.measure],
                "markerfacecolor": "white",
                "color": colour,
            }
            axes.plot(each.tokens, row, **look)
    for ours in figures:
        if ours.exact_tokens.mean > 0:
            _draw_own_length(axes, *place(short_model(ours.model), ours.source), ours)
    count_axis(axes, "x")
    style.name_rows(axes, models)
    for stripe in range(0, len(models), 2):
        axes.axhspan(stripe - 0.5, stripe + 0.5, color=style.STRIPE, linewidth=0, zorder=0)
    is_one = all(each.num_mem == 1 for each in figures)
    title = "Longest text held by one vector" if is_one else "Longest text held"
    axes.set(title=title, xlabel="tokens (logarithmic)")
    keys: list[_Key] = [mark_key("o", "ours, exact", filled=True)]
    if any(each.capacity_tokens_at_99 for each in figures):
        keys.append(mark_key("D", "ours, 99 %", filled=True))
    for measure, marker in {
        e.measure_name: _MARKERS[e.measure] for e in published if e.tokens
    }.items():
        keys.append(mark_key(marker, f"published, {measure}", filled=False))
    for colour, names in colours.items():
        keys.append(Patch(facecolor=colour, label=style.label(", ".join(names))))
    legend(figure, keys)
    return figure


def _draw_own_length(axes: Axes, row: float, colour: str, ours: CapacityFigures) -> None:
    mean, std = ours.exact_tokens.mean, ours.exact_tokens.std
    spread = [[min(std, 0.5 * mean)], [std]]  # the axis has no zero
    axes.errorbar(
        mean, row, xerr=spread, fmt="o", color=colour, markersize=7, linewidth=1.3, zorder=4
    )
    if ours.capacity_tokens_at_99:
        axes.plot(ours.capacity_tokens_at_99, row, "D", color=colour, markersize=5.5, zorder=5)


@dataclass(frozen=True, kw_only=True)
class Utilisation:
    """How much of the bound d x b / log2 V a model's vectors reach."""

    model: str
    source: str
    bound_tokens: float
    gain_tokens: float
    is_published: bool = False

    @property
    def share(self) -> float:
        return self.gain_tokens / self.bound_tokens


@picture("utilisation")
def draw_utilisation(bars: Sequence[Utilisation]) -> Figure:
    """What vectors gain beside what their bits could name (Figure 5 of Kuratov et al. 2025)."""
    sources = [bar.source for bar in bars]
    figure = style.new_figure(1.3 + 0.31 * len(bars))
    axes = figure.subplots()
    for row, bar in enumerate(bars):
        look = bar_look(source_colour(bar.source, sources), is_published=bar.is_published)
        axes.barh(row, bar.bound_tokens, height=0.72, color="none", edgecolor=style.FAINT)
        axes.barh(row, bar.gain_tokens, height=0.72, **look)
        note(axes, f"{100 * bar.share:.1f} %", (bar.gain_tokens, row), (4, 0), va="center")
    style.name_rows(axes, [f"{short_model(e.model)}, {style.label(e.source)}" for e in bars])
    title = "Token gain of one vector, as a share of the bound d × b / log₂ V"
    end = 1.02 * max((bar.bound_tokens for bar in bars), default=1)
    axes.set(title=title, xlabel="tokens", xlim=(0, end))
    style.thousands_axis(axes, "x")
    keys = [
        Patch(facecolor="none", edgecolor=style.QUIET, linewidth=0.6, label="bound"),
        Patch(facecolor=style.QUIET, label="ours"),
    ]
    if any(bar.is_published for bar in bars):
        keys.append(published_key())
    legend(figure, keys)
    return figure


@dataclass(frozen=True, kw_only=True)
class GreedyPoint:
    """The result of one stop rule: shares of tokens that are right."""

    rule: str
    teacher_forced: Spread
    greedy: Spread


def greedy_points(rows: Sequence[Row]) -> list[GreedyPoint]:
    """Of decoded rows, a point for each `setting`, in the order they first appear."""
    decoded = [r for r in rows if r["greedy_right"] is not None and number(r, "num_tokens")]
    return [
        GreedyPoint(
            rule=str(rule),
            teacher_forced=spread_of(group, "accuracy"),
            greedy=Spread.of(map(greedy_accuracy, group)),
        )
        for (rule,), group in grouped(decoded, "setting").items()
    ]


@picture("greedy")
def draw_greedy(points: Sequence[GreedyPoint], published: Sequence[PublishedGreedy] = ()) -> Figure:
    """Tokens right when teacher-forced beside tokens right when decoded greedily, by stop rule."""
    names = [style.label(point.rule) for point in points]
    for each in published:
        loss = ", weighted loss" if each.loss.startswith("margin") else ""
        names.append(f"{each.model}, {each.rule}{loss}")
    figure = style.new_figure(1.3 + 0.42 * len(names))
    axes = figure.subplots()
    shares = [(each.teacher_forced.mean, each.greedy.mean) for each in points]
    shares += [(each.teacher_forced, each.greedy) for each in published]
    for row, (forced, greedy) in enumerate(shares):
        look: dict[str, Any] = {"color": style.FAINT, "edgecolor": style.QUIET, "linewidth": 0.6}
        axes.barh(row - 0.2, forced, height=0.34, **look)
        look = bar_look(style.BLUE, is_published=row >= len(points))
        axes.barh(row + 0.18, greedy, height=0.36, **look)
        for y, share in ((row - 0.2, forced), (row + 0.18, greedy)):
            if math.isfinite(share):
                note(axes, f"{100 * share:.4g} %", (share, y), (5, 0), va="center", fontsize=7.5)
    if points and published:
        axes.axhline(len(points) - 0.5, color=style.QUIET, linewidth=0.8)
    style.name_rows(axes, names)
    axes.set(xlim=(0, 1.14), ylim=(len(names) - 0.45, -0.55), xticks=[0, 0.25, 0.5, 0.75, 1])
    axes.set(title="Teacher-forced accuracy and greedy decoding", xlabel="tokens right")
    style.percent_axis(axes, "x")
    keys = [
        Patch(facecolor=style.FAINT, edgecolor=style.QUIET, label="teacher-forced"),
        Patch(facecolor=style.BLUE, edgecolor=style.BLUE, label="greedy, ours"),
    ]
    if published:
        keys.append(published_key("greedy, published", colour=style.BLUE))
    legend(figure, keys)
    return figure
