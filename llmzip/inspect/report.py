"""What `info` shows: one container described as data and as JSON.

Owns how the figures are read from a container, and their names in JSON; `text` owns the words they
are put in. Knows nothing of models, terminals or colours; needs no model and no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmzip.config import DEFAULT_MAX_OUTPUT_BYTES
from llmzip.inspect.figures import BitCounts, Figures
from llmzip.inspect.text import report_text

if TYPE_CHECKING:
    from llmzip.store.summary import Summary

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Report(Figures):
    """The figures of one container, ready to be shown."""

    def to_dict(self) -> dict[str, object]:
        """Ready for JSON. Fields may be added under one `schema`; none changes its meaning. The
        fields of every kind of payload are there, whatever the file has."""
        from llmzip.store.payloads import PAYLOADS  # here: numpy, which `--help` need not wait for

        model = {
            "id": self.model_id,
            "revision": self.revision,
            "digest": self.model_digest,
            "counted": False,
        }
        fields: dict[str, object] = {
            "schema": SCHEMA,
            "format_version": self.format_version,
            "codec": self.codec,
            "original_bytes": self.original_bytes,
            "original_blake2b_256": self.original_hash,
            "suffix": self.suffix,
            "container_bytes": self.container_bytes,
            "compression_ratio": self.compression_ratio,
            "file_bits_per_byte": self.file_bits_per_byte,
            "bits": dict(self.bit_counts),
            "shares": self.bit_counts.shares(),
            "num_segments": self.num_segments,
            "num_stored_runs": self.num_stored_runs,
            "stored_original_bytes": self.stored_original_bytes,
            "num_tokens": self.num_tokens,
            "model": model if self.needs_model else None,
            "xz_9e_bytes": self.xz_bytes,
            "xz_9e_bits_per_byte": self.bits_per_byte(self.xz_bytes),
            "zstd_19_bytes": self.zstd_bytes,
            "zstd_19_bits_per_byte": self.bits_per_byte(self.zstd_bytes),
        }
        for kind in PAYLOADS.values():
            fields |= kind.no_figures
        return fields | (self.payload.fields() if self.payload else {})

    def to_text(self, *, name: str = "") -> str:
        """Plain lines, the last one with its newline. `name` is the file's; it is escaped."""
        return report_text(self, name=name)


def make_report(summary: Summary) -> Report:
    """The figures of a container, as its header and columns give them."""
    from llmzip.store.header import VERSION
    from llmzip.store.payloads import PAYLOADS

    header, sizes = summary.header, summary.sizes
    model = header.payload.model if header.payload else None
    counts = {name: 0 for kind in PAYLOADS.values() for name in kind.plane_names}
    counts |= {name: 8 * size for name, size in sizes.planes.items()}
    return Report(
        format_version=VERSION,
        original_bytes=header.original_bytes,
        original_hash=header.original_hash.hex(),
        suffix=header.suffix,
        container_bytes=sizes.file_bytes,
        bit_counts=BitCounts(
            counts, stored=8 * sizes.stored_bytes, metadata=8 * sizes.metadata_bytes
        ),
        num_stored_runs=summary.num_stored_runs,
        stored_original_bytes=summary.stored_original_bytes,
        model_id=model.model_id if model else "",
        revision=model.revision if model else "",
        model_digest=model.digest.hex() if model else "",
        xz_bytes=header.xz_bytes,
        zstd_bytes=header.zstd_bytes,
        payload=summary.figures,
    )


def read_report(data: bytes, *, max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES) -> Report:
    """The figures of a `.crm` file's bytes. Raises FormatError or LimitExceeded."""
    from llmzip.store.summary import summarise_container

    return make_report(summarise_container(data, max_output_bytes=max_output_bytes))
