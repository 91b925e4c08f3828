"""A file as one page: its text token by token, and where its bits go.

Owns what the page says of a token, a chunk and the whole. The look belongs to `page`, the figures
to `explain` and `report`.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmzip.config import VERSION
from llmzip.inspect.page import NONE, bucket, render_page, token_text
from llmzip.inspect.pieces import WHY, Piece
from llmzip.inspect.report import Report, compare_text, printable

if TYPE_CHECKING:
    from llmzip.inspect.explain import TokenFacts

_BAR_WIDTH = 1000  # of the picture's own units


def explain_page(
    report: Report,
    pieces: Sequence[Piece],
    facts: Mapping[int, Sequence[TokenFacts]],
    stored: Mapping[int, bytes],
    *,
    name: str,
) -> str:
    """The page. facts: of the tokens of each piece, by its number; stored: the text of each stored
    run, by its first byte. name: the file's."""
    noun = report.payload.noun if report.payload else "piece"
    content = {
        "name": name,
        "version": VERSION,
        "sizes": _sizes(report),
        "chips": _chips(report),
        "planes": _planes(report),
        "compare": compare_text(report),
        "chunks": list(_chunks(pieces, facts, stored, noun)),
        "table": {"columns": _COLUMNS, "rows": [_row(piece) for piece in pieces], "notes": ()},
        "kinds": [(kind, WHY[kind]) for kind in dict.fromkeys(piece.kind for piece in pieces)],
        "noun": noun,
        "has_patches": any(piece.num_patches for piece in pieces),
        "has_tokens": bool(facts),
    }
    return render_page("llmzip.inspect", "explain.html.j2", "explain.js", content)


def _sizes(report: Report) -> str:
    words = f"{report.original_bytes:,} → {report.container_bytes:,} bytes"
    if report.file_bits_per_byte is not None:
        words += f", {report.file_bits_per_byte:.2f} bits per byte"
    return words


def _chips(report: Report) -> list[str]:
    found = [f"codec {report.codec}"]
    if report.payload is not None:
        found += [report.model_id, report.payload.count_text]
        found.append(f"{report.num_tokens:,} tokens")
    return found


def _planes(report: Report) -> list[dict[str, str]]:
    """Each plane that takes any bits: its line of the table, and its part of the bar."""
    place, found = 0.0, []
    for name, share in report.bit_counts.shares().items():
        count, width = report.bit_counts[name], _BAR_WIDTH * share
        if count:
            found.append({
                "name": name, "number": str(_COLOURS.index(name)), "bits": f"{count:,}",
                "share": f"{100 * share:.1f} %",
                "rate": "" if not report.original_bytes else f"{count / report.original_bytes:.2f}",
                "x": f"{place:.1f}", "width": f"{width:.1f}",
            })  # fmt: skip
        place += width
    return found


# By the numbers of their colours in `page.css`.
_COLOURS = ("vectors", "patches", "streams", "stored", "metadata", "shared")
_COLUMNS = (
    "#", "first byte", "bytes", "tokens", "kind", "surprisal", "bits", "bits a byte", "patches",
    "margin",
)  # fmt: skip


def _row(piece: Piece) -> list[str]:
    return [
        str(piece.number) if piece.number else NONE,
        f"{piece.first_byte:,}",
        f"{piece.num_bytes:,}",
        f"{piece.num_tokens:,}" if piece.num_tokens else NONE,
        piece.kind,
        NONE if piece.surprisal_bits is None else f"{piece.surprisal_bits:,.0f}",
        f"{piece.bits:,.0f}",
        f"{piece.bits / piece.num_bytes:.2f}" if piece.num_bytes else NONE,
        str(piece.num_patches) if piece.kind in ("crammed", "patched") else NONE,
        NONE if piece.min_margin is None else f"{piece.min_margin:.2f}",
    ]


@dataclass(frozen=True, kw_only=True)
class _Span:
    """A token as the page shows it."""

    text: str
    tip: str
    bucket: int
    is_patch: bool


def _chunks(
    pieces: Sequence[Piece],
    facts: Mapping[int, Sequence[TokenFacts]],
    stored: Mapping[int, bytes],
    noun: str,
) -> Iterator[dict[str, Any]]:
    """Every piece: its label, what it says of itself, and its tokens or its plain text."""
    for piece in pieces:
        plain = stored.get(piece.first_byte, b"")
        yield {
            "label": str(piece.number) if piece.number else "stored",
            "tip": _piece_tip(piece),
            "starts_segment": piece.starts_segment,
            "tokens": list(_spans(facts.get(piece.number, ()), piece, noun)),
            "plain": token_text(plain.decode("utf-8", "replace")) if plain else "",
        }


def _piece_tip(piece: Piece) -> str:
    name = f"{piece.kind} {piece.number}" if piece.number else piece.kind
    words = f"{name}: {piece.num_bytes:,} bytes in {piece.bits:,.0f} bits"
    if piece.surprisal_bits is not None:
        words += f", surprisal {piece.surprisal_bits:,.0f}"
    if piece.min_margin is not None:
        words += f", weakest margin {piece.min_margin:.2f}"
    return words


def _spans(facts: Sequence[TokenFacts], piece: Piece, noun: str) -> Iterator[_Span]:
    """A character of several tokens stands in its last one."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for place, fact in enumerate(facts):
        text = decoder.decode(fact.data, final=place == len(facts) - 1)
        parts = [
            f"“{printable(text)}”" if text else "part of a character",
            f"surprisal {fact.surprisal_bits:.2f} bits (probability {_share(fact)})",
        ]
        if fact.is_patch:
            parts.append("stored by itself" if piece.kind == "literal" else "patched")
        elif fact.margin is not None:
            parts.append(f"margin {fact.margin:.2f}")
        parts.append(f"{noun} {piece.number}")
        yield _Span(
            text=token_text(text) if text else "·",
            tip=", ".join(parts),
            bucket=bucket(fact.surprisal_bits),
            is_patch=fact.is_patch,
        )


def _share(fact: TokenFacts) -> str:
    share = 2.0**-fact.surprisal_bits
    return f"{100 * share:.1f} %" if share >= 0.001 else f"{share:.0e}"
