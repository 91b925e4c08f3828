"""One segment to its stream, and streams to tokens, the language model read a token at a time.

Owns how a stream is written from known tokens and their log-odds, and how lanes of several segments
are read side by side, in rows of one batch: the decompressor's only path. Knows nothing of files.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from llmzip.codecs.arith.line_breaks import walk_flags
from llmzip.codecs.arith.reader import Reader, Steps
from llmzip.codecs.arith.segments import Lanes, Segment
from llmzip.codecs.arith.stream import OFFSET_TOKENS, SegmentCoder, without_model
from llmzip.codecs.context import QUIET, Context
from llmzip.codecs.odds_grid import grid_of, safe_offset
from llmzip.codecs.token_odds import Floats, TokenOdds, Tree
from llmzip.errors import Corrupt
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
) -> bytes:
    """The stream. odds: [N, depth], of every decision; a decoder whose own differ from them by less
    than `guard` reads the same tokens. on_tokens: gets how many are coded, and may raise."""
    writer = RangeWriter()
    coder = SegmentCoder(writer, tree, segment.lanes.num_lanes)
    write_tokens(coder, tree, segment, odds, guard=guard, on_tokens=on_tokens)
    if segment.flags is not None:
        walk_flags(writer, segment.unwrapped, segment.flags)
    return writer.finish(least_bytes=least_stream_bytes(len(segment.ids)))


def write_tokens(
    coder: SegmentCoder,
    tree: Tree,
    segment: Segment,
    odds: Floats,
    *,
    guard: float,
    on_tokens: Callable[[int], None] = lambda num_tokens: None,
) -> None:
    """The tokens of `encode_segment`, into any coder."""
    ids, lanes = segment.ids, segment.lanes
    is_decision = tree.nodes[np.asarray(ids)] >= 0  # [N, depth]
    spans = lanes.spans
    # Of the blocks under way: a row a token, the rounded log-odds of its decisions.
    blocks: list[list[list[int]]] = [[] for _ in spans]
    for number, (lane, place) in enumerate(lanes.order):
        if number % _TOKENS_BETWEEN_LOOKS == 0:
            on_tokens(number)
        index = len(coder.predictor.pasts[lane])
        if index % OFFSET_TOKENS == 0:
            places = slice(place, min(place + OFFSET_TOKENS, spans[lane][1]))
            offset = safe_offset(odds[places], is_decision[places], guard=guard)
            coder.offset(lane, offset)
            rounded: npt.NDArray[np.int32] = np.zeros(odds[places].shape, dtype=np.int32)
            if (grid := grid_of(offset)) is not None:
                rounded = grid.values(odds[places])
            blocks[lane] = rounded.tolist()
        row = blocks[lane][index % OFFSET_TOKENS]
        coder.token(lane, _given(row), ids[place])


def replay_segment(
    tree: Tree,
    segment: Segment,
    odds: Floats,
    stream: bytes,
    *,
    on_tokens: Callable[[int], None] = lambda num_tokens: None,
) -> bool:
    """Whether a decoder with these log-odds reads the segment's own tokens and line ends."""
    reader = RangeReader(stream, what="stream")
    lanes = segment.lanes
    coder = SegmentCoder(reader, tree, lanes.num_lanes)
    for number, (lane, place) in enumerate(lanes.order):
        if number % _TOKENS_BETWEEN_LOOKS == 0:
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


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A segment to be decoded."""

    lanes: Lanes
    stream: bytes


class SegmentDecoder:
    """One segment under way: its coder, and the tokens so far."""

    def __init__(self, token_odds: TokenOdds, encoded: Encoded) -> None:
        self.lanes = encoded.lanes
        self.reader = RangeReader(encoded.stream, what="stream")
        self._token_odds = token_odds
        self._coder = SegmentCoder(self.reader, token_odds.tree, encoded.lanes.num_lanes)
        self.has_failed = False  # wrong tokens, or bytes that are no code of any

    def next_token(self, lane: int, masses: Floats | None) -> int:
        """Read a lane's next token. masses: [num_leaves + 1], None where nothing stands before
        it."""
        if not self.has_failed:
            try:
                return self._read_token(lane, masses)
            except Corrupt:
                self.has_failed = True
        return int(self._token_odds.tree.leaf_tokens[0])

    def _read_token(self, lane: int, masses: Floats | None) -> int:
        grid = self._coder.read_grid(lane)
        if grid is None:
            return self._coder.token(lane, without_model, None)
        if masses is None:  # log-odds of 0, rounded as all others are
            even = grid.value(0.0)
            return self._coder.token(lane, lambda _depth, _node: even, None)
        node_odds, value = self._token_odds.node_odds, grid.value
        return self._coder.token(lane, lambda _depth, node: value(node_odds(masses, node)), None)

    @property
    def ids(self) -> list[int]:
        """All tokens read, in the text's order."""
        return [token for past in self._coder.predictor.pasts for token in past]


class _Row(NamedTuple):
    segment: SegmentDecoder
    lane: int
    num_tokens: int


def decode_wave(
    reader: Reader,
    token_odds: TokenOdds,
    wave: Sequence[Encoded],
    *,
    batch: int,
    on_tokens: Callable[[int], None] = lambda num_tokens: None,
    cancel: threading.Event | None = None,
) -> list[SegmentDecoder]:
    """Decode segments side by side, `batch` rows in each pass of the model. on_tokens: gets how
    many were read since the last call."""
    segments = [SegmentDecoder(token_odds, encoded) for encoded in wave]
    rows: list[_Row] = []
    prefixes: list[Steps] = []
    for segment in segments:
        lanes = segment.lanes
        steps = reader.open_prefix(lanes.prefix_tokens)
        own = [_Row(segment, lane, last - first) for lane, (first, last) in enumerate(lanes.spans)]
        for _ in range(lanes.prefix_tokens):
            check_cancelled(cancel)
            steps.read(_take(own[:1], steps))
        on_tokens(lanes.prefix_tokens)
        rows += own
        prefixes += [steps] * len(own)
    # Rows of one batch share their slots: only those with as long a prefix can.
    groups: list[tuple[list[_Row], Steps]] = []
    for slots in sorted({steps.state.num_slots for steps in prefixes}):
        alike = [i for i, steps in enumerate(prefixes) if steps.state.num_slots == slots]
        for begin in range(0, len(alike), batch):
            part = alike[begin : begin + batch]
            longest = max(rows[i].num_tokens for i in part)
            opened = reader.open_lanes([prefixes[i] for i in part], longest)
            groups.append(([rows[i] for i in part], opened))
    del prefixes
    for step in range(max(row.num_tokens for row in rows)):
        check_cancelled(cancel)
        num_read = 0
        for at, (group, steps) in enumerate(groups):
            going = [i for i, row in enumerate(group) if row.num_tokens > step]
            if not going:
                continue
            if len(going) < len(group):
                group = [group[i] for i in steps.keep(going)]
                groups[at] = (group, steps)
            ids = _take(group, steps)
            num_read += len(ids)
            if any(row.num_tokens > step + 1 for row in group):
                steps.read(ids)
        on_tokens(num_read)
    return segments


def _take(rows: Sequence[_Row], steps: Steps) -> list[int]:
    """The next token of each row, read from its segment's stream."""
    masses = steps.masses()
    ids = [0] * len(rows)
    for i, row in sorted(enumerate(rows), key=lambda entry: entry[1].lane):  # the stream's order
        ids[i] = row.segment.next_token(row.lane, None if masses is None else masses[i])
    return ids


def measure_noise(
    reader: Reader,
    token_odds: TokenOdds,
    lanes: Lanes,
    ids: Sequence[int],
    odds: Floats,
    *,
    num_steps: int,
    context: Context = QUIET,
) -> float:
    """How far the decoder's log-odds are from `odds` at most, over the prefix and the first steps
    of all lanes, read side by side and one by one. In nats."""
    noise = 0.0

    def note(steps: Steps, places: Sequence[int]) -> None:
        nonlocal noise
        masses = steps.masses()
        if masses is not None:
            found = token_odds.path_odds(masses, np.array([ids[i] for i in places]))
            noise = max(noise, float(np.abs(found - odds[list(places)]).max()))

    prefix = reader.open_prefix(lanes.prefix_tokens)
    for place in range(lanes.prefix_tokens):
        context.check()
        note(prefix, [place])
        prefix.read([ids[place]])
    for group in (lanes.spans, lanes.spans[:1]):
        steps = reader.open_lanes([prefix] * len(group), num_steps)
        for step in range(min(num_steps, *(last - first for first, last in group), 1 << 30)):
            context.check()
            places = [first + step for first, _ in group]
            note(steps, places)
            steps.read([ids[i] for i in places])
    assert math.isfinite(noise)
    return noise
