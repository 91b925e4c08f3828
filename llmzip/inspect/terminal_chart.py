"""A file's figures along its text, and a chart of them for a terminal.

Owns what is shown of the pieces, and how it looks in letters. Knows nothing of matplotlib, nor of
who shows the lines.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from llmzip.inspect.pieces import Piece
from llmzip.inspect.report import Report
from llmzip.store.figures import PieceKind

# Of a piece; None: it has none of that.
Figure: TypeAlias = Callable[[Piece], float | None]

BLOCKS = "▁▂▃▄▅▆▇█"
FILLS, _ASCII_FILLS = "█▓▒░·", "#=+-."
_ASCII_BLOCKS = "  ..::##"
FEWEST_COLUMNS = 40
_ROWS = 5
_LABEL = 9  # letters of a scale


@dataclass(frozen=True, kw_only=True)
class Track:
    """A figure along the text."""

    key: Literal["tokens", "bits", "surprisal", "margin"]
    title: str
    figure: Figure
    is_log: bool = False


def tracks_of(report: Report, pieces: Sequence[Piece]) -> list[Track]:
    """What there is to show along the text; nothing of a single piece."""
    found: list[Track] = []
    if len(pieces) < 2:
        return found
    if report.num_vectors:
        title = "tokens that a vector holds"
        found.append(Track(key="tokens", title=title, figure=lambda p: held_tokens(report, p)))
    title = "bits for each byte of the text"
    found.append(Track(key="bits", title=title, figure=stored_rate))
    if any(piece.vector_bits and piece.surprisal_bits is not None for piece in pieces):
        title = "surprisal: bits for each byte, without vectors"
        found.append(Track(key="surprisal", title=title, figure=surprisal_rate))
    if any(piece.min_margin for piece in pieces):
        title = "weakest margins, in logits, on a logarithmic scale"
        found.append(Track(key="margin", title=title, figure=lambda p: p.min_margin, is_log=True))
    return found


def held_tokens(report: Report, piece: Piece) -> float | None:
    """Tokens for each vector of a chunk that has vectors."""
    return piece.num_tokens / report.num_mem if piece.kind in ("crammed", "patched") else None


def stored_rate(piece: Piece) -> float:
    """Bits for each byte that the piece takes."""
    return piece.bits / piece.num_bytes


def surprisal_rate(piece: Piece) -> float | None:
    """Bits for each byte that the model alone would leave."""
    return None if piece.surprisal_bits is None else piece.surprisal_bits / piece.num_bytes


def lowest(pieces: Sequence[Piece], figure: Figure, num_columns: int) -> list[float | None]:
    """The least figure in each of so many equal parts of the text; None where no piece has it."""
    found: list[float | None] = [None] * num_columns
    scale = num_columns / max(1, text_end(pieces))
    for piece in pieces:
        value = figure(piece)
        if value is None:
            continue
        for column, _ in _columns_of(piece, scale, num_columns):
            least = found[column]
            found[column] = value if least is None else min(least, value)
    return found


def profile(pieces: Sequence[Piece], figure: Figure, num_columns: int) -> list[float | None]:
    """The figure's mean, by bytes, in each of so many equal parts of the text; None where no piece
    has it."""
    sums, weights = [0.0] * num_columns, [0.0] * num_columns
    scale = num_columns / max(1, text_end(pieces))
    for piece in pieces:
        value = figure(piece)
        if value is None:
            continue
        for column, share in _columns_of(piece, scale, num_columns):
            sums[column] += value * share
            weights[column] += share
    return [total / weight if weight else None for total, weight in zip(sums, weights, strict=True)]


def kinds_along(pieces: Sequence[Piece], num_columns: int) -> list[PieceKind | None]:
    """The kind that has most bytes in each of so many equal parts of the text."""
    shares: list[dict[PieceKind, float]] = [{} for _ in range(num_columns)]
    scale = num_columns / max(1, text_end(pieces))
    for piece in pieces:
        for column, share in _columns_of(piece, scale, num_columns):
            shares[column][piece.kind] = shares[column].get(piece.kind, 0.0) + share
    # Of two that have as many, the first.
    return [max(each.items(), key=lambda item: item[1])[0] if each else None for each in shares]


def text_end(pieces: Sequence[Piece]) -> int:
    """Bytes of the original."""
    return max((piece.end_byte for piece in pieces), default=0)


def laid_out(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces without gaps between them: a segment that stored bytes interrupt, in its parts."""
    found = []
    for piece in pieces:
        for first, last in piece.extents or ((piece.first_byte, piece.end_byte),):
            share = (last - first) / piece.num_bytes
            found.append(
                replace(
                    piece, first_byte=first, num_bytes=last - first, extents=(),
                    stream_bits=round(piece.stream_bits * share),
                )
                if piece.extents
                else piece
            )  # fmt: skip
    return sorted(found, key=lambda piece: piece.first_byte)


def _columns_of(piece: Piece, scale: float, num_columns: int) -> list[tuple[int, float]]:
    """The columns that a piece lies in, `scale` of them a byte, with its share of each."""
    begin, end = piece.first_byte * scale, piece.end_byte * scale
    return [
        (column, min(end, column + 1) - max(begin, column))
        for column in range(int(begin), min(num_columns, math.ceil(end)))
    ]


def chart_text(
    report: Report, pieces: Sequence[Piece], *, num_columns: int, is_ascii: bool = False
) -> str:
    """Lines of at most `num_columns` letters, the last one with its newline."""
    width = max(FEWEST_COLUMNS, num_columns)
    laid = laid_out(pieces)
    lines = ["where the bits go", *_bits_bar(report, width, _ASCII_FILLS if is_ascii else FILLS)]
    across = width - _LABEL - 1
    for track in tracks_of(report, pieces):
        values = (lowest if track.is_log else profile)(laid, track.figure, across)
        lines += ["", track.title, *_graph(track, values, _ASCII_BLOCKS if is_ascii else BLOCKS)]
    if len(pieces) > 1:
        end = f"{text_end(pieces):,} bytes"
        lines.append(" " * (_LABEL + 1) + "0" + end.rjust(across - 1))
        lines += ["", *_kinds_strip(pieces, laid, across)]
    return "\n".join(lines) + "\n"


def _bits_bar(report: Report, width: int, fills: str) -> list[str]:
    """A bar in parts, and what they are."""
    counts = {name: bits for name, bits in report.bit_counts.items() if bits}
    total = sum(counts.values())
    edges, place = [0], 0
    for bits in counts.values():
        place += bits
        edges.append(round(place / total * width))
    names = list(report.bit_counts)
    fill_of = {name: fills[names.index(name)] for name in counts}
    bar = "".join(
        fill_of[name] * (high - low)
        for name, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
    )
    entries = [
        f"{fill_of[name]} {name} {bits / 8:,.0f} bytes ({100 * bits / total:.1f} %)"
        for name, bits in counts.items()
    ]
    return [bar, *_wrapped(entries, width)]


def _wrapped(entries: Sequence[str], width: int) -> list[str]:
    lines: list[str] = []
    for entry in entries:
        if lines and len(lines[-1]) + 3 + len(entry) <= width:
            lines[-1] += f"   {entry}"
        else:
            lines.append(entry)
    return lines


def _graph(track: Track, values: Sequence[float | None], blocks: str) -> list[str]:
    """A few rows with a scale at the left."""
    known = [value for value in values if value is not None]
    top = max(known, default=0.0)
    low = 0.0
    if track.is_log:
        low = 10.0 ** math.floor(math.log10(max(1e-9, min(known))))
    levels = [_level(value, low, top, is_log=track.is_log) for value in values]
    lines = []
    for row in reversed(range(_ROWS)):
        name = _number(top) if row == _ROWS - 1 else _number(low) if not row else ""
        cells = "".join(_cell(level - len(blocks) * row, blocks) for level in levels)
        lines.append(f"{name:>{_LABEL}}|{cells}".rstrip())
    return lines


def _level(value: float | None, low: float, top: float, *, is_log: bool) -> int:
    """In eighths of a row, at least one for what is there."""
    if value is None or top <= low:
        return 0
    if is_log:
        share = math.log(max(value, low) / low) / math.log(top / low)
    else:
        share = value / top
    return max(1, round(share * _ROWS * len(BLOCKS)))


def _cell(level: int, blocks: str) -> str:
    return " " if level <= 0 else blocks[min(level, len(blocks)) - 1]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _kinds_strip(pieces: Sequence[Piece], laid: Sequence[Piece], across: int) -> list[str]:
    """A letter for each column: the kind of piece."""
    kinds = list(dict.fromkeys(piece.kind for piece in pieces))
    letters = {kind: "S" if kind == "stored" else kind[0] for kind in kinds}
    strip = "".join(" " if kind is None else letters[kind] for kind in kinds_along(laid, across))
    counts = Counter(piece.kind for piece in pieces)
    entries = [f"{letters[kind]} {kind} {counts[kind]:,}" for kind in kinds]
    return [f"{'kind':>{_LABEL}}|{strip}", *_wrapped(entries, across)]
