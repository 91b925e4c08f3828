"""`llmzip test`: whether a `.crm` file is sound, without writing anything."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from llmzip import config
from llmzip.cli import options
from llmzip.cli import settings as words
from llmzip.cli.completing import crm_files
from llmzip.cli.console import say, write_json
from llmzip.cli.helpers import Helpers
from llmzip.cli.inputs import inputs_of, run_each
from llmzip.cli.job import run_dry
from llmzip.cli.names import is_crm
from llmzip.cli.startup import heavy_imports
from llmzip.cli.work import JobSettings, Tools
from llmzip.inspect.report import Report, make_report, read_report

_Defaults = config.DecompressSettings
_TESTED = {
    "full": ", decoded and verified",
    "structure": "; structure only, --full decodes",
    "checksums": "; a large file: checksums and tables only, --full decodes",
}


def test(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help=".crm files, - for stdin.", autocompletion=crm_files),
    ],
    recursive: options.Recursive = False,
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
    yes: options.Yes = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
) -> None:
    """Check each FILE without writing anything: its structure, which takes no model, or (--full)
    all of it. Exit 0 if all are sound."""
    settings = config.DecompressSettings(
        model=model,
        revision=revision,
        max_output_bytes=max_output,
        max_tokens=max_tokens,
        perturb=perturb,
        offline=offline,
        compute=words.compute_settings(
            device=device, threads=threads, batch=batch, attention=attention
        ),
    )

    found = inputs_of(files, recursive=recursive, is_wanted=is_crm)
    job = JobSettings(
        file="", json=json, quiet=quiet, verbose=verbose, figures=not no_progress, yes=yes
    )
    with Helpers(keeps_models=len(found) > 1) as helpers:
        run_each(
            found,
            lambda one: _test(replace(job, file=one.path), settings, full=full, helpers=helpers),
        )


def _test(
    job: JobSettings, settings: config.DecompressSettings, *, full: bool, helpers: Helpers
) -> None:
    def work(data: bytes, tools: Tools) -> tuple[Report, str]:
        if full:
            with heavy_imports():
                from llmzip.api.decompress import decompress_bytes
            decompress_bytes(data, settings, tools.context, **helpers.models())
            return read_report(data, max_output_bytes=settings.max_output_bytes), "full"
        from llmzip.store.limits import check_work
        from llmzip.store.summary import check_structure

        summary, is_all = check_structure(data, max_output_bytes=settings.max_output_bytes)
        report = make_report(summary)
        check_work(report.num_tokens, len(data), settings.max_tokens)
        return report, "structure" if is_all else "checksums"

    name, (report, tested) = run_dry(job, work)
    if job.json:
        write_json({**report.to_dict(), "tested": tested})
    if not job.quiet:
        held = report.payload.count_text if report.payload else report.codec
        say(f"{name}: sound, {report.original_bytes:,} bytes, {held}{_TESTED[tested]}")
