"""What `bench.py` prints: samples summed up as data, and as tables for people.

Owns the words and the columns. Measures nothing.
"""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import bench_size as sizes
import bench_speed as jobs
import torch
from bench_arith import ArithSample
from bench_published import published_of

from llmzip.config import CompressSettings
from llmzip.inspect.report import MODEL_NOT_COUNTED

AnySample: TypeAlias = ArithSample | sizes.SizeSample


def is_over(paper: jobs.Sample) -> bool:
    """Whether more time would change nothing of the paper's row."""
    (chunk,) = paper.chunks
    return chunk.is_exact or chunk.steps >= jobs.PAPER_STEPS


def speed_summary(samples: Sequence[jobs.Sample]) -> dict[str, Any]:
    """One engine row from all its rounds."""
    chunks = [chunk for sample in samples for chunk in sample.chunks]
    steps = [chunk.steps for chunk in chunks]
    tokens = sum(chunk.tokens for chunk in chunks)
    token_steps = sum(sample.token_steps for sample in samples)
    seconds = sum(sample.seconds for sample in samples)
    cram_seconds = sum(sample.cram_seconds for sample in samples)
    rate = statistics.mean(sample.bf16_flops for sample in samples)
    flops = 4.0 * samples[0].parameters * token_steps / cram_seconds
    return {
        "chunks": len(chunks),
        "chunks_exact": sum(chunk.is_exact for chunk in chunks),
        "tokens_per_chunk": tokens / len(chunks),
        "steps_median": statistics.median(steps),
        "steps_p90": _p90(steps),
        "patches_per_chunk": sum(chunk.patches for chunk in chunks) / len(chunks),
        "patches_most": max(chunk.patches for chunk in chunks),
        "seconds": seconds,
        "seconds_per_chunk": seconds / len(chunks),
        "bytes_per_second": sum(sample.num_bytes for sample in samples) / seconds,
        "token_steps_per_token": token_steps / tokens,
        "flops_per_second": flops,
        "bf16_matmul_flops": rate,
        "share_of_bf16_matmul": flops / rate,
        "dtype": samples[0].dtype,
        "peak_bytes": max(sample.peak_bytes for sample in samples),
        "container_bytes": sum(sample.container_bytes for sample in samples),
    }


def paper_summary(sample: jobs.Sample) -> dict[str, Any]:
    """The paper's row. Where time ran out before it was exact its speed is an upper bound."""
    (chunk,) = sample.chunks
    assert sample.paper is not None
    second_a_step = sample.seconds / max(1, chunk.steps)
    last_step = chunk.steps if chunk.is_exact else jobs.PAPER_STEPS
    return {
        "tokens": chunk.tokens,
        "steps": chunk.steps,
        "is_exact": chunk.is_exact,
        "is_capped": not is_over(sample),
        "best_share_right": sample.paper.best_right / chunk.tokens,
        "seconds": sample.seconds,
        "seconds_per_step": second_a_step,
        "bytes": sample.num_bytes,
        "bytes_per_second_at_most": sample.num_bytes / sample.seconds,
        # Of a chunk that the recipe works on until its last step, or until it is exact.
        "bytes_per_second_at_step_5000": sample.num_bytes / (second_a_step * last_step),
        "peak_bytes": sample.peak_bytes,
    }


def speed_lines(paper: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The table for people."""
    first = next(iter(rows.values()), None)
    out = []
    if first:
        rate = f"{first['bf16_matmul_flops'] / 1e9:,.0f} GFLOP/s"
        out.append(f"this machine's bf16 matmul: {rate}; the engine computes in {first['dtype']}")
    end = "exact" if paper["is_exact"] else f"{paper['best_share_right']:.0%} right at best"
    out.append(
        f"paper's recipe (fp32, 1 text, no context, lr 0.01): {paper['tokens']} tokens, "
        f"{paper['steps']} steps in {paper['seconds']:.0f} s, {end}"
        + ("" if paper["is_exact"] else ", so at most")
        + f" {paper['bytes_per_second_at_most']:.2f} bytes/s; "
        f"{paper['bytes_per_second_at_step_5000']:.3f} if it takes all its steps"
    )
    out.append(
        f"{'':11}{'chunks':>7}{'exact':>6}{'tokens':>7}{'steps':>6}{'p90':>5}{'patches':>8}"
        f"{'s/chunk':>8}{'bytes/s':>8}{'tok-steps':>10}{'of bf16':>8}{'peak MB':>8}{'x paper':>14}"
    )
    for name, row in rows.items():
        times = f"{row['times_paper_at_most']:,.0f}-{row['times_paper_at_step_5000']:,.0f}"
        out.append(
            f"{name:11}{row['chunks']:7}{row['chunks_exact']:6}{row['tokens_per_chunk']:7.1f}"
            f"{row['steps_median']:6.0f}{row['steps_p90']:5.0f}{row['patches_per_chunk']:8.1f}"
            f"{row['seconds_per_chunk']:8.2f}{row['bytes_per_second']:8.1f}"
            f"{row['token_steps_per_token']:10.1f}{row['share_of_bf16_matmul']:8.0%}"
            f"{row['peak_bytes'] / 1e6:8,.0f}{times:>14}"
        )
    return out


def size_setup(settings: CompressSettings, samples: Sequence[AnySample]) -> dict[str, Any]:
    """What the sizes were measured with. cram: None where nothing was crammed."""
    named = next((sample.report for sample in samples if sample.report.needs_model), None)
    is_crammed = any(isinstance(sample, sizes.SizeSample) for sample in samples)
    cram = {
        "bits": settings.bits,
        "context_tokens": settings.context_tokens,
        "num_mem": settings.num_mem,
        "max_patches": settings.max_patches,
    }
    return {
        "commit": _commit(),
        "torch": torch.__version__,
        "threads": samples[0].threads,
        "device": settings.compute.device,
        "bf16_matmul_flops": statistics.mean(sample.bf16_flops for sample in samples),
        "model": named.model_id if named else None,
        "model_digest": named.model_digest if named else None,
        "seed": settings.seed,
        "cram": cram if is_crammed else None,
    }


def text_summary(
    name: str,
    data: bytes,
    samples: Mapping[str, AnySample],
    window: sizes.WindowSample | None,
) -> dict[str, Any]:
    """One text: what was measured of it beside what others make of it.

    samples: by preset, or under "arith". window: of the model alone, where there are presets.
    """
    others = {
        label: {"bytes": size, "bits_per_byte": 8 * size / len(data)}
        for label, size in sizes.other_sizes(data).items()
    }
    counts = [window.num_tokens] if window else [s.report.num_tokens for s in samples.values()]
    rows = {label: sample.to_dict() for label, sample in samples.items()}
    return {
        "text": name,
        "bytes": len(data),
        "tokens": max(counts),
        "others": others,
        "arith": rows.pop("arith", None),
        "published": [asdict(row) for row in published_of(data)],
        "model_window_tokens": window.window_tokens if window else None,
        "model_window_bits_per_byte": window.bits_per_byte if window else None,
        "presets": rows,
    }


def size_lines(result: Mapping[str, Any]) -> list[str]:
    """The tables for people, some blocks a text."""
    rate = f"{result['bf16_matmul_flops'] / 1e9:,.0f} GFLOP/s"
    model = result["model"] or "no model needed"
    out = [f"{model}; this machine's bf16 matmul: {rate}, {result['threads']} threads"]
    if any(text["arith"] for text in result["texts"]):
        out.append(
            "llmzip arith: whole commands with start-up, peaks of host memory; restored and found "
            f"equal ({MODEL_NOT_COUNTED})"
        )
    for text in result["texts"]:
        out += ["", f"{text['text']}: {text['bytes']:,} bytes, {text['tokens']:,} tokens"]
        out += _aligned(list(_beside_rows(text)))
        out += [f"published, {row['name']}: {row['source']}" for row in text["published"]]
        if text["presets"]:
            rows = text["presets"].items()
            window = f"model alone, {text['model_window_tokens']:,}"
            alone = [window, "", _figure(text["model_window_bits_per_byte"], ".3f")]
            out += ["", *_aligned([_SIZE_HEADS, alone, *map(_size_cells, rows)])]
            out += ["", *_aligned([_GAIN_HEADS, *map(_gain_cells, rows)])]
    return out


def _beside_rows(text: Mapping[str, Any]) -> Iterator[list[str]]:
    """All that makes something of the text, but cram."""
    arith = text["arith"]
    yield _BESIDE_HEADS if arith else _BESIDE_HEADS[:3]
    for label, row in text["others"].items():
        yield _beside_cells(label, row)
    if arith:
        label = "llmzip arith" if arith["needs_model"] else "llmzip arith (stored)"
        yield [*_beside_cells(label, arith), *_command_cells(arith)]
    for row in text["published"]:
        yield _beside_cells(f"{row['name']} (published)", row)


def _beside_cells(label: str, row: Mapping[str, Any]) -> list[str]:
    return [label, _figure(row["bytes"], ","), _figure(row["bits_per_byte"], ".3f")]


def _command_cells(row: Mapping[str, Any]) -> Iterator[str]:
    for name in ("compress", "decompress"):
        yield f"{row[f'{name}_seconds']:,.1f} s"
        yield f"{row[f'{name}_bytes_per_second']:,.1f}"
        yield f"{row[f'{name}_peak_bytes'] / 1e6:,.0f}"


_BESIDE_HEADS = [
    "", "bytes", "bits/byte", "compress", "bytes/s", "peak MB", "decompress", "bytes/s", "peak MB",
]  # fmt: skip
_SIZE_HEADS = [
    "", "bytes", "bits/byte", "shared", "vectors", "patches", "metadata", "stored", "chunks",
    "tokens/vector", "bits/dim", "bits/token", "patched",
]  # fmt: skip
_GAIN_HEADS = [
    "", "model alone", "gain bits", "unpatched", "stored/gained", "compress", "bytes/s",
    "decompress", "bytes/s",
]  # fmt: skip


def _size_cells(item: tuple[str, Mapping[str, Any]]) -> list[str]:
    name, row = item
    planes = ("shared", "vectors", "patches", "metadata", "stored")
    shares = [f"{row['shares'][k]:.1%}" for k in planes]
    return [
        name,
        f"{row['bytes']:,}",
        _figure(row["file_bits_per_byte"], ".3f"),
        *shares,
        f"{row['chunks']:,}",
        _figure(row["tokens_per_vector"], ".1f"),
        _figure(row["stored_bits_per_dimension"], ".3f"),
        _figure(row["stored_bits_per_token"], ".2f"),
        _figure(row["patched_token_share"], ".1%"),
    ]


def _gain_cells(item: tuple[str, Mapping[str, Any]]) -> list[str]:
    name, row = item
    return [
        name,
        _figure(row["model_bits_per_byte"], ".3f"),
        f"{row['gain_bits']:,.0f}",
        f"{row['unpatched_gain_bits']:,.0f}",
        _figure(row["stored_bits_per_information_bit"], ".2f"),
        f"{row['compress_seconds']:,.1f} s",
        f"{row['compress_bytes_per_second']:,.1f}",
        f"{row['decompress_seconds']:,.1f} s",
        f"{row['decompress_bytes_per_second']:,.1f}",
    ]


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines: names to the left, figures to the right. Short rows end early."""
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        )
        for row in rows
    ]


def _commit() -> str | None:
    """The commit of this checkout; None where there is none."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None


def _p90(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]
