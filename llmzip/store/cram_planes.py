"""The vector and patch planes of crammed chunks, raw or coded.

Owns which of the two forms a file has, the header fields that coded planes need, and how chunks
become planes and back. Does not know the header's other fields, nor the columns' coding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, repeat
from typing import TypeAlias

import numpy as np

from llmzip.errors import Corrupt
from llmzip.store.cram_columns import CramColumns
from llmzip.store.cram_grids import (
    GridCode,
    encode_grid_code,
    pack_grids,
    read_grid_code,
    salvage_grids,
    unpack_grids,
)
from llmzip.store.cram_grids import least_bytes as least_vector_bytes
from llmzip.store.cram_patches import (
    ChunkPatches,
    pack_coded_patches,
    read_coded_patches,
    salvage_coded_patches,
)
from llmzip.store.cram_patches import least_bytes as least_patch_bytes
from llmzip.store.cram_payload import Chunk
from llmzip.store.limits import check_reading
from llmzip.store.residual import Patch, pack_literal, pack_patches, read_literal, read_patches
from llmzip.store.varint import Cursor, encode_varint
from llmzip.store.vectors import (
    RAW_BITS,
    GridMem,
    MemBits,
    pack_vectors,
    packed_bytes,
    unpack_vectors,
)

Content: TypeAlias = tuple[MemBits | GridMem | None, tuple[Patch, ...]]  # of one chunk
Shape: TypeAlias = tuple[int, int, int]  # chunks that have vectors, K, D


@dataclass(frozen=True, kw_only=True)
class CodedFields:
    """What a reader must know of two coded planes whose size no count gives."""

    vector_bytes: int
    grid: GridCode
    num_patches: int  # in chunks with vectors
    num_patched: int  # chunks with vectors and patches

    def encode(self) -> bytes:
        out = encode_varint(self.vector_bytes) + encode_grid_code(self.grid)
        return out + encode_varint(self.num_patches) + encode_varint(self.num_patched)

    def check(self, shape: Shape, *, patch_bytes: int) -> None:
        """Raise Corrupt unless the counts can be true: they bound all work on the planes."""
        least = least_vector_bytes(*shape)
        if self.vector_bytes < least:
            raise Corrupt(
                f"header: {self.vector_bytes} bytes of vectors, at least {least} expected"
            )
        if least_patch_bytes(self.num_patches, 0) > patch_bytes:
            raise Corrupt(f"header: {self.num_patches} patches in {patch_bytes} bytes")
        most = min(self.num_patches, shape[0])
        if not min(self.num_patches, 1) <= self.num_patched <= most:
            raise Corrupt(
                f"header: {self.num_patches} patches in {self.num_patched} of {shape[0]} "
                "chunks with vectors"
            )


@dataclass(frozen=True, kw_only=True)
class Planes:
    """What goes into the file; `coded` goes into its header."""

    vectors: bytes
    patches: bytes
    coded: CodedFields | None


def read_coded(cursor: Cursor) -> CodedFields:
    """The inverse of `CodedFields.encode`. Raises Corrupt."""
    return CodedFields(
        vector_bytes=cursor.varint(),
        grid=read_grid_code(cursor),
        num_patches=cursor.varint(),
        num_patched=cursor.varint(),
    )


def encode_planes(chunks: Sequence[Chunk], *, is_coded: bool) -> Planes:
    """The planes of all chunks. Expects chunks that hold the rules of `cram_payload`."""
    if is_coded:
        return _encode_coded(chunks)
    mems = [chunk.mem for chunk in chunks if isinstance(chunk.mem, np.ndarray)]
    patches = b"".join(
        pack_literal(chunk.patches) if chunk.mem is None else pack_patches(chunk.patches)
        for chunk in chunks
    )
    vectors = pack_vectors(np.stack(mems)) if mems else b""
    return Planes(vectors=vectors, patches=patches, coded=None)


def read_planes(
    shape: Shape,
    coded: CodedFields | None,
    columns: CramColumns,
    vectors: memoryview,
    patches: Cursor,
) -> list[Content]:
    """The vectors and patches of each chunk. Raises Corrupt, LimitExceeded."""
    count, num_mem, dim = shape
    mems: Iterable[MemBits | GridMem]
    if coded is None:
        mems = unpack_vectors(vectors, count=count, num_mem=num_mem, dim=dim)
        found = [
            (read_literal if part.is_literal else read_patches)(patches, num_tokens=part.num_tokens)
            for part in _parts(columns)
        ]
        patches.finish()
        return _pair(columns, mems, found)
    if coded.num_patches:  # then every token is asked whether it has one
        check_reading(columns.total_tokens, len(vectors) + patches.remaining)
    mems = unpack_grids(vectors, coded.grid, count=count, num_mem=num_mem, dim=dim)
    found = read_coded_patches(
        patches.take(patches.remaining), _parts(columns), num_patches=coded.num_patches
    )
    num_patched = len(_patch_counts(zip(columns.literal, found, strict=True)))
    if num_patched != coded.num_patched:
        raise Corrupt(f"{num_patched} chunks have patches, the header says {coded.num_patched}")
    return _pair(columns, mems, found)


def salvage_mems(
    plane: memoryview, shape: Shape, coded: CodedFields | None
) -> Iterator[MemBits | GridMem | None]:
    """The vectors of each chunk, as far as there are bytes; None from there on, for ever."""
    return chain(_mems_there(plane, shape, coded), repeat(None))


def salvage_patches(
    plane: memoryview, columns: CramColumns, coded: CodedFields | None
) -> Iterator[tuple[Patch, ...] | None]:
    """The patches of each chunk, as far as they can be read; None from there on, for ever."""
    if coded:
        there = salvage_coded_patches(plane, _parts(columns), num_patches=coded.num_patches)
        return chain(there, repeat(None))
    return chain(_patches_there(plane, columns), repeat(None))


def _mems_there(
    plane: memoryview, shape: Shape, coded: CodedFields | None
) -> Iterator[MemBits | GridMem | None]:
    count, num_mem, dim = shape
    if coded:
        # The bytes that are there bound what is made of them, not those that were.
        count = min(count, len(plane) // least_vector_bytes(1, num_mem, dim))
        yield from salvage_grids(plane, coded.grid, count=count, num_mem=num_mem, dim=dim)
        return
    size = packed_bytes(1, num_mem, dim, RAW_BITS)
    for begin in range(0, min(count * size, len(plane) - size + 1), size):
        part = plane[begin : begin + size]
        try:
            yield unpack_vectors(part, count=1, num_mem=num_mem, dim=dim)[0]
        except Corrupt:
            yield None


def _patches_there(plane: memoryview, columns: CramColumns) -> Iterator[tuple[Patch, ...]]:
    cursor = Cursor(plane, what="patches")
    with suppress(Corrupt):
        for part in _parts(columns):
            read = read_literal if part.is_literal else read_patches
            yield read(cursor, num_tokens=part.num_tokens)


def _parts(columns: CramColumns) -> list[ChunkPatches]:
    return [
        ChunkPatches(num_tokens=num_tokens, is_literal=is_literal)
        for num_tokens, is_literal in zip(columns.num_tokens, columns.literal, strict=True)
    ]


def _encode_coded(chunks: Sequence[Chunk]) -> Planes:
    grid, vectors = pack_grids([chunk.mem for chunk in chunks if isinstance(chunk.mem, GridMem)])
    parts = [
        ChunkPatches(
            num_tokens=chunk.num_tokens, is_literal=chunk.mem is None, patches=chunk.patches
        )
        for chunk in chunks
    ]
    counts = _patch_counts((part.is_literal, part.patches) for part in parts)
    coded = CodedFields(
        vector_bytes=len(vectors), grid=grid, num_patches=sum(counts), num_patched=len(counts)
    )
    return Planes(vectors=vectors, patches=pack_coded_patches(parts), coded=coded)


def _patch_counts(chunks: Iterable[tuple[bool, tuple[Patch, ...]]]) -> list[int]:
    """How many patches each chunk has that has vectors and patches."""
    return [len(patches) for is_literal, patches in chunks if patches and not is_literal]


def _pair(
    columns: CramColumns, mems: Iterable[MemBits | GridMem], patches: Iterable[tuple[Patch, ...]]
) -> list[Content]:
    left = iter(mems)
    return [
        (None if is_literal else next(left), found)
        for is_literal, found in zip(columns.literal, patches, strict=True)
    ]
