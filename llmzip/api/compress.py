"""Compress: a file's bytes become a container.

Owns the order of work. What `compress_bytes` returns was read back first (`seal`). Knows nothing of
files on disk or terminals, nor of what a codec does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields, replace

from llmzip.api.existing import NOT_BINDING, settings_check
from llmzip.codecs.base import Draft, Estimate, Source, estimate_stored, stored_draft
from llmzip.codecs.context import QUIET, Context
from llmzip.codecs.input import Stretch, split_stretches, tokenised_parts
from llmzip.codecs.table import encoder_named
from llmzip.config import VERSION, CompressSettings
from llmzip.errors import FormatError, IntegrityError, LimitExceeded
from llmzip.lm.devices import Numerics, borrowed_torch, pick_device
from llmzip.lm.loaded import LoadedModel, ModelCache, optimiser_numerics
from llmzip.lm.memory import free_bytes, needed_bytes
from llmzip.lm.zoo import DEFAULT_MODEL, ModelFiles, resolve
from llmzip.progress import Forecast, Progress
from llmzip.store.container import read_container, write_container
from llmzip.store.opening import check_work
from llmzip.store.original import content_hash
from llmzip.store.pieces import restore

_REPORT = "please report this with the output of `llmzip doctor`; the input is as it was"


def compress_bytes(
    data: bytes,
    settings: CompressSettings,
    context: Context = QUIET,
    *,
    suffix: str = "",
    models: ModelCache | None = None,
) -> bytes:
    """The `.crm` container of `data`. It was read back, whichever codec made it: stored bytes and
    chunks by the decompressor's own code; arith segments by that if the text is short or
    `settings.verify` is full, else from their streams, with the encoder's log-odds under noise.

    suffix: of the original's name, which the container keeps. models: keeps the model for the next
    call. Raises ModelUnavailable, SettingsError, ResumeRefused, Interrupted; never "failed to
    converge".
    """
    encoder = encoder_named(settings.codec)
    encoder.check(settings, context)
    if settings.time_budget_s is not None:
        context = replace(context, deadline=time.monotonic() + settings.time_budget_s)
    facts = _facts(data, settings) if context.journal else {}
    if context.journal:
        context.journal.check(facts)
    models = models or ModelCache()
    draft: Draft | None = None
    digest = b""
    with models.locked(context.cancel), borrowed_torch(settings.compute.threads):
        stretches = split_stretches(data)
        files = _model_for(stretches, settings, context)
        if files is not None:
            digest = files.digest
            numerics = _begin(files, facts, settings, context)
            source = Source(data=data, parts=tokenised_parts(stretches, models.tokens(files)))
            if source.has_text:
                loaded = _loaded(files, settings, numerics, models, context)
                draft = _sensible(encoder.encode(source, loaded, settings, context), data)
        draft = draft or stored_draft(data)
        return seal(draft, data, suffix=suffix, settings_check=settings_check(settings, digest))


def estimate_bytes(
    data: bytes,
    settings: CompressSettings,
    context: Context = QUIET,
    *,
    models: ModelCache | None = None,
) -> Estimate:
    """What `compress_bytes` would take and give, from working on a small part of the text.

    Raises what `compress_bytes` raises.
    """
    started = time.monotonic()
    encoder = encoder_named(settings.codec)
    models = models or ModelCache()
    with models.locked(context.cancel), borrowed_torch(settings.compute.threads):
        stretches = split_stretches(data)
        files = _model_for(stretches, settings, context)
        if files is None:
            return estimate_stored(data)
        source = Source(data=data, parts=tokenised_parts(stretches, models.tokens(files)))
        if not source.has_text:
            return estimate_stored(data)
        loaded = _loaded(files, settings, None, models, context)
        startup_s = time.monotonic() - started
        found = encoder.estimate(source, loaded, settings, context)
        return replace(found, seconds=found.seconds and startup_s + found.seconds)


def seal(
    draft: Draft, data: bytes, *, suffix: str = "", settings_check: int | None = None
) -> bytes:
    """The file's bytes, from which reader and decompressor have given `data` back. Every result of
    compressing leaves here.

    suffix, settings_check: fields of the container. Raises IntegrityError.
    """
    labelled = replace(draft.container, suffix=suffix, settings_check=settings_check)
    packed = write_container(labelled)
    try:
        found = read_container(packed, max_output_bytes=len(data))
    except FormatError as error:
        raise IntegrityError(
            f"the finished container cannot be read back: {error}. Nothing was written.",
            hint=_REPORT,
        ) from error
    if restore(found, draft.read_back(packed, found)) != data:
        raise IntegrityError(
            "the finished container does not give the input back. Nothing was written.",
            hint=_REPORT,
        )
    return packed


def forecast_memory(
    files: ModelFiles, device: str, models: ModelCache, context: Context, *, optimises: bool
) -> None:
    """Send the memory that a model will take on a device and what there is, unless it is loaded."""
    if context.on_forecast is None or models.has(files):
        return
    context.forecast(
        Forecast(
            needs_bytes=needed_bytes(files, optimises=optimises),
            free_bytes=free_bytes(pick_device(device)),
        )
    )


def _model_for(
    stretches: Sequence[Stretch], settings: CompressSettings, context: Context
) -> ModelFiles | None:
    """The model that the settings name, fetched where it is missing; None where nothing is text."""
    if not any(stretch.is_text for stretch in stretches):
        return None
    files = resolve(
        settings.model or DEFAULT_MODEL,
        revision=settings.revision,
        offline=settings.offline,
        report=lambda line: context.report(Progress(stage="model", message=line)),
        on_bytes=lambda done, total: context.report(
            Progress(stage="model", bytes_done=done, bytes_total=total)
        ),
    )
    context.check()
    return files


def _begin(
    files: ModelFiles, facts: dict[str, object], settings: CompressSettings, context: Context
) -> Numerics | None:
    """Begin the journal, if there is one. Returns the numerics that an earlier run has begun in."""
    if context.journal is None:
        return None
    choice = optimiser_numerics(settings.compute).to_text()
    begun = context.journal.begin({**facts, "model": files.digest.hex()}, choice=choice)
    return Numerics.from_text(begun)


def _loaded(
    files: ModelFiles,
    settings: CompressSettings,
    numerics: Numerics | None,
    models: ModelCache,
    context: Context,
) -> LoadedModel:
    forecast_memory(files, settings.compute.device, models, context, optimises=True)
    loaded = models.loaded(files, settings.compute, numerics)
    context.check()
    return loaded


def _sensible(draft: Draft, data: bytes) -> Draft:
    """A draft that a reader decodes without being asked, or the bytes stored."""
    try:
        check_work(draft.container.num_tokens, draft.num_bytes)
        return draft
    except LimitExceeded:  # the same few words over and over: zstd needs next to nothing
        return stored_draft(data)


def _facts(data: bytes, settings: CompressSettings) -> dict[str, object]:
    """What the work on an input depends on, all but the model."""
    return {
        "input": {"bytes": len(data), "hash": content_hash(data).hex()},
        "settings": {
            field.name: getattr(settings, field.name)
            for field in fields(settings)
            if field.name not in NOT_BINDING
        },
        "version": VERSION,
    }
