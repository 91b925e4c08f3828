"""The vector and patch planes of crammed chunks, raw or coded.

Owns which of the two forms a file has, the header fields that coded planes need, and how chunks
become planes and back. Does not know the header's other fields, nor the columns' coding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from typing import TypeAlias

import numpy as np

from llmzip.errors import Corrupt, LimitExceeded
from llmzip.store.cram_columns import CramColumns
from llmzip.store.cram_patches import (
    ChunkPatches,
    pack_coded_patches,
    read_coded_patches,
    salvage_coded_patches,
)
from llmzip.store.cram_patches import least_bytes as least_patch_bytes
from llmzip.store.cram_payload import Chunk
from llmzip.store.cram_signs import (
    SignCode,
    pack_signs,
    plane_bytes,
    salvage_signs,
    unpack_signs,
)
from llmzip.store.cram_streams import pack_streams, read_streams, salvage_streams
from llmzip.store.grids import (
    GridCode,
    check_plane_bytes,
    pack_grids,
    salvage_grids,
    unpack_grids,
)
from llmzip.store.grids import least_bytes as least_vector_bytes
from llmzip.store.residual import Patch, pack_literal, pack_patches, read_literal, read_patches
from llmzip.store.varint import Cursor, encode_varint, encode_varints, require
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


# Tokens that a coded patch plane covers. Reading each takes a little time, but may take no bytes.
READ_TOKENS_PER_PLANE_BYTE, READ_TOKENS_OF_ANY_FILE = 256, 1 << 22


@dataclass(frozen=True, kw_only=True)
class CodedFields:
    """What a reader must know of two coded planes whose size no count gives."""

    vector_bytes: int
    grid: GridCode | SignCode
    num_patches: int  # in chunks with vectors
    num_patched: int  # chunks with vectors and patches
    # Bytes of the patch plane before the streams of patched tokens; None: the plane has the tokens.
    position_bytes: int | None = None

    def encode(self) -> bytes:
        counts = encode_varints(self.num_patches, self.num_patched)
        if self.position_bytes is not None:
            counts += encode_varint(self.position_bytes)
        size = b"" if isinstance(self.grid, SignCode) else encode_varint(self.vector_bytes)
        return size + self.grid.encode() + counts

    def check(self, shape: Shape, *, patch_bytes: int) -> None:
        """Raise Corrupt unless the counts can be true: they bound all work on the planes."""
        if isinstance(self.grid, GridCode):
            check_plane_bytes(self.vector_bytes, *shape)
        patches = f"header: {self.num_patches} patches in"
        own = patch_bytes if self.position_bytes is None else self.position_bytes
        fits = least_patch_bytes(self.num_patches, 0) <= own <= patch_bytes
        require(fits, f"{patches} {own} bytes")
        has_use = self.position_bytes is None or self.num_patches > 0
        require(has_use, "header: streams of patched tokens, but no patches")
        least, most = min(self.num_patches, 1), min(self.num_patches, shape[0])
        is_possible = least <= self.num_patched <= most
        require(is_possible, f"{patches} {self.num_patched} of {shape[0]} chunks with vectors")


def read_coded(cursor: Cursor, shape: Shape, *, are_signs: bool, in_streams: bool) -> CodedFields:
    """The inverse of `CodedFields.encode`. Raises Corrupt."""
    return CodedFields(
        vector_bytes=plane_bytes(*shape) if are_signs else cursor.varint(),
        grid=SignCode.read(cursor) if are_signs else GridCode.read(cursor),
        num_patches=cursor.varint(),
        num_patched=cursor.varint(),
        position_bytes=cursor.varint() if in_streams else None,
    )


def encode_planes(
    chunks: Sequence[Chunk], *, is_coded: bool, are_signs: bool, streams: Sequence[bytes]
) -> tuple[bytes, bytes, CodedFields | None]:
    """The vectors and the patches of all chunks, and what goes into the header where both are
    coded. Expects chunks that hold the rules of `cram_payload`. streams: of patched tokens, one a
    segment, or none."""
    if is_coded:
        return _encode_coded(chunks, are_signs=are_signs, streams=streams)
    mems = [chunk.mem for chunk in chunks if isinstance(chunk.mem, np.ndarray)]
    patches = b"".join(
        pack_literal(chunk.patches) if chunk.mem is None else pack_patches(chunk.patches)
        for chunk in chunks
    )
    return pack_vectors(np.stack(mems)) if mems else b"", patches, None


def read_planes(
    shape: Shape,
    coded: CodedFields | None,
    columns: CramColumns,
    vectors: memoryview,
    patches: Cursor,
) -> tuple[list[Content], tuple[bytes, ...]]:
    """The vectors and patches of each chunk, and the streams of patched tokens of each segment,
    where there are some. Raises Corrupt, LimitExceeded."""
    streams: tuple[bytes, ...] = ()
    count, num_mem, dim = shape
    parts = _parts(columns)
    mems: Iterable[MemBits | GridMem]
    if coded is None:
        mems = unpack_vectors(vectors, count=count, num_mem=num_mem, dim=dim)
        found = list(_raw_patches(patches, parts))
        patches.finish()
    else:
        if coded.num_patches:  # then every token is asked whether it has one
            check_reading(columns.total_tokens, len(vectors) + patches.remaining)
        if isinstance(coded.grid, SignCode):
            mems = unpack_signs(vectors, coded.grid, count=count, num_mem=num_mem, dim=dim)
        else:
            mems = unpack_grids(vectors, coded.grid, count=count, num_mem=num_mem, dim=dim)
        in_streams = coded.position_bytes is not None
        size = patches.remaining if coded.position_bytes is None else coded.position_bytes
        found = read_coded_patches(
            patches.take(size), parts, num_patches=coded.num_patches, in_streams=in_streams
        )
        if in_streams:
            streams = read_streams(patches, num_segments=sum(columns.starts))
    left = iter(mems)
    pairs = zip(parts, found, strict=True)
    contents: list[Content] = [
        (None if part.is_literal else next(left), own) for part, own in pairs
    ]
    num_patched = sum(mem is not None and len(own) > 0 for mem, own in contents)
    if coded and num_patched != coded.num_patched:
        raise Corrupt(f"{num_patched} chunks have patches, the header says {coded.num_patched}")
    return contents, streams


def check_reading(num_tokens: int, plane_bytes: int) -> None:
    """Raise LimitExceeded where coded planes cover so many tokens that reading the planes alone
    would take long. This is far more than `check_work` accepts by default."""
    most = READ_TOKENS_OF_ANY_FILE + READ_TOKENS_PER_PLANE_BYTE * plane_bytes
    if num_tokens > most:
        raise LimitExceeded(
            f"coded planes of {plane_bytes} bytes for {num_tokens} tokens, the limit is {most}"
        )


def salvage_mems(
    plane: memoryview, shape: Shape, coded: CodedFields | None
) -> Iterator[MemBits | GridMem | None]:
    """The vectors of each chunk, as far as there are bytes; None from there on, for ever."""
    count, num_mem, dim = shape
    size = packed_bytes(1, num_mem, dim, RAW_BITS)
    if coded and isinstance(coded.grid, SignCode):
        yield from salvage_signs(plane, coded.grid, count=count, num_mem=num_mem, dim=dim)
        count = 0
    elif coded and isinstance(coded.grid, GridCode):
        # The bytes that are there bound what is made of them, not those that were.
        count = min(count, len(plane) // least_vector_bytes(1, num_mem, dim))
        yield from salvage_grids(plane, coded.grid, count=count, num_mem=num_mem, dim=dim)
        count = 0
    for begin in range(0, min(count * size, len(plane) - size + 1), size):
        part, mem = plane[begin : begin + size], None
        with suppress(Corrupt):
            mem = unpack_vectors(part, count=1, num_mem=num_mem, dim=dim)[0]
        yield mem
    yield from repeat(None)


def salvage_patches(
    plane: memoryview, columns: CramColumns, coded: CodedFields | None
) -> Iterator[tuple[Patch, ...] | None]:
    """The patches of each chunk, as far as they can be read; None from there on, for ever."""
    parts = _parts(columns)
    with suppress(Corrupt):
        if coded:
            yield from salvage_coded_patches(
                plane[: coded.position_bytes], parts, num_patches=coded.num_patches,
                in_streams=coded.position_bytes is not None,
            )  # fmt: skip
        else:
            yield from _raw_patches(Cursor(plane, what="patches"), parts)
    yield from repeat(None)


def salvage_tokens(
    plane: memoryview, columns: CramColumns, coded: CodedFields | None
) -> list[bytes | None]:
    """The stream of patched tokens of each segment, None for one that is not whole; empty where
    files of this kind have none."""
    if coded is None or coded.position_bytes is None:
        return []
    found: list[bytes | None] = []
    num_segments = sum(columns.starts)
    with suppress(Corrupt):
        cursor = Cursor(plane[coded.position_bytes :], what="patches")
        found += salvage_streams(cursor, num_segments=num_segments)
    return found + [None] * (num_segments - len(found))


def _raw_patches(cursor: Cursor, parts: Iterable[ChunkPatches]) -> Iterator[tuple[Patch, ...]]:
    for part in parts:
        read = read_literal if part.is_literal else read_patches
        yield read(cursor, num_tokens=part.num_tokens)


def _parts(columns: CramColumns) -> list[ChunkPatches]:
    return [
        ChunkPatches(num_tokens=num_tokens, is_literal=is_literal)
        for num_tokens, is_literal in zip(columns.num_tokens, columns.literal, strict=True)
    ]


def _encode_coded(
    chunks: Sequence[Chunk], *, are_signs: bool, streams: Sequence[bytes]
) -> tuple[bytes, bytes, CodedFields]:
    mems = [chunk.mem for chunk in chunks if isinstance(chunk.mem, GridMem)]
    grid, vectors = pack_signs(mems) if are_signs else pack_grids(mems)
    parts = [
        ChunkPatches(
            num_tokens=chunk.num_tokens, is_literal=chunk.mem is None, patches=chunk.patches
        )
        for chunk in chunks
    ]
    counts = [len(part.patches) for part in parts if part.patches and not part.is_literal]
    positions = pack_coded_patches(parts, in_streams=bool(streams))
    coded = CodedFields(
        vector_bytes=len(vectors), grid=grid, num_patches=sum(counts), num_patched=len(counts),
        position_bytes=len(positions) if streams else None,
    )  # fmt: skip
    return vectors, positions + (pack_streams(streams) if streams else b""), coded
