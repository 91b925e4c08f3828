"""`llmzip compress`: options to settings, one call, a summary or a forecast."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from llmzip import config
from llmzip.cli import options
from llmzip.cli.console import say, write_json, write_text
from llmzip.cli.events import errors_told, show_outcome
from llmzip.cli.inputs import Input, check_together, inputs_of, result_in, run_each, with_targets
from llmzip.cli.job import run_dry, run_job
from llmzip.cli.names import SUFFIX, packed_names
from llmzip.cli.options import Before, Takes, setting_option, with_options
from llmzip.cli.preflight import forecast_fields, forecast_text
from llmzip.cli.settings import cluster_settings, with_level
from llmzip.cli.startup import heavy_imports
from llmzip.cli.work import Helpers, JobSettings, Outcome, Task, Tools
from llmzip.inspect.report import Report, compare_text, larger_text, read_report

if TYPE_CHECKING:
    from llmzip.codecs.base import Estimate

_MOST_GROWTH, _MOST_OVERHEAD = 16, 1 << 16  # of a file against its text
_RAY = setting_option(config.ClusterSettings, "address", default=None)
_RAY_WORKERS = setting_option(config.ClusterSettings, "num_workers")
_RAY_CORES = setting_option(config.ClusterSettings, "cores")


@with_options
def compress(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="Files to compress, - for stdin.")
    ],
    *,
    results: options.Results,
    settings: Annotated[
        config.CompressSettings,
        Takes(*options.CODEC, *options.MODEL, config.CRAMMING, "seed", *options.COMPUTE, "offline"),
    ],
    messages: options.EventMessages,
    level: Annotated[
        int | None,
        Before("time_budget_s"),
        typer.Option(
            "--level",
            metavar="N",
            help="A preset, also written -1 to -9: 1 to 3 fast, 4 to 6 balanced, 7 to 9 small.",
            rich_help_panel=config.CRAMMING,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        Before("seed"),
        typer.Option(
            "--dry-run", help="Try a small part, predict time and size of the whole, write nothing."
        ),
    ] = False,
    watch: Annotated[
        bool,
        Before("seed"),
        typer.Option("--watch", help="Show a chunk coming into focus, on a terminal."),
    ] = False,
    ray: str | None = _RAY,
    ray_workers: int | None = _RAY_WORKERS,
    ray_cores: int | None = _RAY_CORES,
    force: options.Force = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard what an earlier run left in the .part file.")
    ] = False,
) -> None:
    """Compress each FILE: hobbit.txt into hobbit.crm. The original is kept.

    Until it is finished, the work is kept in hobbit.crm.part: after an interruption the same
    command goes on from there.
    """
    settings = with_level(settings, level)
    output, output_dir = results.checked_output(), results.output_dir
    found = inputs_of(files, recursive=results.recursive, is_wanted=_is_no_result)
    check_together(found, output=output, output_dir=output_dir, may_join=False)
    if output is None and not dry_run:
        found = with_targets(found, output_dir=output_dir, names=packed_names)
    job = messages.job(
        force=force, restart=restart, remove=results.remove, watch=watch,
        tells=messages.json and not dry_run and output != "-", figures=not messages.no_progress,
    )  # fmt: skip
    cluster = cluster_settings(ray, workers=ray_workers, cores=ray_cores)
    with Helpers(keeps_models=len(found) > 1, cluster=cluster) as helpers:

        def run(one: Input) -> None:
            own = replace(job, file=one.path, output=output, target=one.target)
            with errors_told(own):
                if not dry_run:
                    own = replace(own, output=output or result_in(output_dir, one, packed_names))
                (_forecast if dry_run else _run)(own, settings, helpers)

        run_each(found, run)


def _is_no_result(path: str) -> bool:
    """Whether a file in a directory is to be compressed: not what an earlier run has left."""
    return not path.lower().endswith((SUFFIX, SUFFIX + ".part"))


def _forecast(job: JobSettings, settings: config.CompressSettings, helpers: Helpers) -> None:
    def work(data: bytes, tools: Tools) -> Estimate:
        with heavy_imports():
            from llmzip.api.compress import estimate_bytes
        return estimate_bytes(data, settings, tools.context, **helpers.models())

    name, estimate = run_dry(job, work, on_read=_warn_if_compressed)
    if job.json:
        write_json(forecast_fields(estimate, settings))
    else:
        write_text(forecast_text(name, estimate, settings))


def _run(job: JobSettings, settings: config.CompressSettings, helpers: Helpers) -> None:
    def work(data: bytes, tools: Tools) -> bytes:
        with heavy_imports():
            from llmzip.api.compress import compress_bytes
        context = helpers.context(tools)
        return compress_bytes(data, settings, context, suffix=tools.suffix, **helpers.models())

    def find(data: bytes, path: str, suffix: str) -> bytes | str:
        with heavy_imports():
            from llmzip.api.existing import difference
        with open(path, "rb") as file:
            packed = file.read(_MOST_GROWTH * len(data) + _MOST_OVERHEAD)
        return difference(packed, data, settings, suffix=suffix) or packed

    task = Task(
        work=work,
        default_target=lambda path: packed_names(path)[0],
        is_binary=True,
        keeps_work=True,
        find=find,
        on_read=_warn_if_compressed,
        # 16-bit vectors take several times the text, and the work that is kept as much again.
        most_bytes=lambda data: (_MOST_GROWTH if settings.bits == 16 else 2) * len(data),
    )
    outcome = run_job(job, task)
    report = read_report(outcome.result, max_output_bytes=len(outcome.source_data))
    lines = _summary(outcome, report, settings)
    show_outcome(job, outcome, report, lines, name=outcome.target_name)


def _warn_if_compressed(data: bytes) -> None:
    from llmzip.store.header import MAGIC

    if data.startswith(MAGIC):
        say("warning: the input is a .crm file already; it is compressed once more")


def _summary(outcome: Outcome, report: Report, settings: config.CompressSettings) -> list[str]:
    if not outcome.is_new:
        made = f"made of {outcome.source_name} with the same model and settings"
        return [f"{outcome.target_name} is already there, {made}"]
    line = (
        f"{outcome.source_name} → {outcome.target_name}  "
        f"{report.original_bytes:,} → {report.container_bytes:,} bytes"
    )
    if report.file_bits_per_byte is None:
        return [line, "note: the input is empty; the file says so and holds nothing else"]
    line += f" ({report.file_bits_per_byte:.2f} bits per byte)"
    payload, usual = report.payload, config.CompressSettings.codec
    if payload is not None:
        # The usual codec goes without saying, unless another one was asked for.
        if payload.codec != usual or settings.codec != usual:
            line += f", codec {payload.codec}"
        line += payload.summary()
    lines = [f"{line}; {compare_text(report)}"]
    if payload is None:
        why = "too short, or not text that the model can predict"
        if settings.time_budget_s is not None:
            why += ", or no chunk was done in time"
        better = "; --codec arith may do better still" if settings.codec == usual else ""
        lines.append(f"note: {why}: stored with zstd, which does better here{better}")
    if report.is_larger:
        lines.append(f"note: {larger_text(report)}")
    return lines
