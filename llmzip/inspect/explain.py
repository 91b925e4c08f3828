"""What a model makes of a container's pieces: how surprising each is, how safely it decodes.

Owns reading a decoded text once more without vectors. Knows nothing of what is shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from llmzip.api.decompress import decode_pieces, matching_model
from llmzip.codecs.base import Request
from llmzip.codecs.context import QUIET, Context
from llmzip.config import DecompressSettings
from llmzip.errors import IntegrityError
from llmzip.inspect.pieces import Piece, pieces_of
from llmzip.lm.devices import borrowed_torch, pick_device
from llmzip.lm.layout import pad_ids, segment_start
from llmzip.lm.loaded import ModelCache
from llmzip.lm.model import FrozenLM
from llmzip.lm.state import State
from llmzip.progress import Progress
from llmzip.store.container import Container, parse_container
from llmzip.store.payload import Payload

HEAD_CHARACTERS = 40


def explain_bytes(
    data: bytes, settings: DecompressSettings, context: Context = QUIET
) -> list[Piece]:
    """The pieces of a container with what its model says of them.

    Everything is decoded, by the decompressor's own code. Raises what `decompress_bytes` raises.
    """
    found = parse_container(data, max_output_bytes=settings.max_output_bytes)
    return explain_pieces(found.container, pieces_of(found), settings, context)


def explain_pieces(
    container: Container,
    pieces: Sequence[Piece],
    settings: DecompressSettings,
    context: Context = QUIET,
) -> list[Piece]:
    """The same of a file that was read, and its pieces."""
    payload = container.payload
    if payload is None:
        return list(pieces)
    patched = [set(patches) for patches in payload.patched_positions()]
    models = ModelCache()
    ids: dict[int, list[int]] = {}
    margins: dict[int, float] = {}

    def note(index: int, tokens: list[int], found: list[float]) -> None:
        ids[index] = tokens
        kept = [margin for place, margin in enumerate(found) if place not in patched[index]]
        if kept:
            margins[index] = min(kept)

    request = Request(wanted=range(len(payload.pieces)), on_decoded=note)
    texts = decode_pieces(container, settings, request, context, models=models)
    for piece in pieces:
        if piece.kind != "stored" and texts[piece.number - 1] is None:
            raise IntegrityError(f"{payload.noun} {piece.number} decodes to different text")
    bits: dict[int, float] = {}
    if ids:
        with borrowed_torch(settings.compute.threads):
            device = pick_device(settings.compute.device)
            files = matching_model(payload.model, settings)
            lm = models.decoder(files, settings.compute, device)
            bits = _surprisal(payload, ids, lm, context)
    return [
        piece
        if piece.kind == "stored"
        else _with_model(piece, texts[piece.number - 1] or b"", bits, margins)
        for piece in pieces
    ]


def _with_model(
    piece: Piece, text: bytes, bits: dict[int, float], margins: dict[int, float]
) -> Piece:
    index = piece.number - 1
    return replace(
        piece,
        # Where tokens were not looked at, the stream is the surprisal of what was predicted.
        surprisal_bits=bits.get(index, float(piece.stream_bits)),
        min_margin=margins.get(index),
        head=text.decode("utf-8", "replace")[:HEAD_CHARACTERS],
    )


@torch.no_grad()
def _surprisal(
    payload: Payload, ids: dict[int, list[int]], lm: FrozenLM, context: Context
) -> dict[int, float]:
    """Of each chunk, behind all that is left of it in its segment."""
    found: dict[int, float] = {}
    start_ids, total = segment_start(payload.model.start_id), len(payload.pieces)
    for segment in payload.segment_ranges:
        context.check()
        whole = [token for index in segment for token in ids[index]]
        plain, _ = read_alone(lm, start_ids, whole)
        sizes = [len(ids[index]) for index in segment]
        for index, own in zip(segment, plain.split(sizes), strict=True):
            found[index] = float(own.sum())
        context.report(Progress(stage="measure", chunks_done=segment.stop, chunks_total=total))
    return found


@torch.no_grad()
def read_alone(lm: FrozenLM, start_ids: Sequence[int], ids: Sequence[int]) -> tuple[Tensor, State]:
    """Surprisal of each token behind the start token and those before it: [L] fp64 on the CPU; the
    state after all of them. Nothing before the first: any of the vocabulary, equally."""
    block, live = pad_ids([[*start_ids, *ids]], lm.device)
    hidden, state = lm.extend(lm.empty(1), lm.embed(block), live)
    foreseen = min(1, len(start_ids))
    predicting = hidden[0, len(start_ids) - foreseen : -1]  # row j predicts token j + 1 - foreseen
    bits = lm.surprisal_bits(predicting, block[0, len(start_ids) + 1 - foreseen :])
    first = torch.full((1 - foreseen,), math.log2(lm.vocab_size), dtype=torch.float64)
    return torch.cat([first, bits.double().cpu()]), state
