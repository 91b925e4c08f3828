"""A text cut into segments that decode independently, and each into lanes.

Owns the sizes: how long a segment is, how many lanes it has, what all of them see, and how its
tokens are dealt out to lanes that are decoded side by side. Knows the model's vocabulary and its
longest input, nothing else of it; the decoder takes the shape from the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmzip.codecs.arith.line_breaks import unwrap
from llmzip.lm.tokens import Tokens

BLOCK_TOKENS = 256  # a lane forgets so many tokens at a time


@dataclass(frozen=True, kw_only=True)
class Lanes:
    """The shape of one segment. Lane 0 starts behind the prefix."""

    num_tokens: int
    num_lanes: int
    prefix_tokens: int

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Where each lane starts and ends in the segment, without the prefix."""
        rest = self.num_tokens - self.prefix_tokens
        cuts = [self.prefix_tokens + rest * i // self.num_lanes for i in range(self.num_lanes + 1)]
        return list(zip(cuts, cuts[1:], strict=False))

    @property
    def longest(self) -> int:
        """Tokens of the longest lane, without the prefix."""
        return max(last - first for first, last in self.spans)

    @property
    def order(self) -> Iterator[tuple[int, int]]:
        """Lane and place in the segment of each token, in the stream's order."""
        for place in range(self.prefix_tokens):
            yield 0, place
        spans = self.spans
        for step in range(self.longest):
            for lane, (first, last) in enumerate(spans):
                if first + step < last:
                    yield lane, first + step


def shape_of(num_tokens: int, num_lanes: int, prefix_tokens: int) -> Lanes:
    """The lanes of a segment in a file with such a prefix; one lane alone needs none."""
    prefix = min(prefix_tokens, num_tokens - num_lanes) if num_lanes > 1 else 0
    return Lanes(num_tokens=num_tokens, num_lanes=num_lanes, prefix_tokens=prefix)


WINDOW_TOKENS = 1024  # four times as many save 0.4 % and double the decoder's memory
_PREFIX_TOKENS = 256
_SEGMENT_BYTES = 1 << 18
_SEGMENT_TOKENS = 1 << 16
# A lane more costs some 200 bits, because it starts cold, and saves the decoder steps: both grow
# with the square root of a segment's tokens.
_TOKENS_OF_ONE_LANE = 400
_MOST_LANES = 16


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Consecutive bytes of the text."""

    original: bytes
    unwrapped: bytes  # the same as `original` where no line ends were taken out
    flags: npt.NDArray[np.bool_] | None  # for each joint, whether it was a line end
    ids: list[int]
    lanes: Lanes


def prefix_tokens(max_positions: int) -> int:
    """Tokens of a segment that all its lanes see, for a model that reads so many."""
    return min(_PREFIX_TOKENS, max_positions // 8)


def cut_segments(
    text: bytes, wrap: int, tokens: Tokens, *, head_tokens: int, max_positions: int
) -> list[Segment] | None:
    """The segments of a text, or None where the vocabulary cannot spell it. wrap: the kind of line
    end to take out. head_tokens: positions before a segment's first token."""
    prefix = prefix_tokens(max_positions)
    room = max_positions - head_tokens - prefix  # of a lane
    assert room > 0
    found: list[Segment] = []
    waiting = list(_pieces(text, -(-len(text) // _SEGMENT_BYTES)))[::-1]
    while waiting:
        original = waiting.pop()
        unwrapped, flags = unwrap(original, wrap) if wrap else (original, None)
        pieces = tokens.encode(unwrapped)
        if any(piece.ids is None for piece in pieces):
            return None
        ids = [token for piece in pieces for token in piece.ids or ()]
        num_lanes = _num_lanes(len(ids), prefix, room)
        if len(ids) > _SEGMENT_TOKENS or num_lanes > _MOST_LANES:
            waiting += list(_pieces(original, 2))[::-1]
            continue
        lanes = shape_of(len(ids), num_lanes, prefix)
        own = Segment(original=original, unwrapped=unwrapped, flags=flags, ids=ids, lanes=lanes)
        found.append(own)
    return found


def _num_lanes(num_tokens: int, prefix: int, room: int) -> int:
    wanted = max(1, round(math.sqrt(num_tokens / _TOKENS_OF_ONE_LANE)))
    needed = 1 if num_tokens <= room else -(-(num_tokens - prefix) // room)
    return max(min(wanted, _MOST_LANES), needed)


def _pieces(text: bytes, count: int) -> Iterator[bytes]:
    """`text` in `count` pieces of like size, cut behind a line end or before a space."""
    begin = 0
    for number in range(1, count):
        end = len(text) * number // count
        at = text.rfind(b"\n", begin, end) + 1
        if at <= begin + (end - begin) // 2:
            at = text.rfind(b" ", begin + (end - begin) // 2, end)
        if at <= begin:
            at = max(end, begin + 1)
            least = max(at - 3, begin + 1)  # bytes that are no UTF-8 may have no such place
            while at > least and text[at : at + 1] and text[at] & 0xC0 == 0x80:
                at -= 1  # not inside a character
        yield text[begin:at]
        begin = at
    yield text[begin:]


assert WINDOW_TOKENS % BLOCK_TOKENS == 0
