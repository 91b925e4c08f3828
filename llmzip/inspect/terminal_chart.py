"""A file's figures along its text, and a chart of them for a terminal.

Owns what is shown of the pieces, and how it looks in letters. Knows nothing of matplotlib, nor of
who shows the lines.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Literal, TypeAlias

from llmzip.inspect.pieces import Piece
from llmzip.inspect.report import Report
from llmzip.store.figures import PieceKind

# Of a piece; None: it has none of that.
Figure: TypeAlias = Callable[[Piece], float | None]

BLOCKS = "▁▂▃▄▅▆▇█"
FILLS, _ASCII_FILLS = "▚█▓▒░·", "%#=+-."
_ASCII_BLOCKS = "  ..::##"
FEWEST_COLUMNS = 40
_ROWS = 5
_LABEL = 9  # letters of a scale


@dataclass(frozen=True)
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
        found.append(Track("tokens", title, lambda piece: held_tokens(report, piece)))
    found.append(Track("bits", "bits for each byte of the text", stored_rate))
    if any(piece.vector_bits and piece.surprisal_bits is not None for piece in pieces):
        title = "surprisal: bits for each byte, without vectors"
        found.append(Track("surprisal", title, surprisal_rate))
    if any(piece.min_margin for piece in pieces):
        title = "weakest margins, in logits, on a logarithmic scale"
        found.append(Track("margin", title, lambda piece: piece.min_margin, is_log=True))
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
    return [
        min((value for value, _ in known), default=None)
        for known in _known(pieces, figure, num_columns)
    ]


def profile(pieces: Sequence[Piece], figure: Figure, num_columns: int) -> list[float | None]:
    """The figure's mean, by bytes, in each of so many equal parts of the text; None where no piece
    has it."""
    return [
        sum(value * share for value, share in known) / sum(share for _, share in known)
        if known
        else None
        for known in _known(pieces, figure, num_columns)
    ]


def kinds_along(pieces: Sequence[Piece], num_columns: int) -> list[PieceKind | None]:
    """The kind that has most bytes in each of so many equal parts of the text."""
    found: list[PieceKind | None] = []
    for column in _columns(pieces, num_columns):
        shares: dict[PieceKind, float] = {}
        for piece, share in column:
            shares[piece.kind] = shares.get(piece.kind, 0.0) + share
        # Of two that have as many, the first.
        found.append(max(shares.items(), key=lambda item: item[1])[0] if shares else None)
    return found


def _known(
    pieces: Sequence[Piece], figure: Figure, num_columns: int
) -> list[list[tuple[float, float]]]:
    """The figures in each column that there are, with their shares of it."""
    return [
        [(value, share) for piece, share in column if (value := figure(piece)) is not None]
        for column in _columns(pieces, num_columns)
    ]


def _columns(pieces: Sequence[Piece], num_columns: int) -> list[list[tuple[Piece, float]]]:
    """The pieces in each of so many equal parts of the text, and the share that they have."""
    found: list[list[tuple[Piece, float]]] = [[] for _ in range(num_columns)]
    scale = num_columns / max(1, text_end(pieces))
    for piece in pieces:
        begin, end = piece.first_byte * scale, piece.end_byte * scale
        for column in range(int(begin), min(num_columns, math.ceil(end))):
            found[column].append((piece, min(end, column + 1) - max(begin, column)))
    return found


def text_end(pieces: Sequence[Piece]) -> int:
    """Bytes of the original."""
    return max((piece.end_byte for piece in pieces), default=0)


def laid_out(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces without gaps between them: a segment that stored bytes interrupt, in its parts."""
    found = []
    for piece in pieces:
        if not piece.extents:
            found.append(piece)
        for first, last in piece.extents:
            bits = round(piece.stream_bits * ((last - first) / piece.num_bytes))
            size = last - first
            found.append(
                replace(piece, first_byte=first, num_bytes=size, extents=(), stream_bits=bits)
            )
    return sorted(found, key=lambda piece: piece.first_byte)


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
    edges = [round(place / total * width) for place in accumulate(counts.values(), initial=0)]
    fill_of = dict(zip(report.bit_counts, fills, strict=False))
    bar = "".join(
        fill_of[name] * (high - low)
        for name, (low, high) in zip(counts, pairwise(edges), strict=True)
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
