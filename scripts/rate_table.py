"""What few bits a dimension cost and bring: the rate table of docs/RATE.md, and its picture.

    python scripts/rate_table.py [--text FILE] [--bytes N] [--out DIR]

Compresses one text at several precisions, loads and shares of patches with the whole product, and
writes `rate.json`, `rate.md` and `rate.png`. Owns the choice of
settings; what is measured of a container, `bench_size` owns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from bench_size import SizeSample, other_sizes, size_job

from llmzip.codecs.cram.presets import chunk_budget_bits, signs_of
from llmzip.config import DEFAULT_MAX_PATCHES, CompressSettings
from llmzip.lm.zoo import DEFAULT_MODEL, MODELS

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "long.txt"
PRESET = "balanced"
BITS = (16, 8, 4, 3, 2, 1)
LOADS = {1: (0.85, 1.15)}  # of the default budget, beside 1
PATCHES = {1: (1 / 16,)}  # shares of the tokens, beside the default of 1/8

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One precision, load and share of patches."""

    bits: int
    load: float
    max_patches: float
    tokens_per_vector: float
    stored_bits_per_dimension: float
    patched_share: float
    payload_bits_per_byte: float  # vectors and patches; header and columns shrink with size
    file_bits_per_byte: float
    stored_bits_per_information_bit: float | None
    compress_seconds: float
    bytes_per_second: float

    @classmethod
    def of(cls, load: float, settings: CompressSettings, sample: SizeSample) -> Row:
        report = sample.report
        counts = report.bit_counts
        return cls(
            bits=settings.bits or 0,
            load=load,
            max_patches=settings.max_patches,
            tokens_per_vector=report.tokens_per_vector or 0.0,
            stored_bits_per_dimension=report.stored_bits_per_dimension or 16.0,
            patched_share=sample.patched_token_share or 0.0,
            payload_bits_per_byte=(counts.vectors + counts.patches) / report.original_bytes,
            file_bits_per_byte=report.file_bits_per_byte or 0.0,
            stored_bits_per_information_bit=sample.stored_bits_per_information_bit,
            compress_seconds=sample.compress_seconds,
            bytes_per_second=report.original_bytes / sample.compress_seconds,
        )


def settings_of_rows(
    chosen: Sequence[int] = BITS,
) -> Iterator[tuple[float, CompressSettings]]:
    """Every row of the table: its load, and what compresses it."""
    for bits in chosen:
        plain = CompressSettings(preset=PRESET, bits=bits, context_tokens=128)
        yield 1.0, plain
        for load in LOADS.get(bits, ()):
            signs = signs_of(PRESET, bits, None)
            gain_bits = MODELS[DEFAULT_MODEL].gain_bits
            budget = load * chunk_budget_bits(PRESET, signs, gain_bits)
            yield load, replace(plain, budget_bits=budget)
        for share in PATCHES.get(bits, ()):
            yield 1.0, replace(plain, max_patches=share)


def to_markdown(rows: Sequence[Row]) -> str:
    """The table for docs/RATE.md."""
    lines = [
        "| `--bits` | load | patches at most | tokens a vector | stored bits a dimension | patched "
        "| vectors and patches, bits per byte | whole file | stored bits per information bit "
        "| seconds | bytes/s |",
        "|" + "---|" * 11,
    ]
    for row in rows:
        worth = row.stored_bits_per_information_bit
        lines.append(
            f"| {row.bits} | {row.load:g} | {row.max_patches:.3g} | {row.tokens_per_vector:.1f} "
            f"| {row.stored_bits_per_dimension:.2f} | {row.patched_share:.1%} "
            f"| {row.payload_bits_per_byte:.2f} | {row.file_bits_per_byte:.2f} "
            f"| {'' if worth is None else f'{worth:.1f}'} | {row.compress_seconds:.0f} "
            f"| {row.bytes_per_second:.1f} |"
        )
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Row], path: Path, references: dict[str, float]) -> None:
    """Bits per byte against stored bits a dimension, both on scales of ratios."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    plain = [row for row in rows if row.load == 1 and row.max_patches == DEFAULT_MAX_PATCHES]
    others = [row for row in rows if row not in plain]
    axes.plot(
        [row.stored_bits_per_dimension for row in plain],
        [row.payload_bits_per_byte for row in plain],
        "o-", label="default load, at most 1 patch in 8 tokens",
    )  # fmt: skip
    for place, row in enumerate(plain):
        is_above = place % 2 == 0  # neighbours may lie close together
        axes.annotate(
            f"{row.bits}: {row.tokens_per_vector:.0f} tokens, {row.bytes_per_second:.0f} bytes/s",
            (row.stored_bits_per_dimension, row.payload_bits_per_byte),
            xytext=(-6, 6) if is_above else (6, -14), textcoords="offset points",
            ha="right" if is_above else "left", fontsize=8,
        )  # fmt: skip
    axes.plot(
        [row.stored_bits_per_dimension for row in others],
        [row.payload_bits_per_byte for row in others],
        "x", color="tab:orange", label="other loads and shares of patches",
    )  # fmt: skip
    for row in others:
        what = f"load {row.load:g}" if row.load != 1 else f"patches {row.max_patches:.3g}"
        axes.annotate(
            what, (row.stored_bits_per_dimension, row.payload_bits_per_byte),
            xytext=(5, 5), textcoords="offset points", fontsize=7, color="tab:orange",
        )  # fmt: skip
    for name, rate in references.items():
        axes.axhline(rate, linestyle=":", color="gray")
        axes.annotate(
            name, (0.99, rate), xycoords=("axes fraction", "data"), fontsize=8, va="bottom",
            ha="right",
        )  # fmt: skip
    axes.set(
        xscale="log", yscale="log", xlabel="stored bits a dimension",
        ylabel="vectors and patches, bits per byte of text",
    )  # fmt: skip
    ticks = [1, 1.5, 2, 3, 4, 6, 8, 16]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    heights = [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    axes.set_yticks(heights, [str(height) for height in heights])
    axes.set_yticks([], minor=True)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


@app.command()
def main(
    text: Annotated[Path, typer.Option(help="Text to compress.")] = EXAMPLE,
    num_bytes: Annotated[int, typer.Option("--bytes", min=1, help="How much of it.")] = 1000,
    bits: Annotated[str, typer.Option(help="Precisions.")] = ",".join(map(str, BITS)),
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("build/rate"),
) -> None:
    """Measure every row, and write rate.json, rate.md and rate.png."""
    chosen = [int(word) for word in bits.split(",")]
    data = text.read_bytes()[:num_bytes]
    out.mkdir(parents=True, exist_ok=True)
    references = {
        f"{name}, {len(data):,} bytes": 8 * size / len(data)
        for name, size in other_sizes(data).items()
        if name in ("xz -9e", "zstd -19")
    }
    rows: list[Row] = []
    for load, settings in settings_of_rows(chosen):
        rows.append(Row.of(load, settings, size_job(data, settings)))
        typer.echo(to_markdown(rows[-1:]).splitlines()[-1], err=True)
        # After every row: a run takes a while, and what it has found is worth keeping.
        result = {"text": text.name, "bytes": len(data), "rows": [asdict(row) for row in rows]}
        (out / "rate.json").write_text(json.dumps(result, indent=1) + "\n")
        (out / "rate.md").write_text(to_markdown(rows))
        draw(rows, out / "rate.png", references)


if __name__ == "__main__":
    app()
