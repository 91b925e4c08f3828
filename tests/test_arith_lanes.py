"""How a segment's tokens are dealt out to lanes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmzip.codecs.arith.segments import Lanes, shape_of
from tests.arith_prose import order_of, prefix_of


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int]:
    num_tokens = draw(st.integers(1, 300))
    num_lanes = draw(st.integers(1, min(64, num_tokens)))
    return num_tokens, num_lanes, draw(st.integers(0, 400))


@given(shapes())
def test_the_order_is_what_the_format_says(shape: tuple[int, int, int]) -> None:
    num_tokens, num_lanes, prefix_tokens = shape
    lanes = shape_of(num_tokens, num_lanes, prefix_tokens)
    assert lanes.prefix_tokens == prefix_of(prefix_tokens, num_tokens, num_lanes)
    assert list(lanes.order) == order_of(prefix_tokens, num_tokens, num_lanes)


@given(shapes())
def test_every_token_comes_once(shape: tuple[int, int, int]) -> None:
    lanes = shape_of(*shape)
    places = [place for _, place in lanes.order]
    assert sorted(places) == list(range(lanes.num_tokens))
    assert places[: lanes.prefix_tokens] == list(range(lanes.prefix_tokens))


@given(shapes())
def test_spans_join_and_differ_by_one_token(shape: tuple[int, int, int]) -> None:
    lanes = shape_of(*shape)
    assert len(lanes.spans) == lanes.num_lanes
    ends = [lanes.prefix_tokens, *(last for _, last in lanes.spans)]
    assert [first for first, _ in lanes.spans] == ends[:-1]
    assert ends[-1] == lanes.num_tokens
    sizes = {last - first for first, last in lanes.spans}
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1


@given(shapes())
def test_a_lanes_tokens_keep_their_order(shape: tuple[int, int, int]) -> None:
    lanes = shape_of(*shape)
    order = list(lanes.order)
    for lane, (first, last) in enumerate(lanes.spans):
        own = [place for which, place in order if which == lane]
        head = list(range(lanes.prefix_tokens)) if lane == 0 else []
        assert own == head + list(range(first, last))


def test_prefix_then_a_token_of_each() -> None:
    lanes = shape_of(9, 3, 2)
    assert lanes == Lanes(num_tokens=9, num_lanes=3, prefix_tokens=2)
    assert lanes.spans == [(2, 4), (4, 6), (6, 9)]
    assert list(lanes.order) == [
        (0, 0), (0, 1), (0, 2), (1, 4), (2, 6), (0, 3), (1, 5), (2, 7), (2, 8),
    ]  # fmt: skip


@pytest.mark.parametrize("prefix_tokens", [0, 4, 400])
def test_one_lane_has_no_prefix(prefix_tokens: int) -> None:
    lanes = shape_of(5, 1, prefix_tokens)
    assert lanes.prefix_tokens == 0
    assert list(lanes.order) == [(0, place) for place in range(5)]


@pytest.mark.parametrize("prefix_tokens", [0, 3, 65535])
def test_as_many_lanes_as_tokens(prefix_tokens: int) -> None:
    lanes = shape_of(7, 7, prefix_tokens)
    assert lanes.prefix_tokens == 0
    assert list(lanes.order) == [(lane, lane) for lane in range(7)]


def test_a_prefix_leaves_each_lane_a_token() -> None:
    lanes = shape_of(10, 4, 65535)
    assert lanes.prefix_tokens == 6
    assert lanes.spans == [(6, 7), (7, 8), (8, 9), (9, 10)]
