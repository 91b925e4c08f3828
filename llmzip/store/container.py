"""The `.crm` file: the only reader and the only writer. docs/FORMAT.md is the description.

Owns the order of the planes, their checksum and the end mark, and when each size is checked. Does
not know the language model, tokens' text, or the file system. Called by `llmzip.codec` and
`llmzip.report`.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

from llmzip.config import DEFAULT_MAX_OUTPUT_BYTES
from llmzip.errors import FormatError, SettingsError
from llmzip.store.columns import Columns, RunTotals, encode_columns
from llmzip.store.header import (
    BF16_SAFE,
    COLUMNS_ZSTD,
    CRC_BYTES,
    HAS_CODED,
    HAS_LITERAL,
    HAS_MODEL,
    HAS_START,
    STORED_ZSTD,
    Header,
    ModelFields,
    encode_header,
)
from llmzip.store.opening import END_MARK, OpenedFile, Sizes, open_file
from llmzip.store.planes import Planes, encode_planes, read_planes
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
from llmzip.store.residual import Ranked
from llmzip.store.squeeze import squeeze, unsqueeze
from llmzip.store.varint import Cursor
from llmzip.store.vectors import GridMem

__all__ = [
    "Chunk",
    "Container",
    "CramRun",
    "GridMem",
    "Ranked",
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
    planes = encode_planes(container)
    # The columns of a coded file have a byte at least for each chunk, to bound their number.
    columns, columns_zstd = squeeze(
        encode_columns(_columns(container), coded=container.is_coded),
        least_bytes=len(chunks) * container.is_coded,
    )
    stored, stored_zstd = squeeze(
        b"".join(run.data for run in container.runs if isinstance(run, StoredRun))
    )
    required = (
        HAS_MODEL * container.needs_model
        | COLUMNS_ZSTD * columns_zstd
        | STORED_ZSTD * stored_zstd
        | HAS_START * (container.start_id is not None)
        | HAS_LITERAL * any(chunk.mem is None for chunk in chunks)
        | HAS_CODED * container.is_coded
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
        model=_model_fields(container, planes) if chunks else None,
    )
    body = columns + planes.vectors + planes.patches + stored
    return encode_header(header) + body + crc32(body).to_bytes(CRC_BYTES, "little") + END_MARK


def read_container(data: bytes, *, max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES) -> Container:
    """The contents of a file. Raises what `parse_container` raises."""
    return parse_container(data, max_output_bytes=max_output_bytes).container


def parse_container(data: bytes, *, max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES) -> ReadResult:
    """The contents of a file and where its bytes went.

    Every size is checked against the file's own and `max_output_bytes` before anything of that size
    is allocated. Raises NotACrmFile, Truncated, Corrupt, UnsupportedVersion, LimitExceeded.
    """
    opened = open_file(data, max_output_bytes=max_output_bytes)
    container = _read_planes(opened)
    check_container(container)
    return ReadResult(container=container, sizes=opened.sizes)


def _columns(container: Container) -> Columns:
    crams = {index: run for index, run in enumerate(container.runs) if isinstance(run, CramRun)}
    totals = []
    for index, run in enumerate(container.runs):
        chunks = crams[index].chunks if index in crams else ()
        num_tokens = sum(chunk.num_tokens for chunk in chunks)
        totals.append(
            RunTotals(num_chunks=len(chunks), num_tokens=num_tokens, num_bytes=run.num_bytes)
        )
    chunks = container.chunks
    return Columns(
        runs=tuple(totals),
        num_tokens=[chunk.num_tokens for chunk in chunks],
        num_bytes=[chunk.num_bytes for chunk in chunks],
        checks=[chunk.check for chunk in chunks],
        starts=[chunk.starts_segment for chunk in chunks],
        literal=[chunk.mem is None for chunk in chunks],
    )


def _model_fields(container: Container, planes: Planes) -> ModelFields:
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
        num_literal=sum(chunk.mem is None for chunk in container.chunks),
        patch_bytes=len(planes.patches),
        coded=planes.coded,
    )


def _read_planes(opened: OpenedFile) -> Container:
    header, model = opened.header, opened.header.model
    chunks: tuple[Chunk, ...] = ()
    if model:
        vectors = opened.planes.take(header.vector_bytes)
        patches = opened.planes.part(header.patch_bytes, what="patches")
        chunks = _read_chunks(model, opened.columns, vectors, patches)
    return Container(
        original_bytes=header.original_bytes,
        original_hash=header.original_hash,
        xz_bytes=header.xz_bytes,
        zstd_bytes=header.zstd_bytes,
        runs=_read_runs(opened, chunks),
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


def _read_chunks(
    model: ModelFields, columns: Columns, vectors: memoryview, patches: Cursor
) -> tuple[Chunk, ...]:
    contents = read_planes(model, columns, vectors=vectors, patches=patches)
    return tuple(
        Chunk(
            num_tokens=num_tokens,
            num_bytes=num_bytes,
            check=check,
            starts_segment=starts,
            patches=found,
            mem=mem,
        )
        for num_tokens, num_bytes, check, starts, (mem, found) in zip(
            columns.num_tokens,
            columns.num_bytes,
            columns.checks,
            columns.starts,
            contents,
            strict=True,
        )
    )


def _read_runs(opened: OpenedFile, chunks: tuple[Chunk, ...]) -> tuple[Run, ...]:
    """Chunks and stored bytes, dealt out to the runs."""
    totals = opened.columns.runs
    stored = opened.planes.part(opened.header.stored_bytes, what="stored bytes")
    if opened.header.required & STORED_ZSTD:
        stored_bytes = sum(total.num_bytes for total in totals if not total.num_chunks)
        frame = stored.take(stored.remaining)
        unpacked = unsqueeze(frame, num_bytes=stored_bytes, what="stored bytes")
        stored = Cursor(unpacked, what="unpacked stored bytes")
    runs: list[Run] = []
    start = 0
    for total in totals:
        if total.num_chunks:
            runs.append(CramRun(chunks=chunks[start : start + total.num_chunks]))
            start += total.num_chunks
        else:
            runs.append(StoredRun(data=bytes(stored.take(total.num_bytes))))
    stored.finish()
    return tuple(runs)
