"""Benchmarks of llmzip.

    python scripts/bench.py speed [--text FILE] [--bytes N] [--json]
    python scripts/bench.py size [--text FILE ...] [--bytes N] [--codecs arith,cram] [--json]
    python scripts/bench.py gpu [--text FILE] [--seconds S] [--json]

Owns the order of the jobs; `bench_speed`, `bench_size`, `bench_arith` and `bench_gpu` own what is
measured, `bench_tables` how it is summed up and shown.
"""

from __future__ import annotations

import json as jsonlib
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import bench_arith as ariths
import bench_gpu as gpus
import bench_size as sizes
import bench_speed as jobs
import bench_tables as tables
import typer

from llmzip.cli.console import describe_error
from llmzip.config import DEFAULT_MAX_PATCHES, CompressSettings, ComputeSettings, Preset
from llmzip.errors import SettingsError

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "long.txt"
FIXED = ((64, 8), (128, 4))  # tokens a chunk, chunks a round
PAPER = "paper"
PRESETS = ",".join(get_args(Preset))
CODECS = ("arith", "cram")

_Sample = TypeVar("_Sample")

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
    presets: Annotated[str, typer.Option(help="Presets to run.")] = PRESETS,
    fixed: Annotated[bool, typer.Option(help="Also run chunks of 64 and 128 tokens.")] = True,
    context: Annotated[int | None, typer.Option(help="Left context.  [default: by size]")] = None,
    mem: Annotated[int, typer.Option(help="Vectors a chunk.")] = 1,
    bits: Annotated[int, typer.Option(help="Bits a dimension; 16 as in the paper.")] = 16,
    model: Annotated[str | None, typer.Option(help="Model.  [default: smollm2-135m-text]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the starting vectors.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Steps, time and memory of the cram engine beside the paper's recipe, interleaved."""
    chosen = _presets(presets)
    data = text.read_bytes()[:num_bytes]
    size = -(-len(data) // rounds)
    machine = jobs.Machine(
        model=model, device=device, threads=threads, seed=seed,
        extra={"context_tokens": context, "num_mem": mem, "bits": bits},
    )  # fmt: skip
    samples: dict[str, list[jobs.Sample]] = defaultdict(list)
    for index in range(rounds):
        part = data[index * size : (index + 1) * size]
        last = samples[PAPER][-1] if samples[PAPER] else None
        if last is None or not tables.is_over(last):
            state = last.paper if last else None
            cap = paper_seconds / rounds
            samples[PAPER].append(_timed(jobs.paper_job, data, paper_tokens, cap, state, machine))
        for preset in chosen:
            samples[preset].append(_timed(jobs.engine_job, part, preset, machine))
        for tokens, count in FIXED if fixed else ():
            other_seed = replace(machine, seed=seed + index)
            samples[f"{tokens} tokens"].append(
                _timed(jobs.fixed_job, data, tokens, count, other_seed)
            )
    rows = {name: tables.speed_summary(found) for name, found in samples.items() if name != PAPER}
    paper = tables.paper_summary(samples[PAPER][-1])
    for row in rows.values():
        for against in ("at_most", "at_step_5000"):
            rate = paper[f"bytes_per_second_{against}"]
            row[f"times_paper_{against}"] = row["bytes_per_second"] / rate
    if json:
        result = {"text": text.name, "bytes": len(data), "paper": paper, "engine": rows}
        print(jsonlib.dumps(result, allow_nan=False))
    else:
        print("\n".join(tables.speed_lines(paper, rows)))


@app.command()
def size(
    text: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True, dir_okay=False, help="Text to compress, or several.  [default: long.txt]"
        ),
    ] = None,
    num_bytes: Annotated[
        int | None, typer.Option("--bytes", min=1, help="How much of each.  [default: all]")
    ] = None,
    codecs: Annotated[
        str, typer.Option(help="arith, cram or both; cram takes minutes for every KB.")
    ] = "arith",
    presets: Annotated[
        str | None, typer.Option(help=f"Cram: presets to run.  [default: {PRESETS}]")
    ] = None,
    bits: Annotated[
        int | None, typer.Option(help="Cram: bits a dimension.  [default: the preset's]")
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="Cram: left context.  [default: the preset's]")
    ] = None,
    mem: Annotated[int, typer.Option(help="Cram: vectors a chunk.")] = 1,
    max_patches: Annotated[
        float, typer.Option(help="Cram: share of a chunk's tokens that may be patched.")
    ] = DEFAULT_MAX_PATCHES,
    model: Annotated[str | None, typer.Option(help="Model.  [default: smollm2-135m-text]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the starting vectors.")] = 0,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; the table goes to stderr.")
    ] = False,
) -> None:
    """Bytes, time and memory of a file, beside other compressors; of cram, too, where its bits go
    and what they buy."""
    wanted = _names(codecs, CODECS, "--codecs")
    chosen: list[Any] = []
    if "cram" in wanted:
        chosen = _presets(PRESETS if presets is None else presets)
    elif (presets, bits, context, mem, max_patches) != (None, None, None, 1, DEFAULT_MAX_PATCHES):
        raise typer.BadParameter(
            "--presets, --bits, --context, --mem and --max-patches go with --codecs cram"
        )
    if not wanted or ("cram" in wanted and not chosen):
        raise typer.BadParameter(f"--{'presets' if wanted else 'codecs'} names none")
    try:
        plain = CompressSettings(
            codec="cram", model=model, num_mem=mem, bits=bits, max_patches=max_patches,
            context_tokens=context, seed=seed,
            compute=ComputeSettings(device=device, threads=threads),  # type: ignore[arg-type]
        )  # fmt: skip
    except SettingsError as error:
        raise typer.BadParameter(describe_error(error)[0]) from error
    texts: list[dict[str, Any]] = []
    samples: list[tables.AnySample] = []
    for file in text or [EXAMPLE]:
        data = file.read_bytes()[:num_bytes]
        if not data:
            raise typer.BadParameter(f"{file} is empty")
        found: dict[str, tables.AnySample] = {}
        if "arith" in wanted:
            found["arith"] = _sized(file.name, "arith", ariths.arith_job, data, plain)
        window = _alone(sizes.window_job, data, plain) if chosen else None
        for preset in chosen:
            settings = replace(plain, preset=preset)
            found[preset] = _sized(file.name, preset, sizes.size_job, data, settings)
        samples += found.values()
        texts.append(tables.text_summary(file.name, data, found, window))
    result = {**tables.size_setup(plain, samples), "texts": texts}
    typer.echo("\n".join(tables.size_lines(result)), err=json)
    if json:
        print(jsonlib.dumps(result, allow_nan=False))


@app.command()
def gpu(
    text: Annotated[Path, typer.Option(help="Text for the whole commands.")] = EXAMPLE,
    num_bytes: Annotated[
        int | None, typer.Option("--bytes", min=1, help="How much of it.  [default: all]")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=1, help="Begin nothing new after so many seconds.")
    ] = 300.0,
    batches: Annotated[
        str, typer.Option(help="Chunks x tokens of the timed steps.")
    ] = "8x160,64x160",
    rows: Annotated[str, typer.Option(help="Rows of the timed tokens.")] = "1,8,64",
    repeats: Annotated[int, typer.Option(min=1, help="Steps and tokens timed.")] = 40,
    preset: Annotated[str, typer.Option(help="Preset of the crammed file.")] = "balanced",
    model: Annotated[str | None, typer.Option(help="Model.  [default: smollm2-135m-text]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; the table goes to stderr.")
    ] = False,
) -> None:
    """Steps, tokens and whole commands on an accelerator, with graphs and without; every file is
    decoded on the CPU, too."""
    end = time.monotonic() + seconds
    data = text.read_bytes()[:num_bytes]
    machine = jobs.Machine(model=model, device=device, threads=threads)
    sizes_of = [tuple(map(int, each.split("x"))) for each in batches.split(",")]
    timings: list[tuple[str, Callable[[], gpus.Timing]]] = [
        (f"step {count} x {tokens}",
         partial(_alone, gpus.steps_job, data, count, tokens, repeats, machine))
        for count, tokens in sizes_of
    ] + [
        (f"token {count} rows", partial(_alone, gpus.tokens_job, int(count), repeats, machine))
        for count in rows.split(",")
    ]  # fmt: skip
    result: dict[str, Any] = {
        "device": _alone(gpus.device_text, machine), "timings": [], "commands": [], "left_out": [],
    }  # fmt: skip
    for name, job in timings:
        _within(end, result, "timings", name, job)
    # The longest last: whoever ends it has seen the others.
    arith, cram = ("arith", ["--codec", "arith"]), (f"cram {preset}", ["--preset", preset])
    for name, options in (arith, cram):
        job = partial(gpus.command_job, data, options, name, machine, check=True)
        _within(end, result, "commands", name, job)
    typer.echo("\n".join(gpus.gpu_lines(result)), err=json)
    if json:
        print(jsonlib.dumps(result, allow_nan=False))


def _within(
    end: float, result: dict[str, Any], where: str, name: str, job: Callable[[], Any]
) -> None:
    """Run a job unless time is up, and say how it went."""
    if time.monotonic() > end:
        result["left_out"].append(name)
        return
    began = time.monotonic()
    result[where].append(asdict(job()))
    typer.echo(f"{name}: {time.monotonic() - began:.0f} s", err=True)


def _presets(names: str) -> list[Any]:
    return _names(names, get_args(Preset), "--presets")


def _names(names: str, known: Sequence[str], option: str) -> list[str]:
    chosen = names.split(",") if names else []
    if not set(chosen) <= set(known):
        raise typer.BadParameter(f"{option} is a list of {', '.join(known)}")
    return chosen


def _alone(job: Callable[..., _Sample], *arguments: object) -> _Sample:
    """Run a job in a fresh process, so that its time and peak memory are its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(job, *arguments).result()


def _sized(
    name: str, codec: str, job: Callable[..., tables.AnySample], *arguments: object
) -> tables.AnySample:
    sample = _alone(job, *arguments)
    typer.echo(f"{name} {codec}: {sample.seconds:.0f} s", err=True)
    return sample


def _timed(job: Callable[..., jobs.Sample], *arguments: object) -> jobs.Sample:
    sample = _alone(job, *arguments)
    typer.echo(f"{job.__name__} {arguments[1]}: {sample.seconds:.0f} s", err=True)
    return sample


if __name__ == "__main__":
    app()
