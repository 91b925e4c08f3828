"""The `.crm` file: the only reader and the only writer. docs/FORMAT.md is the description.

Owns the order of the planes, their checksum and the end mark, and when each size is checked. Does
not know the language model, tokens' text, or the file system. Called by `llmzip.codec` and
`llmzip.report`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from llmzip.config import DEFAULT_MAX_OUTPUT_BYTES
from llmzip.errors import Corrupt, FormatError, LimitExceeded, SettingsError, Truncated
from llmzip.store.columns import ChunkRow, RunRows, decode_columns, encode_columns
from llmzip.store.header import (
    BF16_SAFE,
    COLUMNS_ZSTD,
    CRC_BYTES,
    HAS_LITERAL,
    HAS_MODEL,
    HAS_START,
    STORED_ZSTD,
    Header,
    ModelFields,
    encode_header,
    read_header,
)
from llmzip.store.records import (
    Chunk,
    Container,
    CramRun,
    Run,
    StoredRun,
    check_container,
    chunk_check,
    content_hash,
    margin_code,
    margin_value,
)
from llmzip.store.residual import pack_literal, pack_patches, read_literal, read_patches
from llmzip.store.squeeze import frame_content_bytes, squeeze, unsqueeze
from llmzip.store.varint import Cursor
from llmzip.store.vectors import MemBits, pack_vectors, unpack_vectors

__all__ = [
    "Chunk",
    "Container",
    "CramRun",
    "ReadResult",
    "Run",
    "Sizes",
    "StoredRun",
    "chunk_check",
    "content_hash",
    "margin_code",
    "margin_value",
    "parse_container",
    "read_container",
    "write_container",
]

END_MARK = b"MRC\n"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Where the bytes of a file went. The four add up to the file's size."""

    vector_bytes: int
    patch_bytes: int
    stored_bytes: int
    metadata_bytes: int  # header, columns, checksums, end mark

    @property
    def file_bytes(self) -> int:
        return self.vector_bytes + self.patch_bytes + self.stored_bytes + self.metadata_bytes


@dataclass(frozen=True, kw_only=True)
class ReadResult:
    """What one pass over a file gives."""

    container: Container
    sizes: Sizes


def write_container(container: Container) -> bytes:
    """The file's bytes: the same for the same contents. Raises SettingsError for broken rules."""
    try:
        check_container(container)
    except FormatError as error:
        raise SettingsError(f"cannot be stored: {error}") from error
    chunks = container.chunks
    mems = [chunk.mem for chunk in chunks if chunk.mem is not None]
    vectors = pack_vectors(np.stack(mems), bits=container.bits) if mems else b""
    patches = b"".join(
        pack_literal(chunk.patches) if chunk.mem is None else pack_patches(chunk.patches)
        for chunk in chunks
    )
    columns, columns_zstd = squeeze(encode_columns([_rows(run) for run in container.runs]))
    stored, stored_zstd = squeeze(
        b"".join(run.data for run in container.runs if isinstance(run, StoredRun))
    )
    num_literal = len(chunks) - len(mems)
    required = (
        HAS_MODEL * container.needs_model
        | COLUMNS_ZSTD * columns_zstd
        | STORED_ZSTD * stored_zstd
        | HAS_START * (container.start_id is not None)
        | HAS_LITERAL * (num_literal > 0)
    )
    header = Header(
        required=required,
        optional=BF16_SAFE * container.bf16_safe,
        original_bytes=container.original_bytes,
        original_hash=container.original_hash,
        xz_bytes=container.xz_bytes,
        zstd_bytes=container.zstd_bytes,
        num_runs=len(container.runs),
        first_is_stored=bool(container.runs) and isinstance(container.runs[0], StoredRun),
        columns_bytes=len(columns),
        stored_bytes=len(stored),
        model=_model_fields(container, num_literal, len(patches)) if chunks else None,
    )
    body = columns + vectors + patches + stored
    return encode_header(header) + body + crc32(body).to_bytes(CRC_BYTES, "little") + END_MARK


def read_container(data: bytes, *, max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES) -> Container:
    """The contents of a file. Raises what `parse_container` raises."""
    return parse_container(data, max_output_bytes=max_output_bytes).container


def parse_container(data: bytes, *, max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES) -> ReadResult:
    """The contents of a file and where its bytes went.

    Every size is checked against the file's own and `max_output_bytes` before anything of that size
    is allocated. Raises NotACrmFile, Truncated, Corrupt, UnsupportedVersion, LimitExceeded.
    """
    header, header_bytes = read_header(data)
    tail_bytes = CRC_BYTES + len(END_MARK)
    file_bytes = header_bytes + header.body_bytes + tail_bytes
    if len(data) < file_bytes:
        raise Truncated(f"the file has {len(data)} of {file_bytes} bytes")
    if len(data) > file_bytes:
        raise Corrupt(f"{len(data) - file_bytes} trailing bytes after byte {file_bytes}")
    if header.original_bytes > max_output_bytes:
        raise LimitExceeded(
            f"the original has {header.original_bytes} bytes, the limit is {max_output_bytes}",
            hint="raise the limit with --max-output if you trust this file",
        )
    view = memoryview(data)
    body_end = file_bytes - tail_bytes
    body_crc = int.from_bytes(view[body_end : body_end + CRC_BYTES], "little")
    if crc32(view[header_bytes:body_end]) != body_crc:
        raise Corrupt("body: wrong checksum")
    if data[-len(END_MARK) :] != END_MARK:
        raise Corrupt("the end mark is wrong")
    planes = Cursor(view[header_bytes:body_end], what="body", base=header_bytes)
    container = _read_body(header, planes)
    check_container(container)
    sizes = Sizes(
        vector_bytes=header.vector_bytes,
        patch_bytes=header.patch_bytes,
        stored_bytes=header.stored_bytes,
        metadata_bytes=header_bytes + header.columns_bytes + tail_bytes,
    )
    return ReadResult(container=container, sizes=sizes)


def _rows(run: Run) -> RunRows:
    rows = run.chunks if isinstance(run, CramRun) else ()
    return RunRows(
        num_bytes=run.num_bytes,
        rows=tuple(
            ChunkRow(
                num_tokens=chunk.num_tokens,
                num_bytes=chunk.num_bytes,
                check=chunk.check,
                starts_segment=chunk.starts_segment,
                is_literal=chunk.mem is None,
            )
            for chunk in rows
        ),
    )


def _model_fields(container: Container, num_literal: int, patch_bytes: int) -> ModelFields:
    return ModelFields(
        model_id=container.model_id,
        revision=container.revision,
        model_digest=container.model_digest,
        num_mem=container.num_mem,
        mem_dim=container.mem_dim,
        bits=container.bits,
        context_tokens=container.context_tokens,
        start_id=container.start_id,
        margin_code=margin_code(container.min_margin),
        num_chunks=len(container.chunks),
        num_literal=num_literal,
        patch_bytes=patch_bytes,
    )


def _read_body(header: Header, planes: Cursor) -> Container:
    columns = planes.part(header.columns_bytes, what="columns")
    if header.required & COLUMNS_ZSTD:
        frame = columns.take(columns.remaining)
        size = frame_content_bytes(frame, what="columns")
        if size > header.table.max_bytes:
            raise Corrupt(f"columns: {size} bytes for {header.table.num_chunks} chunks")
        unpacked = unsqueeze(frame, num_bytes=size, what="columns")
        columns = Cursor(unpacked, what="unpacked columns")
    table = decode_columns(columns, header.table)
    total = sum(run.num_bytes for run in table)
    # Before the stored plane: this bounds what its zstd frame may claim.
    if total != header.original_bytes:
        raise Corrupt(f"the runs hold {total} bytes, the original has {header.original_bytes}")
    model = header.model
    mems: Iterator[MemBits] = iter(())
    if model:
        vectors = planes.take(header.vector_bytes)
        mems = iter(
            unpack_vectors(
                vectors,
                count=model.num_vectors,
                num_mem=model.num_mem,
                dim=model.mem_dim,
                bits=model.bits,
            )
        )
    patches = planes.part(header.patch_bytes, what="patches")
    cram_runs = {
        index: CramRun(chunks=tuple(_read_chunk(row, patches, mems) for row in run.rows))
        for index, run in enumerate(table)
        if run.rows
    }
    patches.finish()
    stored_bytes = sum(run.num_bytes for run in table if not run.rows)
    stored = planes.part(header.stored_bytes, what="stored bytes")
    if header.required & STORED_ZSTD:
        frame = stored.take(stored.remaining)
        unpacked = unsqueeze(frame, num_bytes=stored_bytes, what="stored bytes")
        stored = Cursor(unpacked, what="unpacked stored bytes")
    runs: list[Run] = []
    for index, run in enumerate(table):
        runs.append(cram_runs.get(index) or StoredRun(data=bytes(stored.take(run.num_bytes))))
    stored.finish()
    return Container(
        original_bytes=header.original_bytes,
        original_hash=header.original_hash,
        xz_bytes=header.xz_bytes,
        zstd_bytes=header.zstd_bytes,
        runs=tuple(runs),
        model_id=model.model_id if model else "",
        revision=model.revision if model else "",
        model_digest=model.model_digest if model else b"",
        num_mem=model.num_mem if model else 0,
        mem_dim=model.mem_dim if model else 0,
        bits=model.bits if model else 0,
        context_tokens=model.context_tokens if model else 0,
        start_id=model.start_id if model else None,
        min_margin=margin_value(model.margin_code) if model and model.margin_code else None,
        bf16_safe=bool(header.optional & BF16_SAFE),
    )


def _read_chunk(row: ChunkRow, patches: Cursor, mems: Iterator[MemBits]) -> Chunk:
    read = read_literal if row.is_literal else read_patches
    return Chunk(
        num_tokens=row.num_tokens,
        num_bytes=row.num_bytes,
        check=row.check,
        starts_segment=row.starts_segment,
        patches=read(patches, num_tokens=row.num_tokens),
        mem=None if row.is_literal else next(mems),
    )
