"""Pictures that compare models: the longest text that one vector holds, and the bound.

Owns the pictures of the studies `lengths` and `utilisation`. Reads no files.

Full marks are ours, hollow or hatched ones published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from llmzip.inspect.style import (
    FAINT,
    QUIET,
    STRIPE,
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


def draw_utilisation(
    folder: Path, bars: Sequence[Utilisation], *, name: str = "utilisation"
) -> list[Path]:
    """What vectors gain beside what their bits could name (Figure 5 of Kuratov et al. 2025).
    Raises InputError."""
    sources = [bar.source for bar in bars]
    with style():
        figure = new_figure(1.3 + 0.31 * len(bars))
        axes = figure.subplots()
        for place, bar in enumerate(bars):
            colour = source_colour(bar.source, sources)
            axes.barh(place, bar.bound_tokens, height=0.72, color="none", edgecolor=FAINT)
            axes.barh(
                place, bar.gain_tokens, height=0.72,
                **bar_look(colour, is_published=bar.is_published),
            )  # fmt: skip
            axes.annotate(
                f"{100 * bar.share:.1f} %", (bar.gain_tokens, place), xytext=(4, 0),
                textcoords="offset points", va="center",
            )  # fmt: skip
        names = [f"{short_model(bar.model)}, {label(bar.source)}" for bar in bars]
        name_rows(axes, names)
        axes.set_xlim(0, 1.02 * max((bar.bound_tokens for bar in bars), default=1))
        axes.set_xlabel("tokens")
        thousands_axis(axes, "x")
        axes.set_title("Token gain of one vector, as a share of the bound d × b / log₂ V")
        keys = [
            Patch(facecolor="none", edgecolor=QUIET, linewidth=0.6, label="bound"),
            Patch(facecolor=QUIET, label="ours"),
        ]
        if any(bar.is_published for bar in bars):
            keys.append(published_key())
        figure.legend(handles=keys, loc="outside lower center", ncols=3)
        return save(figure, folder, name)


def draw_lengths(
    folder: Path,
    figures: Sequence[CapacityFigures],
    published: Sequence[PublishedCapacity] = (),
    *,
    name: str = "lengths",
) -> list[Path]:
    """Longest texts, a line for each model, those that hold most on top (Figure 1 of Kuratov et al.
    2025). Raises InputError."""
    sources = list(dict.fromkeys([e.source for e in figures] + [e.source for e in published]))
    colours = _by_colour(sources)
    models = _longest_first(figures, published)
    is_one = all(each.num_mem == 1 for each in figures)

    def place(model: str, source: str) -> float:
        """Of a line, with the sources side by side on it."""
        kind = list(colours).index(source_colour(source, sources))
        return models.index(model) + 0.22 * (kind - (len(colours) - 1) / 2)

    with style():
        figure = new_figure(1.5 + 0.36 * len(models))
        axes = figure.subplots()
        for other in published:
            if other.tokens:
                axes.plot(
                    other.tokens, place(other.model, other.source),
                    marker=_published_marker(other), markerfacecolor="white",
                    color=source_colour(other.source, sources),
                )  # fmt: skip
        for ours in figures:
            if ours.exact_tokens.mean > 0:
                row = place(short_model(ours.model), ours.source)
                _draw_own_length(axes, row, source_colour(ours.source, sources), ours)
        count_axis(axes, "x")
        name_rows(axes, models)
        for line in range(0, len(models), 2):
            axes.axhspan(line - 0.5, line + 0.5, color=STRIPE, linewidth=0, zorder=0)
        axes.set_xlabel("tokens (logarithmic)")
        axes.set_title("Longest text held by one vector" if is_one else "Longest text held")
        keys = [*_length_keys(figures, published), *_colour_keys(colours)]
        figure.legend(handles=keys, loc="outside lower center", ncols=3)
        return save(figure, folder, name)


def _by_colour(sources: Sequence[str]) -> dict[str, list[str]]:
    """Sources of one kind have one colour."""
    found: dict[str, list[str]] = {}
    for source in sources:
        found.setdefault(source_colour(source, sources), []).append(source)
    return found


def _longest_first(
    figures: Sequence[CapacityFigures], published: Sequence[PublishedCapacity]
) -> list[str]:
    best: dict[str, float] = {}
    for ours in figures:
        model = short_model(ours.model)
        best[model] = max(best.get(model, 0), ours.exact_tokens.mean)
    for other in published:
        best[other.model] = max(best.get(other.model, 0), other.tokens or 0)
    return sorted((model for model in best if best[model] > 0), key=lambda model: -best[model])


def _draw_own_length(axes: Axes, row: float, colour: str, ours: CapacityFigures) -> None:
    mean, std = ours.exact_tokens.mean, ours.exact_tokens.std
    below = min(std, 0.5 * mean)  # the axis has no zero
    axes.errorbar(
        mean, row, xerr=[[below], [std]], fmt="o", color=colour, markersize=7, linewidth=1.3,
        zorder=4,
    )  # fmt: skip
    if ours.capacity_tokens_at_99:
        axes.plot(ours.capacity_tokens_at_99, row, "D", color=colour, markersize=5.5, zorder=5)


def _published_marker(other: PublishedCapacity) -> str:
    return {"at 99": "D", "exact": "o"}.get(other.measure, "^")


def _length_keys(
    figures: Sequence[CapacityFigures],
    published: Sequence[PublishedCapacity],
) -> list[Line2D | Patch]:
    keys: list[Line2D | Patch] = [key("o", "ours, exact", filled=True)]
    if any(each.capacity_tokens_at_99 for each in figures):
        keys.append(key("D", "ours, 99 %", filled=True))
    measures = {each.measure_name: _published_marker(each) for each in published if each.tokens}
    for measure, marker in measures.items():
        keys.append(key(marker, f"published, {measure}", filled=False))
    return keys


def _colour_keys(colours: Mapping[str, Sequence[str]]) -> list[Patch]:
    return [
        Patch(facecolor=colour, label=label(", ".join(names))) for colour, names in colours.items()
    ]
