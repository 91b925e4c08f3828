"""Streams of segments: what is coded is read again, by other floats, and from no damaged bytes is
there any error but one."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from llmzip.codecs.arith.line_breaks import unwrap, walk_flags
from llmzip.codecs.arith.segment_coding import (
    Encoded,
    SegmentDecoder,
    encode_segment,
    replay_segment,
)
from llmzip.codecs.arith.segments import Segment, shape_of
from llmzip.codecs.arith.stream import OFFSET_TOKENS, SegmentCoder, without_model
from llmzip.codecs.odds_grid import GRIDS, NO_OFFSET, safe_offset
from llmzip.codecs.token_odds import Floats, TokenOdds, build_tree
from llmzip.errors import Corrupt
from llmzip.store.range_coder import RangeReader, RangeWriter
from tests.arith_prose import Digits, grow, order_of, read_flags, read_tokens

CPU = torch.device("cpu")
MEANINGS: list[bytes | None] = [
    b"e", b" ", b"t", b"a", None, b"\n", b"th", b"he", b" the", b"o", b"r", b"", b"w", b"d", b".",
    *(bytes([i]) for i in range(256)),
]  # fmt: skip
TREE = build_tree(MEANINGS)
OUTLOOK = TokenOdds(TREE, CPU)
GUARD = 0.001
TEXT = b"""the water and the word were there\r
before the weather, and the wood there wore\r
the threads of the other day; there we are.\r
Added to that the road went on and on\r
toward the tower, where the others wait.\r
"""
STREAM = (
    "df34004bab2316dd25a7219f14318258ab237b7db0b43f7d3a96b76c9b2144b7ebd46c92ecee90a79bd40ea6"
    "915899f108ba35f6a307940a976158c06d8f9cb6ab7f5b73c3cdc26b6b84c125ead66d5212f61c6cff5dcefd"
    "63fa315a304de1dea93433"
)


def spell(text: bytes) -> list[int]:
    """The longest token at each place."""
    longest_first = sorted(
        (i for i, b in enumerate(MEANINGS) if b), key=lambda i: -len(MEANINGS[i])
    )
    ids = []
    while text:
        token = next(i for i in longest_first if text.startswith(MEANINGS[i]))
        ids.append(token)
        text = text[len(MEANINGS[token]) :]
    return ids


def segment_of(
    text: bytes, *, wrap: int = 0, num_lanes: int = 1, prefix_tokens: int = 0
) -> Segment:
    unwrapped, flags = unwrap(text, wrap) if wrap else (text, None)
    ids = spell(unwrapped)
    return Segment(
        original=text, unwrapped=unwrapped, flags=flags, ids=ids,
        lanes=shape_of(len(ids), num_lanes, prefix_tokens),
    )  # fmt: skip


def masses_for(num_tokens: int, seed: int = 0) -> Floats:
    """What a model might say before each token: [N, num_leaves + 1]."""
    generator = torch.Generator().manual_seed(seed)
    return OUTLOOK.masses(3 * torch.randn(num_tokens, len(MEANINGS), generator=generator))


def odds_of(segment: Segment, masses: Floats) -> Floats:
    return OUTLOOK.path_odds(masses, np.array(segment.ids))


def decode(
    segment: Segment,
    stream: bytes,
    masses: Sequence[Floats | None],
    token_odds: TokenOdds = OUTLOOK,
) -> SegmentDecoder:
    decoder = SegmentDecoder(token_odds, Encoded(lanes=segment.lanes, stream=stream))
    for lane, place in segment.lanes.order:
        decoder.next_token(lane, masses[place])
    return decoder


# Tokens and offsets


@pytest.mark.parametrize("num_lanes, prefix_tokens", [(1, 0), (4, 0), (4, 30)])
def test_tokens_and_offsets_are_read_as_coded(num_lanes: int, prefix_tokens: int) -> None:
    rng = random.Random(num_lanes)
    ids = rng.choices(TREE.leaf_tokens.tolist(), k=900)
    offsets = [rng.choice([0, 0, 1, 2, 3, 40, 63, NO_OFFSET]) for _ in range(40)]
    odds = [[rng.randrange(-9000, 9000) for _ in range(TREE.depth)] for _ in ids]
    order = order_of(prefix_tokens, len(ids), num_lanes)

    def walk(coder: RangeWriter | RangeReader, known: bool) -> tuple[list[int], list[int]]:
        segment = SegmentCoder(coder, TREE, num_lanes)
        waiting, met, found = list(offsets), [], []
        for number, (lane, place) in enumerate(order):
            starts = [which for which, _ in order[:number]].count(lane) % OFFSET_TOKENS == 0
            if starts:
                met.append(segment.offset(lane, waiting.pop(0) if known else None))
            else:
                assert segment.offset(lane, 5 if known else None) is None  # nothing is coded

            def here(depth: int, node: int, place: int = place) -> int:
                return odds[place][depth]

            found.append(segment.token(lane, here, ids[place] if known else None))
        return met, found

    writer = RangeWriter()
    met, found = walk(writer, True)
    assert met == offsets[: len(met)] and len(met) >= 10
    stream = writer.finish(least_bytes=0)
    assert walk(RangeReader(stream, what="stream"), False) == (met, found)
    assert found == [ids[place] for _, place in order]


def test_offsets_that_are_met_become_cheap() -> None:
    def size(offsets: list[int]) -> int:
        writer = RangeWriter()
        coder = SegmentCoder(writer, TREE, len(offsets))
        for lane, offset in enumerate(offsets):
            assert coder.offset(lane, offset) == offset
        return len(writer.finish(least_bytes=0))

    assert size([0] * 64) < 8
    assert size([NO_OFFSET] * 64) < 4 * 64
    assert size([NO_OFFSET] * 64) < size([0, 63] * 32) + 64


def test_without_a_model_nothing_is_likelier() -> None:
    assert without_model(3, 7) == 0


# Offsets that are safe


@pytest.mark.parametrize("guard", [1e-5, 1e-3, 4e-3])
@pytest.mark.parametrize("seed", range(4))
def test_a_safe_offset_is_the_first_without_an_edge_near(guard: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 4, (30, 9))
    is_decision = rng.random((30, 9)) < 0.5
    offset = safe_offset(odds, is_decision, guard=guard)
    for number, grid in enumerate(GRIDS):
        nearest = grid.distances(odds)[is_decision].min()
        if number == offset:
            assert nearest > guard
            for shift in (-guard, guard):
                moved = grid.values(odds + shift)[is_decision]
                assert np.array_equal(moved, grid.values(odds)[is_decision])
            break
        assert nearest <= guard
    assert offset == NO_OFFSET or number == offset


def test_only_decisions_count() -> None:
    edge = 192 / 1024  # of the first grid
    odds = np.array([[0.0, edge], [edge, 0.0]])
    nowhere = np.zeros((2, 2), dtype=np.bool_)
    assert safe_offset(odds, nowhere, guard=0.01) == 0
    diagonal = np.array([[True, False], [False, True]])
    assert safe_offset(odds, diagonal, guard=0.01) == 0
    assert safe_offset(odds, ~diagonal, guard=0.01) == 2  # each offset is a shift of 6 / 1024


def test_no_offset_where_every_grid_has_an_edge_near() -> None:
    guard = 0.01
    odds = np.arange(-0.3, 0.3, 1.5 * guard)[:, None]
    assert safe_offset(odds, np.ones_like(odds, dtype=np.bool_), guard=guard) == NO_OFFSET


# Whole segments


SHAPES = [(1, 0), (3, 0), (3, 20), (16, 5)]


@pytest.mark.parametrize("wrap", [0, 2])
@pytest.mark.parametrize("num_lanes, prefix_tokens", SHAPES)
def test_segments_come_back(num_lanes: int, prefix_tokens: int, wrap: int) -> None:
    segment = segment_of(4 * TEXT, wrap=wrap, num_lanes=num_lanes, prefix_tokens=prefix_tokens)
    masses = masses_for(len(segment.ids))
    odds = odds_of(segment, masses)
    stream = encode_segment(TREE, segment, odds, guard=GUARD)
    assert replay_segment(TREE, segment, odds, stream)
    decoder = decode(segment, stream, masses)
    assert not decoder.has_failed
    assert decoder.ids == segment.ids
    if segment.flags is not None:
        assert segment.flags.any() and not segment.flags.all()
        found = walk_flags(decoder.reader, segment.unwrapped, None)
        assert np.array_equal(found, segment.flags)


@pytest.mark.parametrize("wrap", [0, 2])
@pytest.mark.parametrize("num_lanes, prefix_tokens", SHAPES)
def test_a_stream_is_read_by_the_prose_alone(num_lanes: int, prefix_tokens: int, wrap: int) -> None:
    """Docs/FORMAT.md, written anew down to the range decoder, finds tokens and line ends."""
    segment = segment_of(2 * TEXT, wrap=wrap, num_lanes=num_lanes, prefix_tokens=prefix_tokens)
    odds = odds_of(segment, masses_for(len(segment.ids)))
    stream = encode_segment(TREE, segment, odds, guard=GUARD)
    digits = Digits(stream)
    ids, met = read_tokens(
        digits,
        grow(MEANINGS),
        num_lanes,
        order_of(prefix_tokens, len(segment.ids), num_lanes),
        lambda place, depth, node: float(odds[place, depth]),
    )
    assert ids == segment.ids
    assert max(met) > 0, "no offset was used"
    if segment.flags is not None:
        assert read_flags(digits, segment.unwrapped) == segment.flags.tolist()


@pytest.mark.parametrize("num_lanes, prefix_tokens", [(1, 0), (3, 0), (3, 20)])
def test_tokens_that_nothing_stands_before(num_lanes: int, prefix_tokens: int) -> None:
    """The model's log-odds are 0 there, and are rounded like all others: under an offset that is
    not 0 they are not 0 any more."""
    segment = segment_of(2 * TEXT, num_lanes=num_lanes, prefix_tokens=prefix_tokens)
    masses: list[Floats | None] = list(masses_for(len(segment.ids)))
    odds = odds_of(segment, np.array(masses))
    firsts = [0] if segment.lanes.prefix_tokens else [first for first, _ in segment.lanes.spans]
    for first in firsts:
        masses[first] = None
        odds[first] = 0.0
    odds[firsts[0] + 1, 0] = 192 / 1024  # an edge of the first grid
    stream = encode_segment(TREE, segment, odds, guard=GUARD)
    assert replay_segment(TREE, segment, odds, stream)
    decoder = SegmentDecoder(OUTLOOK, Encoded(lanes=segment.lanes, stream=stream))
    for lane, place in segment.lanes.order:
        if place == firsts[0] + 1:
            break
        assert decoder.next_token(lane, masses[place]) == segment.ids[place]
    assert not decoder.has_failed


def test_one_token() -> None:
    segment = segment_of(b"e")
    odds = odds_of(segment, masses_for(1))
    stream = encode_segment(TREE, segment, odds, guard=GUARD)
    assert len(stream) >= 1
    assert decode(segment, stream, masses_for(1)).ids == segment.ids


def test_a_block_without_the_model() -> None:
    """A guard that no grid can keep: the model is not used at all, and may say anything."""
    segment = segment_of(4 * TEXT, num_lanes=2)
    masses = masses_for(len(segment.ids))
    stream = encode_segment(TREE, segment, odds_of(segment, masses), guard=1.0)
    other = masses_for(len(segment.ids), seed=1)
    assert decode(segment, stream, other).ids == segment.ids
    assert replay_segment(TREE, segment, odds_of(segment, other), stream)


def test_a_stream_has_a_byte_for_4096_tokens() -> None:
    """Sure of every token, it would be shorter: the work on a segment is bounded by its size."""
    ids = [8] * (3 * 4096 + 5)
    odds = np.where(TREE.bits[ids] == 1, 12.0, -12.0) * (TREE.nodes[ids] >= 0)
    text = b" the" * len(ids)
    segment = Segment(
        original=text, unwrapped=text, flags=None, ids=ids, lanes=shape_of(len(ids), 1, 0)
    )
    stream = encode_segment(TREE, segment, odds, guard=GUARD)
    assert len(stream) >= 3
    assert replay_segment(TREE, segment, odds, stream)


# Noise


@pytest.mark.parametrize("seed", range(3))
def test_noise_below_the_guard_changes_nothing(seed: int) -> None:
    segment = segment_of(4 * TEXT, wrap=2, num_lanes=3, prefix_tokens=20)
    masses = masses_for(len(segment.ids))
    odds = odds_of(segment, masses)
    stream = encode_segment(TREE, segment, odds, guard=GUARD)
    noise = np.random.default_rng(seed).uniform(-GUARD, GUARD, odds.shape)
    assert replay_segment(TREE, segment, odds + noise, stream)
    noisy = TokenOdds(TREE, CPU, noise=0.99 * GUARD)
    decoder = decode(segment, stream, masses, noisy)
    assert decoder.ids == segment.ids
    assert np.array_equal(walk_flags(decoder.reader, segment.unwrapped, None), segment.flags)


@pytest.mark.parametrize("seed", range(3))
def test_noise_far_above_the_guard_is_found(seed: int) -> None:
    segment = segment_of(4 * TEXT, wrap=2, num_lanes=3)
    masses = masses_for(len(segment.ids))
    odds = odds_of(segment, masses)
    stream = encode_segment(TREE, segment, odds, guard=GUARD)
    noise = np.random.default_rng(seed).normal(0, 500 * GUARD, odds.shape)
    try:
        assert not replay_segment(TREE, segment, odds + noise, stream)
    except Corrupt:
        pass
    decoder = decode(segment, stream, masses, TokenOdds(TREE, CPU, noise=500 * GUARD))
    assert decoder.has_failed or decoder.ids != segment.ids


def test_other_line_ends_are_found() -> None:
    segment = segment_of(2 * TEXT, wrap=2)
    odds = odds_of(segment, masses_for(len(segment.ids)))
    stream = encode_segment(TREE, segment, odds, guard=GUARD)
    assert segment.flags is not None
    for index in (0, len(segment.flags) // 2, len(segment.flags) - 1):
        flags = segment.flags.copy()
        flags[index] ^= True
        other = Segment(
            original=segment.original, unwrapped=segment.unwrapped, flags=flags,
            ids=segment.ids, lanes=segment.lanes,
        )  # fmt: skip
        assert not replay_segment(TREE, other, odds, stream)


# Damage


def damaged(stream: bytes) -> list[bytes]:
    flipped = [
        stream[:at] + bytes([stream[at] ^ 1 << at % 8]) + stream[at + 1 :]
        for at in range(len(stream))
    ]
    inverted = [
        stream[:at] + bytes([stream[at] ^ 0xFF]) + stream[at + 1 :] for at in range(len(stream))
    ]
    return flipped + inverted + [stream[:size] for size in range(len(stream))]


def test_damaged_streams_fail_or_give_other_tokens() -> None:
    segment = segment_of(TEXT[:90], wrap=2, num_lanes=3, prefix_tokens=5)
    masses = masses_for(len(segment.ids))
    odds = odds_of(segment, masses)
    stream = encode_segment(TREE, segment, odds, guard=GUARD)
    tokens = set(TREE.leaf_tokens.tolist())
    num_failed = 0
    for bad in damaged(stream):
        began = time.monotonic()
        decoder = decode(segment, bad, masses)  # raises nothing
        same = False
        if not decoder.has_failed:
            assert len(decoder.ids) == len(segment.ids) and set(decoder.ids) <= tokens
            if decoder.ids == segment.ids:
                try:
                    found = walk_flags(decoder.reader, segment.unwrapped, None)
                    same = np.array_equal(found, segment.flags)
                except Corrupt:
                    pass
        num_failed += decoder.has_failed
        assert not same, "a stream has no byte to spare"
        try:
            assert not replay_segment(TREE, segment, odds, bad)
        except Corrupt:
            pass
        assert time.monotonic() - began < 5
    assert num_failed < len(damaged(stream))


def test_a_stream_that_is_no_code_fails_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """From then on tokens are made up, so that the other rows of the batch can go on."""
    segment = segment_of(TEXT[:60])
    masses = masses_for(len(segment.ids))
    stream = encode_segment(TREE, segment, odds_of(segment, masses), guard=GUARD)
    decoder = SegmentDecoder(OUTLOOK, Encoded(lanes=segment.lanes, stream=stream))
    assert [decoder.next_token(0, masses[i]) for i in range(5)] == segment.ids[:5]

    def broken(ones: int, _bit: int | None) -> int:
        raise Corrupt("damaged stream of coded symbols")

    with monkeypatch.context() as patch:
        patch.setattr(decoder.reader, "bit", broken)
        assert decoder.next_token(0, masses[5]) in TREE.leaf_tokens
    assert decoder.has_failed
    before = decoder.ids
    assert decoder.next_token(0, masses[6]) in TREE.leaf_tokens
    assert decoder.has_failed and decoder.ids == before


def test_random_bytes_are_read_without_a_foreign_error() -> None:
    segment = segment_of(TEXT, num_lanes=2)
    masses = masses_for(len(segment.ids))
    rng = random.Random(0)
    failed = set()
    for size in [0, 1, 4, 7, 8, 9, 200] * 3 + [200] * 20:
        for stream in (rng.randbytes(size), b"\xff" * size):
            decoder = decode(segment, stream, masses)
            failed.add(decoder.has_failed)
            if not decoder.has_failed:
                try:
                    walk_flags(decoder.reader, segment.unwrapped, None)
                except Corrupt:
                    failed.add(True)
    assert failed == {False, True}


# The recipe


def test_bytes_of_a_stream() -> None:
    """Frozen: log-odds by a rule that any machine computes alike, all else by recipe 1."""
    segment = segment_of(TEXT, wrap=2, num_lanes=2, prefix_tokens=9)
    place, depth = np.indices((len(segment.ids), TREE.depth))
    odds = ((place * 37 + depth * 101) % 97 - 48) / 16 + 0.01
    stream = encode_segment(TREE, segment, odds, guard=2.0**-9)
    assert len(segment.ids) == 162
    assert stream.hex() == STREAM
