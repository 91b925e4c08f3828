"""The words of a report: lines for people.

Owns how each figure of a container is said; a payload says its own. Does not know where the figures
come from, nor who shows the lines.
"""

from __future__ import annotations

from llmzip.inspect.figures import MODEL_NOT_COUNTED, Figures, printable
from llmzip.store.figures import count_text


def report_text(report: Figures, *, name: str = "") -> str:
    """All of it, the last line with its newline. `name` is the file's; it is escaped."""
    first = f"{report.original_bytes:,} → {report.container_bytes:,} bytes"
    if report.file_bits_per_byte is not None:
        first += f"   {report.file_bits_per_byte:.2f} bits per byte"
        first += f", ratio {report.compression_ratio:.3g}"
    lines = [
        f"{printable(name)}   .crm v{report.format_version}   {first}".lstrip(),
        f"compare   {compare_text(report)}",
        f"bits      {_bits_text(report)}",
    ]
    if report.payload is None:
        lines.append("model     none needed")
    else:
        revision = f" at {printable(report.revision)}" if report.revision else ""
        model = f"{printable(report.model_id)}{revision}, digest {report.model_digest}"
        lines += [*report.payload.head_lines(), f"model     {model}", *report.payload.lines()]
    if report.num_stored_runs:
        runs = count_text(report.num_stored_runs, "run")
        lines.append(
            f"stored    {runs} of {report.stored_original_bytes:,} bytes, kept without the model"
        )
    if report.suffix:
        lines.append(f"suffix    {report.suffix}, which decompress puts back")
    if report.is_larger:
        lines.append(f"note      {larger_text(report)}")
    return "\n".join(lines) + "\n"


def compare_text(report: Figures) -> str:
    """What xz and zstd made of the same bytes (bits per byte), and what no figure includes."""
    parts = []
    for label, size in (("xz -9e", report.xz_bytes), ("zstd -19", report.zstd_bytes)):
        rate = report.bits_per_byte(size)
        parts.append(f"{label} {size:,}" + ("" if rate is None else f" ({rate:.2f})"))
    return ", ".join(parts) + (f" ({MODEL_NOT_COUNTED})" if report.needs_model else "")


def larger_text(report: Figures) -> str:
    """Why the container is larger than the original. Only where it is."""
    more = f"larger than the original by {report.container_bytes - report.original_bytes:,} bytes"
    reason = report.payload.growth_reason() if report.payload else ""
    return (
        f"{more}: {reason or 'header and checksums cost more than could be saved on so few bytes'}"
    )


def _bits_text(report: Figures) -> str:
    shares, payload = report.bit_counts.shares(), report.payload
    # All planes that crammed files have, whatever is in them; of others, those with bytes.
    shown = payload.shown_planes if payload else ("vectors", "patches", "stored", "metadata")
    return ", ".join(
        f"{name} {count:,} ({100 * shares[name]:.1f} %)"
        for name, count in report.bit_counts.items()
        if count or name in shown
    )
