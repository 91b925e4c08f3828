"""What a model makes of a container's pieces: how surprising each is, how safely it decodes.

Owns reading a decoded text once more without vectors. Knows nothing of what is shown.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from llmzip.api.compress import decode_pieces
from llmzip.api.matching import matching_model
from llmzip.config import DecompressSettings
from llmzip.errors import IntegrityError
from llmzip.inspect.pieces import Piece, pieces_of
from llmzip.lm.cache import Models
from llmzip.lm.devices import pick_device
from llmzip.lm.layout import pad_ids, segment_start
from llmzip.lm.model import FrozenLM
from llmzip.lm.state import State
from llmzip.lm.torch_settings import borrowed_torch
from llmzip.progress import OnProgress, Progress, check_cancelled
from llmzip.store.container import Container, ReadResult, parse_container
from llmzip.store.pieces import segments_of

HEAD_CHARACTERS = 40


def explain_bytes(
    data: bytes,
    settings: DecompressSettings,
    *,
    on_progress: OnProgress | None = None,
    cancel: threading.Event | None = None,
) -> list[Piece]:
    """The pieces of a container with what its model says of them.

    Everything is decoded, by the decompressor's own code. Raises what `decompress_bytes` raises.
    """
    found = parse_container(data, max_output_bytes=settings.max_output_bytes)
    return explain_pieces(found, pieces_of(found), settings, on_progress=on_progress, cancel=cancel)


def explain_pieces(
    read: ReadResult,
    pieces: Sequence[Piece],
    settings: DecompressSettings,
    *,
    on_progress: OnProgress | None = None,
    cancel: threading.Event | None = None,
) -> list[Piece]:
    """The same of a file that was read, and its pieces."""
    container = read.container
    if not container.needs_model:
        return list(pieces)
    chunks = container.chunks
    models, tell = Models(), on_progress or (lambda event: None)
    ids: dict[int, list[int]] = {}
    margins: dict[int, float] = {}

    def note(index: int, tokens: list[int], found: list[float]) -> None:
        ids[index] = tokens
        patched = {position for position, _ in chunks[index].patches}
        kept = [margin for place, margin in enumerate(found) if place not in patched]
        if kept:
            margins[index] = min(kept)

    count = sum(piece.kind != "stored" for piece in pieces)
    texts = decode_pieces(
        container, settings, wanted=range(count), models=models, on_decoded=note,
        on_progress=on_progress, cancel=cancel,
    )  # fmt: skip
    bits: dict[int, float] = {}
    if container.arith is None:
        with borrowed_torch(settings.compute.threads):
            device = pick_device(settings.compute.device)
            files = matching_model(container, settings)
            lm = models.decoder(files, settings.compute, device)
            bits = _surprisal(container, ids, lm, tell, cancel)
    return [
        piece
        if piece.kind == "stored"
        else _with_model(piece, texts[piece.number - 1], bits, margins)
        for piece in pieces
    ]


def _with_model(
    piece: Piece, text: bytes | None, bits: dict[int, float], margins: dict[int, float]
) -> Piece:
    if text is None:
        raise IntegrityError(f"{piece.kind} {piece.number} decodes to different text")
    index = piece.number - 1
    return replace(
        piece,
        # An arith segment's stream is its surprisal, as the mixed predictions have it.
        surprisal_bits=float(piece.stream_bits) if piece.kind == "segment" else bits[index],
        min_margin=margins.get(index),
        head=text.decode("utf-8", "replace")[:HEAD_CHARACTERS],
    )


@torch.no_grad()
def _surprisal(
    container: Container,
    ids: dict[int, list[int]],
    lm: FrozenLM,
    tell: OnProgress,
    cancel: threading.Event | None,
) -> dict[int, float]:
    """Of each chunk, behind all that is left of it in its segment."""
    found: dict[int, float] = {}
    chunks, start_ids = container.chunks, segment_start(container.start_id)
    for segment in segments_of(chunks):
        check_cancelled(cancel)
        whole = [token for index in segment for token in ids[index]]
        plain, _ = read_alone(lm, start_ids, whole)
        sizes = [len(ids[index]) for index in segment]
        for index, own in zip(segment, plain.split(sizes), strict=True):
            found[index] = float(own.sum())
        tell(Progress(stage="measure", chunks_done=segment.stop, chunks_total=len(chunks)))
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
