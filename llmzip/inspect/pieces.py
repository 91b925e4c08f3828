"""What is in a container, piece by piece: chunks, segments and stored runs, in order.

Owns what each piece takes, and why it is the kind that it is. Needs no model and no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from llmzip.config import DEFAULT_MAX_OUTPUT_BYTES
from llmzip.store.figures import PieceKind

if TYPE_CHECKING:
    from llmzip.store.container import Container, ReadResult
    from llmzip.store.opening import Sizes

WHY: dict[PieceKind, str] = {
    "crammed": "the vectors give every token",
    "patched": "the vectors give all tokens but the patches, which they would need more steps for",
    "literal": "too stubborn for vectors, and so short that its tokens are stored one by one",
    "segment": "the model predicts, an arithmetic coder stores what it did not foresee",
    "stored": "no text that the model can predict, too short, or out of time: zstd",
}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One of them. Bits are as in `PieceFigures`."""

    kind: PieceKind
    first_byte: int
    num_bytes: int
    number: int = 0  # among chunks, or segments, from 1; 0: a stored run
    num_tokens: int = 0
    num_patches: int = 0
    vector_bits: float = 0.0
    patch_bits: float = 0.0
    stream_bits: int = 0
    stored_bits: float = 0.0
    starts_segment: bool = False
    # Bytes A up to B of the original, where stored ones interrupt those of a segment:
    extents: tuple[tuple[int, int], ...] = ()
    # With the model only:
    surprisal_bits: float | None = None  # of its tokens, without vectors, behind its left context
    min_margin: float | None = None  # logits, of tokens that are no patches
    head: str | None = None  # of its text

    @property
    def end_byte(self) -> int:
        """Behind its last byte in the original."""
        return self.extents[-1][1] if self.extents else self.first_byte + self.num_bytes

    @property
    def bits(self) -> float:
        """All that it takes, but for its share of the metadata."""
        return self.vector_bits + self.patch_bits + self.stream_bits + self.stored_bits

    def to_dict(self) -> dict[str, object]:
        """Ready for JSON."""
        return {**asdict(self), "why": WHY[self.kind]}


def read_pieces(data: bytes, *, max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES) -> list[Piece]:
    """The pieces of a `.crm` file. Raises FormatError or LimitExceeded."""
    from llmzip.store.container import parse_container

    return pieces_of(parse_container(data, max_output_bytes=max_output_bytes))


def pieces_of(found: ReadResult) -> list[Piece]:
    """The pieces of a file that was read."""
    return list(_pieces(found.container, found.sizes))


def _pieces(container: Container, sizes: Sizes) -> Iterator[Piece]:
    from llmzip.store.pieces import PieceMap

    payload = container.payload
    figures = payload.piece_figures(sizes.planes) if payload else []
    extents = list(PieceMap.of(container).extents(0, container.original_bytes))
    stored = sum(each.last - each.first for each in extents if each.piece is None)
    places: dict[int, list[tuple[int, int]]] = {}
    for each in extents:
        if each.piece is not None:
            places.setdefault(each.piece, []).append((each.first, each.last))
    for extent in extents:
        size = extent.last - extent.first
        if extent.piece is None:
            yield Piece(
                kind="stored", first_byte=extent.first, num_bytes=size,
                stored_bits=8 * sizes.stored_bytes * size / stored,
            )  # fmt: skip
        elif not extent.offset:  # else: the rest of a piece that stored bytes interrupt
            own, where = figures[extent.piece], places[extent.piece]
            yield Piece(
                kind=own.kind, number=extent.piece + 1, first_byte=extent.first,
                num_bytes=sum(last - first for first, last in where),
                num_tokens=own.num_tokens, num_patches=own.num_patches,
                vector_bits=own.vector_bits, patch_bits=own.patch_bits,
                stream_bits=own.stream_bits, starts_segment=own.starts_segment,
                extents=tuple(where) if len(where) > 1 else (),
            )  # fmt: skip
