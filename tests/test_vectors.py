"""Mem vectors as bits: byte literals, sizes, grids, and what is refused."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmzip.errors import Corrupt, SettingsError, UnsupportedVersion
from llmzip.store.vectors import (
    MAX_STEP,
    MIN_STEP,
    GridMem,
    grid_values,
    is_step,
    mem_bits,
    pack_vectors,
    packed_bytes,
    quantise_step,
    step_value,
    unpack_vectors,
)


def test_bytes_are_raw_little_endian_bf16() -> None:
    mem = np.array([[[0x3F80, 0xC000]], [[0x0001, 0x8000]]], dtype=np.uint16)  # 1, -2, tiny, -0
    assert pack_vectors(mem) == bytes.fromhex("803f 00c0 0100 0080")


def test_unpacked_array_has_shape_type_and_its_own_memory() -> None:
    data = bytes.fromhex("803f 00c0 0100 0080 7f7f 7fff")
    mem = unpack_vectors(data, count=1, num_mem=2, dim=3)
    assert mem.tolist() == [[[0x3F80, 0xC000, 0x0001], [0x8000, 0x7F7F, 0xFF7F]]]
    assert mem.dtype == np.uint16 and mem.flags.writeable


@pytest.mark.parametrize("off", [-1, 1])
def test_wrong_size_is_corrupt(off: int) -> None:
    size = packed_bytes(3, 2, 5, 16)
    assert size == 60
    with pytest.raises(Corrupt, match="60 bytes expected"):
        unpack_vectors(bytes(size + off), count=3, num_mem=2, dim=5)


@pytest.mark.parametrize("pattern", [0x7F80, 0xFF80, 0x7F81, 0x7FC0, 0xFFFF])
def test_infinity_and_nan_are_refused(pattern: int) -> None:
    mem = np.zeros((1, 1, 4), dtype=np.uint16)
    mem[0, 0, 3] = pattern
    with pytest.raises(SettingsError, match="NaN"):
        pack_vectors(mem)
    with pytest.raises(Corrupt, match="NaN"):
        unpack_vectors(mem.tobytes(), count=1, num_mem=1, dim=4)


@pytest.mark.parametrize("pattern", [0x7F7F, 0xFF7F, 0x0000, 0x007F])
def test_largest_and_smallest_numbers_are_not_taken_for_infinity(pattern: int) -> None:
    mem = np.full((1, 1, 1), pattern, dtype=np.uint16)
    again = unpack_vectors(pack_vectors(mem), count=1, num_mem=1, dim=1)
    assert again.tolist() == [[[pattern]]]


@pytest.mark.parametrize("bits", [-1, 0, 9, 15, 17, 32])
def test_unknown_precision(bits: int) -> None:
    with pytest.raises(UnsupportedVersion, match=f"{bits} bits") as caught:
        packed_bytes(1, 1, 1, bits)
    assert caught.value.exit_code == 4


def test_nominal_size() -> None:
    assert [packed_bytes(2, 3, 5, bits) for bits in (16, 8, 4, 3, 2, 1)] == [60, 30, 15, 12, 8, 4]


@pytest.mark.parametrize(
    "mem", [np.zeros((1, 1, 2), dtype=np.float32), np.zeros((2, 2), dtype=np.uint16)]
)
def test_other_arrays_are_not_packed(mem: np.ndarray) -> None:
    with pytest.raises(SettingsError, match="uint16"):
        pack_vectors(mem)


@settings(max_examples=50, derandomize=True, database=None)
@given(
    shape=st.tuples(*[st.integers(1, 4)] * 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_round_trip(shape: tuple[int, int, int], seed: int) -> None:
    mem = np.random.default_rng(seed).integers(0, 0x7F80, shape, dtype=np.uint16)
    data = pack_vectors(mem)
    count, num_mem, dim = shape
    assert len(data) == packed_bytes(count, num_mem, dim, 16)
    again = unpack_vectors(data, count=count, num_mem=num_mem, dim=dim)
    assert np.array_equal(again, mem)


# Grids


def grid(symbols: list[list[int]], steps: list[int]) -> GridMem:
    return GridMem(
        symbols=np.array(symbols, dtype=np.int16), steps=np.array(steps, dtype=np.uint16)
    )


def exact_bits(symbol: int, step: int) -> int:
    """bf16 bits of a product, in fractions: nothing in common with floats."""
    value = Fraction(abs(symbol)) * (4 + step % 128 // 32) * Fraction(2) ** (step // 128 - 129)
    if not value:
        return 0
    exponent = 0
    while value >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while value < Fraction(2) ** exponent:
        exponent -= 1
    mantissa = round(value / Fraction(2) ** (exponent - 7))  # rounds halves to even
    if mantissa == 256:
        mantissa, exponent = 128, exponent + 1
    return (symbol < 0) << 15 | (exponent + 127) << 7 | mantissa - 128


def test_a_grid_is_symbols_times_steps() -> None:
    mem = grid([[1, -2, 0, 3], [0, 1, -1, 257]], [0x3F80, 0x4120])  # steps 1 and 10
    assert mem.to_bits().tolist() == [
        [0x3F80, 0xC000, 0x0000, 0x4040],
        [0x0000, 0x4120, 0xC120, exact_bits(257, 0x4120)],
    ]
    assert mem.to_bits().dtype == np.uint16
    assert mem_bits(mem).tolist() == mem.to_bits().tolist()
    raw = np.zeros((1, 2), dtype=np.uint16)
    assert mem_bits(raw) is raw


@settings(max_examples=300, derandomize=True, database=None)
@given(symbol=st.integers(-1023, 1023), code=st.integers(MIN_STEP // 32, 0x7A80 // 32))
def test_grid_values_are_rounded_to_even(symbol: int, code: int) -> None:
    steps = np.array([32 * code], dtype=np.uint16)
    found = grid_values(np.array([[symbol]], dtype=np.int16), steps)
    assert found.tolist() == [[exact_bits(symbol, 32 * code)]]


def test_grid_values_take_any_leading_shape() -> None:
    symbols = np.arange(-12, 12, dtype=np.int16).reshape(2, 3, 4)
    steps = np.array([[0x3F80, 0x3FC0, 0x4020]] * 2, dtype=np.uint16)
    found = grid_values(symbols, steps)
    for chunk in range(2):
        assert np.array_equal(found[chunk], grid_values(symbols[chunk], steps[chunk]))


def test_an_infinite_product_is_refused() -> None:
    assert grid([[1, -1]], [MAX_STEP]).to_bits().tolist() == [[0x7F60, 0xFF60]]
    for symbols in ([[2, 0]], [[0, -2]]):
        with pytest.raises(Corrupt, match="infinite"):
            grid(symbols, [MAX_STEP]).to_bits()
    # 255 x 2^120 is the largest bf16 number; 511 x 2^119 is rounded away from it.
    assert grid([[255, -255]], [0x7B80]).to_bits().tolist() == [[0x7F7F, 0xFF7F]]
    with pytest.raises(Corrupt, match="infinite"):
        grid([[511, 0]], [0x7B00]).to_bits()


def test_grids_compare_by_value() -> None:
    assert grid([[1, 2]], [0x3F80]) == grid([[1, 2]], [0x3F80])
    assert grid([[1, 2]], [0x3F80]) != grid([[1, 3]], [0x3F80])
    assert grid([[1, 2]], [0x3F80]) != grid([[1, 2]], [0x3FA0])
    assert grid([[1, 2]], [0x3F80]) != "something else"


def test_steps_are_four_an_octave() -> None:
    assert [step_value(pattern) for pattern in (0x3F80, 0x3FA0, 0x3FC0, 0x3FE0, 0x4000)] == [
        1, 1.25, 1.5, 1.75, 2
    ]  # fmt: skip
    for pattern in range(MIN_STEP, MAX_STEP + 1, 32):
        assert is_step(pattern) and quantise_step(step_value(pattern)) == pattern
    for pattern in (0, 0x0060, 0x7F80, 0x3F81, 0x3F90, 0xBF80):
        assert not is_step(pattern)


@settings(max_examples=300, derandomize=True, database=None)
@given(step=st.floats(2**-126, 2**127, exclude_min=True))
def test_the_nearest_step_is_found(step: float) -> None:
    found = quantise_step(step)
    distances = {
        other: abs(math.log(step_value(other)) - math.log(step))
        for other in (found - 32, found, found + 32)
        if is_step(other)
    }
    assert distances[found] <= min(distances.values()) + 1e-9


def test_steps_beyond_the_ends() -> None:
    assert quantise_step(1e-300) == quantise_step(5e-324) == MIN_STEP
    assert quantise_step(1e300) == quantise_step(3.3e38) == MAX_STEP
    for step in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="positive"):
            quantise_step(step)


@pytest.mark.parametrize(
    "mem, problem",
    [
        (grid([[1, 2]], [0x3F80]), ""),
        (grid([[1023, -1023]], [0x3F80]), ""),
        (grid([[1024, 0]], [0x3F80]), "beyond 1023"),
        (grid([[0, -1024]], [0x3F80]), "beyond 1023"),
        (grid([[-32768, 0]], [0x3F80]), "beyond 1023"),
        (grid([[1, 2, 3]], [0x3F80]), "int16 \\[1, 2\\]"),
        (grid([[1, 2]], [0x3F80, 0x3F80]), "uint16 \\[1\\]"),
        (grid([[1, 2]], [0x3F81]), "an invalid step"),
        (grid([[1, 2]], [0]), "an invalid step"),
        (grid([[1, 2]], [0x7F80]), "an invalid step"),
        (grid([[0, -2]], [0x7F60]), "infinite"),
        (
            GridMem(symbols=np.zeros((1, 2), np.int32), steps=np.full(1, 0x3F80, np.uint16)),
            "int32",
        ),
        (
            GridMem(symbols=np.zeros((1, 2), np.int16), steps=np.full(1, 0x3F80, np.int64)),
            "int64",
        ),
    ],
)
def test_what_a_chunk_may_hold(mem: GridMem, problem: str) -> None:
    found = mem.problem(1, 2)
    assert re.search(problem, found) if problem else found == ""
