"""The figures of one container, as data.

Owns what follows from the numbers that a container gives. Does not know how they are read, shown or
put in words; needs no model and no torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

DECODER_NOISE_LOGITS = 1e-4  # fp32 decoding against itself: threads, batch size, cached or not
ROBUST_MARGIN_LOGITS = 0.05
THIN_MARGIN_LOGITS = 10 * DECODER_NOISE_LOGITS
MODEL_NOT_COUNTED = "model not counted"

FileCodec = Literal["arith", "cram", "stored"]
MarginLabel = Literal["none", "bf16-safe", "robust", "thin", "fragile"]
LineEnd = Literal["LF", "CR LF"]


@dataclass(frozen=True, kw_only=True)
class BitCounts:
    """Where the bits of a container went. The five add up to its size."""

    vectors: int  # of arith files: the shared ones
    patches: int
    streams: int  # of arith files alone
    stored: int
    metadata: int

    def shares(self) -> dict[str, float]:
        """Fractions of the container, by name."""
        counts = asdict(self)
        return {name: count / sum(counts.values()) for name, count in counts.items()}


@dataclass(frozen=True, kw_only=True)
class ArithFigures:
    """What only arith files have: how their text is predicted, and what that took."""

    num_lanes: int  # of all segments
    prefix_tokens: int
    window_tokens: int
    guard_nats: float
    line_end: LineEnd | None  # that was taken out of the text and coded apart
    text_bytes: int  # original bytes that the streams hold
    bits_per_token: float
    bits_per_byte: float  # of the text, without what is stored, and without metadata
    num_shared_vectors: int
    shared_dim: int  # 0 without vectors
    shared_bits: int  # of all shared vectors


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures of one container. Fields about the model are empty where it needs none, those
    about chunks, their vectors and margins are 0 or None in arith files."""

    format_version: int
    original_bytes: int
    original_hash: str  # hex, of BLAKE2b-256
    suffix: str  # of the original's name, with its dot; nothing: none, or not known
    container_bytes: int
    bit_counts: BitCounts
    num_crammed: int  # chunks that the vectors give alone
    num_patched: int  # chunks with vectors and patches
    num_literal: int  # chunks without vectors, token by token
    num_segments: int
    num_stored_runs: int
    stored_original_bytes: int  # original bytes that no model touches
    num_tokens: int
    num_vector_tokens: int  # tokens of chunks that have vectors, patched ones included
    vector_text_bytes: int  # original bytes of the same chunks
    num_patches: int  # patches of the same chunks
    num_mem: int  # K, vectors a chunk
    mem_dim: int
    bits_per_dimension: int  # as the header names it; coded vectors take what they take
    context_tokens: int
    model_id: str
    revision: str
    model_digest: str  # hex
    min_margin: float | None  # logits
    bf16_safe: bool
    xz_bytes: int  # what `xz -9e` and `zstd -19` made of the original at compress time
    zstd_bytes: int
    arith: ArithFigures | None

    @property
    def codec(self) -> FileCodec:
        """What holds the text; "stored" where no model does."""
        if self.arith is not None:
            return "arith"
        return "cram" if self.needs_model else "stored"

    @property
    def needs_model(self) -> bool:
        return self.model_id != ""

    @property
    def num_chunks(self) -> int:
        return self.num_crammed + self.num_patched + self.num_literal

    @property
    def num_vectors(self) -> int:
        return self.num_mem * (self.num_crammed + self.num_patched)

    @property
    def container_bytes_per_vector(self) -> float | None:
        """What one vector costs in the file."""
        return _ratio(self.bit_counts.vectors / 8, self.num_vectors)

    @property
    def stored_bits_per_dimension(self) -> float | None:
        """What one number of a vector costs in the file."""
        return _ratio(self.bit_counts.vectors, self.num_vectors * self.mem_dim)

    @property
    def text_bytes_per_vector(self) -> float | None:
        """What one vector holds of the original."""
        return _ratio(self.vector_text_bytes, self.num_vectors)

    @property
    def tokens_per_vector(self) -> float | None:
        return _ratio(self.num_vector_tokens, self.num_vectors)

    @property
    def compression_ratio(self) -> float:
        """Original bytes per container byte: above 1 is smaller."""
        return self.original_bytes / self.container_bytes

    @property
    def file_bits_per_byte(self) -> float | None:
        return self.bits_per_byte(self.container_bytes)

    @property
    def is_larger(self) -> bool:
        return self.container_bytes > self.original_bytes

    @property
    def margin_label(self) -> MarginLabel:
        if self.min_margin is None:
            return "none"
        if self.bf16_safe:
            return "bf16-safe"
        if self.min_margin >= ROBUST_MARGIN_LOGITS:
            return "robust"
        return "thin" if self.min_margin >= THIN_MARGIN_LOGITS else "fragile"

    def bits_per_byte(self, num_bytes: int) -> float | None:
        """Bits that `num_bytes` are for each byte of the original; None for an empty original."""
        return _ratio(8 * num_bytes, self.original_bytes)


def printable(text: str) -> str:
    """`text` with all that a terminal could act on, and all that cannot be seen, escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def _ratio(numerator: float, denominator: int) -> float | None:
    return numerator / denominator if denominator else None
