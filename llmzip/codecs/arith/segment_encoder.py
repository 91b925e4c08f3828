"""A segment of known tokens to its stream.

Owns the choice of offsets, which is what makes a stream decode under other floating point. Does not
know files or how segments are cut.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from llmzip.codecs.arith.cells import GRIDS, NO_OFFSET
from llmzip.codecs.arith.line_breaks import walk_flags
from llmzip.codecs.arith.segments import Segment
from llmzip.codecs.arith.stream import OFFSET_TOKENS, SegmentCoder, without_model
from llmzip.codecs.arith.token_odds import Floats
from llmzip.codecs.arith.tree import Tree
from llmzip.progress import check_cancelled
from llmzip.store.arith_payload import least_stream_bytes
from llmzip.store.range_coder import RangeReader, RangeWriter

_TOKENS_BETWEEN_LOOKS = 256


def encode_segment(
    tree: Tree,
    segment: Segment,
    odds: Floats,
    *,
    guard: float,
    on_tokens: Callable[[int], None] = lambda num_tokens: None,
    cancel: threading.Event | None = None,
) -> bytes:
    """The stream. odds: [N, depth], of every decision; a decoder whose own differ from them by less
    than `guard` reads the same tokens."""
    writer = RangeWriter()
    ids, lanes = segment.ids, segment.lanes
    coder = SegmentCoder(writer, tree, lanes.num_lanes)
    is_decision = tree.nodes[np.asarray(ids)] >= 0  # [N, depth]
    spans = lanes.spans
    # Of the blocks under way: a row a token, the rounded log-odds of its decisions.
    blocks: list[list[list[int]]] = [[] for _ in spans]
    for number, (lane, place) in enumerate(lanes.order):
        if number % _TOKENS_BETWEEN_LOOKS == 0:
            check_cancelled(cancel)
            on_tokens(number)
        index = len(coder.predictor.pasts[lane])
        if index % OFFSET_TOKENS == 0:
            places = slice(place, min(place + OFFSET_TOKENS, spans[lane][1]))
            offset = safe_offset(odds[places], is_decision[places], guard=guard)
            coder.offset(lane, offset)
            rounded = (
                np.zeros(odds[places].shape, dtype=np.int32)
                if offset == NO_OFFSET
                else GRIDS[offset].values(odds[places])
            )
            blocks[lane] = rounded.tolist()
        row = blocks[lane][index % OFFSET_TOKENS]
        coder.token(lane, _given(row), ids[place])
    if segment.flags is not None:
        walk_flags(writer, segment.unwrapped, segment.flags)
    return writer.finish(least_bytes=least_stream_bytes(len(ids)))


def replay_segment(
    tree: Tree,
    segment: Segment,
    odds: Floats,
    stream: bytes,
    *,
    on_tokens: Callable[[int], None] = lambda num_tokens: None,
    cancel: threading.Event | None = None,
) -> bool:
    """Whether a decoder with these log-odds reads the segment's own tokens and line ends."""
    reader = RangeReader(stream, what="stream")
    lanes = segment.lanes
    coder = SegmentCoder(reader, tree, lanes.num_lanes)
    for number, (lane, place) in enumerate(lanes.order):
        if number % _TOKENS_BETWEEN_LOOKS == 0:
            check_cancelled(cancel)
            on_tokens(number)
        grid, own = coder.read_grid(lane), odds[place].tolist()
        rounded = [] if grid is None else [grid.value(x) for x in own]
        token = coder.token(lane, without_model if grid is None else _given(rounded), None)
        if token != segment.ids[place]:
            return False
    if segment.flags is None:
        return True
    return np.array_equal(walk_flags(reader, segment.unwrapped, None), segment.flags)


def _given(row: Sequence[int]) -> Callable[[int, int], int]:
    """The log-odds of a token's decisions, by their depth."""
    return lambda depth, _node: row[depth]


def safe_offset(odds: Floats, is_decision: npt.NDArray[np.bool_], *, guard: float) -> int:
    """The first offset that leaves no edge within the guard of any decision of a block, or
    NO_OFFSET. odds, is_decision: [n, depth]."""
    decisions = odds[is_decision]
    for offset, grid in enumerate(GRIDS):
        if not len(decisions) or float(grid.distances(decisions).min()) > guard:
            return offset
    return NO_OFFSET
