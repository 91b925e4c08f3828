"""The planes of arith files: their columns, the shared mem vectors, the streams.

Owns how runs and segments become these planes and back. Does not know the header around their
sizes, stored bytes, nor what is in a stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmzip.errors import Corrupt
from llmzip.store.arith_fields import ArithFields
from llmzip.store.arith_payload import Arith, ArithSegment, check_segment
from llmzip.store.cram_columns import TableSize
from llmzip.store.cram_grids import pack_grids, unpack_grids
from llmzip.store.varint import MAX_VARINT_BYTES, Cursor, encode_varint

CHECK_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class SegmentSizes:
    """What the columns say of a segment."""

    num_tokens: int
    num_bytes: int
    num_lanes: int
    stream_bytes: int
    check: int

    def with_stream(self, stream: bytes) -> ArithSegment:
        """The segment."""
        return ArithSegment(
            num_tokens=self.num_tokens,
            num_bytes=self.num_bytes,
            check=self.check,
            num_lanes=self.num_lanes,
            stream=stream,
        )


@dataclass(frozen=True, kw_only=True)
class ArithColumns:
    """The run table, a size for each run, and the segments, both in file order."""

    run_bytes: list[int]
    segments: list[SegmentSizes]


@dataclass(frozen=True, kw_only=True)
class ArithPlanes:
    """What goes into the file; `fields` goes into its header."""

    vectors: bytes
    streams: bytes
    fields: ArithFields


def max_columns_bytes(*, num_runs: int, num_segments: int) -> int:
    """No columns block of this size is larger: bounds what a zstd frame may claim."""
    return num_runs * MAX_VARINT_BYTES + num_segments * (4 * MAX_VARINT_BYTES + CHECK_BYTES)


def encode_arith_columns(run_bytes: Sequence[int], segments: Sequence[ArithSegment]) -> bytes:
    """All columns as one block. Expects values that hold the rules of `arithrecords`."""
    out = bytearray(b"".join(map(encode_varint, run_bytes)))
    for segment in segments:
        for number in (
            segment.num_tokens,
            segment.num_bytes,
            segment.num_lanes,
            len(segment.stream),
        ):
            out += encode_varint(number)
        out += segment.check.to_bytes(CHECK_BYTES, "little")
    return bytes(out)


def decode_arith_columns(cursor: Cursor, table: TableSize, fields: ArithFields) -> ArithColumns:
    """The inverse of `encode_arith_columns`; the cursor must hold nothing else. Raises Corrupt.

    Callers have tied the number of runs and segments to the file's size.
    """
    run_bytes = []
    for index in range(table.num_runs):
        run_bytes.append(cursor.varint())
        if not run_bytes[-1]:
            raise Corrupt(f"run {index}: no bytes")
    segments = [_read_segment(cursor, number) for number in range(fields.num_segments)]
    cursor.finish()
    text_bytes = sum(size for i, size in enumerate(run_bytes) if not table.is_stored(i))
    held = sum(segment.num_bytes for segment in segments)
    if held != text_bytes:
        raise Corrupt(f"columns: the segments hold {held} bytes, the runs take {text_bytes}")
    total = sum(segment.stream_bytes for segment in segments)
    if total != fields.stream_bytes:
        raise Corrupt(f"columns: streams of {total} bytes, the header says {fields.stream_bytes}")
    return ArithColumns(run_bytes=run_bytes, segments=segments)


def encode_arith_planes(arith: Arith) -> ArithPlanes:
    """The shared vectors and the streams. Expects what holds the rules of `arithrecords`."""
    grid, vectors = pack_grids([arith.mem]) if arith.mem else (None, b"")
    streams = b"".join(segment.stream for segment in arith.segments)
    fields = ArithFields(
        num_segments=len(arith.segments),
        prefix_tokens=arith.prefix_tokens,
        window_tokens=arith.window_tokens,
        guard_code=arith.guard_code,
        wrap=arith.wrap,
        vector_bytes=len(vectors),
        grid=grid,
        stream_bytes=len(streams),
    )
    return ArithPlanes(vectors=vectors, streams=streams, fields=fields)


def read_arith_planes(
    fields: ArithFields, columns: ArithColumns, planes: Cursor, *, shape: tuple[int, int]
) -> Arith:
    """The inverse of `encode_arith_planes`. Raises Corrupt.

    planes: stands before the shared vectors; is left behind the streams. shape: K, D of the
    vectors.
    """
    mem = None
    vectors = planes.take(fields.vector_bytes)
    if fields.grid:
        (mem,) = unpack_grids(vectors, fields.grid, count=1, num_mem=shape[0], dim=shape[1])
    segments = tuple(
        sizes.with_stream(bytes(planes.take(sizes.stream_bytes))) for sizes in columns.segments
    )
    return Arith(
        segments=segments,
        prefix_tokens=fields.prefix_tokens,
        window_tokens=fields.window_tokens,
        guard_code=fields.guard_code,
        wrap=fields.wrap,
        mem=mem,
    )


def _read_segment(cursor: Cursor, number: int) -> SegmentSizes:
    num_tokens, num_bytes, num_lanes, stream_bytes = (cursor.varint() for _ in range(4))
    check_segment(
        number,
        num_tokens=num_tokens,
        num_bytes=num_bytes,
        num_lanes=num_lanes,
        stream_bytes=stream_bytes,
    )
    return SegmentSizes(
        num_tokens=num_tokens,
        num_bytes=num_bytes,
        num_lanes=num_lanes,
        stream_bytes=stream_bytes,
        check=int.from_bytes(cursor.take(CHECK_BYTES), "little"),
    )
