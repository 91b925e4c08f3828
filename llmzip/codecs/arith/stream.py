"""The stream of one segment: its tokens in the lanes' order, then its line breaks.

Owns the order of decisions in a stream, the same in both directions, and the coding of each block's
offset. Knows the model's log-odds only through whoever calls.
"""

from __future__ import annotations

from collections.abc import Callable

from llmzip.codecs.arith.cells import GRIDS, NO_OFFSET, Grid
from llmzip.codecs.arith.predictor import Predictor
from llmzip.codecs.arith.tree import Tree
from llmzip.store.range_coder import ONE, AdaptiveBit, RangeCoder

OFFSET_TOKENS = 96  # tokens of a lane that share an offset of the grid
_FIRST_GUESS = ONE // 8  # that an offset is passed over
_OFFSET_CLASSES = 4


class SegmentCoder:
    """Codes the tokens of one segment."""

    def __init__(self, coder: RangeCoder, tree: Tree, num_lanes: int) -> None:
        self.predictor = Predictor(tree, num_lanes)
        self._coder = coder
        self._grids: list[Grid | None] = [None] * num_lanes
        self._passed = [AdaptiveBit(_FIRST_GUESS, seen=6) for _ in range(_OFFSET_CLASSES)]

    def offset(self, lane: int, offset: int | None) -> int | None:
        """Code or read the offset of a lane's next tokens where a block starts, else None."""
        if len(self.predictor.pasts[lane]) % OFFSET_TOKENS:
            return None
        for number in range(NO_OFFSET):
            passed = self._passed[min(number, _OFFSET_CLASSES - 1)]
            bit = self._coder.bit(passed.ones, None if offset is None else int(offset > number))
            passed.add(bit)
            if not bit:
                return number
        return NO_OFFSET

    def read_grid(self, lane: int) -> Grid | None:
        """The grid that a lane's next token is read under, None where the model has no say; a
        reader asks for it before every token."""
        offset = self.offset(lane, None)
        if offset is not None:
            self._grids[lane] = None if offset == NO_OFFSET else GRIDS[offset]
        return self._grids[lane]

    def token(self, lane: int, odds: Callable[[int, int], int], token: int | None) -> int:
        """Code or read a lane's next token. odds: as `Predictor.code` wants them."""
        return self.predictor.code(self._coder, lane, odds, token)


def without_model(_depth: int, _node: int) -> int:
    """Log-odds of a decision of which the model says nothing."""
    return 0
