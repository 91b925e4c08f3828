"""`llmzip decompress`: options to settings, one call, a summary."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from llmzip import config
from llmzip.cli import options
from llmzip.cli.console import say, write_json
from llmzip.cli.events import SCHEMA, errors_told, show_outcome
from llmzip.cli.inputs import Input, check_together, inputs_of, result_in, run_each, with_targets
from llmzip.cli.job import run_job
from llmzip.cli.names import crm_files, is_crm, restored_names
from llmzip.cli.options import Before, Takes, with_options
from llmzip.cli.startup import heavy_imports
from llmzip.cli.work import Find, Helpers, JobSettings, Outcome, Task, Tools, Work
from llmzip.errors import FormatError, InputError, IntegrityError, LimitExceeded, SettingsError
from llmzip.inspect.report import Report, read_report
from llmzip.store.figures import count_text

if TYPE_CHECKING:
    from llmzip.api.decompress import Salvaged

_MOST_GAPS_SHOWN = 20
_READ_BYTES = 1 << 22


@with_options
def decompress(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE", help="Files to restore, - for stdin.", autocompletion=crm_files
        ),
    ],
    *,
    results: options.Results,
    settings: Annotated[
        config.DecompressSettings,
        Takes(
            *options.MODEL,
            *options.COMPUTE,
            "span",
            "chunks",
            config.ARITH,
            *options.LIMITS,
            "offline",
        ),
    ],
    messages: options.EventMessages,
    salvage: Annotated[
        bool,
        Before("max_output_bytes"),
        typer.Option(
            "--salvage", help="Of a damaged file, give what is intact, gaps marked; exit 6 if any."
        ),
    ] = False,
    force: options.Force = False,
) -> None:
    """Restore the original of each FILE: hobbit.crm becomes hobbit.txt again. Nothing appears that
    was not verified."""
    if salvage and _is_part(settings):
        raise SettingsError("--salvage is of the whole file: leave --bytes and --chunks out")
    output, output_dir = results.checked_output(), results.output_dir
    if results.remove and (salvage or _is_part(settings)):
        raise SettingsError("--rm is for whole files that are restored whole")
    found = inputs_of(files, recursive=results.recursive, is_wanted=is_crm)
    check_together(found, output=output, output_dir=output_dir, may_join=True)
    if output is None:
        found = with_targets(found, output_dir=output_dir, names=restored_names)
    job = messages.job(
        force=force, remove=results.remove, tells=messages.json and output != "-",
        figures=not messages.no_progress,
    )  # fmt: skip
    with Helpers(keeps_models=len(found) > 1) as helpers:

        def run(one: Input) -> None:
            own = replace(job, file=one.path, output=output, target=one.target)
            with errors_told(own):
                own = replace(own, output=output or result_in(output_dir, one, restored_names))
                (_salvage if salvage else _run)(own, settings, helpers)

        run_each(found, run)


def _is_part(settings: config.DecompressSettings) -> bool:
    """Whether only a part of the original is wanted."""
    return settings.span is not None or settings.chunks is not None


def _run(job: JobSettings, settings: config.DecompressSettings, helpers: Helpers) -> None:
    def work(data: bytes, tools: Tools) -> bytes:
        with heavy_imports():
            from llmzip.api.decompress import decompress_bytes
        return decompress_bytes(data, settings, tools.context, **helpers.models())

    looked_at: list[Report] = []

    def find(data: bytes, path: str, suffix: str) -> bytes | str:
        looked_at.append(read_report(data, max_output_bytes=settings.max_output_bytes))
        is_there = _has_hash(path, looked_at[0])
        return b"" if is_there else f"differs from what {job.file} holds"

    outcome = _job(job, settings, work, looked_at, find=None if _is_part(settings) else find)
    (report,) = looked_at  # what could be decompressed could be looked at
    lines = [_summary(outcome, report, settings)]
    show_outcome(job, outcome, report, lines, name=outcome.source_name)


def _has_hash(path: str, report: Report) -> bool:
    """Whether a file is the original of a container, by size and hash. Raises InputError."""
    from llmzip.store.original import new_content_hash

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
            from llmzip.api.decompress import salvage_bytes
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
    task = Task(
        work=work,
        default_target=lambda path: restored_names(path)[0],
        is_binary=False,
        find=find,
        most_bytes=lambda data: _result_bytes(data, settings, looked_at),
    )
    return run_job(job, task)


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
    is_part = _is_part(settings)
    if is_part:
        line += f"{len(outcome.result):,} of "
    line += f"{report.original_bytes:,} bytes, "
    payload = report.payload
    if payload and payload.codec != config.CompressSettings.codec:
        line += f"codec {payload.codec}, "
    # The hash is of the whole file: a part has only the checks of its own pieces.
    return line + (f"{payload.noun}s verified" if payload and is_part else "verified")
