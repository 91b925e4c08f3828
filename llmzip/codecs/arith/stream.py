"""The stream of one segment: its tokens in the lanes' order, then its line breaks.

Owns the grid on which the model's log-odds are rounded, so that floating point becomes integers
that encoder and decoder agree on, the order of decisions in a stream, the same in both directions,
and the coding of each block's offset. Knows the model's log-odds only through whoever calls.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from llmzip.codecs.arith.mixer import MAX_ODDS, NAT
from llmzip.codecs.arith.predictor import Predictor
from llmzip.codecs.arith.token_odds import Tree
from llmzip.store.range_coder import ONE, AdaptiveBit, RangeCoder

NUM_OFFSETS = 64
NO_OFFSET = NUM_OFFSETS  # instead of one: this block's tokens are coded without the model
_CELL = 384  # width of the cells near even odds, in units of 1 / NAT
_CURVE = 12 * NAT * NAT  # the cells widen with u^2, see `_bend`
_CELLS_A_SIDE = 14


def _bend(u: int) -> int:
    """Log-odds at `u` steps along the grid, both in units of 1 / NAT: u + u^3 / 12 in nats."""
    bent = abs(u) + abs(u) ** 3 // _CURVE
    return bent if u >= 0 else -bent


class Grid:
    """The cells under one offset."""

    def __init__(self, offset: int) -> None:
        cells = range(-_CELLS_A_SIDE, _CELLS_A_SIDE + 1)
        shift = _CELL * offset // NUM_OFFSETS
        values = [max(-MAX_ODDS, min(MAX_ODDS, _bend(_CELL * cell + shift))) for cell in cells]
        edges = [_bend(_CELL * cell + shift + _CELL // 2) / NAT for cell in cells[:-1]]
        # The outermost cells round alike: what lies between them is no edge.
        real = [index for index in range(len(edges)) if values[index] != values[index + 1]]
        self._edges = [edges[index] for index in real]
        self._values = [values[index] for index in real] + [values[real[-1] + 1]]
        self._edge_array = np.array(self._edges)
        self._value_array = np.array(self._values, dtype=np.int32)

    def value(self, odds: float) -> int:
        """The log-odds (in nats) rounded, in units of 1 / NAT."""
        return self._values[bisect_right(self._edges, odds)]

    def values(self, odds: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
        """`value` of each. Any shape."""
        return self._value_array[np.searchsorted(self._edge_array, odds, side="right")]

    def distances(self, odds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """How far each is from the nearest edge, in nats. Any shape."""
        edges = self._edge_array
        above = np.searchsorted(edges, odds, side="right")
        down = np.abs(odds - edges[np.maximum(above - 1, 0)])
        up = np.abs(edges[np.minimum(above, len(edges) - 1)] - odds)
        nearest: npt.NDArray[np.float64] = np.minimum(down, up)
        return nearest


GRIDS = tuple(Grid(offset) for offset in range(NUM_OFFSETS))

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
