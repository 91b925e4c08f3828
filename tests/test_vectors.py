"""Mem vectors as bits: byte literals, sizes, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmzip.errors import Corrupt, SettingsError, UnsupportedVersion
from llmzip.store.vectors import SUPPORTED_BITS, pack_vectors, packed_bytes, unpack_vectors


def test_bytes_are_raw_little_endian_bf16() -> None:
    mem = np.array([[[0x3F80, 0xC000]], [[0x0001, 0x8000]]], dtype=np.uint16)  # 1, -2, tiny, -0
    assert pack_vectors(mem, bits=16) == bytes.fromhex("803f 00c0 0100 0080")


def test_unpacked_array_has_shape_type_and_its_own_memory() -> None:
    data = bytes.fromhex("803f 00c0 0100 0080 7f7f 7fff")
    mem = unpack_vectors(data, count=1, num_mem=2, dim=3, bits=16)
    assert mem.tolist() == [[[0x3F80, 0xC000, 0x0001], [0x8000, 0x7F7F, 0xFF7F]]]
    assert mem.dtype == np.uint16 and mem.flags.writeable


@pytest.mark.parametrize("off", [-1, 1])
def test_wrong_size_is_corrupt(off: int) -> None:
    size = packed_bytes(3, 2, 5, 16)
    assert size == 60
    with pytest.raises(Corrupt, match="60 bytes expected"):
        unpack_vectors(bytes(size + off), count=3, num_mem=2, dim=5, bits=16)


@pytest.mark.parametrize("pattern", [0x7F80, 0xFF80, 0x7F81, 0x7FC0, 0xFFFF])
def test_infinity_and_nan_are_refused(pattern: int) -> None:
    mem = np.zeros((1, 1, 4), dtype=np.uint16)
    mem[0, 0, 3] = pattern
    with pytest.raises(SettingsError, match="NaN"):
        pack_vectors(mem, bits=16)
    with pytest.raises(Corrupt, match="NaN"):
        unpack_vectors(mem.tobytes(), count=1, num_mem=1, dim=4, bits=16)


@pytest.mark.parametrize("pattern", [0x7F7F, 0xFF7F, 0x0000, 0x007F])
def test_largest_and_smallest_numbers_are_not_taken_for_infinity(pattern: int) -> None:
    mem = np.full((1, 1, 1), pattern, dtype=np.uint16)
    again = unpack_vectors(pack_vectors(mem, bits=16), count=1, num_mem=1, dim=1, bits=16)
    assert again.tolist() == [[[pattern]]]


@pytest.mark.parametrize("bits", [0, 4, 15, 17, 32])
def test_unknown_precision(bits: int) -> None:
    assert bits not in SUPPORTED_BITS
    with pytest.raises(SettingsError, match=str(bits)):
        pack_vectors(np.zeros((1, 1, 1), dtype=np.uint16), bits=bits)
    with pytest.raises(UnsupportedVersion) as caught:
        unpack_vectors(b"\0\0", count=1, num_mem=1, dim=1, bits=bits)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    "mem", [np.zeros((1, 1, 2), dtype=np.float32), np.zeros((2, 2), dtype=np.uint16)]
)
def test_other_arrays_are_not_packed(mem: np.ndarray) -> None:
    with pytest.raises(SettingsError, match="uint16"):
        pack_vectors(mem, bits=16)


@settings(max_examples=50, derandomize=True, database=None)
@given(
    shape=st.tuples(*[st.integers(1, 4)] * 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_round_trip(shape: tuple[int, int, int], seed: int) -> None:
    mem = np.random.default_rng(seed).integers(0, 0x7F80, shape, dtype=np.uint16)
    data = pack_vectors(mem, bits=16)
    count, num_mem, dim = shape
    assert len(data) == packed_bytes(count, num_mem, dim, 16)
    again = unpack_vectors(data, count=count, num_mem=num_mem, dim=dim, bits=16)
    assert np.array_equal(again, mem)
