"""What `info` shows: one container described as data, as JSON and as lines for people.

Owns the figures that every container gives, how they are read, their names in JSON and the words
they are put in; those of a payload are its own. Knows nothing of models, terminals or colours;
needs no model and no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmzip.config import DEFAULT_MAX_OUTPUT_BYTES
from llmzip.store.cram_figures import CramFigures
from llmzip.store.figures import STORED, Figures, count_text, ratio

if TYPE_CHECKING:
    from llmzip.store.container import Summary

MODEL_NOT_COUNTED = "model not counted"
SCHEMA = 1


class BitCounts(dict[str, int]):
    """Where the bits of a container went, by plane: those of payloads, "stored", "metadata". They
    add up to its size, and are attributes, too."""

    def __getattr__(self, name: str) -> int:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def shares(self) -> dict[str, float]:
        """Fractions of the container, by name."""
        return {name: count / sum(self.values()) for name, count in self.items()}


@dataclass(frozen=True, kw_only=True)
class Report:
    """The figures of one container, ready to be shown.

    Those of its payload are attributes, too, and the payload itself by its codec's name; figures of
    chunks are 0 or None in files without any.
    """

    format_version: int
    original_bytes: int
    original_hash: str  # hex, of BLAKE2b-256
    suffix: str  # of the original's name, with its dot; nothing: none, or not known
    container_bytes: int
    bit_counts: BitCounts
    num_stored_runs: int
    stored_original_bytes: int  # original bytes that no model touches
    model_id: str  # empty where no model is needed
    revision: str
    model_digest: str  # hex
    xz_bytes: int  # what `xz -9e` and `zstd -19` made of the original at compress time
    zstd_bytes: int
    payload: Figures | None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "payload" not in self.__dict__:  # not yet made
            raise AttributeError(name)
        from llmzip.store.payloads import PAYLOADS  # here: numpy

        if name in PAYLOADS:
            return self.payload if self.codec == name else None
        return getattr(self.payload if hasattr(self.payload, name) else _NO_CHUNKS, name)

    @property
    def codec(self) -> str:
        """What holds the text; "stored" where no model does."""
        return self.payload.codec if self.payload else STORED

    @property
    def needs_model(self) -> bool:
        return self.payload is not None

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

    def bits_per_byte(self, num_bytes: int) -> float | None:
        """Bits that `num_bytes` are for each byte of the original; None for an empty original."""
        return ratio(8 * num_bytes, self.original_bytes)

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
        first = f"{self.original_bytes:,} → {self.container_bytes:,} bytes"
        if self.file_bits_per_byte is not None:
            first += f"   {self.file_bits_per_byte:.2f} bits per byte"
            first += f", ratio {self.compression_ratio:.3g}"
        lines = [
            f"{printable(name)}   .crm v{self.format_version}   {first}".lstrip(),
            f"compare   {compare_text(self)}",
            f"bits      {_bits_text(self)}",
        ]
        if self.payload is None:
            lines.append("model     none needed")
        else:
            revision = f" at {printable(self.revision)}" if self.revision else ""
            model = f"{printable(self.model_id)}{revision}, digest {self.model_digest}"
            lines += [*self.payload.head_lines(), f"model     {model}", *self.payload.lines()]
        if self.num_stored_runs:
            runs = count_text(self.num_stored_runs, "run")
            lines.append(
                f"stored    {runs} of {self.stored_original_bytes:,} bytes, kept without the model"
            )
        if self.suffix:
            lines.append(f"suffix    {self.suffix}, which decompress puts back")
        if self.is_larger:
            lines.append(f"note      {larger_text(self)}")
        return "\n".join(lines) + "\n"


_NO_CHUNKS = CramFigures()


def printable(text: str) -> str:
    """`text` with all that a terminal could act on, and all that cannot be seen, escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def compare_text(report: Report) -> str:
    """What xz and zstd made of the same bytes (bits per byte), and what no figure includes."""
    parts = []
    for label, size in (("xz -9e", report.xz_bytes), ("zstd -19", report.zstd_bytes)):
        rate = report.bits_per_byte(size)
        parts.append(f"{label} {size:,}" + ("" if rate is None else f" ({rate:.2f})"))
    return ", ".join(parts) + (f" ({MODEL_NOT_COUNTED})" if report.needs_model else "")


def larger_text(report: Report) -> str:
    """Why the container is larger than the original. Only where it is."""
    more = f"larger than the original by {report.container_bytes - report.original_bytes:,} bytes"
    reason = report.payload.growth_reason() if report.payload else ""
    return (
        f"{more}: {reason or 'header and checksums cost more than could be saved on so few bytes'}"
    )


def _bits_text(report: Report) -> str:
    shares = report.bit_counts.shares()
    # All planes that crammed files have, whatever is in them; of others, those with bytes.
    shown = (report.payload or _NO_CHUNKS).shown_planes
    return ", ".join(
        f"{name} {count:,} ({100 * shares[name]:.1f} %)"
        for name, count in report.bit_counts.items()
        if count or name in shown
    )


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
    from llmzip.store.container import summarise_container

    return make_report(summarise_container(data, max_output_bytes=max_output_bytes))
