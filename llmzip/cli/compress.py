"""`llmzip compress`: options to settings, one call, a summary or a forecast."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, cast

import typer

from llmzip import config
from llmzip.cli import options
from llmzip.cli import settings as words
from llmzip.cli.console import say, write_json, write_text
from llmzip.cli.events import done_event, errors_told
from llmzip.cli.forecast import forecast_fields, forecast_text
from llmzip.cli.helpers import Helpers
from llmzip.cli.inputs import Input, check_together, inputs_of, result_in, run_each, with_targets
from llmzip.cli.job import run_dry, run_job
from llmzip.cli.names import SUFFIX, kept_suffix, packed_names
from llmzip.cli.startup import heavy_imports
from llmzip.cli.work import JobSettings, Outcome, Places, Tools
from llmzip.inspect.report import Report, read_report
from llmzip.inspect.text import compare_text, larger_text

if TYPE_CHECKING:
    from llmzip.codecs.base import Estimate

_Defaults = config.CompressSettings
_MOST_GROWTH, _MOST_OVERHEAD = 16, 1 << 16  # of a file against its text


def compress(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="Files to compress, - for stdin.")
    ],
    output: options.Output = None,
    stdout: options.Stdout = False,
    output_dir: options.OutputDir = None,
    recursive: options.Recursive = False,
    keep: options.Keep = False,
    remove: options.Remove = False,
    codec: options.Codec = _Defaults.codec,
    try_cram: options.TryCram = False,
    shared_mem: options.SharedMem = None,
    verify: options.Verify = _Defaults.verify,
    model: options.Model = None,
    revision: options.Revision = None,
    device: options.Device = config.ComputeSettings.device,
    mem: options.Mem = _Defaults.num_mem,
    bits: options.Bits = _Defaults.bits,
    max_patches: options.MaxPatches = _Defaults.max_patches,
    context: options.Context = None,
    budget_bits: options.BudgetBits = None,
    max_steps: options.MaxSteps = _Defaults.max_steps,
    preset: options.Preset = _Defaults.preset,
    level: options.Level = None,
    time_budget: options.TimeBudget = None,
    bf16_safe: options.Bf16Safe = False,
    dry_run: options.DryRun = False,
    watch: options.Watch = False,
    seed: options.Seed = _Defaults.seed,
    threads: options.Threads = None,
    batch: options.Batch = None,
    attention: options.Attention = config.ComputeSettings.attention,
    ray: options.Ray = None,
    ray_workers: options.RayWorkers = None,
    ray_cores: options.RayCores = None,
    offline: options.Offline = False,
    yes: options.Yes = False,
    json: options.JsonLines = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
    force: options.Force = False,
    restart: options.Restart = False,
) -> None:
    """Compress each FILE: hobbit.txt into hobbit.crm. The original is kept.

    Until it is finished, the work is kept in hobbit.crm.part: after an interruption the same
    command goes on from there.
    """
    settings = config.CompressSettings(
        model=model,
        revision=revision,
        num_mem=mem,
        bits=bits,
        max_patches=max_patches,
        context_tokens=context,
        budget_bits=budget_bits,
        max_steps=max_steps,
        preset=cast(config.Preset, words.preset_of(preset, level)),
        time_budget_s=words.seconds_of(time_budget),
        bf16_safe=bf16_safe,
        seed=seed,
        codec=cast(config.Codec, codec),
        try_cram=try_cram,
        shared_mem=shared_mem,
        verify=cast(config.Verify, verify),
        offline=offline,
        compute=words.compute_settings(
            device=device, threads=threads, batch=batch, attention=attention
        ),
    )
    output = words.output_of(output, stdout=stdout)
    words.check_removal(keep=keep, remove=remove, output=output)
    found = inputs_of(files, recursive=recursive, is_wanted=_is_no_result)
    check_together(found, output=output, output_dir=output_dir, may_join=False)
    if output is None and not dry_run:
        found = with_targets(found, output_dir=output_dir, names=packed_names)
    job = JobSettings(
        file="", force=force, restart=restart, remove=remove, json=json,
        tells=json and not dry_run and output != "-", quiet=quiet, verbose=verbose, watch=watch,
        figures=not no_progress, yes=yes,
    )  # fmt: skip
    with Helpers(
        keeps_models=len(found) > 1,
        cluster=words.cluster_settings(ray, workers=ray_workers, cores=ray_cores),
    ) as helpers:

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
        context, suffix = helpers.context(tools), _suffix(tools.places)
        return compress_bytes(data, settings, context, suffix=suffix, **helpers.models())

    def find(data: bytes, places: Places) -> bytes | str:
        with heavy_imports():
            from llmzip.api.existing import difference
        with open(places.target or "", "rb") as file:
            packed = file.read(_MOST_GROWTH * len(data) + _MOST_OVERHEAD)
        return difference(packed, data, settings, suffix=_suffix(places)) or packed

    outcome = run_job(
        job,
        work,
        default_target=lambda path: packed_names(path)[0],
        is_binary=True,
        keeps_work=True,
        find=find,
        on_read=_warn_if_compressed,
        # 16-bit vectors take several times the text, and the work that is kept as much again.
        most_bytes=lambda data: (_MOST_GROWTH if settings.bits == 16 else 2) * len(data),
    )
    report = read_report(outcome.result, max_output_bytes=len(outcome.source_data))
    if job.json:
        write_json(done_event(outcome, report))
    if not job.quiet:
        for line in _summary(outcome, report, settings):
            say(line)
    if job.verbose and not job.quiet:
        say(f"{report.to_text(name=outcome.target_name)}seconds   {outcome.seconds:.1f}")


def _suffix(places: Places) -> str:
    return kept_suffix(places.source, places.target)


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
