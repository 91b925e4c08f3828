"""The grid on which the language model's log-odds are rounded, so that floating point becomes
integers that encoder and decoder agree on.

Owns the cells, their offsets, and the coding of an offset. Does not know what decisions are coded.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
import numpy.typing as npt

from llmzip.codecs.log_odds import MAX_ODDS, NAT
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


def grid_of(offset: int) -> Grid | None:
    """The grid of a block's offset; None where the model has no say."""
    return None if offset == NO_OFFSET else GRIDS[offset]


_FIRST_GUESS = ONE // 8  # that an offset is passed over
_OFFSET_CLASSES = 4


class OffsetCoder:
    """Codes which offset a block of decisions has: as many passed over as come before it."""

    def __init__(self, coder: RangeCoder) -> None:
        self._coder = coder
        self._passed = [AdaptiveBit(_FIRST_GUESS, seen=6) for _ in range(_OFFSET_CLASSES)]

    def code(self, offset: int | None) -> int:
        """Code an offset, or read it where it is None."""
        for number in range(NO_OFFSET):
            passed = self._passed[min(number, _OFFSET_CLASSES - 1)]
            bit = self._coder.bit(passed.ones, None if offset is None else int(offset > number))
            passed.add(bit)
            if not bit:
                return number
        return NO_OFFSET


def safe_offset(
    odds: npt.NDArray[np.float64], is_decision: npt.NDArray[np.bool_], *, guard: float
) -> int:
    """The first offset that leaves no edge within the guard of any decision of a block, or
    NO_OFFSET. odds, is_decision: [n, depth]."""
    decisions = odds[is_decision]
    for offset, grid in enumerate(GRIDS):
        if not len(decisions) or float(grid.distances(decisions).min()) > guard:
            return offset
    return NO_OFFSET
