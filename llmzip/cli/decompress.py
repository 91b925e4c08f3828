"""`llmzip decompress`: options to settings, one call, a summary."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from llmzip import config
from llmzip.cli import options
from llmzip.cli import settings as words
from llmzip.cli.completing import crm_files
from llmzip.cli.console import say, write_json
from llmzip.cli.events import SCHEMA, done_event, errors_told
from llmzip.cli.helpers import Helpers
from llmzip.cli.inputs import Input, check_together, inputs_of, result_in, run_each, with_targets
from llmzip.cli.job import run_job
from llmzip.cli.names import is_crm, restored_names
from llmzip.cli.startup import heavy_imports
from llmzip.cli.work import Find, JobSettings, Outcome, Places, Tools, Work
from llmzip.errors import FormatError, InputError, IntegrityError, LimitExceeded, SettingsError
from llmzip.inspect.report import Report, read_report
from llmzip.store.figures import count_text

if TYPE_CHECKING:
    from llmzip.api.salvage import Salvaged

_MOST_GAPS_SHOWN = 20
_READ_BYTES = 1 << 22
_Defaults = config.DecompressSettings


def decompress(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE", help="Files to restore, - for stdin.", autocompletion=crm_files
        ),
    ],
    output: options.Output = None,
    stdout: options.Stdout = False,
    output_dir: options.OutputDir = None,
    recursive: options.Recursive = False,
    keep: options.Keep = False,
    remove: options.Remove = False,
    model: options.Model = None,
    revision: options.Revision = None,
    device: options.Device = config.ComputeSettings.device,
    threads: options.Threads = None,
    batch: options.Batch = None,
    attention: options.Attention = config.ComputeSettings.attention,
    byte_range: options.Bytes = None,
    chunks: options.Chunks = None,
    salvage: options.Salvage = False,
    perturb: options.Perturb = _Defaults.perturb,
    max_output: options.MaxOutput = _Defaults.max_output_bytes,
    max_tokens: options.MaxTokens = None,
    offline: options.Offline = False,
    yes: options.Yes = False,
    json: options.JsonLines = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
    force: options.Force = False,
) -> None:
    """Restore the original of each FILE: hobbit.crm becomes hobbit.txt again. Nothing appears that
    was not verified."""
    settings = config.DecompressSettings(
        model=model,
        revision=revision,
        max_output_bytes=max_output,
        max_tokens=max_tokens,
        span=words.span_of(byte_range),
        chunks=words.chunks_of(chunks),
        perturb=perturb,
        offline=offline,
        compute=words.compute_settings(
            device=device, threads=threads, batch=batch, attention=attention
        ),
    )
    if salvage and (settings.span is not None or settings.chunks is not None):
        raise SettingsError("--salvage is of the whole file: leave --bytes and --chunks out")
    output = words.output_of(output, stdout=stdout)
    words.check_removal(keep=keep, remove=remove, output=output)
    if remove and (salvage or settings.span is not None or settings.chunks is not None):
        raise SettingsError("--rm is for whole files that are restored whole")
    found = inputs_of(files, recursive=recursive, is_wanted=is_crm)
    check_together(found, output=output, output_dir=output_dir, may_join=True)
    if output is None:
        found = with_targets(found, output_dir=output_dir, names=restored_names)
    job = JobSettings(
        file="", force=force, remove=remove, json=json, tells=json and output != "-",
        quiet=quiet, verbose=verbose, figures=not no_progress, yes=yes,
    )  # fmt: skip
    with Helpers(keeps_models=len(found) > 1) as helpers:

        def run(one: Input) -> None:
            own = replace(job, file=one.path, output=output, target=one.target)
            with errors_told(own):
                own = replace(own, output=output or result_in(output_dir, one, restored_names))
                (_salvage if salvage else _run)(own, settings, helpers)

        run_each(found, run)


def _run(job: JobSettings, settings: config.DecompressSettings, helpers: Helpers) -> None:
    def work(data: bytes, tools: Tools) -> bytes:
        with heavy_imports():
            from llmzip.api.decompress import decompress_bytes
        return decompress_bytes(data, settings, tools.context, **helpers.models())

    looked_at: list[Report] = []

    def find(data: bytes, places: Places) -> bytes | str:
        looked_at.append(read_report(data, max_output_bytes=settings.max_output_bytes))
        is_there = _has_hash(places.target or "", looked_at[0])
        return b"" if is_there else f"differs from what {places.source} holds"

    is_part = settings.span is not None or settings.chunks is not None
    outcome = _job(job, settings, work, looked_at, find=None if is_part else find)
    (report,) = looked_at  # what could be decompressed could be looked at
    if job.json:
        write_json(done_event(outcome, report))
    if not job.quiet:
        say(_summary(outcome, report, settings))
    if job.verbose and not job.quiet:
        say(f"{report.to_text(name=outcome.source_name)}seconds   {outcome.seconds:.1f}")


def _has_hash(path: str, report: Report) -> bool:
    """Whether a file is the original that a container holds, by size and hash. Raises
    InputError."""
    from llmzip.store.hashes import new_content_hash

    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size != report.original_bytes:
                return False
            found = new_content_hash()
            while part := file.read(_READ_BYTES):
                found.update(part)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return found.hexdigest() == report.original_hash


def _salvage(job: JobSettings, settings: config.DecompressSettings, helpers: Helpers) -> None:
    found: list[Salvaged] = []

    def work(data: bytes, tools: Tools) -> bytes:
        with heavy_imports():
            from llmzip.api.salvage import salvage_bytes
        found.append(salvage_bytes(data, settings, tools.context, **helpers.models()))
        return found[0].data

    outcome = _job(job, settings, work, [])
    if job.json:
        write_json(_salvage_fields(found[0], outcome))
    if not job.quiet:
        for line in _salvage_lines(found[0], outcome):
            say(line)
    if found[0].gaps:
        raise typer.Exit(IntegrityError.exit_code)


def _job(
    job: JobSettings,
    settings: config.DecompressSettings,
    work: Work[bytes],
    looked_at: list[Report],
    find: Find | None = None,
) -> Outcome:
    """looked_at: gets the report of a file that is sound as far as its tables go."""
    return run_job(
        job,
        work,
        default_target=lambda path: restored_names(path)[0],
        is_binary=False,
        find=find,
        most_bytes=lambda data: _result_bytes(data, settings, looked_at),
    )


def _result_bytes(data: bytes, settings: config.DecompressSettings, looked_at: list[Report]) -> int:
    """Of what a file says it holds, the part that is wanted; 0 where the work will refuse it."""
    first, last = settings.span or (0, settings.max_output_bytes)
    try:  # all of the tables: a header alone may claim anything
        looked_at.append(read_report(data, max_output_bytes=settings.max_output_bytes))
    except (FormatError, LimitExceeded):
        return 0
    return max(0, min(looked_at[-1].original_bytes, last) - first)


def _salvage_lines(found: Salvaged, outcome: Outcome) -> list[str]:
    line = f"{outcome.source_name} → {outcome.target_name}  "
    if not found.gaps:
        return [f"{line}{found.original_bytes:,} bytes, nothing is lost, verified"]
    whole = f"{found.num_intact:,} of {count_text(found.num_pieces, found.noun)} intact"
    lost = f"{found.num_lost_bytes:,} of {found.original_bytes:,} bytes lost"
    gaps = [f"lost: bytes {first:,} to {last - 1:,}" for first, last in found.gaps]
    more = len(gaps) - _MOST_GAPS_SHOWN
    rest = [f"and {count_text(more, 'gap')} more"] if more > 0 else []
    note = "note: each gap is marked in the text; what is intact passed its own check alone"
    return [f"{line}{whole}, {lost}", *gaps[:_MOST_GAPS_SHOWN], *rest, note]


def _salvage_fields(found: Salvaged, outcome: Outcome) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "event": "done",
        "file": outcome.source_name,
        "output": outcome.target_name,
        "original_bytes": found.original_bytes,
        "lost_bytes": found.num_lost_bytes,
        "gaps": [list(gap) for gap in found.gaps],
        f"{found.noun}s": found.num_pieces,
        f"intact_{found.noun}s": found.num_intact,
        "seconds": outcome.seconds,
    }


def _summary(outcome: Outcome, report: Report, settings: config.DecompressSettings) -> str:
    if not outcome.is_new:
        return f"{outcome.target_name} is already there, and identical"
    line = f"{outcome.source_name} → {outcome.target_name}  {report.container_bytes:,} → "
    is_part = settings.span is not None or settings.chunks is not None
    if is_part:
        line += f"{len(outcome.result):,} of "
    line += f"{report.original_bytes:,} bytes, "
    payload = report.payload
    if payload and payload.codec != config.CompressSettings.codec:
        line += f"codec {payload.codec}, "
    # The hash is of the whole file: a part has only the checks of its own pieces.
    return line + (f"{payload.noun}s verified" if payload and is_part else "verified")
