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
from llmzip.store.arith_payload import (
    ArithFigures,
    ArithPayload,
    ArithSegment,
    guard_value,
)
from llmzip.store.grids import GridCode, check_plane_bytes, pack_grids, unpack_grids
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
from llmzip.store.shared_vectors import check_shared, shared_damage
from llmzip.store.varint import MAX_VARINT_BYTES, Cursor, encode_varint, encode_varints, require

HAS_ARITH = 64
# Names the exact arithmetic of prediction and coding: all that turns a stream into tokens.
RECIPE = 1
CHECK_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class ArithColumns:
    """The run table, a size for each run, and the segments, both in file order."""

    run_bytes: list[int]
    segments: list[tuple[ArithSegment, int]]  # without its stream, and the size of that

    @property
    def total_tokens(self) -> int:
        """Of all segments."""
        return sum(segment.num_tokens for segment, _ in self.segments)

    @property
    def total_bytes(self) -> int:
        """Of the text of all segments."""
        return sum(segment.num_bytes for segment, _ in self.segments)


@dataclass(frozen=True, kw_only=True)
class ArithFields(PayloadFields):
    """What a reader must know of the planes of an arith file, and of how its text is predicted."""

    codec: ClassVar[str] = "arith"
    marker: ClassVar[int] = HAS_ARITH
    own_required: ClassVar[int] = HAS_ARITH
    plane_names: ClassVar[tuple[str, ...]] = ("vectors", "streams")
    no_figures: ClassVar[Mapping[str, object]] = {"arith": None}

    empty: ArithPayload  # the payload without its segments and vectors
    num_segments: int
    num_mem: int  # shared mem vectors
    mem_dim: int  # 0 without any
    vector_bytes: int  # of the same
    grid: GridCode | None
    stream_bytes: int  # of all streams

    @property
    def model(self) -> ModelRef:  # type: ignore[override]  # nobody sets it
        return self.empty.model

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
        streams = b"".join(segment.stream for segment in payload.segments)
        fields = cls(
            empty=replace(payload, segments=(), mem=None),
            num_segments=len(payload.segments),
            num_mem=payload.num_mem,
            mem_dim=payload.mem_dim,
            vector_bytes=len(vectors),
            grid=grid,
            stream_bytes=len(streams),
        )
        columns = encode_run_bytes(run.num_bytes for run in runs)
        return EncodedPayload(
            fields=fields,
            columns=columns + b"".join(map(_encode_segment, payload.segments)),
            least_columns_bytes=len(runs) + len(payload.segments),
            planes=vectors + streams,
        )

    def encode(self) -> bytes:
        empty = self.empty
        out = empty.model.encode_start()
        out += encode_varints(RECIPE, self.num_segments, empty.prefix_tokens, empty.window_tokens)
        out += bytes((empty.guard_code, empty.wrap)) + encode_varint(self.num_mem)
        if self.grid:
            out += encode_varints(self.mem_dim, self.vector_bytes) + self.grid.encode()
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
        num_segments = cursor.varint()
        empty = ArithPayload(
            model=replace(model, start_id=start_id),
            segments=(),
            prefix_tokens=cursor.varint(),
            window_tokens=cursor.varint(),
            guard_code=cursor.byte(),
            wrap=cursor.byte(),
            mem=None,
        )
        empty.check_prediction()
        num_mem, mem_dim, vector_bytes, grid = cursor.varint(), 0, 0, None
        if num_mem:
            mem_dim, vector_bytes = cursor.varint(), cursor.varint()
            check_shared(num_mem, mem_dim)
            grid = GridCode.read(cursor)
        return cls(
            empty=empty,
            num_segments=num_segments,
            num_mem=num_mem,
            mem_dim=mem_dim,
            vector_bytes=vector_bytes,
            grid=grid,
            stream_bytes=cursor.varint(),
        )

    def check(self, table: RunTable, columns_bytes: int) -> None:
        segments = f"header: {self.num_segments} segments"
        is_possible = 1 <= self.num_segments <= self.stream_bytes
        require(is_possible, f"{segments} in {self.stream_bytes} bytes of streams")
        # A byte of the columns at least for each run and each segment.
        require(
            table.num_runs + self.num_segments <= columns_bytes,
            f"{segments} and {table.num_runs} runs in {columns_bytes} bytes of columns",
        )
        check_plane_bytes(self.vector_bytes, 1, self.num_mem, self.mem_dim)

    def max_columns_bytes(self, table: RunTable) -> int:
        return max_run_bytes(table) + self.num_segments * (4 * MAX_VARINT_BYTES + CHECK_BYTES)

    def read_columns(self, cursor: Cursor, table: RunTable) -> ArithColumns:
        run_bytes = read_run_bytes(cursor, table)
        segments = [_read_segment(cursor, number) for number in range(self.num_segments)]
        cursor.finish()
        columns = ArithColumns(run_bytes=run_bytes, segments=segments)
        held, taken = columns.total_bytes, sum(run_bytes) - sum(table.stored_ones(run_bytes))
        require(held == taken, f"columns: the segments hold {held} bytes, the runs take {taken}")
        streams, expected = sum(size for _, size in segments), self.stream_bytes
        is_right = streams == expected
        require(is_right, f"columns: streams of {streams} bytes, the header says {expected}")
        return columns

    def read_payload(self, columns: ArithColumns, planes: Cursor, *, optional: int) -> ArithPayload:
        mem = None
        vectors = planes.take(self.vector_bytes)
        if self.grid:
            (mem,) = unpack_grids(
                vectors, self.grid, count=1, num_mem=self.num_mem, dim=self.mem_dim
            )
        segments = tuple(
            replace(segment, stream=bytes(planes.take(size))) for segment, size in columns.segments
        )
        return replace(self.empty, segments=segments, mem=mem)

    def figures(self, columns: ArithColumns, planes: Cursor, *, optional: int) -> ArithFigures:
        return ArithFigures(
            num_segments=self.num_segments,
            num_tokens=columns.total_tokens,
            num_lanes=sum(segment.num_lanes for segment, _ in columns.segments),
            prefix_tokens=self.empty.prefix_tokens,
            window_tokens=self.empty.window_tokens,
            guard_nats=guard_value(self.empty.guard_code),
            line_end=self.empty.line_end,
            text_bytes=columns.total_bytes,
            stream_bytes=self.stream_bytes,
            num_shared_vectors=self.num_mem,
            shared_dim=self.mem_dim,
            shared_bits=8 * self.vector_bytes,
        )

    def salvage(
        self, columns: ArithColumns, body: memoryview, *, optional: int
    ) -> tuple[ArithPayload, frozenset[int]]:
        ends = accumulate((size for _, size in columns.segments), initial=self.vector_bytes)
        readable = sum(end <= len(body) for end in ends) - 1
        if readable < 1:
            raise Truncated("the file ends before its first segment does")
        there = replace(columns, segments=columns.segments[:readable])
        try:
            payload = self.read_payload(there, Cursor(body, what="body"), optional=optional)
        except Corrupt as error:
            raise shared_damage(error) from error
        missing = tuple(segment for segment, _ in columns.segments[readable:])
        payload = replace(payload, segments=payload.segments + missing)
        return payload, frozenset(range(readable, self.num_segments))


def _encode_segment(segment: ArithSegment) -> bytes:
    sizes = (segment.num_tokens, segment.num_bytes, segment.num_lanes, len(segment.stream))
    return encode_varints(*sizes) + segment.check.to_bytes(CHECK_BYTES, "little")


def _read_segment(cursor: Cursor, number: int) -> tuple[ArithSegment, int]:
    """A segment without its stream, and the size of that."""
    num_tokens, num_bytes, num_lanes, stream_bytes = (cursor.varint() for _ in range(4))
    segment = ArithSegment(
        num_tokens=num_tokens,
        num_bytes=num_bytes,
        check=int.from_bytes(cursor.take(CHECK_BYTES), "little"),
        num_lanes=num_lanes,
        stream=b"",
    )
    segment.verify(number, stream_bytes)
    return segment, stream_bytes
