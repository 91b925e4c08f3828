"""The words of a report: lines for people.

Owns how each figure is said. Does not know where the figures come from, nor who shows the lines.
"""

from __future__ import annotations

from dataclasses import asdict

from llmzip.inspect.figures import (
    DECODER_NOISE_LOGITS,
    MODEL_NOT_COUNTED,
    ArithFigures,
    Figures,
    printable,
)

_NOISE_OF_GUARD = "an eighth"  # at most: the encoder asks for eight times the noise it measures


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
    if report.arith is not None:
        lines.append("codec     arith: language model and arithmetic coder")
    lines.append(_model_line(report))
    if report.arith is not None:
        lines += _arith_lines(report, report.arith)
    elif report.needs_model:
        lines += _cram_lines(report)
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


def margin_text(report: Figures) -> str:
    """The weakest margin in words: how far decoding is from a wrong token."""
    if report.min_margin is None:
        return "every token is stored; none depends on a margin"
    times = report.min_margin / DECODER_NOISE_LOGITS
    meaning = {
        "bf16-safe": "decodes in bf16 as well as in fp32",
        "robust": "robust on any device that computes in fp32",
        "thin": "above the noise, but decode it where it was made if in doubt",
        "fragile": "close to the noise: another device may decode another token",
    }[report.margin_label]
    return (
        f"{report.min_margin:.2g} logits, about {_two_digits(times)} times the noise of fp32 "
        f"decoding ({DECODER_NOISE_LOGITS:g}): {meaning}"
    )


def guard_text(arith: ArithFigures) -> str:
    """The guard in words: how much noise decoding bears."""
    return (
        f"{arith.guard_nats:.2g} nats: decodes the same wherever the model's log-odds differ by "
        "less than that from those of the machine that compressed; the noise measured there was "
        f"at most {_NOISE_OF_GUARD} of it"
    )


def larger_text(report: Figures) -> str:
    """Why the container is larger than the original. Only where it is."""
    more = f"larger than the original by {report.container_bytes - report.original_bytes:,} bytes"
    cost, held = report.container_bytes_per_vector, report.text_bytes_per_vector
    if cost is None or held is None or cost <= held:
        return f"{more}: header and checksums cost more than could be saved on so few bytes"
    return (
        f"{more}: {report.bits_per_dimension}-bit vectors cost more than this text; each of "
        f"{count_text(report.num_vectors, 'vector')} takes {cost:,.0f} bytes and holds "
        f"{held:,.0f} bytes of text"
    )


def count_text(number: int, noun: str, plural: str = "s") -> str:
    """ "1 vector", "2 vectors"."""
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def _model_line(report: Figures) -> str:
    if not report.needs_model:
        return "model     none needed"
    revision = f" at {printable(report.revision)}" if report.revision else ""
    return f"model     {printable(report.model_id)}{revision}, digest {report.model_digest}"


def _cram_lines(report: Figures) -> list[str]:
    lines = [
        f"chunks    {report.num_chunks:,}: {report.num_crammed:,} crammed, "
        f"{report.num_patched:,} patched, {report.num_literal:,} literal; "
        f"{count_text(report.num_segments, 'segment')}, context {report.context_tokens:,} tokens",
    ]
    tokens, held = report.tokens_per_vector, report.text_bytes_per_vector
    if tokens is not None and held is not None:
        lines.append(
            f"vectors   {report.num_vectors:,} ({report.num_mem} a chunk), each "
            f"{report.mem_dim:,} dimensions x {report.stored_bits_per_dimension:.3g} bits = "
            f"{report.container_bytes_per_vector:,.0f} bytes, for {tokens:.1f} tokens or "
            f"{held:.1f} bytes of text"
        )
    patches = count_text(report.num_patches, "patch", "es")
    lines.append(f"tokens    {report.num_tokens:,}, {patches}")
    lines.append(f"margin    weakest {margin_text(report)}")
    return lines


def _arith_lines(report: Figures, arith: ArithFigures) -> list[str]:
    lanes = count_text(arith.num_lanes, "lane")
    if report.num_segments == 1:
        size = f"1 of {count_text(report.num_tokens, 'token')}, {lanes}"
    else:
        mean = round(report.num_tokens / report.num_segments)
        size = f"{report.num_segments:,} of about {mean:,} tokens, {lanes} in all"
    if arith.num_lanes > report.num_segments:  # a lane alone in its segment needs no prefix
        size += f", prefix {arith.prefix_tokens:,}"
    lines = [
        f"segments  {size}, window {arith.window_tokens:,} tokens",
        f"tokens    {report.num_tokens:,}, {arith.bits_per_token:.2f} bits each, "
        f"{arith.bits_per_byte:.2f} bits per byte of text",
    ]
    if arith.num_shared_vectors:
        rate = arith.shared_bits / (arith.num_shared_vectors * arith.shared_dim)
        lines.append(
            f"vectors   {arith.num_shared_vectors:,} shared by all segments, each "
            f"{arith.shared_dim:,} dimensions x {rate:.3g} bits, "
            f"{arith.shared_bits // 8:,} bytes in all"
        )
    if arith.line_end is not None:
        lines.append(f"wrap      line ends taken out: {arith.line_end}")
    lines.append(f"guard     {guard_text(arith)}")
    return lines


def _two_digits(number: float) -> str:
    return f"{float(f'{number:.2g}'):,.0f}" if number >= 10 else f"{number:.2g}"


def _bits_text(report: Figures) -> str:
    shares = report.bit_counts.shares()
    shown = {
        name: count
        for name, count in asdict(report.bit_counts).items()
        if (count if report.arith is not None else name != "streams")
    }
    return ", ".join(
        f"{name} {count:,} ({100 * shares[name]:.1f} %)" for name, count in shown.items()
    )
