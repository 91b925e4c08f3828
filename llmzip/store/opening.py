"""The checks that every reader of a `.crm` file makes first, in the order of docs/FORMAT.md.

Owns the file's frame: sizes, the body's checksum, the end mark, where each plane lies; and reading
the columns; and what a file may ask for without being asked whether it is meant. Does not know what
is in a payload's planes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from zlib import crc32

from llmzip.errors import LimitExceeded, Truncated
from llmzip.store.header import COLUMNS_ZSTD, CRC_BYTES, Header, read_header
from llmzip.store.payload import Columns, RunColumns, max_run_bytes, read_run_bytes
from llmzip.store.squeeze import frame_content_bytes, unsqueeze
from llmzip.store.varint import Cursor, require

END_MARK = b"MRC\n"

# Tokens to be decoded. A genuine file, smaller than its text under zstd, has far fewer.
TOKENS_PER_FILE_BYTE, TOKENS_OF_ANY_FILE = 64, 1 << 16


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Where the bytes of a file went. All of them add up to the file's size."""

    planes: Mapping[str, int]  # of the payload
    stored_bytes: int
    metadata_bytes: int  # header, columns, checksums, end mark

    @property
    def file_bytes(self) -> int:
        return sum(self.planes.values()) + self.stored_bytes + self.metadata_bytes


@dataclass(frozen=True, kw_only=True)
class OpenedFile:
    """A file whose frame and columns are sound. The planes after them are still to be read."""

    header: Header
    columns: Columns
    planes: Cursor  # those of the payload, then the stored bytes
    sizes: Sizes


def open_file(data: bytes, *, max_output_bytes: int) -> OpenedFile:
    """Check and read all of a file up to its payload.

    Raises NotACrmFile, Truncated, Corrupt, UnsupportedVersion, LimitExceeded.
    """
    header, header_bytes = read_header(data)
    tail_bytes = CRC_BYTES + len(END_MARK)
    file_bytes = header_bytes + header.body_bytes + tail_bytes
    if len(data) < file_bytes:
        raise Truncated(f"the file has {len(data)} of {file_bytes} bytes")
    extra = len(data) - file_bytes
    require(not extra, f"{extra} trailing bytes after byte {file_bytes}")
    check_size(header.original_bytes, max_output_bytes)
    view = memoryview(data)
    body_end = file_bytes - tail_bytes
    body_crc = int.from_bytes(view[body_end : body_end + CRC_BYTES], "little")
    require(crc32(view[header_bytes:body_end]) == body_crc, "body: wrong checksum")
    require(data[-len(END_MARK) :] == END_MARK, "the end mark is wrong")
    planes = Cursor(view[header_bytes:body_end], what="body", base=header_bytes)
    return OpenedFile(
        header=header,
        columns=read_columns(header, planes.part(header.columns_bytes, what="columns")),
        planes=planes,
        sizes=Sizes(
            planes=header.payload.planes if header.payload else {},
            stored_bytes=header.stored_bytes,
            metadata_bytes=header_bytes + header.columns_bytes + tail_bytes,
        ),
    )


def read_columns(header: Header, cursor: Cursor) -> Columns:
    """The columns of a file, from the plane of its own. Raises Corrupt."""
    table, payload = header.table, header.payload
    if header.required & COLUMNS_ZSTD:
        frame = cursor.take(cursor.remaining)
        size = frame_content_bytes(frame, what="columns")
        most = payload.max_columns_bytes(table) if payload else max_run_bytes(table)
        pieces = payload.num_pieces if payload else 0
        require(size <= most, f"columns: {size} bytes for {pieces} pieces")
        unpacked = unsqueeze(frame, num_bytes=size, what="columns")
        cursor = Cursor(unpacked, what="unpacked columns")
    columns: Columns
    if payload:
        columns = payload.read_columns(cursor, table)
    else:
        columns = RunColumns(run_bytes=read_run_bytes(cursor, table))
        cursor.finish()
    total = sum(columns.run_bytes)
    # Before the stored plane: this bounds what its zstd frame may claim.
    whole = header.original_bytes
    require(total == whole, f"the runs hold {total} bytes, the original has {whole}")
    return columns


def check_size(original_bytes: int, max_output_bytes: int) -> None:
    """Raise LimitExceeded for an original over the limit."""
    if original_bytes > max_output_bytes:
        raise LimitExceeded(
            f"the original has {original_bytes} bytes, the limit is {max_output_bytes}",
            hint="raise the limit with --max-output if you trust this file",
        )


def check_work(num_tokens: int, file_bytes: int, max_tokens: int | None = None) -> None:
    """Raise LimitExceeded where a file has more tokens to decode than `max_tokens`. None: more than
    is plausible for a file of this size."""
    plausible = TOKENS_OF_ANY_FILE + TOKENS_PER_FILE_BYTE * file_bytes
    most = plausible if max_tokens is None else max_tokens
    if num_tokens > most:
        raise LimitExceeded(
            f"the file asks for {num_tokens} tokens to be decoded, the limit is {most}",
            hint="raise the limit with --max-tokens if you trust this file",
        )
