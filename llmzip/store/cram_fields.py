"""The header fields of files with coded planes.

Owns these fields, their coding, and what they must say of each other and of the other counts. Does
not know the planes' contents.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmzip.errors import Corrupt
from llmzip.store.cram_grids import GridCode, encode_grid_code, read_grid_code
from llmzip.store.cram_grids import least_bytes as least_vector_bytes
from llmzip.store.cram_patches import least_bytes as least_patch_bytes
from llmzip.store.varint import Cursor, encode_varint


@dataclass(frozen=True, kw_only=True)
class CodedFields:
    """What a reader must know of two planes whose size no count gives."""

    vector_bytes: int
    grid: GridCode
    num_patches: int  # in chunks with vectors
    num_patched: int  # chunks with vectors and patches


def encode_coded(coded: CodedFields) -> bytes:
    """The fields' bytes."""
    out = encode_varint(coded.vector_bytes) + encode_grid_code(coded.grid)
    return out + encode_varint(coded.num_patches) + encode_varint(coded.num_patched)


def read_coded(cursor: Cursor) -> CodedFields:
    """The inverse of `encode_coded`. Raises Corrupt."""
    return CodedFields(
        vector_bytes=cursor.varint(),
        grid=read_grid_code(cursor),
        num_patches=cursor.varint(),
        num_patched=cursor.varint(),
    )


def check_coded(
    coded: CodedFields, *, num_vector_chunks: int, num_mem: int, mem_dim: int, patch_bytes: int
) -> None:
    """Raise Corrupt unless the counts can be true: they bound all work on the planes."""
    least = least_vector_bytes(num_vector_chunks, num_mem, mem_dim)
    if coded.vector_bytes < least:
        raise Corrupt(f"header: {coded.vector_bytes} bytes of vectors, at least {least} expected")
    if least_patch_bytes(coded.num_patches, 0) > patch_bytes:
        raise Corrupt(f"header: {coded.num_patches} patches in {patch_bytes} bytes")
    most = min(coded.num_patches, num_vector_chunks)
    if not min(coded.num_patches, 1) <= coded.num_patched <= most:
        raise Corrupt(
            f"header: {coded.num_patches} patches in {coded.num_patched} of {num_vector_chunks} "
            "chunks with vectors"
        )
