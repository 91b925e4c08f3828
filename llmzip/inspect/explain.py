"""What a model makes of a container's pieces: how surprising each is, how safely it decodes.

Owns reading a decoded text once more without vectors, and the tokens with what was found of each.
Knows nothing of what is shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llmzip.api.decompress import decode_pieces, matching_model
from llmzip.codecs.base import Request
from llmzip.codecs.context import QUIET, Context
from llmzip.codecs.shared import openings
from llmzip.config import DecompressSettings
from llmzip.errors import IntegrityError
from llmzip.inspect.pieces import Piece, pieces_of
from llmzip.lm.devices import borrowed_torch, pick_device
from llmzip.lm.layout import pad_ids
from llmzip.lm.loaded import ModelCache
from llmzip.lm.model import FrozenLM
from llmzip.lm.state import State
from llmzip.progress import Progress
from llmzip.store.container import Container, parse_container
from llmzip.store.payload import Payload

HEAD_CHARACTERS = 40
# Of a segment whose tokens the model did not decode one by one (codec arith): read in parts so long
# that most tokens have as much context as helps.
_WINDOW_TOKENS = 1024


@dataclass(frozen=True, kw_only=True)
class TokenFacts:
    """One token of a piece."""

    data: bytes
    surprisal_bits: float  # without vectors, behind its left context
    margin: float | None = None  # logits by which it was chosen; None: not chosen by the model
    is_patch: bool = False


def explain_bytes(
    data: bytes, settings: DecompressSettings, context: Context = QUIET
) -> list[Piece]:
    """The pieces of a container with what its model says of them.

    Everything is decoded, by the decompressor's own code. Raises what `decompress_bytes` raises.
    """
    found = parse_container(data, max_output_bytes=settings.max_output_bytes)
    pieces = pieces_of(found)
    return explain_tokens(found.container, pieces, settings, context, segments=False)[0]


def explain_tokens(
    container: Container,
    pieces: Sequence[Piece],
    settings: DecompressSettings,
    context: Context = QUIET,
    *,
    segments: bool = True,
) -> tuple[list[Piece], dict[int, list[TokenFacts]]]:
    """The pieces of a file that was read, and the tokens of each by its number. segments: of
    segments of an arith file, too, which are read once more for that."""
    payload = container.payload
    if payload is None:
        return list(pieces), {}
    models = ModelCache()
    ids: dict[int, list[int]] = {}
    margins: dict[int, list[float]] = {}

    def note(index: int, tokens: list[int], found: list[float]) -> None:
        ids[index], margins[index] = tokens, found

    request = Request(wanted=range(len(payload.pieces)), on_decoded=note)
    texts = decode_pieces(container, settings, request, context, models=models)
    for piece in pieces:
        if piece.kind != "stored" and texts[piece.number - 1] is None:
            raise IntegrityError(f"{payload.noun} {piece.number} decodes to different text")
    facts: dict[int, list[TokenFacts]] = {}
    if ids or segments:
        with borrowed_torch(settings.compute.threads):
            files = matching_model(payload.model, settings)
            tokens = models.tokens(files)
            lm = models.decoder(files, settings.compute, pick_device(settings.compute.device))
            window = None
            if not ids:
                ids = {i: tokens.ids_of(text or b"") for i, text in enumerate(texts)}
                window = _WINDOW_TOKENS
            patched = [set(patches) for patches in payload.patched_positions()]
            bits = _surprisal(payload, ids, lm, context, window=window)
            for index, own in ids.items():
                facts[index + 1] = _facts(
                    [tokens.meanings[token] or b"" for token in own], bits[index],
                    margins.get(index, ()), patched[index],
                )  # fmt: skip
    told = [
        piece if piece.kind == "stored"
        else _with_model(piece, texts[piece.number - 1] or b"", facts.get(piece.number, ()))
        for piece in pieces
    ]  # fmt: skip
    return told, facts


def _facts(
    meanings: Sequence[bytes], bits: Sequence[float], margins: Sequence[float], patched: set[int]
) -> list[TokenFacts]:
    return [
        TokenFacts(
            data=data,
            surprisal_bits=bits[place],
            margin=margins[place] if margins and place not in patched else None,
            is_patch=place in patched,
        )
        for place, data in enumerate(meanings)
    ]


def _with_model(piece: Piece, text: bytes, facts: Sequence[TokenFacts]) -> Piece:
    surprisal = float(piece.stream_bits)  # the stream is the surprisal of what was predicted
    if facts and piece.kind != "segment":
        surprisal = sum(fact.surprisal_bits for fact in facts)
    return replace(
        piece,
        surprisal_bits=surprisal,
        min_margin=min((fact.margin for fact in facts if fact.margin is not None), default=None),
        head=text.decode("utf-8", "replace")[:HEAD_CHARACTERS],
    )


@torch.no_grad()
def _surprisal(
    payload: Payload,
    ids: dict[int, list[int]],
    lm: FrozenLM,
    context: Context,
    *,
    window: int | None,
) -> dict[int, list[float]]:
    """Of each token, behind all that is left of it in its segment, or in its window of tokens."""
    found: dict[int, list[float]] = {}
    total = len(payload.pieces)
    for segment, opening in zip(payload.segment_ranges, openings(lm, payload), strict=True):
        whole = [token for index in segment for token in ids[index]]
        plain: list[float] = []
        for first in range(0, len(whole), window or len(whole)):
            context.check()
            part = whole[first : first + (window or len(whole))]
            plain += read_alone(lm, opening, part)[0].tolist()
        for index in segment:
            found[index], plain = plain[: len(ids[index])], plain[len(ids[index]) :]
        context.report(Progress(stage="measure", chunks_done=segment.stop, chunks_total=total))
    return found


@torch.no_grad()
def read_alone(lm: FrozenLM, opening: Tensor, ids: Sequence[int]) -> tuple[Tensor, State]:
    """Surprisal of each token behind an opening [1, H, D] and the tokens before it: [L] fp64 on the
    CPU; the state after all of them. Nothing before the first: any of the vocabulary, equally."""
    block, _ = pad_ids([ids], lm.device)
    embeds = torch.cat([opening, lm.embed(block)], dim=1)
    live = torch.ones(embeds.shape[:2], dtype=torch.bool, device=lm.device)
    hidden, state = lm.extend(lm.empty(1), embeds, live)
    head = opening.shape[1]
    foreseen = min(1, head)
    predicting = hidden[0, head - foreseen : -1]  # row j predicts token j + 1 - foreseen
    bits = lm.surprisal_bits(predicting, block[0, 1 - foreseen :])
    first = torch.full((1 - foreseen,), math.log2(lm.vocab_size), dtype=torch.float64)
    return torch.cat([first, bits.double().cpu()]), state
