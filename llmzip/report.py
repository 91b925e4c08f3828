"""What `info` shows: one container described as data, as text and as JSON.

Owns the figures derived from a container and the words they are put in. Knows nothing of models,
terminals or colours; needs no model and no torch. Called by `cli` and by `llmzip.info`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from llmzip.config import DEFAULT_MAX_OUTPUT_BYTES

if TYPE_CHECKING:
    from llmzip.store.summary import Summary

SCHEMA = 1
DECODER_NOISE_LOGITS = 1e-4  # fp32 decoding against itself: threads, batch size, cached or not
ROBUST_MARGIN_LOGITS = 0.05
THIN_MARGIN_LOGITS = 10 * DECODER_NOISE_LOGITS
MODEL_NOT_COUNTED = "model not counted"

MarginLabel = Literal["none", "bf16-safe", "robust", "thin", "fragile"]


@dataclass(frozen=True, kw_only=True)
class BitCounts:
    """Where the bits of a container went. The four add up to its size."""

    vectors: int
    patches: int
    stored: int
    metadata: int

    def shares(self) -> dict[str, float]:
        """Fractions of the container, by name."""
        counts = asdict(self)
        return {name: count / sum(counts.values()) for name, count in counts.items()}


@dataclass(frozen=True, kw_only=True)
class Report:
    """The figures of one container. Fields about the model are empty where it needs none."""

    format_version: int
    original_bytes: int
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

    def to_dict(self) -> dict[str, object]:
        """Ready for JSON. Fields may be added under one `schema`; none changes its meaning."""
        return {
            "schema": SCHEMA,
            "format_version": self.format_version,
            "original_bytes": self.original_bytes,
            "container_bytes": self.container_bytes,
            "compression_ratio": self.compression_ratio,
            "file_bits_per_byte": self.file_bits_per_byte,
            "bits": asdict(self.bit_counts),
            "shares": self.bit_counts.shares(),
            "chunks": {
                "total": self.num_chunks,
                "crammed": self.num_crammed,
                "patched": self.num_patched,
                "literal": self.num_literal,
            },
            "num_segments": self.num_segments,
            "num_stored_runs": self.num_stored_runs,
            "stored_original_bytes": self.stored_original_bytes,
            "num_vectors": self.num_vectors,
            "num_mem": self.num_mem,
            "mem_dim": self.mem_dim,
            "bits_per_dimension": self.bits_per_dimension,
            "stored_bits_per_dimension": self.stored_bits_per_dimension,
            "container_bytes_per_vector": self.container_bytes_per_vector,
            "text_bytes_per_vector": self.text_bytes_per_vector,
            "tokens_per_vector": self.tokens_per_vector,
            "num_tokens": self.num_tokens,
            "num_patches": self.num_patches,
            "context_tokens": self.context_tokens,
            "model": {
                "id": self.model_id,
                "revision": self.revision,
                "digest": self.model_digest,
                "counted": False,
            }
            if self.needs_model
            else None,
            "min_margin": self.min_margin,
            "margin_label": self.margin_label,
            "bf16_safe": self.bf16_safe,
            "xz_9e_bytes": self.xz_bytes,
            "xz_9e_bits_per_byte": self.bits_per_byte(self.xz_bytes),
            "zstd_19_bytes": self.zstd_bytes,
            "zstd_19_bits_per_byte": self.bits_per_byte(self.zstd_bytes),
        }

    def to_text(self, *, name: str = "") -> str:
        """Plain lines, the last one with its newline. `name` is the file's; it is escaped."""
        first = f"{self.original_bytes:,} → {self.container_bytes:,} bytes"
        if self.file_bits_per_byte is not None:
            first += f"   {self.file_bits_per_byte:.2f} bits per byte"
            first += f", ratio {self.compression_ratio:.3g}"
        lines = [
            f"{printable(name)}   .crm v{self.format_version}   {first}".lstrip(),
            f"compare   {self.compare_text()}",
            f"bits      {_bits_text(self.bit_counts)}",
            *(self._model_lines() if self.needs_model else ["model     none needed"]),
        ]
        if self.num_stored_runs:
            runs = _count(self.num_stored_runs, "run")
            lines.append(
                f"stored    {runs} of {self.stored_original_bytes:,} bytes, kept without the model"
            )
        if self.is_larger:
            lines.append(f"note      {self.larger_text()}")
        return "\n".join(lines) + "\n"

    def compare_text(self) -> str:
        """What xz and zstd made of the same bytes (bits per byte), and what no figure includes."""
        parts = []
        for label, size in (("xz -9e", self.xz_bytes), ("zstd -19", self.zstd_bytes)):
            rate = self.bits_per_byte(size)
            parts.append(f"{label} {size:,}" + ("" if rate is None else f" ({rate:.2f})"))
        return ", ".join(parts) + (f" ({MODEL_NOT_COUNTED})" if self.needs_model else "")

    def margin_text(self) -> str:
        """The weakest margin in words: how far decoding is from a wrong token."""
        if self.min_margin is None:
            return "every token is stored; none depends on a margin"
        times = self.min_margin / DECODER_NOISE_LOGITS
        meaning = {
            "bf16-safe": "decodes in bf16 as well as in fp32",
            "robust": "robust on any device that computes in fp32",
            "thin": "above the noise, but decode it where it was made if in doubt",
            "fragile": "close to the noise: another device may decode another token",
        }[self.margin_label]
        return (
            f"{self.min_margin:.2g} logits, about {_two_digits(times)} times the noise of fp32 "
            f"decoding ({DECODER_NOISE_LOGITS:g}): {meaning}"
        )

    def larger_text(self) -> str:
        """Why the container is larger than the original. Only where it is."""
        more = f"larger than the original by {self.container_bytes - self.original_bytes:,} bytes"
        cost, held = self.container_bytes_per_vector, self.text_bytes_per_vector
        if cost is None or held is None or cost <= held:
            return f"{more}: header and checksums cost more than could be saved on so few bytes"
        return (
            f"{more}: {self.bits_per_dimension}-bit vectors cost more than this text; each of "
            f"{_count(self.num_vectors, 'vector')} takes {cost:,.0f} bytes and holds {held:,.0f} "
            "bytes of text"
        )

    def _model_lines(self) -> list[str]:
        revision = f" at {printable(self.revision)}" if self.revision else ""
        lines = [
            f"model     {printable(self.model_id)}{revision}, digest {self.model_digest}",
            f"chunks    {self.num_chunks:,}: {self.num_crammed:,} crammed, {self.num_patched:,} "
            f"patched, {self.num_literal:,} literal; {_count(self.num_segments, 'segment')}, "
            f"context {self.context_tokens:,} tokens",
        ]
        tokens, held = self.tokens_per_vector, self.text_bytes_per_vector
        if tokens is not None and held is not None:
            lines.append(
                f"vectors   {self.num_vectors:,} ({self.num_mem} a chunk), each {self.mem_dim:,} "
                f"dimensions x {self.stored_bits_per_dimension:.3g} bits = "
                f"{self.container_bytes_per_vector:,.0f} bytes, for {tokens:.1f} tokens or "
                f"{held:.1f} bytes of text"
            )
        lines.append(f"tokens    {self.num_tokens:,}, {_count(self.num_patches, 'patch', 'es')}")
        lines.append(f"margin    weakest {self.margin_text()}")
        return lines


def make_report(summary: Summary) -> Report:
    """The figures of a container, as its header and columns give them."""
    from llmzip.store.header import BF16_SAFE, VERSION
    from llmzip.store.records import margin_value

    header, sizes, model = summary.header, summary.sizes, summary.header.model
    num_vector_chunks = model.num_vector_chunks if model else 0
    return Report(
        format_version=VERSION,
        original_bytes=header.original_bytes,
        container_bytes=sizes.file_bytes,
        bit_counts=BitCounts(
            vectors=8 * sizes.vector_bytes,
            patches=8 * sizes.patch_bytes,
            stored=8 * sizes.stored_bytes,
            metadata=8 * sizes.metadata_bytes,
        ),
        num_crammed=num_vector_chunks - summary.num_patched,
        num_patched=summary.num_patched,
        num_literal=model.num_literal if model else 0,
        num_segments=summary.num_segments,
        num_stored_runs=summary.num_stored_runs,
        stored_original_bytes=summary.stored_original_bytes,
        num_tokens=summary.num_tokens,
        num_vector_tokens=summary.num_tokens - summary.num_literal_tokens,
        vector_text_bytes=summary.crammed_bytes - summary.literal_bytes,
        num_patches=summary.num_patches,
        num_mem=model.num_mem if model else 0,
        mem_dim=model.mem_dim if model else 0,
        bits_per_dimension=model.bits if model else 0,
        context_tokens=model.context_tokens if model else 0,
        model_id=model.model_id if model else "",
        revision=model.revision if model else "",
        model_digest=model.model_digest.hex() if model else "",
        min_margin=margin_value(model.margin_code) if model and model.margin_code else None,
        bf16_safe=bool(header.optional & BF16_SAFE),
        xz_bytes=header.xz_bytes,
        zstd_bytes=header.zstd_bytes,
    )


def read_report(data: bytes, *, max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES) -> Report:
    """The figures of a `.crm` file's bytes. Raises FormatError or LimitExceeded."""
    # Here, not above: numpy, which `llmzip --help` need not wait for.
    from llmzip.store.summary import summarise_container

    return make_report(summarise_container(data, max_output_bytes=max_output_bytes))


def printable(text: str) -> str:
    """`text` with all that a terminal could act on, and all that cannot be seen, escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def _ratio(numerator: float, denominator: int) -> float | None:
    return numerator / denominator if denominator else None


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def _two_digits(number: float) -> str:
    return f"{float(f'{number:.2g}'):,.0f}" if number >= 10 else f"{number:.2g}"


def _bits_text(counts: BitCounts) -> str:
    shares = counts.shares()
    return ", ".join(
        f"{name} {count:,} ({100 * shares[name]:.1f} %)" for name, count in asdict(counts).items()
    )
