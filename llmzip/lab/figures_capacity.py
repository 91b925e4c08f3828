"""Pictures of how much vectors hold: beside others' figures, and by the number of vectors.

Owns the pictures of the studies `capacity` and `scaling`. Reads no files.

Full marks are ours, hollow or hatched ones published.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from llmzip.inspect.style import (
    HALO,
    INK,
    MARKERS,
    QUIET,
    SERIES,
    figure_text,
    label,
    name_rows,
    new_figure,
    style,
    thousands_axis,
)
from llmzip.lab.figures import (
    bar_look,
    count_axis,
    key,
    published_key,
    save,
    short_model,
    source_colour,
)
from llmzip.lab.measures import CapacityFigures
from llmzip.lab.published import PublishedCapacity

_ROW = 0.36  # inches of a line of bars


@dataclass(frozen=True, kw_only=True)
class _Bar:
    name: str
    colour: str
    is_published: bool
    value: float | None
    std: float | None
    at_99: float | None = None


def draw_capacity(
    folder: Path,
    figures: Sequence[CapacityFigures],
    published: Sequence[PublishedCapacity] = (),
    *,
    name: str = "capacity",
) -> list[Path]:
    """Tokens and bits that vectors hold, ours above, published ones below. Raises InputError."""
    sources = [each.source for each in figures]
    tokens, bits = [], []
    for ours in figures:
        bar = _own_name(ours, figures), source_colour(ours.source, sources), False
        exact, held = ours.exact_tokens, ours.exact_bits
        tokens.append(_bar(*bar, exact.mean, exact.std, ours.capacity_tokens_at_99))
        bits.append(_bar(*bar, held.mean, held.std, ours.info_gain_bits_above.mean))
    for other in published:
        bar = (
            f"{other.model}, {other.source}, {other.measure_name}",
            source_colour(other.source),
            True,
        )
        tokens.append(_bar(*bar, other.tokens, other.tokens_std))
        bits.append(_bar(*bar, other.info_gain_bits, other.info_gain_bits_std))
    with style():
        figure = new_figure(1.35 + _ROW * len(tokens))
        left, right = figure.subplots(1, 2, sharey=True)
        _draw_bars(left, tokens, "tokens")
        _draw_bars(right, bits, "bits")
        left.set_title("Tokens held")
        right.set_title("Information held")
        keys: list[Line2D | Patch] = [Patch(facecolor=QUIET, label="ours, exact: greedy decoding")]
        if any(bar.at_99 is not None for bar in (*tokens, *bits)):
            keys.append(key("D", "ours, the paper's way (99 %)", filled=False))
        if published:
            keys.append(published_key())
        figure.legend(handles=keys, loc="outside lower center", ncols=3)
        return save(figure, folder, name)


def draw_scaling(
    folder: Path,
    figures: Sequence[CapacityFigures],
    published: Sequence[PublishedCapacity] = (),
    *,
    name: str = "scaling",
) -> list[Path]:
    """Capacity against the number of vectors, and what each of their coordinates holds (Figure 4 of
    Kuratov et al. 2025). Raises InputError."""
    groups: dict[tuple[str, str], list[CapacityFigures]] = {}
    for ours in figures:
        groups.setdefault((ours.model, ours.source), []).append(ours)
    others: dict[str, list[PublishedCapacity]] = {}
    for other in published:
        others.setdefault(other.model, []).append(other)
    with style():
        figure = new_figure(4.3)
        left, right = figure.subplots(1, 2)
        for index, ((model, source), group) in enumerate(groups.items()):
            title = f"{short_model(model)}, {label(source)}"
            _draw_own_scaling(left, right, index, title, group)
        for index, (model, rows) in enumerate(others.items()):
            _draw_other_scaling(left, right, MARKERS[-1 - index % len(MARKERS)], label(model), rows)
        counts = sorted({e.num_mem for e in figures} | {e.num_mem for e in published})
        for axes in (left, right):
            count_axis(axes, "x", ticks=counts)
            axes.set_xlabel("vectors")
            axes.set_xlim(min(counts, default=1) / 1.25, max(counts, default=1) * 1.25)
        count_axis(left, "y")
        left.set_ylabel("tokens")
        left.set_title("Tokens held")
        right.set_ylabel("bits per dimension")
        right.set_ylim(0, 1.1 * right.get_ylim()[1])
        right.set_title("Information per dimension")
        figure.legend(handles=_scaling_keys(left, figures), loc="outside lower center", ncols=2)
        return save(figure, folder, name)


def _bar(
    name: str,
    colour: str,
    is_published: bool,
    value: float | None,
    std: float | None,
    at_99: float | None = None,
) -> _Bar:
    def finite(number: float | None) -> float | None:
        return None if number is None or not math.isfinite(number) else number

    return _Bar(
        name=name, colour=colour, is_published=is_published, value=finite(value),
        std=finite(std), at_99=finite(at_99),
    )  # fmt: skip


def _draw_bars(axes: Axes, bars: Sequence[_Bar], unit: str) -> None:
    ends = [0.0]
    for place, bar in enumerate(bars):
        end = max(bar.value or 0, bar.at_99 or 0)
        if bar.value is not None:
            axes.barh(
                place, bar.value, height=0.62, **bar_look(bar.colour, is_published=bar.is_published)
            )
            if bar.std:
                axes.errorbar(
                    bar.value, place, xerr=bar.std, color=INK, linewidth=1, capsize=2.5, zorder=3
                )
                end = max(end, bar.value + bar.std)
        if bar.at_99 is not None:
            axes.plot(
                bar.at_99, place, "D", markersize=6.5, markerfacecolor="white",
                markeredgecolor=INK, zorder=4,
            )  # fmt: skip
        text = "not published" if bar.value is None else figure_text(bar.value, bar.std)
        axes.annotate(
            text, (end, place), xytext=(9, 0), textcoords="offset points", va="center",
            color=QUIET if bar.value is None else INK,
        )  # fmt: skip
        ends.append(end)
    axes.set_xlim(0, max(max(ends), 1e-9) * 1.5)  # room for the figures
    axes.set_xlabel(unit)
    thousands_axis(axes, "x")
    name_rows(axes, [bar.name for bar in bars])


def _own_name(ours: CapacityFigures, figures: Sequence[CapacityFigures]) -> str:
    parts = [short_model(ours.model), label(ours.source)]
    if len({each.num_mem for each in figures}) > 1:
        parts.append(f"{ours.num_mem} vector" + "s" * (ours.num_mem > 1))
    return ", ".join(parts)


def _draw_own_scaling(
    left: Axes, right: Axes, index: int, title: str, group: Sequence[CapacityFigures]
) -> None:
    colour, marker = SERIES[index % len(SERIES)], MARKERS[index % len(MARKERS)]
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
        left.plot(
            [k for k, _ in tried], [tokens for _, tokens in tried], ":", color=colour,
            marker=marker, markerfacecolor="white",
        )  # fmt: skip
    right.plot(counts, [e.bits_a_dimension for e in rows], color=colour, marker=marker)


def _draw_other_scaling(
    left: Axes, right: Axes, marker: str, model: str, rows: Sequence[PublishedCapacity]
) -> None:
    look: dict[str, Any] = {
        "color": QUIET, "marker": marker, "markerfacecolor": "white", "linewidth": 0.9,
        "zorder": 1.5,
    }  # fmt: skip
    rows = sorted(rows, key=lambda each: each.num_mem)
    held = [(each.num_mem, each.tokens) for each in rows if each.tokens]
    gains = [(each.num_mem, each.bits_a_dimension) for each in rows if each.bits_a_dimension]
    ways: list[dict[str, Any]] = [
        {"ha": "right", "xytext": (5, 6)},
        {"ha": "left", "va": "center", "xytext": (8, 0)},
    ]
    for axes, points, way in zip((left, right), (held, gains), ways, strict=True):
        if points:
            axes.plot([x for x, _ in points], [y for _, y in points], **look)
            axes.annotate(
                model, points[-1], textcoords="offset points", color=QUIET, fontsize=7.5,
                path_effects=HALO, zorder=5, **way,
            )  # fmt: skip


def _scaling_keys(axes: Axes, figures: Sequence[CapacityFigures]) -> list[Line2D]:
    keys = [
        Line2D([], [], color=line.get_color(), marker=line.get_marker(), label=line.get_label())
        for line in axes.get_lines()
        if not str(line.get_label()).startswith("_")
    ]
    if figures:
        keys.append(Line2D([], [], color=QUIET, linestyle="--", label="as many times one vector"))
    if any(each.capacity_tokens_at_99 for each in figures):
        keys.append(
            Line2D(
                [], [], color=QUIET, linestyle=":", marker="o", markerfacecolor="white",
                label="ours, the paper's way (99 %)",
            )
        )  # fmt: skip
    published = Line2D(
        [], [], color=QUIET, linewidth=0.9, marker=MARKERS[-1], markerfacecolor="white"
    )
    published.set_label("published (99 %)")
    return [*keys, published]
