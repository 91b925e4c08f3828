"""The stream of one segment: its tokens in the lanes' order, then its line breaks.

Owns the order of decisions in a stream, the same in both directions, and where a lane's next offset
stands. Knows the model's log-odds only through whoever calls.
"""

from __future__ import annotations

from collections.abc import Callable

from llmzip.codecs.arith.predictor import Predictor
from llmzip.codecs.odds_grid import Grid, OffsetCoder, grid_of
from llmzip.codecs.token_odds import Tree
from llmzip.store.range_coder import RangeCoder

OFFSET_TOKENS = 96  # tokens of a lane that share an offset of the grid


class SegmentCoder:
    """Codes the tokens of one segment."""

    def __init__(self, coder: RangeCoder, tree: Tree, num_lanes: int) -> None:
        self.predictor = Predictor(tree, num_lanes)
        self._coder = coder
        self._grids: list[Grid | None] = [None] * num_lanes
        self._offsets = OffsetCoder(coder)

    def offset(self, lane: int, offset: int | None) -> int | None:
        """Code or read the offset of a lane's next tokens where a block starts, else None."""
        if len(self.predictor.pasts[lane]) % OFFSET_TOKENS:
            return None
        return self._offsets.code(offset)

    def read_grid(self, lane: int) -> Grid | None:
        """The grid that a lane's next token is read under, None where the model has no say; a
        reader asks for it before every token."""
        offset = self.offset(lane, None)
        if offset is not None:
            self._grids[lane] = grid_of(offset)
        return self._grids[lane]

    def token(self, lane: int, odds: Callable[[int, int], int], token: int | None) -> int:
        """Code or read a lane's next token. odds: as `Predictor.code` wants them."""
        return self.predictor.code(self._coder, lane, odds, token)


def without_model(_depth: int, _node: int) -> int:
    """Log-odds of a decision of which the model says nothing."""
    return 0
