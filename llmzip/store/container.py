"""The `.crm` file: the only reader and the only writer. docs/FORMAT.md is the description.

Owns the order of the planes, their checksum and the end mark, and when each size is checked. Does
not know the language model, tokens' text, or the file system.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from zlib import crc32

from llmzip.config import DEFAULT_MAX_OUTPUT_BYTES
from llmzip.errors import FormatError, SettingsError
from llmzip.store.arith_fields import least_columns_bytes
from llmzip.store.arith_payload import Arith, ArithRun, ArithSegment
from llmzip.store.arith_planes import (
    ArithColumns,
    encode_arith_columns,
    encode_arith_planes,
    read_arith_planes,
)
from llmzip.store.cram_columns import Columns, RunTotals, encode_columns
from llmzip.store.cram_planes import Content, encode_planes, read_planes
from llmzip.store.header import (
    BF16_SAFE,
    COLUMNS_ZSTD,
    CRC_BYTES,
    HAS_MODEL,
    HAS_SETTINGS,
    HAS_SUFFIX,
    STORED_ZSTD,
    Header,
    encode_header,
)
from llmzip.store.model_fields import ModelFields
from llmzip.store.opening import END_MARK, OpenedFile, Sizes, open_file
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
    segment_check,
)
from llmzip.store.residual import Ranked
from llmzip.store.squeeze import squeeze, unsqueeze
from llmzip.store.varint import Cursor
from llmzip.store.vectors import GridMem

__all__ = [
    "Arith",
    "ArithRun",
    "ArithSegment",
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
    "chunks_of",
    "container_of",
    "content_hash",
    "margin_code",
    "margin_value",
    "parse_container",
    "read_chunks",
    "read_container",
    "segment_check",
    "write_container",
]


@dataclass(frozen=True, kw_only=True)
class ReadResult:
    """What one pass over a file gives."""

    container: Container
    sizes: Sizes


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What the model's runs become. The columns take no fewer bytes, even as a zstd frame."""

    columns: bytes
    least_columns_bytes: int
    planes: bytes  # vectors, then patches or streams
    model: ModelFields | None


def write_container(container: Container) -> bytes:
    """The file's bytes: the same for the same contents. Raises SettingsError for broken rules."""
    try:
        check_container(container)
    except FormatError as error:
        raise SettingsError(f"cannot be stored: {error}") from error
    parts = _arith_parts(container, container.arith) if container.arith else _parts(container)
    columns, columns_zstd = squeeze(parts.columns, least_bytes=parts.least_columns_bytes)
    stored, stored_zstd = squeeze(
        b"".join(run.data for run in container.runs if isinstance(run, StoredRun))
    )
    required = (
        HAS_MODEL * container.needs_model
        | COLUMNS_ZSTD * columns_zstd
        | STORED_ZSTD * stored_zstd
        | (parts.model.features if parts.model else 0)
    )
    header = Header(
        required=required,
        optional=BF16_SAFE * container.bf16_safe
        | HAS_SUFFIX * bool(container.suffix)
        | HAS_SETTINGS * (container.settings_check is not None),
        original_bytes=container.original_bytes,
        original_hash=container.original_hash,
        xz_bytes=container.xz_bytes,
        zstd_bytes=container.zstd_bytes,
        num_runs=len(container.runs),
        first_is_stored=bool(container.runs) and isinstance(container.runs[0], StoredRun),
        columns_bytes=len(columns),
        stored_bytes=len(stored),
        model=parts.model,
        suffix=container.suffix,
        settings_check=container.settings_check,
    )
    body = columns + parts.planes + stored
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


def _parts(container: Container) -> _Parts:
    """Of a file with crammed runs, or with stored bytes alone."""
    chunks, planes = container.chunks, encode_planes(container)
    model = ModelFields(
        model_id=container.model_id,
        revision=container.revision,
        model_digest=container.model_digest,
        num_mem=container.num_mem,
        mem_dim=container.mem_dim,
        bits=container.bits,
        context_tokens=container.context_tokens,
        start_id=container.start_id,
        margin_code=margin_code(container.min_margin),
        num_chunks=len(chunks),
        num_literal=sum(chunk.mem is None for chunk in chunks),
        patch_bytes=len(planes.patches),
        coded=planes.coded,
    )
    return _Parts(
        columns=encode_columns(_columns(container), coded=container.is_coded),
        # The columns of a coded file have a byte at least for each chunk, to bound their number.
        least_columns_bytes=len(chunks) * container.is_coded,
        planes=planes.vectors + planes.patches,
        model=model if chunks else None,
    )


def _arith_parts(container: Container, arith: Arith) -> _Parts:
    planes = encode_arith_planes(arith)
    run_bytes = [run.num_bytes for run in container.runs]
    num_segments = len(arith.segments)
    return _Parts(
        columns=encode_arith_columns(run_bytes, arith.segments),
        least_columns_bytes=least_columns_bytes(num_runs=len(run_bytes), num_segments=num_segments),
        planes=planes.vectors + planes.streams,
        model=ModelFields(
            model_id=container.model_id,
            revision=container.revision,
            model_digest=container.model_digest,
            start_id=container.start_id,
            num_mem=container.num_mem,
            mem_dim=container.mem_dim,
            arith=planes.fields,
        ),
    )


def _columns(container: Container) -> Columns:
    totals = []
    for run in container.runs:
        chunks = run.chunks if isinstance(run, CramRun) else ()
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


def _read_planes(opened: OpenedFile) -> Container:
    header, model = opened.header, opened.header.model
    arith: Arith | None = None
    if isinstance(opened.columns, ArithColumns):
        assert model and model.arith, "such columns are read for arith fields alone"
        shape = (model.num_mem, model.mem_dim)
        arith = read_arith_planes(model.arith, opened.columns, opened.planes, shape=shape)
        runs = _read_arith_runs(opened, opened.columns)
    else:
        runs = _read_cram_runs(opened, opened.columns)
    return container_of(header, runs, arith)


def container_of(header: Header, runs: tuple[Run, ...], arith: Arith | None) -> Container:
    """What the header says, with these contents. Nothing is checked."""
    model = header.model
    return Container(
        original_bytes=header.original_bytes,
        original_hash=header.original_hash,
        xz_bytes=header.xz_bytes,
        zstd_bytes=header.zstd_bytes,
        runs=runs,
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
        arith=arith,
        suffix=header.suffix,
        settings_check=header.settings_check,
    )


def read_chunks(opened: OpenedFile, columns: Columns) -> Iterator[Chunk]:
    """The chunks of all runs; leaves the file's planes at the stored bytes. Raises Corrupt."""
    header, model = opened.header, opened.header.model
    if not model:
        return
    vectors = opened.planes.take(header.vector_bytes)
    patches = opened.planes.part(header.patch_bytes, what="patches")
    yield from chunks_of(columns, read_planes(model, columns, vectors=vectors, patches=patches))


def chunks_of(columns: Columns, contents: Iterable[Content]) -> Iterator[Chunk]:
    """Chunks of what the columns and the other planes say. Nothing is checked."""
    for num_tokens, num_bytes, check, starts, (mem, found) in zip(
        columns.num_tokens, columns.num_bytes, columns.checks, columns.starts, contents, strict=True
    ):
        yield Chunk(
            num_tokens=num_tokens,
            num_bytes=num_bytes,
            check=check,
            starts_segment=starts,
            patches=found,
            mem=mem,
        )


def _read_cram_runs(opened: OpenedFile, columns: Columns) -> tuple[Run, ...]:
    """Chunks and stored bytes, dealt out to the runs."""
    chunks = iter(list(read_chunks(opened, columns)))
    stored = _read_stored(opened)
    return tuple(
        CramRun(chunks=tuple(islice(chunks, total.num_chunks)))
        if total.num_chunks
        else StoredRun(data=next(stored))
        for total in columns.runs
    )


def _read_arith_runs(opened: OpenedFile, columns: ArithColumns) -> tuple[Run, ...]:
    stored, is_stored = _read_stored(opened), opened.header.table.is_stored
    return tuple(
        StoredRun(data=next(stored)) if is_stored(index) else ArithRun(num_bytes=num_bytes)
        for index, num_bytes in enumerate(columns.run_bytes)
    )


def _read_stored(opened: OpenedFile) -> Iterator[bytes]:
    """The bytes of each stored run, from the last plane."""
    sizes = [
        num_bytes
        for index, num_bytes in enumerate(opened.columns.run_bytes)
        if opened.header.table.is_stored(index)
    ]
    stored = opened.planes.part(opened.header.stored_bytes, what="stored bytes")
    if opened.header.required & STORED_ZSTD:
        frame = stored.take(stored.remaining)
        unpacked = unsqueeze(frame, num_bytes=sum(sizes), what="stored bytes")
        stored = Cursor(unpacked, what="unpacked stored bytes")
    data = [bytes(stored.take(num_bytes)) for num_bytes in sizes]
    stored.finish()
    return iter(data)
