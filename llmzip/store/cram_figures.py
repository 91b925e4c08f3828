"""The figures of crammed chunks, and the words for them.

Owns what follows from the counts of a file's header and columns, and what a margin means. Does not
know how they are read, nor who shows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from llmzip.store.figures import Figures, count_text, ratio

DECODER_NOISE_LOGITS = 1e-4  # fp32 decoding against itself: threads, batch size, cached or not
ROBUST_MARGIN_LOGITS = 0.05
THIN_MARGIN_LOGITS = 10 * DECODER_NOISE_LOGITS

MarginLabel = Literal["none", "bf16-safe", "robust", "thin", "fragile"]
_MEANINGS: dict[MarginLabel, str] = {
    "bf16-safe": "decodes in bf16 as well as in fp32",
    "robust": "robust on any device that computes in fp32",
    "thin": "above the noise, but decode it where it was made if in doubt",
    "fragile": "close to the noise: another device may decode another token",
}


# What JSON shows of `CramFigures` besides the numbers of chunks, in this order.
_IN_JSON = (
    *("num_vectors", "num_mem", "mem_dim", "bits_per_dimension", "stored_bits_per_dimension"),
    *("container_bytes_per_vector", "text_bytes_per_vector", "tokens_per_vector", "num_patches"),
    *("context_tokens", "min_margin", "margin_label", "bf16_safe"),
    *("num_shared_vectors", "shared_bits"),
)


@dataclass(frozen=True, kw_only=True)
class CramFigures(Figures):
    """What the chunks of a file, their vectors and their patches take and hold. The defaults are
    those of a file without chunks."""

    codec: ClassVar[str] = "cram"
    noun: ClassVar[str] = "chunk"
    shown_planes: ClassVar[tuple[str, ...]] = ("vectors", "patches", "stored", "metadata")

    num_crammed: int = 0  # chunks that the vectors give alone
    num_patched: int = 0  # chunks with vectors and patches
    num_literal: int = 0  # chunks without vectors, token by token
    num_segments: int = 0
    num_tokens: int = 0
    num_vector_tokens: int = 0  # tokens of chunks that have vectors, patched ones included
    vector_text_bytes: int = 0  # original bytes of the same chunks
    vector_bytes: int = 0  # of the file's plane of vectors
    num_patches: int = 0  # patches of the same chunks
    num_mem: int = 0  # K, vectors a chunk
    mem_dim: int = 0
    bits_per_dimension: int = 0  # as the header names it; coded vectors take what they take
    context_tokens: int = 0
    min_margin: float | None = None  # logits
    bf16_safe: bool = False
    num_shared_vectors: int = 0
    shared_bits: int = 0  # of all shared vectors

    @property
    def num_chunks(self) -> int:
        return self.num_crammed + self.num_patched + self.num_literal

    @property
    def num_vectors(self) -> int:
        return self.num_mem * (self.num_crammed + self.num_patched)

    @property
    def container_bytes_per_vector(self) -> float | None:
        """What one vector costs in the file."""
        return ratio(self.vector_bytes, self.num_vectors)

    @property
    def stored_bits_per_dimension(self) -> float | None:
        """What one number of a vector costs in the file."""
        return ratio(8 * self.vector_bytes, self.num_vectors * self.mem_dim)

    @property
    def text_bytes_per_vector(self) -> float | None:
        """What one vector holds of the original."""
        return ratio(self.vector_text_bytes, self.num_vectors)

    @property
    def tokens_per_vector(self) -> float | None:
        return ratio(self.num_vector_tokens, self.num_vectors)

    @property
    def margin_label(self) -> MarginLabel:
        if self.min_margin is None:
            return "none"
        if self.bf16_safe:
            return "bf16-safe"
        if self.min_margin >= ROBUST_MARGIN_LOGITS:
            return "robust"
        return "thin" if self.min_margin >= THIN_MARGIN_LOGITS else "fragile"

    @property
    def num_pieces(self) -> int:
        return self.num_chunks

    def fields(self) -> dict[str, object]:
        return {
            "chunks": {
                "total": self.num_chunks,
                "crammed": self.num_crammed,
                "patched": self.num_patched,
                "literal": self.num_literal,
            },
            **{name: getattr(self, name) for name in _IN_JSON},
        }

    def lines(self) -> list[str]:
        lines = [
            f"chunks    {self.num_chunks:,}: {self.num_crammed:,} crammed, "
            f"{self.num_patched:,} patched, {self.num_literal:,} literal; "
            f"{count_text(self.num_segments, 'segment')}, context {self.context_tokens:,} tokens",
        ]
        tokens, held = self.tokens_per_vector, self.text_bytes_per_vector
        if tokens is not None and held is not None:
            rate = f"{self.stored_bits_per_dimension:.3g}"
            lines.append(
                f"vectors   {self.num_vectors:,} ({self.num_mem} a chunk), each "
                f"{self.mem_dim:,} dimensions x {rate} {'bit' if rate == '1' else 'bits'} = "
                f"{self.container_bytes_per_vector:,.0f} bytes, for {tokens:.1f} tokens or "
                f"{held:.1f} bytes of text"
            )
        if self.num_shared_vectors:
            number = count_text(self.num_shared_vectors, "vector")
            lines.append(
                f"shared    {number} before whole segments, {self.shared_bits // 8:,} bytes"
            )
        patches = count_text(self.num_patches, "patch", "es")
        lines.append(f"tokens    {self.num_tokens:,}, {patches}")
        lines.append(f"margin    weakest {self.margin_text()}")
        return lines

    def summary(self) -> str:
        margin = "" if self.min_margin is None else f", weakest margin {self.min_margin:.2g}"
        return f", {count_text(self.num_vectors, 'vector')}{margin}"

    def growth_reason(self) -> str:
        cost, held = self.container_bytes_per_vector, self.text_bytes_per_vector
        if cost is None or held is None or cost <= held:
            return ""
        return (
            f"{self.bits_per_dimension}-bit vectors cost more than this text; each of "
            f"{count_text(self.num_vectors, 'vector')} takes {cost:,.0f} bytes and holds "
            f"{held:,.0f} bytes of text"
        )

    def margin_text(self) -> str:
        """The weakest margin in words: how far decoding is from a wrong token."""
        if self.min_margin is None:
            return "every token is stored; none depends on a margin"
        times = self.min_margin / DECODER_NOISE_LOGITS
        digits = f"{times:.2g}"
        text = f"{float(digits):,.0f}" if times >= 10 else digits
        return (
            f"{self.min_margin:.2g} logits, about {text} times the noise of fp32 decoding "
            f"({DECODER_NOISE_LOGITS:g}): {_MEANINGS[self.margin_label]}"
        )
