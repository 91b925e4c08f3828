"""`llmzip compress`: options to settings, one call, a summary."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from llmzip import config
from llmzip.cli import options
from llmzip.cli.console import say, write_json
from llmzip.cli.job import JobSettings, Outcome, run_job
from llmzip.cli.signals import Stop
from llmzip.cli.startup import heavy_imports
from llmzip.progress import OnProgress
from llmzip.report import Report, read_report

SUFFIX = ".crm"
_Defaults = config.CompressSettings


def compress(
    file: Annotated[str, typer.Argument(metavar="FILE", help="File to compress, - for stdin.")],
    output: options.Output = None,
    model: options.Model = None,
    revision: options.Revision = None,
    device: options.Device = config.ComputeSettings.device,
    mem: options.Mem = _Defaults.num_mem,
    bits: options.Bits = _Defaults.bits,
    context: options.Context = None,
    budget_bits: options.BudgetBits = None,
    max_steps: options.MaxSteps = _Defaults.max_steps,
    seed: options.Seed = _Defaults.seed,
    threads: options.Threads = None,
    batch: options.Batch = None,
    attention: options.Attention = config.ComputeSettings.attention,
    offline: options.Offline = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    force: options.Force = False,
) -> None:
    """Compress FILE into FILE.crm. The original is kept."""
    settings = config.CompressSettings(
        model=model,
        revision=revision,
        num_mem=mem,
        bits=bits,
        context_tokens=context,
        budget_bits=budget_bits,
        max_steps=max_steps,
        seed=seed,
        offline=offline,
        compute=config.ComputeSettings(
            device=cast(config.Device, device),
            threads=threads,
            batch=batch,
            attention=cast(config.Attention, attention),
        ),
    )
    job = JobSettings(
        file=file, output=output, force=force, json=json, quiet=quiet, verbose=verbose
    )
    _run(job, settings)


def _run(job: JobSettings, settings: config.CompressSettings) -> None:
    def work(data: bytes, on_progress: OnProgress, stop: Stop) -> bytes:
        with stop.at_once(), heavy_imports():
            from llmzip.codec import compress_bytes
        return compress_bytes(data, settings, on_progress=on_progress, cancel=stop.cancel)

    outcome = run_job(
        job,
        work,
        default_target=lambda path: path + SUFFIX,
        is_binary=True,
        on_read=_warn_if_compressed,
    )
    report = read_report(outcome.result, max_output_bytes=len(outcome.source_data))
    if job.json:
        write_json({**report.to_dict(), "seconds": outcome.seconds})
    if not job.quiet:
        for line in _summary(outcome, report):
            say(line)
    if job.verbose and not job.quiet:
        say(f"{report.to_text(name=outcome.target_name)}seconds   {outcome.seconds:.1f}")


def _warn_if_compressed(data: bytes) -> None:
    from llmzip.store.header import MAGIC

    if data.startswith(MAGIC):
        say("warning: the input is a .crm file already; it is compressed once more")


def _summary(outcome: Outcome, report: Report) -> list[str]:
    line = (
        f"{outcome.source_name} → {outcome.target_name}  "
        f"{report.original_bytes:,} → {report.container_bytes:,} bytes"
    )
    if report.file_bits_per_byte is None:
        return [line, "note: the input is empty; the file says so and holds nothing else"]
    line += f" ({report.file_bits_per_byte:.2f} bits per byte)"
    if report.num_vectors:
        line += f", {report.num_vectors:,} vector{'' if report.num_vectors == 1 else 's'}"
    if report.min_margin is not None:
        line += f", weakest margin {report.min_margin:.2g}"
    lines = [f"{line}; {report.compare_text()}"]
    if not report.needs_model:
        lines.append(
            "note: too short, or not text that the model can predict: stored with zstd, "
            "which does better here"
        )
    if report.is_larger:
        lines.append(f"note: {report.larger_text()}")
    return lines
