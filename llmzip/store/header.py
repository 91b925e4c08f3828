"""The header of a `.crm` file: all that can be known without reading a chunk.

Owns the magic, the version and feature bits, the header's fields and its checksum, and the layout
of the planes behind it. Does not know what is in the planes.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

from llmzip.errors import Corrupt, NotACrmFile, Truncated, UnsupportedVersion
from llmzip.store.hashes import HASH_BYTES
from llmzip.store.model_ref import read_model_ref
from llmzip.store.payload import HAS_MODEL, HAS_START, PayloadFields, RunTable
from llmzip.store.payloads import all_optional, all_required, foreign_features, payload_of
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
# payloads.
COLUMNS_ZSTD = 2
STORED_ZSTD = 4
_REQUIRED = HAS_MODEL | HAS_START | COLUMNS_ZSTD | STORED_ZSTD

# Optional features: a reader may ignore what it does not know. These have a field each, at the
# header's end.
HAS_SUFFIX = 2
HAS_SETTINGS = 4
_OPTIONAL = HAS_SUFFIX | HAS_SETTINGS


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
    payload: PayloadFields | None
    suffix: str = ""  # with its dot; see `suffix`
    settings_check: int | None = None  # 16 bits

    @property
    def table(self) -> RunTable:
        return RunTable(num_runs=self.num_runs, first_is_stored=self.first_is_stored)

    @property
    def payload_bytes(self) -> int:
        """Size of the payload's planes."""
        return sum(self.payload.planes.values()) if self.payload else 0

    @property
    def body_bytes(self) -> int:
        """Size of all planes."""
        return self.columns_bytes + self.payload_bytes + self.stored_bytes


def encode_header(header: Header) -> bytes:
    """Magic to checksum. Expects fields that hold all rules."""
    numbers = (
        header.xz_bytes,
        header.zstd_bytes,
        2 * header.num_runs + header.first_is_stored,
        header.columns_bytes,
        header.stored_bytes,
    )
    fields = b"\x00" + encode_varint(header.original_bytes) + header.original_hash
    fields += b"".join(map(encode_varint, numbers))
    if header.payload:
        fields += header.payload.model.encode() + header.payload.encode()
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
    unknown = required & ~(_REQUIRED | all_required())
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
    if not optional & ~(_OPTIONAL | all_optional()):
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
        payload=_read_payload(cursor, required) if required & HAS_MODEL else None,
        suffix=_read_suffix(cursor) if optional & HAS_SUFFIX else "",
        settings_check=_read_settings(cursor) if optional & HAS_SETTINGS else None,
    )


def _read_payload(cursor: Cursor, required: int) -> PayloadFields:
    return payload_of(required).read(cursor, read_model_ref(cursor), required)


def _read_suffix(cursor: Cursor) -> str:
    text = bytes(cursor.take(cursor.byte()))
    suffix = "." + text.decode("latin-1")
    check_suffix(suffix)
    return suffix


def _read_settings(cursor: Cursor) -> int:
    return int.from_bytes(cursor.take(SETTINGS_BYTES), "little")


def _check_features(required: int, optional: int) -> None:
    """Which features go together: this decides which fields the header has."""
    if not required & HAS_MODEL:
        if required & HAS_START or foreign_features(required, optional, None):
            raise Corrupt("header: features of a model, but no model")
    elif foreign_features(required, optional, payload_of(required)):
        raise Corrupt("header: features of two codecs")


def _check_header(header: Header) -> None:
    """What the fields must say of each other before a size among them is believed."""
    table = header.table
    wrong = ""
    if header.first_is_stored and not table.num_runs:
        wrong = "a first run, but no runs"
    elif (table.num_text_runs > 0) != (header.payload is not None):
        wrong = "runs that need a model and model fields do not agree"
    elif (table.num_stored_runs > 0) != (header.stored_bytes > 0):
        wrong = f"{table.num_stored_runs} stored runs in {header.stored_bytes} bytes"
    elif (table.num_runs > 0) != (header.columns_bytes > 0):
        wrong = f"{table.num_runs} runs in {header.columns_bytes} bytes of columns"
    if wrong:
        raise Corrupt(f"header: {wrong}")
    if header.payload:
        header.payload.check(table, header.columns_bytes)
