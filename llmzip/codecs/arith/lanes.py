"""How the tokens of a segment are dealt out to lanes that are decoded side by side.

Owns the order of a segment's tokens in its stream: first its prefix, which all lanes then have
before them, then one token of each lane in turn. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
    def order(self) -> Iterator[tuple[int, int]]:
        """Lane and place in the segment of each token, in the stream's order."""
        for place in range(self.prefix_tokens):
            yield 0, place
        spans = self.spans
        for step in range(max(last - first for first, last in spans)):
            for lane, (first, last) in enumerate(spans):
                if first + step < last:
                    yield lane, first + step


def shape_of(num_tokens: int, num_lanes: int, prefix_tokens: int) -> Lanes:
    """The lanes of a segment in a file with such a prefix; one lane alone needs none."""
    prefix = min(prefix_tokens, num_tokens - num_lanes) if num_lanes > 1 else 0
    return Lanes(num_tokens=num_tokens, num_lanes=num_lanes, prefix_tokens=prefix)
