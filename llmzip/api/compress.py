"""Compress and decompress: joins the rooms.

Owns the order of work. What `compress_bytes` returns was read back first (`assembly.seal`). Knows
nothing of files on disk or terminals.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import fields
from typing import TypeVar

import torch

from llmzip.api.existing import NOT_BINDING, settings_check
from llmzip.api.matching import matching_model
from llmzip.codecs.arith.decoder import decode_segments_of
from llmzip.codecs.arith.encoder import arith_parts
from llmzip.codecs.arith.estimate import estimate_arith
from llmzip.codecs.cram.decoder import OnDecoded, decode_chunks_of
from llmzip.codecs.cram.encoder import cram_parts
from llmzip.codecs.cram.estimate import Estimate, estimate_parts, estimate_stored
from llmzip.codecs.cram.executor import Executor
from llmzip.codecs.cram.plan import Part, tokenised_parts
from llmzip.codecs.input import split_stretches
from llmzip.config import VERSION, CompressSettings, ComputeSettings, DecompressSettings
from llmzip.errors import LimitExceeded, SettingsError
from llmzip.lm.cache import Models
from llmzip.lm.devices import pick_device
from llmzip.lm.loaded import LoadedModel, optimiser_numerics
from llmzip.lm.memory import free_bytes, needed_bytes
from llmzip.lm.model import FrozenLM, load_model
from llmzip.lm.torch_settings import borrowed_torch
from llmzip.lm.zoo import DEFAULT_MODEL, ModelFiles, resolve
from llmzip.progress import Forecast, OnForecast, OnProgress, Progress, check_cancelled
from llmzip.store.container import Container, content_hash, read_container
from llmzip.store.journal import Journal
from llmzip.store.limits import check_work
from llmzip.store.pieces import PieceMap, Texts, restore
from llmzip.store.stored import Draft, seal, stored_draft

_Result = TypeVar("_Result")


def compress_bytes(
    data: bytes,
    settings: CompressSettings,
    *,
    suffix: str = "",
    journal: Journal | None = None,
    executor: Executor | None = None,
    models: Models | None = None,
    on_progress: OnProgress | None = None,
    on_forecast: OnForecast | None = None,
    cancel: threading.Event | None = None,
) -> bytes:
    """The `.crm` container of `data`. It was read back, whichever codec made it: stored bytes and
    chunks by the decompressor's own code; arith segments by that if the text is short or
    `settings.verify` is full, else from their streams, with the encoder's log-odds under noise.

    suffix: of the original's name, which the container keeps. journal: where work is kept, and that
    of an earlier run is found; its owner removes it once the result is safe. executor: crams
    instead of this process, to the same bytes. models: keeps the model for the next call.
    on_forecast: is told what lies ahead. Raises ModelUnavailable, SettingsError, ResumeRefused,
    Interrupted; never "failed to converge".
    """
    started = time.monotonic()
    budget = settings.time_budget_s
    if executor is not None and (budget is not None or settings.codec == "arith"):
        raise SettingsError("--ray is for cramming, and not within a time budget")
    facts = {} if journal is None else _facts(data, settings)
    if journal is not None:
        journal.check(facts)
    digest = b""

    def begin(files: ModelFiles) -> str:
        nonlocal digest
        digest = files.digest
        if journal is None:
            return ""
        return journal.begin(
            {**facts, "model": files.digest.hex()}, choice=optimiser_numerics(settings.compute)
        )

    def leave(draft: Draft) -> bytes:
        check = settings_check(settings, digest)
        return seal(draft, data, suffix=suffix, settings_check=check)

    def work(parts: list[Part], loaded: LoadedModel, tell: OnProgress) -> bytes:
        found: list[Draft] = []
        if settings.codec != "cram":
            found.append(
                arith_parts(
                    data, parts, loaded, settings,
                    journal=journal, on_progress=tell, cancel=cancel,
                )
            )  # fmt: skip
        if settings.codec == "cram" or settings.try_cram:
            found.append(
                cram_parts(
                    data,
                    parts,
                    loaded,
                    settings,
                    deadline=None if budget is None else started + budget,
                    journal=journal,
                    executor=executor,
                    on_progress=tell,
                    on_forecast=on_forecast,
                    cancel=cancel,
                )
            )
        draft = found[0] if len(found) == 1 else min(found, key=lambda each: each.num_bytes)
        try:
            check_work(draft.container.num_tokens, draft.num_bytes)
        except LimitExceeded:  # the same few words over and over: zstd needs next to nothing
            draft = stored_draft(data)
        return leave(draft)

    return _with_workshop(
        data,
        settings,
        work,
        stored=lambda: leave(stored_draft(data)),
        on_model=begin,
        models=models,
        on_progress=on_progress,
        on_forecast=on_forecast,
        cancel=cancel,
    )


def estimate_bytes(
    data: bytes,
    settings: CompressSettings,
    *,
    models: Models | None = None,
    on_progress: OnProgress | None = None,
    on_forecast: OnForecast | None = None,
    cancel: threading.Event | None = None,
) -> Estimate:
    """What `compress_bytes` would take and give, from working on a small part of the text.

    Raises what `compress_bytes` raises.
    """
    started = time.monotonic()
    return _with_workshop(
        data,
        settings,
        lambda parts, loaded, tell: (
            estimate_parts if settings.codec == "cram" else estimate_arith
        )(
            data,
            parts,
            loaded,
            settings,
            startup_s=time.monotonic() - started,
            on_progress=tell,
            cancel=cancel,
        ),
        stored=lambda: estimate_stored(data),
        models=models,
        on_progress=on_progress,
        on_forecast=on_forecast,
        cancel=cancel,
    )


def _with_workshop(
    data: bytes,
    settings: CompressSettings,
    work: Callable[[list[Part], LoadedModel, OnProgress], _Result],
    *,
    stored: Callable[[], _Result],
    on_model: Callable[[ModelFiles], str] = lambda files: "",
    models: Models | None = None,
    on_progress: OnProgress | None,
    on_forecast: OnForecast | None = None,
    cancel: threading.Event | None,
) -> _Result:
    """`work` on the tokens of `data` and the model, or `stored()` where nothing is worth cramming,
    which needs no model."""
    tell, models = on_progress or (lambda event: None), models or Models()
    with models.turn(cancel), borrowed_torch(settings.compute.threads):
        stretches = split_stretches(data)
        if not any(stretch.is_text for stretch in stretches):
            return stored()
        files = resolve(
            settings.model or DEFAULT_MODEL,
            revision=settings.revision,
            offline=settings.offline,
            report=lambda line: tell(Progress(stage="model", message=line)),
            on_bytes=lambda done, total: tell(
                Progress(stage="model", bytes_done=done, bytes_total=total)
            ),
        )
        check_cancelled(cancel)
        numerics = on_model(files)
        parts = tokenised_parts(stretches, models.tokens(files))
        if all(part.ids is None for part in parts):
            return stored()
        if on_forecast is not None and not models.has(files):
            on_forecast(_memory_forecast(files, settings.compute, optimises=True))
        loaded = models.loaded(files, settings.compute, numerics)
        check_cancelled(cancel)
        return work(parts, loaded, tell)


def _memory_forecast(files: ModelFiles, compute: ComputeSettings, *, optimises: bool) -> Forecast:
    return Forecast(
        needs_bytes=needed_bytes(files, optimises=optimises),
        free_bytes=free_bytes(pick_device(compute.device)),
    )


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


def decompress_bytes(
    data: bytes,
    settings: DecompressSettings,
    *,
    models: Models | None = None,
    on_progress: OnProgress | None = None,
    on_forecast: OnForecast | None = None,
    cancel: threading.Event | None = None,
) -> bytes:
    """The original bytes, verified by the hashes in the container.

    Raises FormatError, LimitExceeded, ModelUnavailable, ModelMismatch, IntegrityError, Interrupted.
    """
    container = read_container(data, max_output_bytes=settings.max_output_bytes)
    check_work(container.num_tokens, len(data), settings.max_tokens)
    layout = PieceMap.of(container)
    span = settings.span
    if span is not None and span[1] > container.original_bytes:
        raise SettingsError(
            f"--bytes ends at {span[1]}, the original has {container.original_bytes} bytes"
        )
    if settings.chunks is not None:
        span = layout.span_of(*settings.chunks)
    if settings.perturb and container.arith is None:
        raise SettingsError("--perturb needs a file of the arith codec")
    wanted = layout.wanted(*(span or (0, container.original_bytes)))
    texts: Texts = []
    if wanted:
        texts = decode_pieces(
            container, settings,
            wanted=wanted, models=models, on_progress=on_progress, on_forecast=on_forecast,
            cancel=cancel,
        )  # fmt: skip
    return restore(container, texts, span)


def decode_pieces(
    container: Container,
    settings: DecompressSettings,
    *,
    wanted: range,
    unreadable: Collection[int] | None = None,
    models: Models | None = None,
    on_decoded: OnDecoded | None = None,
    on_progress: OnProgress | None = None,
    on_forecast: OnForecast | None = None,
    cancel: threading.Event | None = None,
) -> Texts:
    """The text of each piece that is wanted, by the model that the container was made with; None
    where it fails its check, and of chunks that are `unreadable` or follow one in their segment.

    Raises ModelUnavailable, ModelMismatch, Corrupt, Interrupted.
    """
    tell, models = on_progress or (lambda event: None), models or Models()
    with models.turn(cancel), borrowed_torch(settings.compute.threads):
        files = matching_model(container, settings)
        if on_forecast is not None and not models.has(files):
            on_forecast(_memory_forecast(files, settings.compute, optimises=False))
        tokens = models.tokens(files)
        lm = models.decoder(files, settings.compute, pick_device(settings.compute.device))

        def fallback() -> FrozenLM:
            return load_model(
                files, device=torch.device("cpu"), dtype=torch.float32,
                attention=settings.compute.attention, decode_only=True,
            )  # fmt: skip

        if container.arith is not None:
            return decode_segments_of(
                container, lm, tokens,
                wanted=[index for index in wanted if index not in (unreadable or ())],
                perturb=settings.perturb, batch=settings.compute.batch, fallback=fallback,
                on_progress=tell, cancel=cancel,
            )  # fmt: skip
        return decode_chunks_of(
            container, lm, tokens,
            wanted=wanted, unreadable=unreadable, batch=settings.compute.batch, fallback=fallback,
            on_decoded=on_decoded, on_progress=tell, cancel=cancel,
        )  # fmt: skip
