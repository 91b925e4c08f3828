"""The header fields of arith files.

Owns these fields, their coding, and what they must say of each other and of the other sizes. Does
not know the planes' contents.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmzip.errors import Corrupt, UnsupportedVersion
from llmzip.store.arith_payload import check_prediction, check_shared
from llmzip.store.cram_grids import GridCode, encode_grid_code, least_bytes, read_grid_code
from llmzip.store.varint import Cursor, encode_varint

# Names the exact arithmetic of prediction and coding: all that turns a stream into tokens.
RECIPE = 1


@dataclass(frozen=True, kw_only=True)
class ArithFields:
    """What a reader must know of the planes of an arith file, and of how its text is predicted."""

    num_segments: int
    prefix_tokens: int
    window_tokens: int
    guard_code: int
    wrap: int
    vector_bytes: int  # of the shared mem vectors; 0 without any
    grid: GridCode | None  # of the same
    stream_bytes: int  # of all streams


def encode_arith(fields: ArithFields, *, shape: tuple[int, int]) -> bytes:
    """The fields' bytes. shape: K, D of the shared mem vectors, 0 without any."""
    numbers = (RECIPE, fields.num_segments, fields.prefix_tokens, fields.window_tokens)
    out = b"".join(map(encode_varint, numbers)) + bytes((fields.guard_code, fields.wrap))
    out += encode_varint(shape[0])
    if fields.grid:
        out += encode_varint(shape[1]) + encode_varint(fields.vector_bytes)
        out += encode_grid_code(fields.grid)
    return out + encode_varint(fields.stream_bytes)


def read_arith(cursor: Cursor) -> tuple[ArithFields, tuple[int, int]]:
    """The inverse of `encode_arith`. Raises Corrupt, UnsupportedVersion."""
    recipe = cursor.varint()
    if recipe != RECIPE:
        raise UnsupportedVersion(
            f"prediction recipe {recipe}, this llmzip knows {RECIPE}",
            hint="another version of llmzip may read this file",
        )
    num_segments, prefix_tokens, window_tokens = (cursor.varint() for _ in range(3))
    guard_code, wrap, num_mem = cursor.byte(), cursor.byte(), cursor.varint()
    check_prediction(
        prefix_tokens=prefix_tokens, window_tokens=window_tokens, guard_code=guard_code, wrap=wrap
    )
    mem_dim, vector_bytes, grid = 0, 0, None
    if num_mem:
        mem_dim, vector_bytes = cursor.varint(), cursor.varint()
        check_shared(num_mem, mem_dim)
        grid = read_grid_code(cursor)
    fields = ArithFields(
        num_segments=num_segments,
        prefix_tokens=prefix_tokens,
        window_tokens=window_tokens,
        guard_code=guard_code,
        wrap=wrap,
        vector_bytes=vector_bytes,
        grid=grid,
        stream_bytes=cursor.varint(),
    )
    return fields, (num_mem, mem_dim)


def least_columns_bytes(*, num_runs: int, num_segments: int) -> int:
    """The fewest bytes that the columns may have: this ties both counts to the file's size."""
    return num_runs + num_segments


def check_arith_fields(
    fields: ArithFields, *, num_mem: int, mem_dim: int, num_runs: int, columns_bytes: int
) -> None:
    """Raise Corrupt unless the counts can be true: they bound all work on the planes."""
    num_segments = fields.num_segments
    if not 1 <= num_segments <= fields.stream_bytes:
        raise Corrupt(f"header: {num_segments} segments in {fields.stream_bytes} bytes of streams")
    if least_columns_bytes(num_runs=num_runs, num_segments=num_segments) > columns_bytes:
        raise Corrupt(
            f"header: {num_segments} segments and {num_runs} runs in {columns_bytes} bytes of "
            "columns"
        )
    least = least_bytes(1, num_mem, mem_dim)
    if fields.vector_bytes < least:
        raise Corrupt(f"header: {fields.vector_bytes} bytes of vectors, at least {least} expected")
