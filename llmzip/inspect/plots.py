"""Pictures of one file: where its bits go, what its vectors hold, how safely it decodes.

Owns what is drawn; `llmzip.inspect.style` owns the looks, `llmzip.inspect.terminal_chart` the
figures along the text. Needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from llmzip.inspect.pieces import Piece
from llmzip.inspect.report import Report
from llmzip.inspect.style import (
    BLUE,
    FAINT,
    GREEN,
    HALO,
    INK,
    ORANGE,
    PURPLE,
    QUIET,
    SKY,
    YELLOW,
    label,
    name_rows,
    new_figure,
    style,
    thousands_axis,
)
from llmzip.inspect.terminal_chart import (
    Figure,
    held_tokens,
    kinds_along,
    laid_out,
    lowest,
    profile,
    stored_rate,
    surprisal_rate,
    text_end,
    tracks_of,
)
from llmzip.store.cram_figures import DECODER_NOISE_LOGITS, ROBUST_MARGIN_LOGITS
from llmzip.store.figures import PieceKind

_PARTS = {
    "shared": SKY, "vectors": BLUE, "patches": ORANGE, "streams": GREEN, "stored": PURPLE,
    "metadata": QUIET,
}  # fmt: skip
_KINDS = {"crammed": BLUE, "patched": SKY, "literal": YELLOW, "segment": GREEN, "stored": PURPLE}
_FEW, _COLUMNS = 600, 300  # steps along the text: about one for each pixel; of means
_PANEL_HEIGHT, _BITS_HEIGHT = 1.75, 1.6  # inches


class _Steps:
    """The pieces as steps along the text: each has one of its own; where they are many, a step is
    the mean of a small part of the text."""

    def __init__(self, report: Report, pieces: Sequence[Piece]) -> None:
        self.report, self.pieces, self.end = report, pieces, text_end(pieces)
        self.is_few = len(pieces) <= _FEW
        self.edges = (
            [*(piece.first_byte for piece in pieces), self.end]
            if self.is_few
            else [self.end * column / _COLUMNS for column in range(_COLUMNS + 1)]
        )

    def values(self, figure: Figure, mean: Callable[..., Any] = profile) -> list[float | None]:
        """The figure of each step. mean: of the pieces in a part of the text."""
        if self.is_few:
            return [figure(piece) for piece in self.pieces]
        return list(mean(self.pieces, figure, _COLUMNS))

    def kinds(self) -> list[PieceKind | None]:
        if self.is_few:
            return [piece.kind for piece in self.pieces]
        return kinds_along(self.pieces, _COLUMNS)

    def fill(self, axes: Axes, heights: Sequence[float], colour: str, **look: Any) -> None:
        """Draw heights as filled steps."""
        axes.stairs(heights, self.edges, fill=True, color=colour, linewidth=0, **look)


def draw_file(report: Report, pieces: Sequence[Piece], *, name: str) -> Canvas:
    """The picture of one file. Surprisal and margins are in it where the pieces have them."""
    steps = _Steps(report, laid_out(pieces))
    panels = [_PANELS[each.key] for each in tracks_of(report, pieces) if each.key in _PANELS]
    with style():
        figure = new_figure(0.4 + _BITS_HEIGHT + _PANEL_HEIGHT * len(panels))
        figure.suptitle(_title(report, name), x=0.012, ha="left", fontsize=10.5, weight="bold")
        heights = [_BITS_HEIGHT, *[_PANEL_HEIGHT] * len(panels)]
        rows = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        _bits(rows[0], report)
        for axes, panel in zip(rows[1:], panels, strict=True):
            panel(axes, steps)
            axes.set_xlim(0, steps.end)
            thousands_axis(axes, "x")
            axes.tick_params(axis="x", labelbottom=axes is rows[-1])
        if panels:
            rows[-1].set_xlabel("place in the original, bytes")
        return figure


def _title(report: Report, name: str) -> str:
    rate = report.file_bits_per_byte
    known = "" if rate is None else f", {rate:.2f} bits per byte"
    return f"{label(name)}: {report.original_bytes:,} → {report.container_bytes:,} bytes{known}"


def _bits(axes: Axes, report: Report) -> None:
    """The file in its parts, and what other compressors made of the same text."""
    counts = {key: bits / 8 for key, bits in report.bit_counts.items() if bits}
    rows = {"this file": report.container_bytes}
    rows |= {"xz -9e": report.xz_bytes, "zstd -19": report.zstd_bytes}
    name_rows(axes, list(rows))
    place = 0.0
    for key, size in counts.items():
        axes.barh(0, size, left=place, height=0.62, color=_PARTS[key], edgecolor="white", lw=0.6)
        place += size
    axes.barh([1, 2], list(rows.values())[1:], height=0.62, color=FAINT)
    widest = max(rows.values())
    for row, size in enumerate(rows.values()):
        rate = report.bits_per_byte(size)
        text = f"{size:,}" + ("" if rate is None else f"  ({rate:.2f} bits per byte)")
        axes.text(size + 0.01 * widest, row, text, va="center", fontsize=8.0)
    axes.set_xlim(0, 1.32 * widest)
    axes.set_xticks([])
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.set_title("Where the bits go, in bytes (model not counted)")
    handles = [
        Patch(facecolor=_PARTS[key], label=f"{key} {100 * size / report.container_bytes:.1f} %")
        for key, size in counts.items()
    ]
    _key(axes, handles, loc="upper left", place=(0.0, 0.02))


def _tokens(axes: Axes, steps: _Steps) -> None:
    """What each vector holds, coloured by what its chunk needed."""
    values = steps.values(lambda piece: held_tokens(steps.report, piece))
    kinds = steps.kinds()
    top = max((value for value in values if value is not None), default=1.0)
    handles = []
    for kind in [kind for kind in _KINDS if any(piece.kind == kind for piece in steps.pieces)]:
        has_vectors = kind in ("crammed", "patched")
        alpha = 1.0 if has_vectors else 0.35  # what has none is marked at full height
        heights = [
            ((value or 0.0) if has_vectors else 1.1 * top) if each == kind else 0.0
            for value, each in zip(values, kinds, strict=True)
        ]
        steps.fill(axes, heights, _KINDS[kind], alpha=alpha)
        handles.append(Patch(facecolor=_KINDS[kind], alpha=alpha, label=kind))
    axes.set_ylim(0, 1.1 * top)
    has_pale = any(held_tokens(steps.report, piece) is None for piece in steps.pieces)
    pale = " (pale: none)" if has_pale else ""
    axes.set_title(f"Tokens that a vector holds{pale}")
    _key(axes, handles)


def _rates(axes: Axes, steps: _Steps) -> None:
    """What each piece takes, part on part, and what the model alone would leave."""
    parts: dict[str, Callable[[Piece], float]] = {
        "vectors": lambda piece: piece.vector_bits / piece.num_bytes,
        "patches": lambda piece: piece.patch_bits / piece.num_bytes,
        "streams": lambda piece: piece.stream_bits / piece.num_bytes,
        "stored": lambda piece: piece.stored_bits / piece.num_bytes,
    }
    handles: list[Patch | Line2D] = []
    base = [0.0] * (len(steps.edges) - 1)
    for key, figure in parts.items():
        if not any(figure(piece) for piece in steps.pieces):
            continue
        top = [low + (value or 0.0) for low, value in zip(base, steps.values(figure), strict=True)]
        steps.fill(axes, top, _PARTS[key], baseline=base)
        handles.append(Patch(facecolor=_PARTS[key], label=key))
        base = top
    if any(piece.vector_bits and piece.surprisal_bits is not None for piece in steps.pieces):
        surprisal = steps.values(surprisal_rate)
        heights = [float("nan") if value is None else value for value in surprisal]
        look: dict[str, Any] = {"color": INK, "linewidth": 1.3}
        axes.stairs(heights, steps.edges, baseline=None, path_effects=HALO, **look)
        handles.append(Line2D([], [], label="surprisal", **look))
    axes.set_ylim(0, _ceiling(steps))
    axes.set_title("Bits for each byte of the text")
    _key(axes, handles)


def _margins(axes: Axes, steps: _Steps) -> None:
    """How far each chunk is from a wrong token."""
    values = steps.values(lambda piece: piece.min_margin, lowest)
    known = [
        ((low + high) / 2, value)
        for value, (low, high) in zip(values, pairwise(steps.edges), strict=True)
        if value
    ]
    axes.set_yscale("log")
    axes.plot(
        [place for place, _ in known], [value for _, value in known],
        linestyle="none", marker="o", markersize=3.2, color=BLUE, markeredgewidth=0, alpha=0.8,
    )  # fmt: skip
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    weakest = min(value for _, value in known)
    for height, text in (
        (ROBUST_MARGIN_LOGITS, "robust from here up"),
        (DECODER_NOISE_LOGITS, "noise of fp32 decoding"),
    ):
        axes.axhline(height, color=ORANGE, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.text(
            0.995, height, text, transform=axes.get_yaxis_transform(), ha="right", va="bottom",
            fontsize=7.5, color=QUIET, path_effects=HALO,
        )  # fmt: skip
    axes.set_ylim(min(weakest, DECODER_NOISE_LOGITS) / 2, None)
    axes.set_title("Weakest margins, in logits")


def _ceiling(steps: _Steps) -> float:
    """Of the rates. Where a few short pieces cost far more than all others, they are cut off."""
    rates = sorted(
        (max(stored_rate(piece), surprisal_rate(piece) or 0.0), piece.num_bytes)
        for piece in steps.pieces
    )
    seen, usual = 0, 0.0
    for rate, num_bytes in rates:
        seen += num_bytes
        if seen >= 0.98 * steps.end:
            usual = rate
            break
    highest = rates[-1][0]
    return 1.08 * (highest if highest <= 3 * usual else 1.5 * usual) or 1.0


def _key(axes: Axes, handles: Sequence[Any], loc: Any = "lower right", place: Any = (1, 1)) -> None:
    """A legend where nothing is drawn: beside the title, if not said otherwise."""
    axes.legend(
        handles=handles, loc=loc, bbox_to_anchor=place, ncols=5,
        borderaxespad=0.2, handlelength=1.0, columnspacing=1.4,
    )  # fmt: skip


# Surprisal is a line in the panel of bits.
_PANELS = {"tokens": _tokens, "bits": _rates, "margin": _margins}
