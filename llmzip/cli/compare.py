"""`llmzip compare`: the sizes that several compressors make of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmzip import config
from llmzip.cli import options
from llmzip.cli.console import plain_table, write_json, write_text
from llmzip.cli.job import run_dry
from llmzip.cli.options import Takes, with_options
from llmzip.cli.preflight import size_text, time_text
from llmzip.cli.startup import heavy_imports
from llmzip.cli.work import Tools
from llmzip.errors import InputError
from llmzip.inspect.report import MODEL_NOT_COUNTED
from llmzip.progress import Progress

if TYPE_CHECKING:
    from llmzip.codecs.base import Estimate
    from llmzip.inspect.baselines import Contender

SCHEMA = 1
_MAX_OUTPUT_BYTES = config.DecompressSettings.max_output_bytes
_MEASURED_SECONDS = 120.0  # of a forecast, up to which arith is measured, both ways


@with_options
def compare(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Any file, - for stdin.")],
    *,
    crm: Annotated[
        str | None,
        typer.Option(metavar="FILE.crm", help="What compress made of it, to stand in the table."),
    ] = None,
    no_model: Annotated[
        bool, typer.Option("--no-model", help="The others alone; nothing of a model is run.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure --codec arith however long it takes.")
    ] = False,
    settings: Annotated[
        config.CompressSettings, Takes(*options.MODEL, "preset", *options.COMPUTE, "offline")
    ],
    messages: options.Messages,
) -> None:
    """Compare what llmzip makes of FILE with gzip, bzip2, xz, zstd and brotli. Writes nothing."""

    def work(data: bytes, tools: Tools) -> tuple[int, list[Contender], int | None]:
        if not data:
            raise InputError("an empty file cannot be compressed")
        from llmzip.inspect.baselines import others

        found = list(others(data))
        if crm is not None:
            found.append(_finished(crm, data))
        if no_model:
            return len(data), found, None
        ours, model_bytes = _ours(data, settings, tools, has_crm=crm is not None, measure=measure)
        return len(data), found + ours, model_bytes

    name, (size, found, model_bytes) = run_dry(messages.job(file), work)
    found.sort(key=lambda each: each.num_bytes)
    if messages.json:
        write_json(_fields(size, found, model_bytes))
    else:
        write_text(compare_table(name, size, found, model_bytes))


def _finished(crm: str, data: bytes) -> Contender:
    """The entry for an existing .crm file of the input. Raises InputError for another file."""
    from llmzip.inspect.baselines import Contender
    from llmzip.store.opening import open_file
    from llmzip.store.original import content_hash

    try:
        packed = Path(crm).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {crm}: {error.strerror}") from error
    header = open_file(packed, max_output_bytes=_MAX_OUTPUT_BYTES).header
    if header.original_bytes != len(data) or header.original_hash != content_hash(data):
        raise InputError(f"{crm} is of another file")
    return Contender(name=f"llmzip, {Path(crm).name}", num_bytes=len(packed), is_ours=True)


def _ours(
    data: bytes, settings: config.CompressSettings, tools: Tools, *, has_crm: bool, measure: bool
) -> tuple[list[Contender], int | None]:
    """The entries of both codecs, measured or forecast, and the size of the model on disk."""
    with heavy_imports():
        from llmzip.api.compress import estimate_bytes
        from llmzip.inspect.baselines import Contender
        from llmzip.inspect.demo import round_trip
        from llmzip.lm.loaded import ModelCache
        from llmzip.lm.zoo import DEFAULT_MODEL, resolve
    models = ModelCache()
    context = replace(tools.context, on_forecast=None)
    arith = replace(settings, codec="arith", preset=config.CompressSettings.preset)
    forecast = estimate_bytes(data, arith, context, models=models)
    if not forecast.seconds:  # no text that the model can predict: both codecs store it
        name = "llmzip, stored with zstd"
        return [Contender(name=name, num_bytes=forecast.container_bytes, is_ours=True)], None
    if measure or forecast.seconds <= _MEASURED_SECONDS:
        trip = round_trip(data, arith, context, models=models)
        first = Contender(
            name="llmzip --codec arith", num_bytes=len(trip.packed),
            compress_seconds=trip.compress_seconds, decompress_seconds=trip.decompress_seconds,
            is_ours=True,
        )  # fmt: skip
    else:
        first = _foreseen("llmzip --codec arith", forecast)
    found = [first]
    if not has_crm:
        context.check()
        context.report(Progress(stage="cram", message="forecast of --codec cram"))
        cram = estimate_bytes(data, settings, context, models=models)
        found.append(_foreseen(f"llmzip --preset {settings.preset}", cram))
    files = resolve(
        settings.model or DEFAULT_MODEL, revision=settings.revision, offline=settings.offline
    )
    return found, sum(each.stat().st_size for each in files.path.iterdir() if each.is_file())


def _foreseen(name: str, estimate: Estimate) -> Contender:
    from llmzip.inspect.baselines import Contender

    return Contender(
        name=name, num_bytes=estimate.container_bytes, compress_seconds=estimate.seconds,
        is_forecast=True, is_ours=True,
    )  # fmt: skip


def compare_table(name: str, size: int, found: Sequence[Contender], model_bytes: int | None) -> str:
    """The table, then notes. The last line has its newline."""
    heads = ["", "bytes", "bits per byte", "ratio", "compress", "decompress"]
    lines = plain_table(heads, [_row(each, size) for each in found], left=("",))
    return "\n".join([f"{name}: {size:,} bytes", *lines, *_notes(size, found, model_bytes)]) + "\n"


def _row(each: Contender, size: int) -> list[str]:
    about = "~" if each.is_forecast else ""
    return [
        each.name,
        f"{about}{each.num_bytes:,}",
        f"{about}{each.bits_per_byte(size):.2f}",
        f"{about}{size / each.num_bytes:.2f}",
        _seconds(each.compress_seconds, about),
        _seconds(each.decompress_seconds, about),
    ]


def _seconds(seconds: float | None, about: str) -> str:
    if seconds is None:
        return "-"
    if seconds < 0.1:
        return f"{about}{1000 * seconds:.1f} ms"
    if seconds < 10:
        return f"{about}{seconds:.2f} s"
    return f"{about}{time_text(seconds)}"


def _notes(size: int, found: Sequence[Contender], model_bytes: int | None) -> list[str]:
    from llmzip.inspect.baselines import break_even_bytes

    notes = []
    if any(each.is_forecast for each in found):
        notes.append("~ a forecast from a small part; the others were run once")
    rivals = [each for each in found if not each.is_ours]
    ours = [each for each in found if each.is_ours]
    if not any(each.name.startswith("brotli") for each in rivals):
        notes.append("brotli is not installed: pip install brotli")
    if model_bytes is None or not ours:
        return notes
    notes.append(f"{MODEL_NOT_COUNTED}: {size_text(model_bytes)} on disk, once for all files")
    best = ours[0]
    needed = break_even_bytes(best, rivals, original_bytes=size, model_bytes=model_bytes)
    if needed is None:
        notes.append(f"{best.name} is not smaller than {rivals[0].name}: the model never pays")
    else:
        notes.append(
            f"with the model counted, {best.name} is smaller than {rivals[0].name} from "
            f"{size_text(round(needed))} of such text on"
        )
    return notes


def _fields(size: int, found: Sequence[Contender], model_bytes: int | None) -> dict[str, Any]:
    from llmzip.inspect.baselines import break_even_bytes

    rivals = [each for each in found if not each.is_ours]
    return {
        "schema": SCHEMA,
        "original_bytes": size,
        "model_bytes": model_bytes,
        "contenders": [
            {
                **asdict(each),
                "bits_per_byte": each.bits_per_byte(size),
                "break_even_bytes": break_even_bytes(
                    each, rivals, original_bytes=size, model_bytes=model_bytes
                )
                if each.is_ours and model_bytes
                else None,
            }
            for each in found
        ],
    }
