"""What `info` shows: one container described as data and as JSON.

Owns the figures derived from a container; `report_text` owns the words they are put in. Knows
nothing of models, terminals or colours; needs no model and no torch. Called by `cli` and by
`llmzip.info`.
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
class Report:
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

    def to_dict(self) -> dict[str, object]:
        """Ready for JSON. Fields may be added under one `schema`; none changes its meaning."""
        return {
            "schema": SCHEMA,
            "format_version": self.format_version,
            "codec": self.codec,
            "original_bytes": self.original_bytes,
            "original_blake2b_256": self.original_hash,
            "suffix": self.suffix,
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
            "arith": None if self.arith is None else asdict(self.arith),
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
        from llmzip.report_text import report_text

        return report_text(self, name=name)


def make_report(summary: Summary) -> Report:
    """The figures of a container, as its header and columns give them."""
    from llmzip.store.header import BF16_SAFE, VERSION
    from llmzip.store.records import margin_value

    header, sizes, model = summary.header, summary.sizes, summary.header.model
    num_vector_chunks = model.num_vector_chunks if model else 0
    arith = _arith_figures(summary)
    return Report(
        format_version=VERSION,
        original_bytes=header.original_bytes,
        original_hash=header.original_hash.hex(),
        suffix=header.suffix,
        container_bytes=sizes.file_bytes,
        bit_counts=BitCounts(
            vectors=8 * sizes.vector_bytes,
            patches=8 * sizes.patch_bytes,
            streams=8 * sizes.stream_bytes,
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
        num_vector_tokens=0 if arith else summary.num_tokens - summary.num_literal_tokens,
        vector_text_bytes=summary.crammed_bytes - summary.literal_bytes,
        num_patches=summary.num_patches,
        num_mem=model.num_mem if model and not arith else 0,
        mem_dim=model.mem_dim if model and not arith else 0,
        bits_per_dimension=model.bits if model else 0,
        context_tokens=model.context_tokens if model else 0,
        model_id=model.model_id if model else "",
        revision=model.revision if model else "",
        model_digest=model.model_digest.hex() if model else "",
        min_margin=margin_value(model.margin_code) if model and model.margin_code else None,
        bf16_safe=bool(header.optional & BF16_SAFE),
        xz_bytes=header.xz_bytes,
        zstd_bytes=header.zstd_bytes,
        arith=arith,
    )


def _arith_figures(summary: Summary) -> ArithFigures | None:
    from llmzip.store.arithrecords import WRAP_CRLF, WRAP_LF, guard_value

    model = summary.header.model
    if model is None or model.arith is None:
        return None
    line_ends: dict[int, LineEnd] = {WRAP_LF: "LF", WRAP_CRLF: "CR LF"}
    stream_bits = 8 * summary.sizes.stream_bytes
    return ArithFigures(
        num_lanes=summary.num_lanes,
        prefix_tokens=model.arith.prefix_tokens,
        window_tokens=model.arith.window_tokens,
        guard_nats=guard_value(model.arith.guard_code),
        line_end=line_ends.get(model.arith.wrap),
        text_bytes=summary.arith_bytes,
        bits_per_token=stream_bits / summary.num_tokens,  # every segment has a token
        bits_per_byte=stream_bits / summary.arith_bytes,
        num_shared_vectors=model.num_mem,
        shared_dim=model.mem_dim,
        shared_bits=8 * summary.sizes.vector_bytes,
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
