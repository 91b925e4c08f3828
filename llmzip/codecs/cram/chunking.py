"""Where chunks end: tokens -> segments -> chunks, by surprisal and never by length.

Owns the surprisal pass and the two rules: a chunk closes when the next token would take it over the
budget, a segment closes when its next chunk would see more than `context_tokens` of left context.
The surprisal is taken with the context that the decoder will have: all earlier tokens of the
segment. Knows nothing of mem vectors. Source of the idea that cross-entropy, not length, sets how
much a vector holds: Kuratov et al. 2025.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from llmzip.codecs.shared import SharedMem, opening_embeds
from llmzip.lm.layout import segment_start
from llmzip.lm.model import FrozenLM

# Bounds the memory of one optimiser row, however predictable the text.
MAX_CHUNK_TOKENS = 256  # for each vector of a chunk
_MOST_CHUNK_TOKENS = 2048  # whatever the vectors
TAIL_LOAD = 1.2  # of the budget, for the last chunk of a text alone
_TAIL_TOKENS = 32  # how far ahead the end of the text is looked for
_EVENING_STEPS = 12
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
    most_bits: float = math.inf  # surprisal above which a token is spared: no vector has to hold it
    shared: SharedMem | None = None  # vectors before the first token

    def opening(self, lm: FrozenLM) -> torch.Tensor:
        """What stands before the first token: [1, H, D]."""
        mem = None if self.shared is None else self.shared.mem
        return opening_embeds(lm, self.start_ids, mem)

    def from_token(self, first: int) -> Segment:
        """What is left of it from a token on, which then begins anew. The spans stay."""
        return replace(
            self,
            offset=self.offset + first,
            ids=self.ids[first:],
            surprisal_bits=self.surprisal_bits[first:],
        )


@dataclass(frozen=True, kw_only=True)
class CutRule:
    """When chunks and segments close."""

    context_tokens: int  # no chunk sees more of its segment
    budget_bits: float  # surprisal of a chunk
    max_chunk_tokens: int = MAX_CHUNK_TOKENS
    spared: float = 0.0  # share of a segment's tokens that count nothing: the least expected

    def is_full(self, num_tokens: int, load: float, more: float) -> bool:
        """Whether a chunk of so many tokens has no room for the load of one more."""
        if num_tokens >= self.max_chunk_tokens:
            return True
        return num_tokens > 0 and load + more > self.budget_bits


def longest_chunk(num_mem: int) -> int:
    """Tokens that a chunk of `num_mem` vectors may have at most."""
    return min(MAX_CHUNK_TOKENS * num_mem, _MOST_CHUNK_TOKENS)


@torch.no_grad()
def plan_segments(
    lm: FrozenLM,
    ids: Sequence[int],
    rule: CutRule,
    *,
    start_id: int | None,
    shared: SharedMem | None = None,
) -> Iterator[Segment]:
    """Cut tokens into segments and chunks, in order; every token is in exactly one chunk. shared:
    vectors before every segment."""
    begin = index = 0
    start_ids = tuple(segment_start(start_id))
    opening = opening_embeds(lm, start_ids, None if shared is None else shared.mem)
    while begin < len(ids):
        reader = _Reader(lm, opening, ids[begin:])
        most_bits = _spared_above(reader, len(ids) - begin, rule)
        spans = _next_spans(reader, len(ids) - begin, rule, most_bits)
        num_tokens = spans[-1].end
        yield Segment(
            index=index,
            offset=begin,
            start_ids=start_ids,
            ids=tuple(ids[begin : begin + num_tokens]),
            surprisal_bits=tuple(reader.bits[:num_tokens]),
            spans=tuple(spans),
            most_bits=most_bits,
            shared=shared,
        )
        index += 1
        begin += num_tokens


def _spared_above(reader: _Reader, num_tokens: int, rule: CutRule) -> float:
    """The surprisal above which a segment's tokens are spared, so that a share of them is.
    num_tokens: left of the text."""
    if not rule.spared:
        return math.inf
    size = min(num_tokens, max(rule.context_tokens, _BLOCK_TOKENS))
    bits = sorted(reader.surprisal(position) for position in range(size))
    return bits[max(0, size - 1 - int(rule.spared * size))]


def _kept(token_bits: float, most_bits: float) -> float:
    """What a token adds to the load of its chunk."""
    return token_bits if token_bits <= most_bits else 0.0


def _next_spans(reader: _Reader, num_tokens: int, rule: CutRule, most_bits: float) -> list[Span]:
    """The chunks of the segment that begins where the reader does. num_tokens: left of the text."""
    spans: list[Span] = []
    start, load, takes_tail = 0, 0.0, False
    for position in range(num_tokens):
        bits = _kept(reader.surprisal(position), most_bits)
        is_full = rule.is_full(position - start, load, bits)
        if is_full and not takes_tail:
            takes_tail = _tail_fits(reader, load, start, position, num_tokens, rule, most_bits)
        if is_full and not takes_tail:
            spans.append(Span(start=start, end=position, surprisal_bits=load))
            start, load = position, 0.0
            if position > rule.context_tokens:
                break
        load += bits
    else:
        spans.append(Span(start=start, end=num_tokens, surprisal_bits=load))
        kept = [_kept(bits, most_bits) for bits in reader.bits[:num_tokens]]
        spans = _evened(spans, kept, rule)
    return spans


def _tail_fits(
    reader: _Reader, load: float, start: int, position: int, end: int, rule: CutRule,
    most_bits: float,
) -> bool:  # fmt: skip
    """Whether the text ends so soon that its last bits go into the open chunk, over budget. A
    vector of their own would be wasted on them."""
    if end - position > _TAIL_TOKENS or end - start > rule.max_chunk_tokens:
        return False
    tail = sum(_kept(reader.surprisal(later), most_bits) for later in range(position, end))
    return load + tail <= TAIL_LOAD * rule.budget_bits


def _evened(spans: list[Span], kept: Sequence[float], rule: CutRule) -> list[Span]:
    """As many chunks of more equal load, so that the last one of a text is not a small rest that
    takes a vector all the same. kept: what each token adds to the load."""
    low, high = 0.0, TAIL_LOAD * rule.budget_bits
    for _ in range(_EVENING_STEPS):
        middle = (low + high) / 2
        found = _cut(kept, replace(rule, budget_bits=middle))
        if len(found) <= len(spans):
            spans, high = found, middle
        else:
            low = middle
    return spans


def _cut(kept: Sequence[float], rule: CutRule) -> list[Span]:
    spans: list[Span] = []
    start, load = 0, 0.0
    for position, bits in enumerate(kept):
        if rule.is_full(position - start, load, bits):
            spans.append(Span(start=start, end=position, surprisal_bits=load))
            start, load = position, 0.0
        load += bits
    return [*spans, Span(start=start, end=len(kept), surprisal_bits=load)]


class _Reader:
    """Reads a segment block by block, as far as it is asked."""

    def __init__(self, lm: FrozenLM, opening: torch.Tensor, ids: Sequence[int]) -> None:
        self._lm, self._ids = lm, ids
        self._state = lm.empty(1)
        self.bits: list[float] = []
        # Hidden state that predicts the next token.
        self._last = self._read(opening)[-1:] if opening.shape[1] else None

    def _read(self, embeds: torch.Tensor) -> torch.Tensor:
        live = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        hidden, self._state = self._lm.extend(self._state, embeds, live)
        return hidden[0]  # [T, Dh]

    def surprisal(self, position: int) -> float:
        while len(self.bits) <= position:
            block = self._ids[len(self.bits) : len(self.bits) + _BLOCK_TOKENS]
            targets = torch.tensor(list(block), dtype=torch.int64, device=self._lm.device)
            hidden = self._read(self._lm.embed(targets)[None])
            if self._last is None:
                # Nothing stands before the first token: any of the vocabulary, equally.
                self.bits.append(math.log2(self._lm.vocab_size))
                predicting, targets = hidden[:-1], targets[1:]
            else:
                predicting = torch.cat([self._last, hidden[:-1]])
            self.bits.extend(self._lm.surprisal_bits(predicting, targets).tolist())
            self._last = hidden[-1:]
        return self.bits[position]
