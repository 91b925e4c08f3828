"""The coded planes by themselves: what they cost, their right form, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmzip.errors import Corrupt
from llmzip.store import grids as gridplane
from llmzip.store.cram_patches import ChunkPatches, pack_coded_patches, read_coded_patches
from llmzip.store.grids import (
    NO_VECTORS,
    GridCode,
    pack_grids,
    prior_counts,
    unpack_grids,
)
from llmzip.store.grids import least_bytes as least_vector_bytes
from llmzip.store.residual import Patch, Ranked
from llmzip.store.vectors import GridMem

ONE = 0x3F80


def grids(symbols: np.ndarray, steps: Any = ONE) -> list[GridMem]:
    """`symbols: [n, K, D]`; one step for all, or [n, K]."""
    patterns = np.broadcast_to(np.array(steps, dtype=np.uint16), symbols.shape[:2])
    return [
        GridMem(symbols=some.astype(np.int16), steps=mine.copy())
        for some, mine in zip(symbols, patterns, strict=True)
    ]


def entropy_bytes(values: np.ndarray) -> float:
    counts = np.unique(values, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum()) / 8


def unpack(data: bytes, code: GridCode, mems: list[GridMem]) -> list[GridMem]:
    num_mem, dim = mems[0].symbols.shape
    return unpack_grids(data, code, count=len(mems), num_mem=num_mem, dim=dim)


# Vectors


def test_first_counts_of_symbols() -> None:
    for prior in (0, 60, 127, 128, 200, 255):
        for size in (1, 3, 1023):
            counts = prior_counts(prior, size)
            assert len(counts) == 2 * size + 1 and counts == counts[::-1] and min(counts) >= 1
            assert list(counts[size:]) == sorted(counts[size:], reverse=True)
            assert 512 * len(counts) * 0.95 <= sum(counts) <= 513 * len(counts)
    # A normal distribution's log falls as a square, a Laplacian's as a line.
    normal, laplacian = (np.log(prior_counts(prior, 30)[30:]) for prior in (52, 196))
    assert np.diff(normal[:12], 3) == pytest.approx(0, abs=0.02)
    assert np.diff(laplacian[:12], 2) == pytest.approx(0, abs=0.02)
    assert np.diff(normal[:12], 2).max() < -0.01


@pytest.mark.parametrize("kind", ["normal", "laplace"])
@pytest.mark.parametrize(
    "spread, least, most",
    [(0.4, 0.8, 1.5), (1.0, 1.9, 2.5), (2.0, 2.9, 3.5), (4.0, 3.9, 4.5), (60.0, 7.5, 8.4)],
)
def test_vectors_cost_little_more_than_their_entropy(
    kind: str, spread: float, least: float, most: float
) -> None:
    rng = np.random.default_rng(7)
    draw = rng.normal if kind == "normal" else rng.laplace
    symbols = np.round(draw(0, spread, (12, 1, 576)))
    code, data = pack_grids(grids(symbols.astype(np.int64)))
    entropy = entropy_bytes(symbols)
    assert least < 8 * entropy / symbols.size < most
    assert len(data) <= 1.02 * entropy + 8
    assert (code.prior < 128) == (kind == "normal") or spread < 1


def test_steps_cost_little() -> None:
    rng = np.random.default_rng(3)
    symbols = np.round(rng.normal(0, 1, (40, 1, 64))).astype(np.int64)
    alike = len(pack_grids(grids(symbols))[1])
    octave = 32 * rng.integers(500, 505, (40, 1))
    assert len(pack_grids(grids(symbols, octave))[1]) - alike <= 3 * 40 / 8
    single = np.full((40, 1), ONE)
    single[20] = ONE + 96
    assert len(pack_grids(grids(symbols, single))[1]) - alike <= 4


@settings(max_examples=60, derandomize=True, database=None, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 3), st.sampled_from([1, 2, 63, 64, 65, 130])),
    largest=st.sampled_from([0, 1, 2, 20, 1023]),
    octaves=st.sampled_from([0, 1, 40]),
    seed=st.integers(0, 2**32 - 1),
)
def test_vectors_round_trip(
    shape: tuple[int, int, int], largest: int, octaves: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mems = grids(
        rng.integers(-largest, largest + 1, shape),
        0x3000 + 32 * rng.integers(0, 4 * octaves + 1, shape[:2]),
    )
    code, data = pack_grids(mems)
    assert unpack(data, code, mems) == mems
    assert len(data) >= least_vector_bytes(*shape)


def test_vectors_alike_are_padded_to_the_least_size() -> None:
    for dim, each in ((64, 1), (65, 2), (576, 9)):
        mems = grids(np.zeros((20, 2, dim)))
        code, data = pack_grids(mems)
        assert (code.max_symbol, code.step_span) == (1, 0)
        assert len(data) == 20 * 2 * each and data.endswith(b"\0\0")
        assert unpack(data, code, mems) == mems
        with pytest.raises(Corrupt, match="canonical encoding"):
            unpack(data + b"\0", code, mems)


def test_no_vectors() -> None:
    assert pack_grids([]) == (NO_VECTORS, b"")
    assert unpack_grids(b"", NO_VECTORS, count=0, num_mem=1, dim=8) == []
    for code, data in ((NO_VECTORS, b"\0"), (replace(NO_VECTORS, prior=1), b"")):
        with pytest.raises(Corrupt, match="no chunk has any"):
            unpack_grids(data, code, count=0, num_mem=1, dim=8)


def test_other_bytes_are_other_vectors_or_corrupt() -> None:
    rng = np.random.default_rng(0)
    mems = grids(rng.integers(-3, 4, (3, 2, 20)), 32 * rng.integers(500, 504, (3, 2)))
    code, data = pack_grids(mems)
    flipped = [bytearray(data) for _ in range(8 * len(data))]
    for place, damaged in enumerate(flipped):
        damaged[place // 8] ^= 1 << place % 8
    for wrong in (*map(bytes, flipped), data[:-1]):
        try:
            assert unpack(wrong, code, mems) != mems
        except Corrupt:
            pass
    for wrong in (data + b"\0", data + b"\1", data + bytes(9), data + b"\xff" * 4):
        with pytest.raises(Corrupt, match="canonical encoding"):
            unpack(wrong, code, mems)


@pytest.mark.parametrize(
    "change", [{"max_symbol": 4}, {"step_span": 2}, {"first_step": 507, "step_span": 2}]
)
def test_vectors_must_be_what_the_header_says(change: dict[str, int]) -> None:
    mems = grids(np.array([[[3, 0, 1]], [[0, -1, 0]]]), [[ONE], [ONE + 32]])
    code, data = pack_grids(mems)
    assert code == GridCode(max_symbol=3, first_step=508, step_span=1, prior=code.prior)
    symbols, codes = np.stack([mem.symbols for mem in mems]), np.array([[508], [509]])
    assert gridplane._write(code, symbols, codes) == data
    lying = replace(code, **change)
    with pytest.raises(Corrupt, match="header says"):
        unpack(gridplane._write(lying, symbols, codes), lying, mems)


@pytest.mark.parametrize(
    "change",
    [
        {"max_symbol": 0},
        {"max_symbol": 1024},
        {"first_step": 3},
        {"first_step": 1020},
        {"step_span": 1016},
        {"step_span": 2**62},
    ],
)
def test_header_fields_out_of_range(change: dict[str, int]) -> None:
    GridCode(max_symbol=1023, first_step=4, step_span=1015, prior=255).check()
    with pytest.raises(Corrupt, match="header"):
        replace(NO_VECTORS, **change).check()


# Patches


def typical(num_chunks: int, *, seed: int) -> list[ChunkPatches]:
    """An eighth of the tokens patched, half of them by rank, as in real files."""
    rng = np.random.default_rng(seed)
    chunks = []
    for _ in range(num_chunks):
        num_tokens = int(rng.integers(60, 250))
        positions = np.flatnonzero(rng.random(num_tokens) < 0.125).tolist()
        patches = tuple((position, some_token(rng)) for position in positions)
        chunks.append(ChunkPatches(num_tokens=num_tokens, is_literal=False, patches=patches))
    return chunks


def some_token(rng: np.random.Generator) -> int | Ranked:
    choice = rng.random()
    if choice < 0.5:
        return int(np.exp(rng.uniform(0, np.log(49152))))
    if choice < 0.53:
        size = int(rng.integers(2, 5))
        return Ranked(int(rng.integers(0, 20)), size, int(rng.integers(size)))
    return Ranked(min(255, int(rng.geometric(0.45))), 1, 0)


def read(data: bytes, chunks: list[ChunkPatches], num_patches: int) -> list[tuple[Patch, ...]]:
    blank = [replace(chunk, patches=()) for chunk in chunks]
    return read_coded_patches(data, blank, num_patches=num_patches)


def count(chunks: list[ChunkPatches]) -> int:
    return sum(len(chunk.patches) for chunk in chunks if not chunk.is_literal)


def test_positions_cost_their_entropy() -> None:
    for num_chunks in (1, 6, 50):
        chunks = [
            replace(
                chunk, patches=tuple((position, Ranked(1, 1, 0)) for position, _ in chunk.patches)
            )
            for chunk in typical(num_chunks, seed=num_chunks)
        ]
        flags = np.zeros(sum(chunk.num_tokens for chunk in chunks))
        flags[: count(chunks)] = 1
        kinds_bits = 60  # of learning that there is one kind only
        assert 8 * len(pack_coded_patches(chunks)) <= 1.03 * 8 * entropy_bytes(flags) + kinds_bits


def test_patches_cost_little_more_than_they_hold() -> None:
    for num_chunks in (12, 100):
        chunks = typical(num_chunks, seed=num_chunks)
        tokens = [token for chunk in chunks for _, token in chunk.patches]
        flags = np.zeros(sum(chunk.num_tokens for chunk in chunks))
        flags[: len(tokens)] = 1
        kinds = np.array([t.skip if isinstance(t, Ranked) and t.size == 1 else -1 for t in tokens])
        ids = [token for token in tokens if isinstance(token, int)]
        sizes = np.frexp(np.array(ids) + 1.0)[1]
        groups = [token for token in tokens if isinstance(token, Ranked) and token.size > 1]
        known = entropy_bytes(flags) + entropy_bytes(kinds) + entropy_bytes(sizes)
        known += float((sizes - 1).sum()) / 8 + 1.5 * len(groups)
        assert len(pack_coded_patches(chunks)) <= 1.01 * known + 12


def test_no_patches_take_no_bytes() -> None:
    chunks = [ChunkPatches(num_tokens=9, is_literal=False)] * 3
    assert pack_coded_patches(chunks) == b""
    assert read(b"", chunks, 0) == [()] * 3
    with pytest.raises(Corrupt, match="canonical encoding"):
        read(b"\0", chunks, 0)


EDGES: tuple[int | Ranked, ...] = (
    0, 1, 65534, 65535, 65536, 2**31 - 2, 2**31 - 1,
    Ranked(1, 1, 0), Ranked(20, 1, 0), Ranked(21, 1, 0), Ranked(255, 1, 0),
    Ranked(0, 2, 0), Ranked(0, 256, 255), Ranked(254, 2, 1), Ranked(128, 128, 64),
)  # fmt: skip


def test_edges_round_trip() -> None:
    whole = ChunkPatches(num_tokens=len(EDGES), is_literal=False, patches=tuple(enumerate(EDGES)))
    ids = tuple(enumerate(token for token in EDGES if isinstance(token, int)))
    literal = ChunkPatches(num_tokens=len(ids), is_literal=True, patches=ids)
    for chunks in ([whole], [literal], [whole, literal, whole], [literal] * 2):
        data = pack_coded_patches(chunks)
        assert read(data, chunks, count(chunks)) == [chunk.patches for chunk in chunks]


@st.composite
def chunk_lists(draw: st.DrawFn) -> list[ChunkPatches]:
    chunks = []
    for _ in range(draw(st.integers(1, 4))):
        num_tokens = draw(st.integers(1, 12))
        is_literal = draw(st.booleans())
        token = st.sampled_from(EDGES) | st.integers(0, 300)
        ids = token.filter(lambda some: isinstance(some, int)) if is_literal else token
        places = (
            range(num_tokens)
            if is_literal
            else sorted(draw(st.sets(st.integers(0, num_tokens - 1))))
        )
        patches = tuple((place, draw(ids)) for place in places)
        chunks.append(ChunkPatches(num_tokens=num_tokens, is_literal=is_literal, patches=patches))
    return chunks


@settings(max_examples=100, derandomize=True, database=None, deadline=None)
@given(chunks=chunk_lists())
def test_patches_round_trip(chunks: list[ChunkPatches]) -> None:
    data = pack_coded_patches(chunks)
    assert read(data, chunks, count(chunks)) == [chunk.patches for chunk in chunks]
    try:
        assert read(data, chunks, count(chunks) + 1) != [chunk.patches for chunk in chunks]
    except Corrupt:
        pass
    with pytest.raises(Corrupt, match="canonical encoding"):
        read(data + b"\0", chunks, count(chunks))


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(data=st.binary(max_size=16), num_patches=st.integers(0, 20))
def test_any_bytes_give_patches_or_corrupt(data: bytes, num_patches: int) -> None:
    chunks = [
        ChunkPatches(num_tokens=6, is_literal=False),
        ChunkPatches(num_tokens=3, is_literal=True),
        ChunkPatches(num_tokens=9, is_literal=False),
    ]
    try:
        found = read(data, chunks, num_patches)
    except Corrupt:
        return
    again = [replace(c, patches=patches) for c, patches in zip(chunks, found, strict=True)]
    assert pack_coded_patches(again) == data and count(again) == num_patches
