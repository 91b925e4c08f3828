"""Decompress: a container becomes the original again: whole, in part, or what is intact.

Owns which pieces a request needs, what counts as intact in a damaged file and how a gap looks, and
what a file may say of models: it names one, and nothing is fetched or opened because of that. Knows
nothing of files on disk or terminals, nor of what a codec does.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace

import torch

from llmzip.api.compress import forecast_memory
from llmzip.codecs.base import DecodingModel, Request
from llmzip.codecs.context import QUIET, Context
from llmzip.codecs.table import CODECS
from llmzip.config import DecompressSettings
from llmzip.errors import (
    Corrupt,
    IntegrityError,
    ModelMismatch,
    ModelUnavailable,
    SettingsError,
    Truncated,
)
from llmzip.lm.devices import borrowed_torch, pick_device
from llmzip.lm.loaded import ModelCache
from llmzip.lm.model import FrozenLM, load_model
from llmzip.lm.zoo import MODELS, ModelFiles, as_named, resolve
from llmzip.store.container import Container, read_container
from llmzip.store.model_ref import ModelRef
from llmzip.store.opening import check_work
from llmzip.store.original import content_hash
from llmzip.store.pieces import PieceMap, Texts, read_damaged, restore

_HUB_NAME = re.compile(r"[a-z0-9][\w.-]*/[a-z0-9][\w.-]*", re.ASCII | re.IGNORECASE)


def decompress_bytes(
    data: bytes,
    settings: DecompressSettings,
    context: Context = QUIET,
    *,
    models: ModelCache | None = None,
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
            f"`span` ends at {span[1]}, the original has {container.original_bytes} bytes",
            settings=("span",),
        )
    if settings.chunks is not None:
        span = pieces.span_of(*settings.chunks)
    payload = container.payload
    if settings.perturb and not (payload and CODECS[payload.codec].bears_noise):
        raise SettingsError("`perturb` needs a file of the arith codec", settings=("perturb",))
    wanted = pieces.wanted(*(span or (0, container.original_bytes)))
    texts: Texts = []
    if wanted:
        request = Request(wanted=wanted)
        texts = decode_pieces(container, settings, request, context, models=models)
    return restore(container, texts, span)


def decode_pieces(
    container: Container,
    settings: DecompressSettings,
    request: Request,
    context: Context = QUIET,
    *,
    models: ModelCache | None = None,
) -> Texts:
    """The text of each piece that is wanted, by the model that the container was made with; None
    where it fails its check, and of pieces that are unreadable or depend on one.

    request: its batch and its noise are those of the settings. Raises ModelUnavailable,
    ModelMismatch, Corrupt, Interrupted.
    """
    assert container.payload is not None, "there are pieces"
    models = models or ModelCache()
    with models.locked(context.cancel), borrowed_torch(settings.compute.threads):
        files = matching_model(container.payload.model, settings)
        forecast_memory(files, settings.compute.device, models, context, optimises=False)
        tokens = models.tokens(files)
        lm = models.decoder(files, settings.compute, pick_device(settings.compute.device))

        def fallback() -> FrozenLM:
            return load_model(
                files, device=torch.device("cpu"), dtype=torch.float32,
                attention=settings.compute.attention, decode_only=True,
            )  # fmt: skip

        model = DecodingModel(lm=lm, tokens=tokens, fallback=fallback)
        own = replace(request, batch=settings.compute.batch, perturb=settings.perturb)
        return CODECS[container.payload.codec].decode(container, model, own, context)


def matching_model(needed: ModelRef, settings: DecompressSettings) -> ModelFiles:
    """The model that the user names, or else the file, if it is here; digests must agree."""
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
    files = as_named(files, needed.model_id)
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


@dataclass(frozen=True, kw_only=True)
class Salvaged:
    """The bytes, and which of the original's bytes are not among them."""

    data: bytes  # each gap is a line that says so
    gaps: tuple[tuple[int, int], ...]  # of the original: first, last (not included)
    original_bytes: int
    num_pieces: int
    num_intact: int
    noun: str  # what a piece is called

    @property
    def num_lost_bytes(self) -> int:
        return sum(last - first for first, last in self.gaps)


def salvage_bytes(
    data: bytes,
    settings: DecompressSettings,
    context: Context = QUIET,
    *,
    models: ModelCache | None = None,
) -> Salvaged:
    """All pieces of a container whose texts pass their checks. Of stored bytes, which have none,
    those of a sound file alone.

    A sound file gives the whole of the original, verified, or the pieces that decode to the right
    text here. Raises what `decompress_bytes` raises; FormatError where nothing can be found, and
    IntegrityError where nothing is intact.
    """
    container, pieces, unreadable = _open(data, settings)
    texts: Texts = [None] * pieces.num_pieces
    if pieces.num_pieces:
        request = Request(wanted=range(pieces.num_pieces), unreadable=unreadable)
        texts = decode_pieces(container, settings, request, context, models=models)
    found = _gather(container, pieces, texts)
    if found.gaps and found.num_lost_bytes == found.original_bytes:
        raise IntegrityError("nothing in the file is intact. Nothing was written.")
    return found


def mark(num_bytes: int) -> bytes:
    """What stands in the place of lost bytes."""
    return f"\n[llmzip: {num_bytes} bytes are lost here]\n".encode()


def _open(
    data: bytes, settings: DecompressSettings
) -> tuple[Container, PieceMap, frozenset[int] | None]:
    """A file's contents; the pieces that cannot be read, None in a sound one."""
    try:
        container = read_container(data, max_output_bytes=settings.max_output_bytes)
    except (Corrupt, Truncated):
        found = read_damaged(
            data, max_output_bytes=settings.max_output_bytes, max_tokens=settings.max_tokens
        )
        return found.container, PieceMap.of(found.container, found.runs), found.unreadable
    check_work(container.num_tokens, len(data), settings.max_tokens)
    return container, PieceMap.of(container), None


def _gather(container: Container, pieces: PieceMap, texts: Texts) -> Salvaged:
    parts: list[bytes] = []
    gaps: list[tuple[int, int]] = []
    for extent in pieces.extents(0, container.original_bytes):
        data = extent.bytes_of(texts)
        if data is not None:
            parts.append(data)
        elif gaps and gaps[-1][1] == extent.first:
            gaps[-1] = gaps[-1][0], extent.last
            parts[-1] = mark(gaps[-1][1] - gaps[-1][0])
        else:
            gaps.append((extent.first, extent.last))
            parts.append(mark(extent.last - extent.first))
    whole = b"".join(parts)
    if not gaps and content_hash(whole) != container.original_hash:
        raise IntegrityError(
            "every piece passes its check, but the text fails the hash of the whole. Nothing was "
            "written."
        )
    return Salvaged(
        data=whole,
        gaps=tuple(gaps),
        original_bytes=container.original_bytes,
        num_pieces=pieces.num_pieces,
        num_intact=sum(text is not None for text in texts),
        noun=pieces.noun,
    )
