"""A damaged `.crm` file: what of it can still be read.

Owns which parts must be sound for any of the rest to be found, and reading the others as far as
they go. Nothing here is verified: only a piece whose decoded text passes its check is intact.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate, chain, islice, repeat

from llmzip.errors import Corrupt, Truncated
from llmzip.store.arith_planes import ArithColumns, read_arith_planes
from llmzip.store.container import (
    ArithRun,
    Container,
    CramRun,
    GridMem,
    Run,
    chunks_of,
    container_of,
)
from llmzip.store.cram_columns import Columns
from llmzip.store.cram_grids import least_bytes, salvage_grids
from llmzip.store.cram_patches import ChunkPatches, salvage_coded_patches
from llmzip.store.cram_planes import Content
from llmzip.store.header import Header, read_header
from llmzip.store.limits import check_size, check_work
from llmzip.store.model_fields import ModelFields
from llmzip.store.opening import read_columns
from llmzip.store.records import check_chunk
from llmzip.store.residual import Patch, read_literal, read_patches
from llmzip.store.varint import Cursor
from llmzip.store.vectors import RAW_BITS, MemBits, packed_bytes, unpack_vectors

_HOPELESS = "without it none of the text can be found"


@dataclass(frozen=True)
class LostRun:
    """A stored run: nothing vouches for its bytes."""

    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Damaged:
    """What was read of a damaged file."""

    container: Container  # the runs that need a model; what is unreadable is empty
    runs: tuple[Run | LostRun, ...]  # all, in order
    unreadable: frozenset[int]  # chunks or segments


def read_damaged(data: bytes, *, max_output_bytes: int, max_tokens: int | None = None) -> Damaged:
    """All that can be found in a file whose header and columns are sound.

    Raises what `read_header` raises, Corrupt where the columns are damaged, LimitExceeded.
    """
    header, header_bytes = read_header(data)
    check_size(header.original_bytes, max_output_bytes)
    body = memoryview(data)[header_bytes : header_bytes + header.body_bytes]
    planes = _cut(body, header)
    if len(planes[0]) < header.columns_bytes:
        raise Truncated(f"the file ends inside its table of chunks; {_HOPELESS}")
    # Of a file that is cut short, no other size bounds the table: each chunk has a token.
    check_work(header.table.num_chunks, len(data), max_tokens)
    try:
        columns = read_columns(header, Cursor(planes[0], what="columns", base=header_bytes))
    except Corrupt as error:
        raise Corrupt(f"the table of chunks is damaged; {_HOPELESS} ({error})") from error
    if isinstance(columns, ArithColumns):
        check_work(sum(s.num_tokens for s in columns.segments), len(data), max_tokens)
        return _damaged_arith(header, columns, body[header.columns_bytes :])
    check_work(sum(columns.num_tokens), len(data), max_tokens)
    return _damaged_chunks(header, columns, vectors=planes[1], patches=planes[2])


def _cut(body: memoryview, header: Header) -> list[memoryview]:
    """Columns, vectors, patches: as much of each as there is."""
    found, begin = [], 0
    for size in (header.columns_bytes, header.vector_bytes, header.patch_bytes):
        found.append(body[begin : begin + size])
        begin += size
    return found


def _damaged_arith(header: Header, columns: ArithColumns, rest: memoryview) -> Damaged:
    model = header.model
    assert model and model.arith, "such columns are read for arith fields alone"
    ends = accumulate((s.stream_bytes for s in columns.segments), initial=model.arith.vector_bytes)
    readable = sum(end <= len(rest) for end in ends) - 1
    if readable < 1:
        raise Truncated("the file ends before its first segment does")
    there = ArithColumns(run_bytes=[], segments=columns.segments[:readable])
    shape = (model.num_mem, model.mem_dim)
    try:
        arith = read_arith_planes(model.arith, there, Cursor(rest, what="body"), shape=shape)
    except Corrupt as error:
        raise Corrupt(f"the shared vectors are damaged; {_HOPELESS} ({error})") from error
    missing = tuple(sizes.with_stream(b"") for sizes in columns.segments[readable:])
    runs = tuple(
        LostRun(size) if header.table.is_stored(index) else ArithRun(num_bytes=size)
        for index, size in enumerate(columns.run_bytes)
    )
    model_runs = tuple(run for run in runs if isinstance(run, ArithRun))
    arith = replace(arith, segments=arith.segments + missing)
    return Damaged(
        container=container_of(header, model_runs, arith),
        runs=runs,
        unreadable=frozenset(range(readable, len(columns.segments))),
    )


def _damaged_chunks(
    header: Header, columns: Columns, *, vectors: memoryview, patches: memoryview
) -> Damaged:
    model = header.model
    if model is None:
        raise Corrupt(
            "all of the text is stored bytes, which have no checks of their own",
            hint="take the file from where it came once more",
        )
    mems = chain(_mems(model, vectors), repeat(None))
    found = chain(_patches(model, columns, patches), repeat(None))
    contents: list[Content] = []
    lost: set[int] = set()
    for index, is_literal in enumerate(columns.literal):
        mem, own = None if is_literal else next(mems), next(found)
        if own is None or (mem is None and not is_literal):
            lost.add(index)
        contents.append((mem, own or ()))
    chunks = list(chunks_of(columns, contents))
    left = iter(chunks)
    runs = tuple(
        CramRun(chunks=tuple(islice(left, total.num_chunks)))
        if total.num_chunks
        else LostRun(total.num_bytes)
        for total in columns.runs
    )
    model_runs = tuple(run for run in runs if isinstance(run, CramRun))
    container = container_of(header, model_runs, None)
    for index, chunk in enumerate(chunks):
        try:
            check_chunk(chunk, container, number=index)
        except Corrupt:
            lost.add(index)
    return Damaged(container=container, runs=runs, unreadable=frozenset(lost))


def _mems(model: ModelFields, plane: memoryview) -> Iterator[MemBits | GridMem | None]:
    """The vectors of each chunk, as far as there are bytes."""
    count, shape = model.num_vector_chunks, (model.num_mem, model.mem_dim)
    if model.coded:
        # The bytes that are there bound what is made of them, not those that were.
        count = min(count, len(plane) // least_bytes(1, *shape))
        yield from salvage_grids(
            plane, model.coded.grid, count=count, num_mem=shape[0], dim=shape[1]
        )
        return
    size = packed_bytes(1, *shape, RAW_BITS)
    for begin in range(0, min(count * size, len(plane) - size + 1), size):
        try:
            yield unpack_vectors(
                plane[begin : begin + size], count=1, num_mem=shape[0], dim=shape[1]
            )[0]
        except Corrupt:
            yield None


def _patches(
    model: ModelFields, columns: Columns, plane: memoryview
) -> Iterator[tuple[Patch, ...] | None]:
    """The patches of each chunk, as far as they can be read."""
    parts = [
        ChunkPatches(num_tokens=num_tokens, is_literal=is_literal)
        for num_tokens, is_literal in zip(columns.num_tokens, columns.literal, strict=True)
    ]
    if model.coded:
        yield from salvage_coded_patches(plane, parts, num_patches=model.coded.num_patches)
        return
    cursor = Cursor(plane, what="patches")
    with suppress(Corrupt):
        for part in parts:
            yield (read_literal if part.is_literal else read_patches)(
                cursor, num_tokens=part.num_tokens
            )
