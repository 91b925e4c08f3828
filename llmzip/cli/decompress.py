"""`llmzip decompress`: options to settings, one call, a summary."""

from __future__ import annotations

from typing import Annotated

import typer

from llmzip import config
from llmzip.cli import options
from llmzip.cli.compress import SUFFIX
from llmzip.cli.console import say, write_json
from llmzip.cli.job import JobSettings, Outcome, Tools, run_job
from llmzip.cli.startup import heavy_imports
from llmzip.errors import InputError
from llmzip.report import Report, read_report


def decompress(
    file: Annotated[str, typer.Argument(metavar="FILE", help="File to restore, - for stdin.")],
    output: options.Output = None,
    model: options.Model = None,
    revision: options.Revision = None,
    device: options.Device = config.ComputeSettings.device,
    threads: options.Threads = None,
    batch: options.Batch = None,
    attention: options.Attention = config.ComputeSettings.attention,
    byte_range: options.Bytes = None,
    perturb: options.Perturb = config.DecompressSettings.perturb,
    max_output: options.MaxOutput = config.DecompressSettings.max_output_bytes,
    offline: options.Offline = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    force: options.Force = False,
) -> None:
    """Restore the original of FILE. Nothing appears that was not verified."""
    settings = config.DecompressSettings(
        model=model,
        revision=revision,
        max_output_bytes=max_output,
        span=options.span_of(byte_range),
        perturb=perturb,
        offline=offline,
        compute=options.compute_settings(
            device=device, threads=threads, batch=batch, attention=attention
        ),
    )
    job = JobSettings(
        file=file, output=output, force=force, json=json, quiet=quiet, verbose=verbose
    )
    _run(job, settings)


def _run(job: JobSettings, settings: config.DecompressSettings) -> None:
    def work(data: bytes, tools: Tools) -> bytes:
        with heavy_imports():
            from llmzip.codec import decompress_bytes
        return decompress_bytes(
            data, settings, on_progress=tools.on_progress, cancel=tools.stop.cancel
        )

    outcome = run_job(job, work, default_target=_strip_suffix, is_binary=False)
    report = read_report(outcome.source_data, max_output_bytes=settings.max_output_bytes)
    if job.json:
        write_json({**report.to_dict(), "seconds": outcome.seconds})
    if not job.quiet:
        say(_summary(outcome, report, settings))
    if job.verbose and not job.quiet:
        say(f"{report.to_text(name=outcome.source_name)}seconds   {outcome.seconds:.1f}")


def _summary(outcome: Outcome, report: Report, settings: config.DecompressSettings) -> str:
    line = f"{outcome.source_name} → {outcome.target_name}  {report.container_bytes:,} → "
    if settings.span is not None:
        line += f"{len(outcome.result):,} of "
    line += f"{report.original_bytes:,} bytes, "
    if report.arith is None:
        return line + "verified"
    # The hash is of the whole file: a part has only the checks of its segments.
    return line + "codec arith, " + ("verified" if settings.span is None else "segments verified")


def _strip_suffix(path: str) -> str:
    stem, suffix = path[: -len(SUFFIX)], path[-len(SUFFIX) :]
    if suffix.lower() != SUFFIX or not stem or stem[-1] in "/\\":
        raise InputError(f"{path} does not end in {SUFFIX}", hint="name the output with -o")
    return stem
