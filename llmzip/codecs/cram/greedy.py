"""Batched greedy decoding: the only code that turns mem vectors into tokens, when a file is read
and when one that was just made is read back.

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
from llmzip.codecs.cram.patch_tokens import TokenReader, masses_of
from llmzip.lm.layout import pad_rows, tokens_and_mem
from llmzip.lm.model import FrozenLM, target_margins
from llmzip.lm.state import State, stack_states
from llmzip.store.residual import Name, Ranked


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
    patches: Mapping[int, Name]  # position -> token


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
    rows: Sequence[tuple[int, Mapping[int, int]]],
    *,
    context: Context = QUIET,
) -> tuple[Decoded, State]:
    """Decode one chunk in every row.

    state: contexts read so far, one a row. lead_ids: context tokens still to be read, a list a
    row. mem: [B, K, D]. rows: of each the number of tokens, and position -> token for those that
    are taken instead of the model's choice. Returns the tokens and the state before mem.
    """
    num_tokens = [count for count, _ in rows]
    forced = [Forced(tokens=tokens) for _, tokens in rows]
    leads = [_embedded(lm, ids) for ids in lead_ids]
    running, row_hidden = _read_mem(lm, [state], leads, mem, max(num_tokens))
    if any(lead_ids):
        state = running.first(running.num_slots - mem.shape[1]).rows(range(len(lead_ids)))
    decoded = _take_tokens(lm, running, row_hidden, num_tokens, forced, context)
    return decoded, state


def _embedded(lm: FrozenLM, ids: Sequence[int]) -> Tensor:
    """[T, D]."""
    return lm.embed(torch.tensor(list(ids), dtype=torch.int64, device=lm.device))


def _read_mem(
    lm: FrozenLM,
    states: Sequence[State],
    leads: Sequence[Tensor],
    mem: Tensor,
    num_tokens: int,
) -> tuple[State, Tensor]:
    """Read what is left of the contexts, then mem: the state, with room for the longest chunk, and
    the hidden row [B, Dh] that predicts token 0. leads: [T, D] of each row."""
    embeds, live = tokens_and_mem(*pad_rows(leads), mem.to(lm.device, lm.dtype))
    num_slots = max(state.num_slots for state in states) + embeds.shape[1] + num_tokens - 1
    hidden, running = lm.extend(stack_states(states, room_slots=num_slots), embeds, live)
    return running, hidden[:, -1]


@dataclass(frozen=True, kw_only=True)
class Forced:
    """Tokens of one row that are taken instead of the model's choice."""

    tokens: Mapping[int, Name]  # by position
    reader: TokenReader | None = None  # of those without a name


class _Wanted:
    """Which tokens are taken in every row: -1 where the model chooses."""

    def __init__(self, forced: Sequence[Forced], longest: int, device: torch.device) -> None:
        known = torch.full((len(forced), longest), -1, dtype=torch.int64)
        # Position -> row: those that only the model's logits there tell.
        self._later: dict[int, dict[int, Ranked | TokenReader]] = defaultdict(dict)
        for index, row in enumerate(forced):
            for position, token in row.tokens.items():
                if isinstance(token, int):
                    known[index, position] = token
                elif token is not None:
                    self._later[position][index] = token
                elif row.reader is not None:
                    self._later[position][index] = row.reader
        self._known = known.to(device)

    def at(self, position: int, rows: Sequence[int], places: Tensor, logits: Tensor) -> Tensor:
        """Of these rows, [B]. places: the same as a tensor; logits: [B, V]."""
        later = {row: name for row, name in self._later[position].items() if row in rows}
        streamed = [(row, name) for row, name in later.items() if isinstance(name, TokenReader)]
        if streamed:
            odds = streamed[0][1].token_odds
            masses = masses_of(odds, logits[[rows.index(row) for row, _ in streamed]])
            for (row, reader), own in zip(streamed, masses, strict=True):
                self._known[row, position] = reader.token(own)
        for row, name in later.items():
            if isinstance(name, Ranked):
                self._known[row, position] = token_at(logits[rows.index(row)], name)
        return self._known[:, position].index_select(0, places)


def _take_tokens(
    lm: FrozenLM,
    running: State,
    row_hidden: Tensor,
    num_tokens: Sequence[int],
    forced: Sequence[Forced],
    context: Context,
) -> Decoded:
    """The token loop. running: the state after mem, spent here. row_hidden: [B, Dh]."""
    longest = max(num_tokens)
    wanted = _Wanted(forced, longest, lm.device)
    ids = torch.zeros(len(forced), longest, dtype=torch.int64, device=lm.device)
    margins = torch.zeros(ids.shape, dtype=torch.float32, device=lm.device)
    rows = list(range(len(num_tokens)))  # rows that still decode
    places = torch.arange(len(rows), device=lm.device)  # the same, to pick and to write by
    for position in range(longest):
        context.check()
        going = [i for i, row in enumerate(rows) if num_tokens[row] > position]
        # Without a room to move rows in, all are copied: worth it once many have finished.
        if len(going) < (0.75 if running.room is None else 1.0) * len(rows):
            running, order = running.keep(going)
            rows, row_hidden = [rows[i] for i in order], row_hidden[order]
            places = torch.tensor(rows, dtype=torch.int64, device=lm.device)
        logits = lm.logits(row_hidden)
        asked = wanted.at(position, rows, places, logits)
        taken = torch.where(asked >= 0, asked, _most_likely(logits))
        margin = target_margins(logits, taken)
        ids[places, position], margins[places, position] = taken, margin
        if position + 1 < longest:
            # The rows that predict token position + 1.
            row_hidden, running = lm.read_tokens(running, taken)
    return Decoded(ids=ids, margins=margins)


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
    lead: Tensor  # [T, D], what is known but not yet read without mem
    state: State  # one row
    reader: TokenReader | None  # of its patched tokens
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
    openings: Sequence[Tensor],
    batch: int,
    on_chunk: OnChunk,
    readers: Sequence[TokenReader] = (),
    context: Context = QUIET,
) -> None:
    """Decode independent segments, `batch` chunks at a time; the chunks of a segment come in
    order. openings: what stands before each segment, [1, H, D]. readers: of the patched tokens of
    each segment, where patches have no names."""
    # Longest first: what is left at the end is short, and neighbours are alike.
    waiting = deque(sorted(range(len(segments)), key=lambda i: -_num_tokens(segments[i])))
    under_way: list[_Segment] = []
    while waiting or under_way:
        while waiting and len(under_way) < _WAVES_UNDER_WAY * batch:
            index = waiting.popleft()
            segment = _Segment(
                index=index, chunks=segments[index], lead=openings[index][0], state=lm.empty(1),
                reader=readers[index] if readers else None,
            )  # fmt: skip
            if _skip_literals(lm, segment, on_chunk):
                under_way.append(segment)
        if under_way:
            wave = _next_wave(under_way, batch)
            _decode_wave(lm, wave, on_chunk, context)
            done = {s.index for s in wave if not _skip_literals(lm, s, on_chunk)}
            under_way = [s for s in under_way if s.index not in done]


def _skip_literals(lm: FrozenLM, segment: _Segment, on_chunk: OnChunk) -> bool:
    """Take chunks that need no model off the front; says whether any chunk is left to decode."""
    while segment.place < len(segment.chunks):
        chunk = segment.chunks[segment.place]
        if chunk.mem is not None:
            return True
        # A container's reader refuses literal chunks with anything but ids.
        ids = [token for _, token in sorted(chunk.patches.items()) if isinstance(token, int)]
        _finish_chunk(lm, segment, ids, [], on_chunk)
    return False


def _finish_chunk(
    lm: FrozenLM, segment: _Segment, ids: list[int], margins: list[float], on_chunk: OnChunk
) -> None:
    is_over = on_chunk(segment.index, segment.place, ids, margins) is False
    segment.lead = torch.cat([segment.lead, _embedded(lm, ids)])
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
        segment.lead = segment.lead[:0]
    forced = []
    for segment, chunk in zip(wave, chunks, strict=True):
        if segment.reader is not None:
            segment.reader.next_chunk()
        forced.append(Forced(tokens=chunk.patches, reader=segment.reader))
    decoded = _take_tokens(lm, running, row_hidden, num_tokens, forced, context)
    for row, segment in enumerate(wave):
        ids, margins = (each[row, : num_tokens[row]] for each in (decoded.ids, decoded.margins))
        _finish_chunk(lm, segment, ids.tolist(), margins.tolist(), on_chunk)
