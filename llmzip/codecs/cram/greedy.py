"""Batched greedy decoding: the only code that turns mem vectors into tokens, when compressing and
when decompressing.

Owns the token loop (patches applied, end-of-text tokens ignored, lengths known beforehand) and the
waves in which the chunks of independent segments are decoded together. Knows nothing of containers
or bytes.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from llmzip.codecs.context import QUIET, Context
from llmzip.lm.layout import pad_ids, segment_start, tokens_and_mem
from llmzip.lm.model import FrozenLM, target_margins
from llmzip.lm.state import State, stack_states
from llmzip.store.residual import MAX_RANK, Ranked


def rank_of(logits: Tensor, token: int, guard: float) -> Ranked | None:
    """The name of a token, or None where it is ranked too low.

    A name is a group of neighbours in the order of the logits, with gaps of at least `guard` before
    and after it, and a place in it by id: noise below half of that moves no token across a gap, and
    the order inside does not count. logits: [V].
    """
    values, ids = logits.topk(min(MAX_RANK + 1, len(logits)))
    found = (ids == token).nonzero()
    if not len(found):
        return None
    place = int(found[0, 0])
    is_gap = (values[:-1] - values[1:] >= guard).tolist()  # after the token of this rank
    first = place
    while first > 0 and not is_gap[first - 1]:
        first -= 1
    last = place
    while last < len(is_gap) and not is_gap[last]:
        last += 1
    if last == len(is_gap):  # no gap where the group must end
        return None
    group = sorted(ids[first : last + 1].tolist())
    return Ranked(skip=first, size=len(group), index=group.index(token))


def token_at(logits: Tensor, name: Ranked) -> int:
    """The token of a name. logits: [V]. A name that this vocabulary has no token for gives 0; the
    chunk then fails its check."""
    if name.skip + name.size > len(logits):
        return 0
    ids = logits.topk(name.skip + name.size).indices[name.skip :]
    return int(ids.sort().values[name.index])


# Segments under way, in waves: more of them leave more choice of chunks of like length, and each
# holds the memory of its context.
_WAVES_UNDER_WAY = 2


# Takes segment, chunk, tokens and their margins (none of tokens stored one by one); False: what
# follows in the segment is not worth decoding.
OnChunk: TypeAlias = Callable[[int, int, list[int], list[float]], bool | None]


@dataclass(frozen=True, kw_only=True)
class DecodeChunk:
    """What a container says of one chunk. mem: [K, D] of any float dtype, or None where every
    token is a patch."""

    num_tokens: int
    mem: Tensor | None
    patches: Mapping[int, int | Ranked]  # position -> token


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Tokens of several chunks and how safely each was chosen."""

    ids: Tensor  # [B, L] int64, padded on the right
    margins: Tensor  # [B, L] fp32, logit of the token taken minus the best other logit
    ranked: Sequence[Mapping[int, Ranked]]  # a row each: position -> the token there, by its rank


@torch.no_grad()
def decode_chunks(
    lm: FrozenLM,
    state: State,
    lead_ids: Sequence[Sequence[int]],
    mem: Tensor,
    rows: Sequence[tuple[int, Mapping[int, int | Ranked]]],
    *,
    rank_below: float | None = None,
    context: Context = QUIET,
) -> tuple[Decoded, State]:
    """Decode one chunk in every row.

    state: contexts read so far, one a row. lead_ids: context tokens still to be read, a list a
    row. mem: [B, K, D]. rows: of each the number of tokens, and position -> token for those that
    are taken instead of the model's choice.
    rank_below: find the ranks of tokens whose margin is below so many logits, where noise of half
    that size cannot change them. Returns the tokens and the state before mem.
    """
    num_tokens, forced = [count for count, _ in rows], [tokens for _, tokens in rows]
    running, row_hidden = _read_mem(lm, [state], lead_ids, mem, max(num_tokens))
    if any(lead_ids):
        state = running.first(running.num_slots - mem.shape[1]).rows(range(len(lead_ids)))
    decoded = _take_tokens(lm, running, row_hidden, num_tokens, forced, context, rank_below)
    return decoded, state


def _read_mem(
    lm: FrozenLM,
    states: Sequence[State],
    lead_ids: Sequence[Sequence[int]],
    mem: Tensor,
    num_tokens: int,
) -> tuple[State, Tensor]:
    """Read what is left of the contexts, then mem: the state, with room for the longest chunk, and
    the hidden row [B, Dh] that predicts token 0."""
    lead, lead_live = pad_ids(lead_ids, lm.device)
    embeds, live = tokens_and_mem(lm.embed(lead), lead_live, mem.to(lm.device, lm.dtype))
    num_slots = max(state.num_slots for state in states) + embeds.shape[1] + num_tokens - 1
    hidden, running = lm.extend(stack_states(states, room_slots=num_slots), embeds, live)
    return running, hidden[:, -1]


def _take_tokens(
    lm: FrozenLM,
    running: State,
    row_hidden: Tensor,
    num_tokens: Sequence[int],
    forced: Sequence[Mapping[int, int | Ranked]],
    context: Context,
    rank_below: float | None = None,
) -> Decoded:
    """The token loop. running: the state after mem, spent here. row_hidden: [B, Dh]."""
    longest = max(num_tokens)
    wanted = torch.full((len(num_tokens), longest), -1, dtype=torch.int64)
    by_rank: dict[int, dict[int, Ranked]] = defaultdict(dict)  # position -> row -> token
    for index, row in enumerate(forced):
        for position, token in row.items():
            if isinstance(token, Ranked):
                by_rank[position][index] = token
            else:
                wanted[index, position] = token
    wanted = wanted.to(lm.device)
    ranked: list[dict[int, Ranked]] = [{} for _ in num_tokens]
    ids = torch.zeros_like(wanted)
    margins = torch.zeros(wanted.shape, dtype=torch.float32, device=lm.device)
    rows = list(range(len(num_tokens)))  # rows that still decode
    for position in range(longest):
        context.check()
        going = [i for i, row in enumerate(rows) if num_tokens[row] > position]
        # Without a room to move rows in, all are copied: worth it once many have finished.
        if len(going) < (0.75 if running.room is None else 1.0) * len(rows):
            running, order = running.keep(going)
            rows, row_hidden = [rows[i] for i in order], row_hidden[order]
        logits = lm.logits(row_hidden)
        for index, token in by_rank[position].items():
            if index in rows:
                wanted[index, position] = token_at(logits[rows.index(index)], token)
        asked = wanted[rows, position]
        taken = torch.where(asked >= 0, asked, _most_likely(logits))
        margin = target_margins(logits, taken)
        if rank_below is not None:
            for row in (margin < rank_below).nonzero()[:, 0].tolist():
                found = rank_of(logits[row], int(taken[row]), rank_below)
                if found is not None:
                    ranked[rows[row]][position] = found
        ids[rows, position], margins[rows, position] = taken, margin
        if position + 1 < longest:
            one = torch.ones(len(rows), 1, dtype=torch.bool, device=lm.device)
            hidden, running = lm.extend(running, lm.embed(taken)[:, None], one)
            row_hidden = hidden[:, -1]  # the row that predicts token position + 1
    return Decoded(ids=ids, margins=margins, ranked=ranked)


def _most_likely(logits: Tensor) -> Tensor:
    """argmax of each row. logits: [B, V] -> [B]."""
    if logits.device.type == "cpu":  # numpy's is vectorised, 10 times as fast as torch's
        return torch.from_numpy(logits.numpy().argmax(axis=1))
    return logits.argmax(dim=1)


@dataclass(kw_only=True)
class _Segment:
    """A segment under way."""

    index: int
    chunks: Sequence[DecodeChunk]
    lead: list[int]  # tokens that are known but not yet read without mem
    state: State  # one row
    place: int = 0  # of the next chunk

    @property
    def next_tokens(self) -> int:
        return self.chunks[self.place].num_tokens


def _num_tokens(chunks: Sequence[DecodeChunk]) -> int:
    return sum(chunk.num_tokens for chunk in chunks)


def decode_segments(
    lm: FrozenLM,
    segments: Sequence[Sequence[DecodeChunk]],
    *,
    start_id: int | None,
    batch: int,
    on_chunk: OnChunk,
    context: Context = QUIET,
) -> None:
    """Decode independent segments, `batch` chunks at a time; the chunks of a segment come in
    order."""
    # Longest first: what is left at the end is short, and neighbours are alike.
    waiting = deque(sorted(range(len(segments)), key=lambda i: -_num_tokens(segments[i])))
    under_way: list[_Segment] = []
    while waiting or under_way:
        while waiting and len(under_way) < _WAVES_UNDER_WAY * batch:
            index = waiting.popleft()
            start = segment_start(start_id)
            segment = _Segment(index=index, chunks=segments[index], lead=start, state=lm.empty(1))
            if _skip_literals(segment, on_chunk):
                under_way.append(segment)
        if under_way:
            wave = _next_wave(under_way, batch)
            _decode_wave(lm, wave, on_chunk, context)
            done = {s.index for s in wave if not _skip_literals(s, on_chunk)}
            under_way = [s for s in under_way if s.index not in done]


def _skip_literals(segment: _Segment, on_chunk: OnChunk) -> bool:
    """Take chunks that need no model off the front; says whether any chunk is left to decode."""
    while segment.place < len(segment.chunks):
        chunk = segment.chunks[segment.place]
        if chunk.mem is not None:
            return True
        # A container's reader refuses literal chunks with anything but ids.
        ids = [token for _, token in sorted(chunk.patches.items()) if isinstance(token, int)]
        _finish_chunk(segment, ids, [], on_chunk)
    return False


def _finish_chunk(
    segment: _Segment, ids: list[int], margins: list[float], on_chunk: OnChunk
) -> None:
    is_over = on_chunk(segment.index, segment.place, ids, margins) is False
    segment.lead = segment.lead + ids
    segment.place = len(segment.chunks) if is_over else segment.place + 1


def _next_wave(under_way: Sequence[_Segment], batch: int) -> list[_Segment]:
    """The segment with the most still to do, which would be the last, and those whose next chunks
    are most like its own in length."""
    first = max(under_way, key=lambda segment: _num_tokens(segment.chunks[segment.place :]))
    return sorted(under_way, key=lambda s: abs(s.next_tokens - first.next_tokens))[:batch]


@torch.no_grad()
def _decode_wave(
    lm: FrozenLM, wave: Sequence[_Segment], on_chunk: OnChunk, context: Context
) -> None:
    """Decode the next chunk of every segment."""
    chunks = [segment.chunks[segment.place] for segment in wave]
    mem = torch.stack([chunk.mem for chunk in chunks if chunk.mem is not None])  # [B, K, D]
    num_tokens = [chunk.num_tokens for chunk in chunks]
    leads = [segment.lead for segment in wave]
    states = [segment.state for segment in wave]
    running, row_hidden = _read_mem(lm, states, leads, mem, max(num_tokens))
    before_mem = running.first(running.num_slots - mem.shape[1])
    for row, segment in enumerate(wave):
        has_more = any(chunk.mem is not None for chunk in segment.chunks[segment.place + 1 :])
        segment.state = before_mem.row(row) if has_more else lm.empty(1)
        segment.lead = []
    forced = [chunk.patches for chunk in chunks]
    decoded = _take_tokens(lm, running, row_hidden, num_tokens, forced, context)
    for row, segment in enumerate(wave):
        ids, margins = (each[row, : num_tokens[row]] for each in (decoded.ids, decoded.margins))
        _finish_chunk(segment, ids.tolist(), margins.tolist(), on_chunk)
