"""Files of sign vectors: a bit a dimension, one step, checks of one byte; what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmzip.errors import Corrupt, SettingsError
from llmzip.store.container import Container, summarise_container, write_container
from llmzip.store.cram_fields import HAS_SIGNS, CramFields
from llmzip.store.cram_payload import Chunk
from llmzip.store.cram_signs import (
    SignCode,
    are_signs,
    pack_signs,
    plane_bytes,
    salvage_signs,
    unpack_signs,
)
from llmzip.store.varint import Cursor
from llmzip.store.vectors import GridMem
from tests.containers import cram_container, cram_of
from tests.reference import read_container
from tests.test_container import GOLDEN, seal, split

ONE = 0x3F80


def signs(*vectors: list[int], step: int = ONE) -> GridMem:
    steps = np.full(len(vectors), step, dtype=np.uint16)
    return GridMem(symbols=np.array(vectors, dtype=np.int16), steps=steps)


def a_chunk(mem: GridMem | None = None, **changes: Any) -> Chunk:
    plain: dict[str, Any] = {
        "num_tokens": 3, "num_bytes": 9, "check": 0x12, "starts_segment": True, "patches": (),
        "mem": mem or signs([1, -1]),
    }  # fmt: skip
    return Chunk(**(plain | changes))


def a_file(*chunks: Chunk, **changes: Any) -> Container:
    return cram_container(chunks, **({"bits": 1, "signs": True} | changes))


@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 40)),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_bit_a_dimension(shape: tuple[int, int, int], seed: int) -> None:
    count, num_mem, dim = shape
    symbols = 2 * np.random.default_rng(seed).integers(0, 2, shape) - 1
    mems = [signs(*own.tolist(), step=0x4200) for own in symbols]
    assert are_signs(mems)
    code, plane = pack_signs(mems)
    assert code == SignCode(step=0x4200 // 32)
    assert SignCode.read(Cursor(code.encode(), what="header")) == code
    assert len(plane) == plane_bytes(*shape) == -(-count * num_mem * dim // 8)
    assert unpack_signs(plane, code, count=count, num_mem=num_mem, dim=dim) == mems
    size = num_mem * dim
    for left in range(len(plane) + 1):  # a plane that ends too soon
        found = salvage_signs(plane[:left], code, count=count, num_mem=num_mem, dim=dim)
        assert found == mems[: min(count, 8 * left // size)]


def test_the_order_of_the_bits() -> None:
    code, plane = pack_signs([signs([1, -1, 1]), signs([-1, 1, 1]), signs([1, 1, 1])])
    assert plane == bytes([0b11110101, 0b1])
    with pytest.raises(Corrupt, match="unused bits"):
        unpack_signs(bytes([0b11110101, 0b11]), code, count=3, num_mem=1, dim=3)


@pytest.mark.parametrize(
    "mems",
    [
        [],
        [signs([1, 0])],
        [signs([1, 3])],
        [signs([1, -1]), signs([1, -1], step=0x3FA0)],
    ],
)
def test_what_are_no_signs(mems: list[GridMem]) -> None:
    assert not are_signs(mems)
    if mems:
        with pytest.raises(SettingsError, match="not all signs"):
            write_container(a_file(*map(a_chunk, mems)))


def test_a_file_of_signs_is_smaller_and_has_shorter_checks() -> None:
    mem = signs([1, -1] * 288)
    chunks = [a_chunk(mem), a_chunk(mem, check=0xFF, patches=((1, 5),)), a_chunk(mem)]
    packed = write_container(a_file(*chunks, mem_dim=576))
    found = cram_of(read_container(packed))
    assert found.signs and found.check_bytes == 1
    assert list(found.chunks) == chunks
    fields = summarise_container(packed).header.payload
    assert isinstance(fields, CramFields)
    assert fields.features & HAS_SIGNS and fields.planes["vectors"] == 3 * 72
    with pytest.raises(SettingsError, match="the check has 8 bits"):
        write_container(a_file(a_chunk(mem, check=0x100), mem_dim=576))


def test_the_same_vectors_may_stand_in_any_coded_file() -> None:
    """Files of an llmzip that did not know of signs."""
    old = a_file(a_chunk(), signs=False)
    found = cram_of(read_container(write_container(old)))
    assert not found.signs and found.check_bytes == 2
    assert write_container(read_container(write_container(old))) == write_container(old)


def test_signs_need_coded_vectors() -> None:
    with pytest.raises(SettingsError, match="not all signs"):
        literal = replace(a_chunk(), mem=None, patches=((0, 1), (1, 2), (2, 3)))
        write_container(a_file(literal))
    raw = GOLDEN["v1_tiny.crm"]()
    front, fields, body = split(write_container(raw))
    with pytest.raises(Corrupt, match="do not agree"):
        read_container(seal(bytes([1, front[1] | HAS_SIGNS, 0]), fields, body))
