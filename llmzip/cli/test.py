"""`llmzip test`: whether a `.crm` file is sound, without writing anything."""

from __future__ import annotations

from typing import Annotated

import typer

from llmzip import config
from llmzip.cli import options
from llmzip.cli.console import say, write_json
from llmzip.cli.job import JobSettings, Tools, run_dry
from llmzip.cli.startup import heavy_imports
from llmzip.report import Report, make_report, read_report
from llmzip.report_text import count_text

_Defaults = config.DecompressSettings
_TESTED = {
    "full": ", decoded and verified",
    "structure": "; structure only, --full decodes",
    "checksums": "; a large file: checksums and tables only, --full decodes",
}


def test(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .crm file, - for stdin.")],
    full: Annotated[
        bool, typer.Option("--full", help="Decode all of it, too, and compare with its hashes.")
    ] = False,
    model: options.Model = None,
    revision: options.Revision = None,
    device: options.Device = config.ComputeSettings.device,
    threads: options.Threads = None,
    batch: options.Batch = None,
    attention: options.Attention = config.ComputeSettings.attention,
    perturb: options.Perturb = _Defaults.perturb,
    max_output: options.MaxOutput = _Defaults.max_output_bytes,
    max_tokens: options.MaxTokens = None,
    offline: options.Offline = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Check FILE without writing anything: its structure, which takes no model, or (--full) all of
    it. Exit 0 if it is sound."""
    settings = config.DecompressSettings(
        model=model,
        revision=revision,
        max_output_bytes=max_output,
        max_tokens=max_tokens,
        perturb=perturb,
        offline=offline,
        compute=options.compute_settings(
            device=device, threads=threads, batch=batch, attention=attention
        ),
    )

    def work(data: bytes, tools: Tools) -> tuple[Report, str]:
        if full:
            with heavy_imports():
                from llmzip.codec import decompress_bytes
            decompress_bytes(
                data, settings, on_progress=tools.on_progress, cancel=tools.stop.cancel
            )
            return read_report(data, max_output_bytes=settings.max_output_bytes), "full"
        from llmzip.store.limits import check_work
        from llmzip.store.summary import check_structure

        summary, is_all = check_structure(data, max_output_bytes=settings.max_output_bytes)
        report = make_report(summary)
        check_work(report.num_tokens, len(data), settings.max_tokens)
        return report, "structure" if is_all else "checksums"

    job = JobSettings(file=file, json=json, quiet=quiet, verbose=verbose)
    name, (report, tested) = run_dry(job, work)
    if json:
        write_json({**report.to_dict(), "tested": tested})
    if not quiet:
        held = {
            "arith": count_text(report.num_segments, "segment"),
            "cram": count_text(report.num_chunks, "chunk"),
            "stored": "stored",
        }[report.codec]
        say(f"{name}: sound, {report.original_bytes:,} bytes, {held}{_TESTED[tested]}")
