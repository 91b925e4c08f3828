"""Benchmarks of llmzip.

    python scripts/bench.py speed [--text FILE] [--bytes N] [--json]

Owns the order of the jobs, the summary and the table; `bench_speed` owns what is measured.
"""

from __future__ import annotations

import json as jsonlib
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, get_args

import bench_speed as jobs
import typer

from llmzip.config import Preset

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "long.txt"
FIXED = ((64, 8), (128, 4))  # tokens a chunk, chunks a round
PAPER = "paper"

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback()
def bench() -> None:
    """Benchmarks of llmzip."""


@app.command()
def speed(
    text: Annotated[Path, typer.Option(help="Text to cram.")] = EXAMPLE,
    num_bytes: Annotated[int, typer.Option("--bytes", min=1, help="How much of it.")] = 4096,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, each over its part of it.")] = 2,
    paper_seconds: Annotated[
        float, typer.Option(min=1, help="Time for the paper's recipe, all rounds together.")
    ] = 120.0,
    paper_tokens: Annotated[int, typer.Option(min=1, help="Tokens of its chunk.")] = 64,
    presets: Annotated[str, typer.Option(help="Presets to run.")] = "fast,balanced,small",
    fixed: Annotated[bool, typer.Option(help="Also run chunks of 64 and 128 tokens.")] = True,
    context: Annotated[int | None, typer.Option(help="Left context.  [default: by size]")] = None,
    mem: Annotated[int, typer.Option(help="Vectors a chunk.")] = 1,
    model: Annotated[str | None, typer.Option(help="Model.  [default: smollm2-135m]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the starting vectors.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Steps, time and memory of the cram engine beside the paper's recipe, interleaved."""
    chosen = presets.split(",") if presets else []
    if not set(chosen) <= set(get_args(Preset)):
        raise typer.BadParameter(f"--presets is a list of {', '.join(get_args(Preset))}")
    data = text.read_bytes()[:num_bytes]
    size = -(-len(data) // rounds)
    machine = jobs.Machine(
        model=model, device=device, threads=threads, seed=seed,
        extra={"context_tokens": context, "num_mem": mem},
    )  # fmt: skip
    samples: dict[str, list[jobs.Sample]] = defaultdict(list)
    for index in range(rounds):
        part = data[index * size : (index + 1) * size]
        last = samples[PAPER][-1] if samples[PAPER] else None
        if last is None or not _is_over(last):
            state = last.paper if last else None
            cap = paper_seconds / rounds
            samples[PAPER].append(_run(jobs.paper_job, data, paper_tokens, cap, state, machine))
        for preset in chosen:
            samples[preset].append(_run(jobs.engine_job, part, preset, machine))
        for tokens, count in FIXED if fixed else ():
            other_seed = replace(machine, seed=seed + index)
            samples[f"{tokens} tokens"].append(
                _run(jobs.fixed_job, data, tokens, count, other_seed)
            )
    rows = {name: summary(found) for name, found in samples.items() if name != PAPER}
    paper = paper_summary(samples[PAPER][-1])
    for row in rows.values():
        for against in ("at_most", "at_step_5000"):
            rate = paper[f"bytes_per_second_{against}"]
            row[f"times_paper_{against}"] = row["bytes_per_second"] / rate
    if json:
        result = {"text": text.name, "bytes": len(data), "paper": paper, "engine": rows}
        print(jsonlib.dumps(result, allow_nan=False))
    else:
        print("\n".join(lines(paper, rows)))


def _run(job: Callable[..., jobs.Sample], *arguments: object) -> jobs.Sample:
    """Run a job in a fresh process, so that its peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        sample = pool.submit(job, *arguments).result()
    typer.echo(f"{job.__name__} {arguments[1]}: {sample.seconds:.0f} s", err=True)
    return sample


def _is_over(paper: jobs.Sample) -> bool:
    (chunk,) = paper.chunks
    return chunk.is_exact or chunk.steps >= jobs.PAPER_STEPS


def summary(samples: Sequence[jobs.Sample]) -> dict[str, Any]:
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
        "is_capped": not _is_over(sample),
        "best_share_right": sample.paper.best_right / chunk.tokens,
        "seconds": sample.seconds,
        "seconds_per_step": second_a_step,
        "bytes": sample.num_bytes,
        "bytes_per_second_at_most": sample.num_bytes / sample.seconds,
        # Of a chunk that the recipe works on until its last step, or until it is exact.
        "bytes_per_second_at_step_5000": sample.num_bytes / (second_a_step * last_step),
        "peak_bytes": sample.peak_bytes,
    }


def lines(paper: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
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


def _p90(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]


if __name__ == "__main__":
    app()
