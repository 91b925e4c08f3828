"""Batched greedy decoding: the only code that turns mem vectors into tokens, when compressing and
when decompressing.

Owns the token loop (patches applied, end-of-text tokens ignored, lengths known beforehand) and
the waves in which the chunks of independent segments are decoded together. Knows nothing of
containers or bytes. Called by `cram.optimizer` and `codec`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmzip.lm.layout import pad_ids, segment_start, tokens_and_mem
from llmzip.lm.model import FrozenLM
from llmzip.lm.state import State
from llmzip.progress import check_cancelled


@dataclass(frozen=True, kw_only=True)
class DecodeChunk:
    """What a container says of one chunk. mem: [K, D] of any float dtype, or None where every
    token is a patch."""

    num_tokens: int
    mem: Tensor | None
    patches: Mapping[int, int]  # position -> token id


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Tokens of several chunks and how safely each was chosen."""

    ids: Tensor  # [B, L] int64, padded on the right
    margins: Tensor  # [B, L] fp32, logit of the token taken minus the best other logit


@torch.no_grad()
def decode_chunks(
    lm: FrozenLM,
    state: State,
    lead_ids: Sequence[Sequence[int]],
    mem: Tensor,
    num_tokens: Sequence[int],
    forced: Sequence[Mapping[int, int]],
    *,
    cancel: threading.Event | None = None,
) -> tuple[Decoded, State]:
    """Decode one chunk in every row.

    state: contexts read so far, one a row. lead_ids: context tokens still to be read, a list a
    row. mem: [B, K, D]. forced: position -> token id, taken instead of the model's choice.
    Returns the tokens and the state before mem.
    """
    num_mem, longest = mem.shape[1], max(num_tokens)
    lead, lead_live = pad_ids(lead_ids, lm.device)
    embeds, live = tokens_and_mem(lm.embed(lead), lead_live, mem.to(lm.device, lm.dtype))
    hidden, running = lm.extend(state, embeds, live)
    before_mem = running.first(running.num_slots - num_mem)
    row_hidden = hidden[:, -1]  # [B, Dh], the row that predicts token 0

    wanted = torch.full((len(num_tokens), longest), -1, dtype=torch.int64)
    for index, row in enumerate(forced):
        for position, token in row.items():
            wanted[index, position] = token
    wanted = wanted.to(lm.device)
    ids = torch.zeros_like(wanted)
    margins = torch.zeros(wanted.shape, dtype=torch.float32, device=lm.device)
    rows = list(range(len(num_tokens)))  # rows that still decode
    for position in range(longest):
        check_cancelled(cancel)
        going = [i for i, row in enumerate(rows) if num_tokens[row] > position]
        if len(going) < 0.75 * len(rows):  # worth copying the state to stop feeding finished rows
            rows = [rows[i] for i in going]
            running, row_hidden = running.rows(going), row_hidden[going]
        taken, margin = _choose(lm.logits(row_hidden), wanted[rows, position])
        ids[rows, position], margins[rows, position] = taken, margin
        if position + 1 < longest:
            one = torch.ones(len(rows), 1, dtype=torch.bool, device=lm.device)
            hidden, running = lm.extend(running, lm.embed(taken)[:, None], one)
            row_hidden = hidden[:, -1]  # the row that predicts token position + 1
    return Decoded(ids=ids, margins=margins), before_mem


def _choose(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The token of each row (wanted where >= 0, else the most likely one) and its margin. logits:
    [B, V]."""
    top = logits.topk(2, dim=1)
    taken = torch.where(wanted >= 0, wanted, top.indices[:, 0])
    best_other = torch.where(top.indices[:, 0] == taken, top.values[:, 1], top.values[:, 0])
    return taken, logits.gather(1, taken[:, None])[:, 0] - best_other


def decode_segments(
    lm: FrozenLM,
    segments: Sequence[Sequence[DecodeChunk]],
    *,
    start_id: int | None,
    batch: int,
    on_chunk: Callable[[int, int, list[int]], None],
    cancel: threading.Event | None = None,
) -> None:
    """Decode independent segments, `batch` at a time, calling on_chunk(segment, chunk, ids) for
    every chunk."""
    # Segments of like length share a batch, so that few rows wait for the longest.
    order = sorted(range(len(segments)), key=lambda i: -sum(c.num_tokens for c in segments[i]))
    for first in range(0, len(order), batch):
        group = order[first : first + batch]
        state = lm.empty(len(group))
        # Tokens that are decoded but not yet read without mem, a list a row.
        lead: list[list[int]] = [segment_start(start_id) for _ in group]
        for wave in range(max(len(segments[i]) for i in group)):
            kept = [row for row, i in enumerate(group) if len(segments[i]) > wave]
            if len(kept) < len(group):
                group, state = [group[r] for r in kept], state.rows(kept)
                lead = [lead[r] for r in kept]
            chunks = [segments[i][wave] for i in group]
            state = _decode_wave(lm, state, lead, chunks, cancel)
            for segment, chunk_ids in zip(group, lead, strict=True):
                on_chunk(segment, wave, chunk_ids)


def _decode_wave(
    lm: FrozenLM,
    state: State,
    lead: list[list[int]],
    chunks: Sequence[DecodeChunk],
    cancel: threading.Event | None,
) -> State:
    """Decode one chunk a row; `lead` is replaced by its tokens. Returns the state with the old
    lead read."""
    crammed = [row for row, chunk in enumerate(chunks) if chunk.mem is not None]
    if len(crammed) == len(chunks):
        mem = torch.stack([chunk.mem for chunk in chunks if chunk.mem is not None])
        decoded, state = decode_chunks(
            lm, state, lead, mem, [c.num_tokens for c in chunks], [c.patches for c in chunks],
            cancel=cancel,
        )  # fmt: skip
        for row, chunk in enumerate(chunks):
            lead[row] = decoded.ids[row, : chunk.num_tokens].tolist()
        return state
    # Some rows are literal: read every lead first, then decode only the crammed rows.
    ids, live = pad_ids(lead, lm.device)
    with torch.no_grad():
        _, state = lm.extend(state, lm.embed(ids), live)
    inner: list[list[int]] = [[] for _ in crammed]
    if crammed:
        _decode_wave(lm, state.rows(crammed), inner, [chunks[row] for row in crammed], cancel)
    for row, chunk in enumerate(chunks):
        if chunk.mem is None:
            lead[row] = [chunk.patches[position] for position in range(chunk.num_tokens)]
        else:
            lead[row] = inner[crammed.index(row)]
    return state
