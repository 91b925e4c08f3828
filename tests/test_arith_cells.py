"""The grid that log-odds are rounded on: what two machines agree on though their floats differ."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmzip.codecs.log_odds import MAX_ODDS
from llmzip.codecs.odds_grid import GRIDS, NO_OFFSET, NUM_OFFSETS
from tests.arith_prose import edges, rounded

OFFSETS = range(NUM_OFFSETS)
EDGES = [[float(edge) for edge in edges(offset)] for offset in OFFSETS]
some_odds = st.floats(-40, 40)
some_offset = st.sampled_from(OFFSETS)


def test_there_are_as_many_as_the_stream_can_say() -> None:
    assert len(GRIDS) == NO_OFFSET == 64


@pytest.mark.parametrize("offset", OFFSETS)
def test_edges_and_values_are_what_the_format_says(offset: int) -> None:
    """The value just below each edge, on it, and far from all."""
    grid = GRIDS[offset]
    for edge, at in zip(edges(offset), EDGES[offset], strict=True):
        assert at == edge  # which a float holds exactly
        assert grid.value(math.nextafter(at, -math.inf)) == rounded(
            math.nextafter(at, -math.inf), offset
        )
        assert grid.value(at) == rounded(at, offset)
    assert grid.value(-1e9) == rounded(-1e9, offset) == -MAX_ODDS
    assert grid.value(1e9) == rounded(1e9, offset) == MAX_ODDS


@pytest.mark.parametrize("offset", OFFSETS)
def test_values_rise_from_cell_to_cell(offset: int) -> None:
    ends = [-1e9, *EDGES[offset]]
    values = [GRIDS[offset].value(end) for end in ends]
    assert values[0] == -MAX_ODDS and values[-1] == MAX_ODDS
    for one, next_one in zip(values, values[1:], strict=False):
        assert one < next_one or one == next_one in (-MAX_ODDS, MAX_ODDS)


@pytest.mark.parametrize("offset", OFFSETS)
def test_a_value_lies_in_its_cell(offset: int) -> None:
    grid = GRIDS[offset]
    for odds in np.linspace(-11.9, 11.9, 400).tolist():
        value = grid.value(odds)
        assert abs(value) == MAX_ODDS or grid.value(value / 1024) == value


@given(some_odds, some_offset)
def test_any_odds_are_rounded_as_the_format_says(odds: float, offset: int) -> None:
    assert GRIDS[offset].value(odds) == rounded(odds, offset)


@given(st.lists(some_odds | st.sampled_from(EDGES[0] + EDGES[9]), min_size=1), some_offset)
def test_one_by_one_or_together(odds: list[float], offset: int) -> None:
    grid = GRIDS[offset]
    both = np.array([odds, odds[::-1]])
    assert grid.values(both).tolist() == [[grid.value(x) for x in row] for row in both.tolist()]
    assert grid.values(both).dtype == np.int32


@given(some_odds, some_offset)
@example(-40.0, 0)
@example(40.0, 63)
def test_distance_is_that_of_the_nearest_edge(odds: float, offset: int) -> None:
    """Of those between cells that round to different values."""
    (distance,) = GRIDS[offset].distances(np.array([odds]))
    real = [
        edge
        for edge in EDGES[offset]
        if rounded(edge, offset) != rounded(math.nextafter(edge, -math.inf), offset)
    ]
    assert len(real) < len(EDGES[offset])
    assert distance == min(abs(odds - edge) for edge in real)


@given(some_odds, some_offset, st.floats(-1, 1, exclude_min=True, exclude_max=True))
def test_a_value_bears_noise_below_the_distance(odds: float, offset: int, share: float) -> None:
    grid = GRIDS[offset]
    distance = float(grid.distances(np.array([odds]))[0])
    moved = odds + 0.999999 * share * distance
    assert grid.value(moved) == grid.value(odds)


@given(some_odds, some_offset)
def test_a_value_does_not_bear_more(odds: float, offset: int) -> None:
    grid = GRIDS[offset]
    distance = float(grid.distances(np.array([odds]))[0]) + 1e-9
    values = {grid.value(odds - distance), grid.value(odds), grid.value(odds + distance)}
    assert len(values) > 1


def test_no_edge_is_shared() -> None:
    everything = [edge for offset in OFFSETS for edge in EDGES[offset]]
    assert len(set(everything)) == len(everything)


@given(some_odds)
def test_the_first_grid_is_symmetric(odds: float) -> None:
    grid = GRIDS[0]
    if odds not in EDGES[0]:  # which belong to the cell above
        assert grid.value(-odds) == -grid.value(odds)
    assert grid.value(0.0) == 0
