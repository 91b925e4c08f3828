"""The vector and patch planes of crammed chunks, raw or coded.

Owns which of the two forms a file has, and how chunks become planes and back. Does not know the
header's other fields, nor the columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from llmzip.errors import Corrupt
from llmzip.store.cram_columns import Columns
from llmzip.store.cram_fields import CodedFields
from llmzip.store.cram_grids import pack_grids, unpack_grids
from llmzip.store.cram_patches import ChunkPatches, pack_coded_patches, read_coded_patches
from llmzip.store.limits import check_reading
from llmzip.store.model_fields import ModelFields
from llmzip.store.records import Chunk, Container
from llmzip.store.residual import Patch, pack_literal, pack_patches, read_literal, read_patches
from llmzip.store.varint import Cursor
from llmzip.store.vectors import GridMem, MemBits, pack_vectors, unpack_vectors

Content: TypeAlias = tuple[MemBits | GridMem | None, tuple[Patch, ...]]  # of one chunk


@dataclass(frozen=True, kw_only=True)
class Planes:
    """What goes into the file; `coded` goes into its header."""

    vectors: bytes
    patches: bytes
    coded: CodedFields | None


def encode_planes(container: Container) -> Planes:
    """The planes of all chunks. Expects chunks that hold the rules of `records`."""
    if container.is_coded:
        return _encode_coded(container.chunks)
    chunks = container.chunks
    mems = [chunk.mem for chunk in chunks if isinstance(chunk.mem, np.ndarray)]
    patches = b"".join(
        pack_literal(chunk.patches) if chunk.mem is None else pack_patches(chunk.patches)
        for chunk in chunks
    )
    vectors = pack_vectors(np.stack(mems)) if mems else b""
    return Planes(vectors=vectors, patches=patches, coded=None)


def read_planes(
    model: ModelFields, columns: Columns, *, vectors: memoryview, patches: Cursor
) -> list[Content]:
    """The vectors and patches of each chunk. Raises Corrupt, LimitExceeded."""
    if model.coded:
        return _read_coded(model, model.coded, columns, vectors, patches)
    mems = unpack_vectors(
        vectors, count=model.num_vector_chunks, num_mem=model.num_mem, dim=model.mem_dim
    )
    found = [
        (read_literal if is_literal else read_patches)(patches, num_tokens=num_tokens)
        for num_tokens, is_literal in zip(columns.num_tokens, columns.literal, strict=True)
    ]
    patches.finish()
    return _pair(columns, mems, found)


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


def _read_coded(
    model: ModelFields, coded: CodedFields, columns: Columns, vectors: memoryview, patches: Cursor
) -> list[Content]:
    if coded.num_patches:  # then every token is asked whether it has one
        check_reading(sum(columns.num_tokens), len(vectors) + patches.remaining)
    mems = unpack_grids(
        vectors,
        coded.grid,
        count=model.num_vector_chunks,
        num_mem=model.num_mem,
        dim=model.mem_dim,
    )
    found = read_coded_patches(
        patches.take(patches.remaining),
        [
            ChunkPatches(num_tokens=num_tokens, is_literal=is_literal)
            for num_tokens, is_literal in zip(columns.num_tokens, columns.literal, strict=True)
        ],
        num_patches=coded.num_patches,
    )
    num_patched = len(_patch_counts(zip(columns.literal, found, strict=True)))
    if num_patched != coded.num_patched:
        raise Corrupt(f"{num_patched} chunks have patches, the header says {coded.num_patched}")
    return _pair(columns, mems, found)


def _patch_counts(chunks: Iterable[tuple[bool, tuple[Patch, ...]]]) -> list[int]:
    """How many patches each chunk has that has vectors and patches."""
    return [len(patches) for is_literal, patches in chunks if patches and not is_literal]


def _pair(
    columns: Columns, mems: Iterable[MemBits | GridMem], patches: Iterable[tuple[Patch, ...]]
) -> list[Content]:
    left = iter(mems)
    return [
        (None if is_literal else next(left), found)
        for is_literal, found in zip(columns.literal, patches, strict=True)
    ]
