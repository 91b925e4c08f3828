"""Decompress: a container becomes the original bytes again.

Owns which pieces a request needs, and what a file may say of models: it names one, and nothing is
fetched or opened because of that. Knows nothing of files on disk or terminals, nor of what a codec
does.
"""

from __future__ import annotations

import re
import shlex

import torch

from llmzip.api.compress import memory_forecast
from llmzip.codecs.base import DecodingModel, Request
from llmzip.codecs.context import QUIET, Context
from llmzip.codecs.table import CODECS
from llmzip.config import DecompressSettings
from llmzip.errors import ModelMismatch, ModelUnavailable, SettingsError
from llmzip.lm.cache import Models
from llmzip.lm.devices import pick_device
from llmzip.lm.model import FrozenLM, load_model
from llmzip.lm.torch_settings import borrowed_torch
from llmzip.lm.zoo import MODELS, ModelFiles, resolve
from llmzip.store.container import Container, read_container
from llmzip.store.limits import check_work
from llmzip.store.model_ref import ModelRef
from llmzip.store.pieces import PieceMap, Texts, restore

_HUB_NAME = re.compile(r"[a-z0-9][\w.-]*/[a-z0-9][\w.-]*", re.ASCII | re.IGNORECASE)


def decompress_bytes(
    data: bytes,
    settings: DecompressSettings,
    context: Context = QUIET,
    *,
    models: Models | None = None,
) -> bytes:
    """The original bytes, verified by the hashes in the container.

    Raises FormatError, LimitExceeded, ModelUnavailable, ModelMismatch, IntegrityError, Interrupted.
    """
    container = read_container(data, max_output_bytes=settings.max_output_bytes)
    check_work(container.num_tokens, len(data), settings.max_tokens)
    pieces = PieceMap.of(container)
    span = settings.span
    if span is not None and span[1] > container.original_bytes:
        raise SettingsError(
            f"--bytes ends at {span[1]}, the original has {container.original_bytes} bytes"
        )
    if settings.chunks is not None:
        span = pieces.span_of(*settings.chunks)
    payload = container.payload
    if settings.perturb and not (payload and CODECS[payload.codec].bears_noise):
        raise SettingsError("--perturb needs a file of the arith codec")
    wanted = pieces.wanted(*(span or (0, container.original_bytes)))
    texts: Texts = []
    if wanted:
        request = Request(wanted=wanted, batch=settings.compute.batch, perturb=settings.perturb)
        texts = decode_pieces(container, settings, request, context, models=models)
    return restore(container, texts, span)


def decode_pieces(
    container: Container,
    settings: DecompressSettings,
    request: Request,
    context: Context = QUIET,
    *,
    models: Models | None = None,
) -> Texts:
    """The text of each piece that is wanted, by the model that the container was made with; None
    where it fails its check, and of pieces that are unreadable or depend on one.

    Raises ModelUnavailable, ModelMismatch, Corrupt, Interrupted.
    """
    assert container.payload is not None, "there are pieces"
    models = models or Models()
    with models.turn(context.cancel), borrowed_torch(settings.compute.threads):
        files = matching_model(container.payload.model, settings)
        if context.on_forecast is not None and not models.has(files):
            context.forecast(memory_forecast(files, settings.compute.device, optimises=False))
        tokens = models.tokens(files)
        lm = models.decoder(files, settings.compute, pick_device(settings.compute.device))

        def fallback() -> FrozenLM:
            return load_model(
                files, device=torch.device("cpu"), dtype=torch.float32,
                attention=settings.compute.attention, decode_only=True,
            )  # fmt: skip

        model = DecodingModel(lm=lm, tokens=tokens, fallback=fallback)
        return CODECS[container.payload.codec].decode(container, model, request, context)


def matching_model(needed: ModelRef, settings: DecompressSettings) -> ModelFiles:
    """The model that the user names, or the one that the file names if it is already here;
    digests must agree."""
    wanted = needed.digest.hex()
    name = settings.model or needed.model_id
    # A path in a file is not followed: only known names, and names of the hub that are cached.
    if settings.model is None and name not in MODELS and not _HUB_NAME.fullmatch(name):
        raise ModelUnavailable(
            f"this file was made with the local model {name!r} (digest {wanted})",
            hint="name its directory with --model",
        )
    # What a file names is looked up, never fetched: only the user starts a download.
    files = resolve(
        name,
        revision=settings.revision or (needed.revision or None if "/" in name else None),
        allow_fetch=settings.model is not None,
        offline=settings.offline or settings.model is None,
        follow_paths=settings.model is not None,
    )
    if files.digest != needed.digest:
        raise ModelMismatch(
            f"this file needs model {needed.model_id} with digest {wanted}, but {name} has "
            f"{files.digest.hex()}. Nothing was written.",
            expected=wanted,
            got=files.digest.hex(),
            hint=f"llmzip model pull {shlex.quote(needed.model_id)}, or name the right one with "
            "--model",
        )
    return files
