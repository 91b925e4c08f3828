"""What is in a container, piece by piece: chunks, segments and stored runs, in order.

Owns what each piece takes, and why it is the kind that it is. Needs no model and no torch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from llmzip.config import DEFAULT_MAX_OUTPUT_BYTES

if TYPE_CHECKING:
    from llmzip.store.container import Chunk, Container, ReadResult

PieceKind = Literal["crammed", "patched", "literal", "segment", "stored"]

WHY: dict[PieceKind, str] = {
    "crammed": "the vectors give every token",
    "patched": "the vectors give all tokens but the patches, which they would need more steps for",
    "literal": "too stubborn for vectors, and so short that its tokens are stored one by one",
    "segment": "the model predicts, an arithmetic coder stores what it did not foresee",
    "stored": "no text that the model can predict, too short, or out of time: zstd",
}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One of them. Bits are the piece's share of its plane, to the bit where pieces are stored
    apart, else by the lengths that their symbols have in the code of the whole file."""

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
    return list(
        _pieces(
            found.container,
            vector_bits=8 * found.sizes.vector_bytes,
            patch_bits=8 * found.sizes.patch_bytes,
            stored_bits=8 * found.sizes.stored_bytes,
        )
    )


def _pieces(
    container: Container, *, vector_bits: int, patch_bits: int, stored_bits: int
) -> Iterator[Piece]:
    from llmzip.store.pieces import PieceMap

    chunks = container.chunks
    vectors = _shares(_vector_weights(chunks), vector_bits)
    patches = _shares([_patch_weight(chunk) for chunk in chunks], patch_bits)
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
                stored_bits=stored_bits * size / stored,
            )  # fmt: skip
        elif extent.offset:
            continue  # the rest of a segment that stored bytes interrupt
        elif container.arith is not None:
            segment = container.arith.segments[extent.piece]
            own = places[extent.piece]
            yield Piece(
                kind="segment", number=extent.piece + 1,
                first_byte=extent.first, num_bytes=segment.num_bytes,
                num_tokens=segment.num_tokens, stream_bits=8 * len(segment.stream),
                starts_segment=True, extents=tuple(own) if len(own) > 1 else (),
            )  # fmt: skip
        else:
            chunk = chunks[extent.piece]
            kind: PieceKind = "patched" if chunk.patches else "crammed"
            yield Piece(
                kind="literal" if chunk.mem is None else kind,
                first_byte=extent.first, num_bytes=chunk.num_bytes,
                number=extent.piece + 1, num_tokens=chunk.num_tokens,
                num_patches=0 if chunk.mem is None else len(chunk.patches),
                vector_bits=vectors[extent.piece], patch_bits=patches[extent.piece],
                starts_segment=chunk.starts_segment,
            )  # fmt: skip


def _vector_weights(chunks: Sequence[Chunk]) -> list[float]:
    """In proportion to what each chunk's vectors take: symbols by how rare they are in the file."""
    from llmzip.store.container import GridMem

    counts: Counter[int] = Counter()
    for chunk in chunks:
        if isinstance(chunk.mem, GridMem):
            counts.update(chunk.mem.symbols.flatten().tolist())
    total = sum(counts.values())
    weights = []
    for chunk in chunks:
        if isinstance(chunk.mem, GridMem):
            own = Counter(chunk.mem.symbols.flatten().tolist())
            weights.append(sum(n * -math.log2(counts[each] / total) for each, n in own.items()))
        else:
            weights.append(0.0 if chunk.mem is None else float(16 * chunk.mem.size))
    return weights


def _patch_weight(chunk: Chunk) -> float:
    """In proportion to what a chunk's patches take: a place and a name each."""
    num, length = len(chunk.patches), chunk.num_tokens
    if not num:
        return 0.0
    names = [token for _, token in chunk.patches]
    return sum(15.0 if isinstance(name, int) else 3.0 for name in names) + math.log2(
        max(2, math.comb(length, num))
    )


def _shares(weights: Sequence[float], total: float) -> list[float]:
    """`total` in proportion to the weights; as much for all where there are none."""
    whole = sum(weights)
    if not whole:
        return [0.0 for _ in weights]
    return [total * weight / whole for weight in weights]
