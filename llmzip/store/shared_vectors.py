"""Vectors that stand before whole segments, as a file keeps them.

Owns the limits on them and, for crammed text, where neighbouring segments share some: their header
fields, columns and plane, on grids like other vectors that are no signs. Knows no chunks, nor what
else a file holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmzip.errors import Corrupt
from llmzip.store.grids import GridCode, check_plane_bytes, pack_grids, unpack_grids
from llmzip.store.varint import Cursor, encode_varints, require
from llmzip.store.vectors import MAX_MEM_DIM, GridMem

MAX_SHARED_MEM = 64

# Of each segment the vectors before it, [K, D], or nothing; empty where no segment has any.
SharedMems = tuple[GridMem | None, ...]


@dataclass(frozen=True, kw_only=True)
class SharedSpan:
    """Neighbouring segments behind the same vectors."""

    skipped: int  # segments since the last span, which have none
    num_segments: int


@dataclass(frozen=True, kw_only=True)
class SharedFields:
    """The header fields of the plane."""

    num_sets: int  # spans, each with its own vectors
    num_mem: int  # vectors of a set
    num_bytes: int  # of the plane
    grid: GridCode

    def encode(self) -> bytes:
        """The header fields' bytes."""
        return encode_varints(self.num_sets, self.num_mem, self.num_bytes) + self.grid.encode()

    @classmethod
    def read(cls, cursor: Cursor, *, mem_dim: int, num_chunks: int) -> SharedFields:
        """The inverse of `encode`. Raises Corrupt unless the counts can be true."""
        num_sets, num_mem, num_bytes = (cursor.varint() for _ in range(3))
        is_possible = 1 <= num_sets <= num_chunks
        require(is_possible, f"header: shared vectors of {num_sets} spans in {num_chunks} chunks")
        check_shared(num_mem, mem_dim)
        check_plane_bytes(num_bytes, num_sets, num_mem, mem_dim)
        fields = cls(
            num_sets=num_sets, num_mem=num_mem, num_bytes=num_bytes, grid=GridCode.read(cursor)
        )
        return fields

    def read_mems(
        self, data: memoryview, spans: Sequence[SharedSpan], *, mem_dim: int, num_segments: int
    ) -> SharedMems:
        """The vectors before each segment. Raises Corrupt, also where neighbouring spans have the
        same, which are one span."""
        mems = unpack_grids(data, self.grid, count=self.num_sets, num_mem=self.num_mem, dim=mem_dim)
        found: list[GridMem | None] = []
        for span, mem in zip(spans, mems, strict=True):
            found += [None] * span.skipped + [mem] * span.num_segments
        shared = (*found, *[None] * (num_segments - len(found)))
        is_right = _spans(shared)[0] == list(spans)
        require(is_right, "columns: spans of shared vectors that are one")
        return shared


def check_shared(num_mem: int, mem_dim: int) -> None:
    """Raise Corrupt unless so many shared mem vectors of so many dimensions may be there."""
    is_count = 1 <= num_mem <= MAX_SHARED_MEM
    require(is_count, f"{num_mem} shared mem vectors, at most {MAX_SHARED_MEM}")
    require(1 <= mem_dim <= MAX_MEM_DIM, f"shared mem vectors of {mem_dim} dimensions")


def check_shared_mems(shared: SharedMems, *, num_segments: int, mem_dim: int) -> None:
    """Raise Corrupt unless these can be the vectors before the segments of a file."""
    if not shared:
        return
    require(len(shared) == num_segments, f"shared vectors of {len(shared)} segments")
    sets = [mem for mem in shared if mem is not None]
    require(sets, "shared vectors before no segment")
    num_mem = len(sets[0].steps)
    check_shared(num_mem, mem_dim)
    for mem in sets:
        wrong = mem.problem(num_mem, mem_dim)
        require(not wrong, f"shared vectors: {wrong}")


def shared_sets(shared: SharedMems) -> tuple[list[int], list[GridMem]]:
    """Which of the file's sets of vectors stand before each segment, -1 for none; and the sets."""
    spans, sets = _spans(shared)
    places: list[int] = []
    for number, span in enumerate(spans):
        places += [-1] * span.skipped + [number] * span.num_segments
    return places + [-1] * (len(shared) - len(places)), sets


def pack_shared(shared: SharedMems) -> tuple[SharedFields | None, bytes, bytes]:
    """Header fields, columns and plane; nothing of no vectors."""
    spans, sets = _spans(shared)
    if not sets:
        return None, b"", b""
    grid, plane = pack_grids(sets)
    fields = SharedFields(
        num_sets=len(sets), num_mem=len(sets[0].steps), num_bytes=len(plane), grid=grid
    )
    columns = b"".join(encode_varints(each.skipped, each.num_segments) for each in spans)
    return fields, columns, plane


def read_spans(cursor: Cursor, *, count: int, num_segments: int) -> list[SharedSpan]:
    """The columns of so many spans. Raises Corrupt."""
    spans, end = [], 0
    for _ in range(count):
        span = SharedSpan(skipped=cursor.varint(), num_segments=cursor.varint())
        end += span.skipped + span.num_segments
        if not span.num_segments or end > num_segments:
            raise Corrupt(f"columns: shared vectors before {end} segments of {num_segments}")
        spans.append(span)
    return spans


def shared_damage(error: Corrupt) -> Corrupt:
    """The error for a damaged file whose shared vectors cannot be read."""
    return Corrupt(
        f"the shared vectors are damaged; without them none of the text can be found ({error})"
    )


def _spans(shared: SharedMems) -> tuple[list[SharedSpan], list[GridMem]]:
    """The spans and the vectors of each."""
    spans: list[SharedSpan] = []
    sets: list[GridMem] = []
    skipped = 0
    before: GridMem | None = None
    for mem in shared:
        if mem is None:
            skipped += 1
        elif before is not None and mem == before:
            spans[-1] = SharedSpan(
                skipped=spans[-1].skipped, num_segments=spans[-1].num_segments + 1
            )
        else:
            spans.append(SharedSpan(skipped=skipped, num_segments=1))
            sets.append(mem)
            skipped = 0
        before = mem
    return spans, sets
