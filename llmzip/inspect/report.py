"""What `info` shows: one container described as data and as JSON.

Owns how the figures are read from a container, and their names in JSON; `text` owns the words they
are put in. Knows nothing of models, terminals or colours; needs no model and no torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from llmzip.config import DEFAULT_MAX_OUTPUT_BYTES
from llmzip.inspect.figures import ArithFigures, BitCounts, Figures, LineEnd
from llmzip.inspect.text import report_text

if TYPE_CHECKING:
    from llmzip.store.summary import Summary

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Report(Figures):
    """The figures of one container, ready to be shown."""

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
    from llmzip.store.arith_payload import WRAP_CRLF, WRAP_LF, guard_value

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
