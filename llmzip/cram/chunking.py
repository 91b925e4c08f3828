"""Where chunks end: tokens -> segments -> chunks, by surprisal and never by length.

Owns the surprisal pass and the two rules: a chunk closes when the next token would take it over
the budget, a segment closes when its next chunk would see more than `context_tokens` of left
context. The surprisal is taken with the context that the decoder will have: all earlier tokens of
the segment. Knows nothing of mem vectors. Called by `codec`. Source of the idea that
cross-entropy, not length, sets how much a vector holds: Kuratov et al. 2025.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from llmzip.lm.layout import pad_ids, segment_start
from llmzip.lm.model import FrozenLM

# Bounds the memory of one optimiser row, however predictable the text.
MAX_CHUNK_TOKENS = 256  # for each vector of a chunk
_MOST_CHUNK_TOKENS = 2048  # whatever the vectors
TAIL_LOAD = 1.2  # of the budget, for the last chunk of a text alone
_TAIL_TOKENS = 32  # how far ahead the end of the text is looked for
_BLOCK_TOKENS = 64  # tokens read at a time while looking for a segment's end


@dataclass(frozen=True, kw_only=True)
class Span:
    """Tokens [start, end) of a segment: one chunk."""

    start: int
    end: int
    surprisal_bits: float


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Tokens that share a chain of left context, and its chunks."""

    index: int
    offset: int  # of the first token, in the run of tokens that was cut
    start_ids: tuple[int, ...]  # what stands before the first token: the start token or nothing
    ids: tuple[int, ...]
    surprisal_bits: tuple[float, ...]  # per token
    spans: tuple[Span, ...]


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """When chunks and segments close."""

    context_tokens: int
    budget_bits: float
    max_chunk_tokens: int

    def is_over(self, bits: float, num_tokens: int) -> bool:
        return bits > self.budget_bits or num_tokens >= self.max_chunk_tokens


def longest_chunk(num_mem: int) -> int:
    """Tokens that a chunk of `num_mem` vectors may have at most."""
    return min(MAX_CHUNK_TOKENS * num_mem, _MOST_CHUNK_TOKENS)


@torch.no_grad()
def plan_segments(
    lm: FrozenLM,
    ids: Sequence[int],
    *,
    start_id: int | None,
    context_tokens: int,
    budget_bits: float,
    max_chunk_tokens: int = MAX_CHUNK_TOKENS,
    first_index: int = 0,
) -> Iterator[Segment]:
    """Cut tokens into segments and chunks, in order; every token is in exactly one chunk."""
    rule = _Rule(
        context_tokens=context_tokens, budget_bits=budget_bits, max_chunk_tokens=max_chunk_tokens
    )
    begin, index = 0, first_index
    start_ids = segment_start(start_id)
    while begin < len(ids):
        segment = _next_segment(lm, index, begin, start_ids, ids[begin:], rule)
        yield segment
        index += 1
        begin += len(segment.ids)


def _next_segment(
    lm: FrozenLM,
    index: int,
    offset: int,
    start_ids: Sequence[int],
    ids: Sequence[int],
    rule: _Rule,
) -> Segment:
    reader = _Reader(lm, start_ids, ids)
    spans: list[Span] = []
    start, bits, takes_tail = 0, 0.0, False
    for position in range(len(ids)):
        surprisal = reader.surprisal(position)
        too_much = rule.is_over(bits + surprisal, position - start)
        if position > start and too_much and not takes_tail:
            takes_tail = _tail_fits(reader, start, position, len(ids), bits, rule)
        if position > start and too_much and not takes_tail:
            spans.append(Span(start=start, end=position, surprisal_bits=bits))
            start, bits = position, 0.0
            if position > rule.context_tokens:
                break
        bits += surprisal
    else:
        spans.append(Span(start=start, end=len(ids), surprisal_bits=bits))
    num_tokens = spans[-1].end
    return Segment(
        index=index,
        offset=offset,
        start_ids=tuple(start_ids),
        ids=tuple(ids[:num_tokens]),
        surprisal_bits=tuple(reader.bits[:num_tokens]),
        spans=tuple(spans),
    )


def _tail_fits(
    reader: _Reader, start: int, position: int, end: int, bits: float, rule: _Rule
) -> bool:
    """Whether the text ends so soon that its last bits go into the open chunk, over budget.

    A vector of their own would be wasted on them.
    """
    if end - position > _TAIL_TOKENS or end - start > rule.max_chunk_tokens:
        return False
    tail_bits = sum(reader.surprisal(later) for later in range(position, end))
    return bits + tail_bits <= TAIL_LOAD * rule.budget_bits


class _Reader:
    """Reads a segment block by block, as far as it is asked."""

    def __init__(self, lm: FrozenLM, start_ids: Sequence[int], ids: Sequence[int]) -> None:
        self._lm, self._ids = lm, ids
        self._state = lm.empty(1)
        self.bits: list[float] = []
        self._last = None  # hidden state that predicts the next token
        if start_ids:
            self._last = self._read(start_ids)[-1:]

    def _read(self, ids: Sequence[int]) -> torch.Tensor:
        block, live = pad_ids([ids], self._lm.device)
        hidden, self._state = self._lm.extend(self._state, self._lm.embed(block), live)
        return hidden[0]  # [T, Dh]

    def surprisal(self, position: int) -> float:
        while len(self.bits) <= position:
            block = self._ids[len(self.bits) : len(self.bits) + _BLOCK_TOKENS]
            hidden = self._read(block)
            targets = torch.tensor(list(block), dtype=torch.int64, device=hidden.device)
            if self._last is None:
                # Nothing stands before the first token: any of the vocabulary, equally.
                self.bits.append(math.log2(self._lm.vocab_size))
                predicting, targets = hidden[:-1], targets[1:]
            else:
                predicting = torch.cat([self._last, hidden[:-1]])
            self.bits.extend(self._lm.surprisal_bits(predicting, targets).tolist())
            self._last = hidden[-1:]
        return self.bits[position]
