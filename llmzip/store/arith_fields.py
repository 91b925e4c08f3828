"""The header fields of arith files, and how segments become columns and planes and back.

Owns these fields, their coding, and what they must say of each other and of the other sizes. Does
not know the header around them, stored bytes, nor what is in a stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import ClassVar

from llmzip.errors import Corrupt, Truncated, UnsupportedVersion
from llmzip.store.arith_figures import ArithFigures
from llmzip.store.arith_payload import (
    ArithPayload,
    ArithSegment,
    check_prediction,
    check_segment,
    check_shared,
)
from llmzip.store.cram_grids import (
    GridCode,
    encode_grid_code,
    least_bytes,
    pack_grids,
    read_grid_code,
    unpack_grids,
)
from llmzip.store.model_ref import ModelRef, read_start
from llmzip.store.payload import (
    HAS_START,
    EncodedPayload,
    Payload,
    PayloadFields,
    Run,
    RunTable,
    encode_run_bytes,
    max_run_bytes,
    read_run_bytes,
)
from llmzip.store.varint import MAX_VARINT_BYTES, Cursor, encode_varint

HAS_ARITH = 64
# Names the exact arithmetic of prediction and coding: all that turns a stream into tokens.
RECIPE = 1
CHECK_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class ArithColumns:
    """The run table, a size for each run, and the segments, both in file order. Streams are still
    to be read: `streams` has the size of each."""

    run_bytes: list[int]
    segments: list[ArithSegment]  # without their streams
    stream_bytes: list[int]

    @property
    def total_tokens(self) -> int:
        """Of all segments."""
        return sum(segment.num_tokens for segment in self.segments)


@dataclass(frozen=True, kw_only=True)
class ArithFields(PayloadFields):
    """What a reader must know of the planes of an arith file, and of how its text is predicted."""

    codec: ClassVar[str] = "arith"
    marker: ClassVar[int] = HAS_ARITH
    own_required: ClassVar[int] = HAS_ARITH
    plane_names: ClassVar[tuple[str, ...]] = ("vectors", "streams")
    no_figures: ClassVar[Mapping[str, object]] = {"arith": None}

    model: ModelRef
    num_segments: int
    prefix_tokens: int
    window_tokens: int
    guard_code: int
    wrap: int
    num_mem: int  # shared mem vectors
    mem_dim: int  # 0 without any
    vector_bytes: int  # of the same
    grid: GridCode | None
    stream_bytes: int  # of all streams

    @property
    def num_pieces(self) -> int:
        return self.num_segments

    @property
    def planes(self) -> Mapping[str, int]:
        return {"vectors": self.vector_bytes, "streams": self.stream_bytes}

    @classmethod
    def of(cls, payload: Payload, runs: Sequence[Run]) -> EncodedPayload:
        assert isinstance(payload, ArithPayload)
        grid, vectors = pack_grids([payload.mem]) if payload.mem else (None, b"")
        segments = payload.segments
        streams = b"".join(segment.stream for segment in segments)
        fields = cls(
            model=payload.model,
            num_segments=len(segments),
            prefix_tokens=payload.prefix_tokens,
            window_tokens=payload.window_tokens,
            guard_code=payload.guard_code,
            wrap=payload.wrap,
            num_mem=payload.num_mem,
            mem_dim=payload.mem_dim,
            vector_bytes=len(vectors),
            grid=grid,
            stream_bytes=len(streams),
        )
        columns = encode_run_bytes(run.num_bytes for run in runs)
        return EncodedPayload(
            fields=fields,
            columns=columns + b"".join(map(_encode_segment, segments)),
            least_columns_bytes=len(runs) + len(segments),
            planes=vectors + streams,
        )

    def encode(self) -> bytes:
        numbers = (RECIPE, self.num_segments, self.prefix_tokens, self.window_tokens)
        out = self.model.encode_start() + b"".join(map(encode_varint, numbers))
        out += bytes((self.guard_code, self.wrap)) + encode_varint(self.num_mem)
        if self.grid:
            out += encode_varint(self.mem_dim) + encode_varint(self.vector_bytes)
            out += encode_grid_code(self.grid)
        return out + encode_varint(self.stream_bytes)

    @classmethod
    def read(cls, cursor: Cursor, model: ModelRef, required: int) -> ArithFields:
        start_id = read_start(cursor, has_start=bool(required & HAS_START))
        recipe = cursor.varint()
        if recipe != RECIPE:
            raise UnsupportedVersion(
                f"prediction recipe {recipe}, this llmzip knows {RECIPE}",
                hint="another version of llmzip may read this file",
            )
        num_segments, prefix_tokens, window_tokens = (cursor.varint() for _ in range(3))
        guard_code, wrap, num_mem = cursor.byte(), cursor.byte(), cursor.varint()
        check_prediction(
            prefix_tokens=prefix_tokens,
            window_tokens=window_tokens,
            guard_code=guard_code,
            wrap=wrap,
        )
        mem_dim, vector_bytes, grid = 0, 0, None
        if num_mem:
            mem_dim, vector_bytes = cursor.varint(), cursor.varint()
            check_shared(num_mem, mem_dim)
            grid = read_grid_code(cursor)
        return cls(
            model=replace(model, start_id=start_id),
            num_segments=num_segments,
            prefix_tokens=prefix_tokens,
            window_tokens=window_tokens,
            guard_code=guard_code,
            wrap=wrap,
            num_mem=num_mem,
            mem_dim=mem_dim,
            vector_bytes=vector_bytes,
            grid=grid,
            stream_bytes=cursor.varint(),
        )

    def check(self, table: RunTable, columns_bytes: int) -> None:
        if not 1 <= self.num_segments <= self.stream_bytes:
            raise Corrupt(
                f"header: {self.num_segments} segments in {self.stream_bytes} bytes of streams"
            )
        # A byte of the columns at least for each run and each segment.
        if table.num_runs + self.num_segments > columns_bytes:
            raise Corrupt(
                f"header: {self.num_segments} segments and {table.num_runs} runs in "
                f"{columns_bytes} bytes of columns"
            )
        least = least_bytes(1, self.num_mem, self.mem_dim)
        if self.vector_bytes < least:
            raise Corrupt(
                f"header: {self.vector_bytes} bytes of vectors, at least {least} expected"
            )

    def max_columns_bytes(self, table: RunTable) -> int:
        return max_run_bytes(table) + self.num_segments * (4 * MAX_VARINT_BYTES + CHECK_BYTES)

    def read_columns(self, cursor: Cursor, table: RunTable) -> ArithColumns:
        run_bytes = read_run_bytes(cursor, table)
        found = [_read_segment(cursor, number) for number in range(self.num_segments)]
        cursor.finish()
        segments = [segment for segment, _ in found]
        text_bytes = sum(size for i, size in enumerate(run_bytes) if not table.is_stored(i))
        held = sum(segment.num_bytes for segment in segments)
        if held != text_bytes:
            raise Corrupt(f"columns: the segments hold {held} bytes, the runs take {text_bytes}")
        stream_bytes = [size for _, size in found]
        if sum(stream_bytes) != self.stream_bytes:
            raise Corrupt(
                f"columns: streams of {sum(stream_bytes)} bytes, "
                f"the header says {self.stream_bytes}"
            )
        return ArithColumns(run_bytes=run_bytes, segments=segments, stream_bytes=stream_bytes)

    def read_payload(self, columns: ArithColumns, planes: Cursor, *, optional: int) -> ArithPayload:
        mem = None
        vectors = planes.take(self.vector_bytes)
        if self.grid:
            (mem,) = unpack_grids(
                vectors, self.grid, count=1, num_mem=self.num_mem, dim=self.mem_dim
            )
        segments = tuple(
            replace(segment, stream=bytes(planes.take(size)))
            for segment, size in zip(columns.segments, columns.stream_bytes, strict=True)
        )
        return ArithPayload(
            model=self.model,
            segments=segments,
            prefix_tokens=self.prefix_tokens,
            window_tokens=self.window_tokens,
            guard_code=self.guard_code,
            wrap=self.wrap,
            mem=mem,
        )

    def figures(self, columns: ArithColumns, planes: Cursor, *, optional: int) -> ArithFigures:
        return ArithFigures(
            num_segments=len(columns.segments),
            num_tokens=columns.total_tokens,
            num_lanes=sum(segment.num_lanes for segment in columns.segments),
            prefix_tokens=self.prefix_tokens,
            window_tokens=self.window_tokens,
            guard_code=self.guard_code,
            wrap=self.wrap,
            text_bytes=sum(segment.num_bytes for segment in columns.segments),
            stream_bytes=self.stream_bytes,
            num_shared_vectors=self.num_mem,
            shared_dim=self.mem_dim,
            shared_bits=8 * self.vector_bytes,
        )

    def salvage(
        self, columns: ArithColumns, body: memoryview, *, optional: int
    ) -> tuple[ArithPayload, frozenset[int]]:
        ends = accumulate(columns.stream_bytes, initial=self.vector_bytes)
        readable = sum(end <= len(body) for end in ends) - 1
        if readable < 1:
            raise Truncated("the file ends before its first segment does")
        there = replace(
            columns,
            segments=columns.segments[:readable],
            stream_bytes=columns.stream_bytes[:readable],
        )
        try:
            payload = self.read_payload(there, Cursor(body, what="body"), optional=optional)
        except Corrupt as error:
            raise Corrupt(
                "the shared vectors are damaged; without them none of the text can be found "
                f"({error})"
            ) from error
        missing = tuple(columns.segments[readable:])
        payload = replace(payload, segments=payload.segments + missing)
        return payload, frozenset(range(readable, len(columns.segments)))


def _encode_segment(segment: ArithSegment) -> bytes:
    sizes = (segment.num_tokens, segment.num_bytes, segment.num_lanes, len(segment.stream))
    return b"".join(map(encode_varint, sizes)) + segment.check.to_bytes(CHECK_BYTES, "little")


def _read_segment(cursor: Cursor, number: int) -> tuple[ArithSegment, int]:
    """A segment without its stream, and the size of that."""
    num_tokens, num_bytes, num_lanes, stream_bytes = (cursor.varint() for _ in range(4))
    check_segment(
        number,
        num_tokens=num_tokens,
        num_bytes=num_bytes,
        num_lanes=num_lanes,
        stream_bytes=stream_bytes,
    )
    segment = ArithSegment(
        num_tokens=num_tokens,
        num_bytes=num_bytes,
        check=int.from_bytes(cursor.take(CHECK_BYTES), "little"),
        num_lanes=num_lanes,
        stream=b"",
    )
    return segment, stream_bytes
