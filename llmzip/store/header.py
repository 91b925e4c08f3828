"""The header of a `.crm` file: all that can be known without reading a chunk.

Owns the magic, the version and feature bits, the header's fields and its checksum, and the layout
of the planes behind it. Does not know what is in the planes.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

from llmzip.errors import Corrupt, NotACrmFile, Truncated, UnsupportedVersion
from llmzip.store.arith_fields import check_arith_fields
from llmzip.store.cram_columns import TableSize
from llmzip.store.cram_fields import check_coded
from llmzip.store.model_fields import (
    HAS_ARITH,
    HAS_CODED,
    HAS_LITERAL,
    HAS_START,
    ModelFields,
    encode_model,
    read_model,
)
from llmzip.store.records import HASH_BYTES
from llmzip.store.suffix import check_suffix
from llmzip.store.varint import Cursor, encode_varint

# A byte above 127, CR LF, ^Z, LF: copies that strip bits, translate newlines or stop at ^Z show.
MAGIC = b"\x89CRM\r\n\x1a\n"
VERSION = 1
MAX_HEADER_BYTES = 1 << 20
CRC_BYTES = 4
SETTINGS_BYTES = 2
MOST_START_BYTES = MAX_HEADER_BYTES + 32  # all up to and with the header's checksum

# Required features: a reader that does not know a bit must refuse the file. The others are those of
# the model block.
HAS_MODEL = 1
COLUMNS_ZSTD = 2
STORED_ZSTD = 4
KNOWN_REQUIRED = (
    HAS_MODEL | COLUMNS_ZSTD | STORED_ZSTD | HAS_START | HAS_LITERAL | HAS_CODED | HAS_ARITH
)

# Optional features: a reader may ignore what it does not know. The last two have a field each, at
# the header's end.
BF16_SAFE = 1
HAS_SUFFIX = 2
HAS_SETTINGS = 4
KNOWN_OPTIONAL = BF16_SAFE | HAS_SUFFIX | HAS_SETTINGS


@dataclass(frozen=True, kw_only=True)
class Header:
    """The header's fields. `required` and `optional` are feature bits."""

    required: int
    optional: int
    original_bytes: int
    original_hash: bytes
    xz_bytes: int
    zstd_bytes: int
    num_runs: int
    first_is_stored: bool
    columns_bytes: int
    stored_bytes: int
    model: ModelFields | None
    suffix: str = ""  # with its dot; see `suffix`
    settings_check: int | None = None  # 16 bits

    @property
    def table(self) -> TableSize:
        return TableSize(
            num_runs=self.num_runs,
            first_is_stored=self.first_is_stored,
            num_chunks=self.model.num_chunks if self.model else 0,
            num_literal=self.model.num_literal if self.model else 0,
            is_coded=bool(self.required & HAS_CODED),
        )

    @property
    def patch_bytes(self) -> int:
        return self.model.patch_bytes if self.model else 0

    @property
    def stream_bytes(self) -> int:
        return self.model.stream_bytes if self.model else 0

    @property
    def vector_bytes(self) -> int:
        return self.model.vector_bytes if self.model else 0

    @property
    def body_bytes(self) -> int:
        """Size of all planes."""
        model_bytes = self.vector_bytes + self.patch_bytes + self.stream_bytes
        return self.columns_bytes + model_bytes + self.stored_bytes


def encode_header(header: Header) -> bytes:
    """Magic to checksum. Expects fields that hold the rules of `records`."""
    numbers = (
        header.xz_bytes,
        header.zstd_bytes,
        2 * header.num_runs + header.first_is_stored,
        header.columns_bytes,
        header.stored_bytes,
    )
    fields = b"\x00" + encode_varint(header.original_bytes) + header.original_hash
    fields += b"".join(map(encode_varint, numbers))
    if header.model:
        fields += encode_model(header.model)
    if header.optional & HAS_SUFFIX:
        fields += bytes((len(header.suffix) - 1,)) + header.suffix[1:].encode()
    if header.optional & HAS_SETTINGS:
        check = header.settings_check or 0
        fields += bytes((check % 256, check // 256))
    out = MAGIC + bytes((VERSION, header.required, header.optional))
    out += encode_varint(len(fields)) + fields
    return out + crc32(out).to_bytes(CRC_BYTES, "little")


def read_header(data: bytes) -> tuple[Header, int]:
    """The header and its size in bytes, up to and with its checksum.

    Raises NotACrmFile, Truncated, Corrupt, UnsupportedVersion.
    """
    if not data:
        raise NotACrmFile("not a .crm file: it is empty")
    if data[: len(MAGIC)] != MAGIC:
        if MAGIC.startswith(data):
            raise Truncated(f"the file ends after {len(data)} bytes, inside its magic")
        raise NotACrmFile("not a .crm file: the magic bytes are missing")
    cursor = Cursor(data, what="file", short=Truncated)
    cursor.take(len(MAGIC))
    version = cursor.byte()
    if version != VERSION:
        raise UnsupportedVersion(f"format version {version}, this llmzip reads 1")
    required, optional = cursor.byte(), cursor.byte()
    unknown = required & ~KNOWN_REQUIRED
    if unknown:
        raise UnsupportedVersion(f"unknown required features {unknown:#04x}")
    size = cursor.varint()
    if size > MAX_HEADER_BYTES:
        raise Corrupt(f"header of {size} bytes, at most {MAX_HEADER_BYTES}")
    base = cursor.offset
    end = base + size + CRC_BYTES
    if len(data) < end:
        raise Truncated(f"the file has {len(data)} of at least {end} bytes")
    fields = Cursor(cursor.take(size), what="header", base=base)
    if crc32(data[: base + size]) != int.from_bytes(cursor.take(CRC_BYTES), "little"):
        raise Corrupt("header: wrong checksum")
    header = _read_fields(fields, required=required, optional=optional)
    # Room for the data of optional features to come; without one, stray bytes are an error.
    if not optional & ~KNOWN_OPTIONAL:
        fields.finish()
    _check_header(header)
    return header, end


def _read_fields(cursor: Cursor, *, required: int, optional: int) -> Header:
    reserved = cursor.byte()
    if reserved:
        raise UnsupportedVersion(f"reserved byte is {reserved}, not 0")
    _check_features(required, optional)
    original_bytes = cursor.varint()
    original_hash = bytes(cursor.take(HASH_BYTES))
    xz_bytes, zstd_bytes, run_code = cursor.varint(), cursor.varint(), cursor.varint()
    columns_bytes, stored_bytes = cursor.varint(), cursor.varint()
    return Header(
        required=required,
        optional=optional,
        original_bytes=original_bytes,
        original_hash=original_hash,
        xz_bytes=xz_bytes,
        zstd_bytes=zstd_bytes,
        num_runs=run_code >> 1,
        first_is_stored=bool(run_code & 1),
        columns_bytes=columns_bytes,
        stored_bytes=stored_bytes,
        model=read_model(cursor, required) if required & HAS_MODEL else None,
        suffix=_read_suffix(cursor) if optional & HAS_SUFFIX else "",
        settings_check=_read_settings(cursor) if optional & HAS_SETTINGS else None,
    )


def _read_suffix(cursor: Cursor) -> str:
    text = bytes(cursor.take(cursor.byte()))
    suffix = "." + text.decode("latin-1")
    check_suffix(suffix)
    return suffix


def _read_settings(cursor: Cursor) -> int:
    return int.from_bytes(cursor.take(SETTINGS_BYTES), "little")


def _check_features(required: int, optional: int) -> None:
    """Which features go together: this decides which fields the header has."""
    of_chunks = required & (HAS_LITERAL | HAS_CODED) or optional & BF16_SAFE
    wrong = ""
    if not required & HAS_MODEL and (required & (HAS_START | HAS_ARITH) or of_chunks):
        wrong = "features of a model, but no model"
    elif required & HAS_ARITH and of_chunks:
        wrong = "features of crammed chunks in an arith file"
    if wrong:
        raise Corrupt(f"header: {wrong}")


def _check_header(header: Header) -> None:
    """What the fields must say of each other before a size among them is believed."""
    table, model = header.table, header.model
    wrong = ""
    if header.first_is_stored and not table.num_runs:
        wrong = "a first run, but no runs"
    elif (table.num_model_runs > 0) != (model is not None):
        wrong = "runs that need a model and model fields do not agree"
    elif model and not model.arith and (found := _chunks_problem(header, model)):
        wrong = found
    elif (table.num_stored_runs > 0) != (header.stored_bytes > 0):
        wrong = f"{table.num_stored_runs} stored runs in {header.stored_bytes} bytes"
    elif (table.num_runs > 0) != (header.columns_bytes > 0):
        wrong = f"{table.num_runs} runs in {header.columns_bytes} bytes of columns"
    if wrong:
        raise Corrupt(f"header: {wrong}")
    if model and model.coded:
        check_coded(
            model.coded,
            num_vector_chunks=model.num_vector_chunks,
            num_mem=model.num_mem,
            mem_dim=model.mem_dim,
            patch_bytes=model.patch_bytes,
        )
    if model and model.arith:
        check_arith_fields(
            model.arith,
            num_mem=model.num_mem,
            mem_dim=model.mem_dim,
            num_runs=header.num_runs,
            columns_bytes=header.columns_bytes,
        )


def _chunks_problem(header: Header, model: ModelFields) -> str:
    """What is wrong with the numbers of crammed chunks, or nothing."""
    num_chunks, num_literal = model.num_chunks, model.num_literal
    counted_bytes = header.columns_bytes if model.coded else model.patch_bytes
    if not header.table.num_model_runs <= num_chunks <= counted_bytes:
        # A chunk takes a byte of that plane at least; this ties all counts to the file's size.
        plane = "columns" if model.coded else "patches"
        runs = header.table.num_model_runs
        return f"{num_chunks} chunks in {runs} runs, {counted_bytes} bytes of {plane}"
    if header.required & HAS_LITERAL and not 1 <= num_literal <= num_chunks:
        return f"{num_literal} literal chunks of {num_chunks}"
    return ""
