"""`llmzip test`: whether a `.crm` file is sound, without writing anything."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from llmzip import config
from llmzip.cli import options
from llmzip.cli.console import say, write_json
from llmzip.cli.inputs import Input, inputs_of, run_each
from llmzip.cli.job import run_dry
from llmzip.cli.names import is_crm
from llmzip.cli.options import Takes, with_options
from llmzip.cli.startup import heavy_imports
from llmzip.cli.work import Helpers, Tools
from llmzip.inspect.report import Report, make_report, read_report

_TESTED = {
    "full": ", decoded and verified",
    "structure": "; structure only, --full decodes",
    "checksums": "; a large file: checksums and tables only, --full decodes",
}


@with_options
def test(
    files: options.CrmFiles,
    *,
    recursive: options.Recursive = False,
    full: Annotated[
        bool, typer.Option("--full", help="Decode all of it, too, and compare with its hashes.")
    ] = False,
    settings: Annotated[
        config.DecompressSettings,
        Takes(*options.MODEL, *options.COMPUTE, config.ARITH, *options.LIMITS, "offline"),
    ],
    messages: options.Messages,
    no_progress: options.NoProgress = False,
) -> None:
    """Check each FILE without writing anything: its structure, which takes no model, or (--full)
    all of it. Exit 0 if all are sound."""
    found = inputs_of(files, recursive=recursive, is_wanted=is_crm)
    job = messages.job(figures=not no_progress)
    with Helpers(keeps_models=len(found) > 1) as helpers:

        def work(data: bytes, tools: Tools) -> tuple[Report, str]:
            if full:
                with heavy_imports():
                    from llmzip.api.decompress import decompress_bytes
                decompress_bytes(data, settings, tools.context, **helpers.models())
                return read_report(data, max_output_bytes=settings.max_output_bytes), "full"
            return _structure(data, settings)

        def run(one: Input) -> None:
            name, (report, tested) = run_dry(replace(job, file=one.path), work)
            if job.json:
                write_json({**report.to_dict(), "tested": tested})
            if not job.quiet:
                held = report.payload.count_text if report.payload else report.codec
                say(f"{name}: sound, {report.original_bytes:,} bytes, {held}{_TESTED[tested]}")

        run_each(found, run)


def _structure(data: bytes, settings: config.DecompressSettings) -> tuple[Report, str]:
    from llmzip.store.container import check_structure
    from llmzip.store.opening import check_work

    summary, is_all = check_structure(data, max_output_bytes=settings.max_output_bytes)
    report = make_report(summary)
    check_work(report.num_tokens, len(data), settings.max_tokens)
    return report, "structure" if is_all else "checksums"
