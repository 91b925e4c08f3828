"""The header of a `.crm` file: all that can be known without reading a chunk.

Owns the magic, the version and feature bits, the header's fields and its checksum, and the layout
of the planes behind it. Does not know what is in the planes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from zlib import crc32

from llmzip.errors import Corrupt, NotACrmFile, Truncated, UnsupportedVersion
from llmzip.store.model_ref import read_model_ref
from llmzip.store.original import HASH_BYTES, check_suffix
from llmzip.store.payload import HAS_MODEL, HAS_NUMBER, HAS_START, PayloadFields, RunTable
from llmzip.store.payloads import all_optional, all_required, foreign_features, payload_of
from llmzip.store.varint import Cursor, encode_varint, encode_varints, require

# A byte above 127, CR LF, ^Z, LF: copies that strip bits, translate newlines or stop at ^Z show.
MAGIC = b"\x89CRM\r\n\x1a\n"
VERSION = 1
MAX_HEADER_BYTES = 1 << 20
CRC_BYTES = 4
SETTINGS_BYTES = 2
MOST_START_BYTES = MAX_HEADER_BYTES + 32  # all up to and with the header's checksum

# Required features: a reader that does not know a bit must refuse the file. The others are those of
# payloads. Those from 256 on stand in the first byte of the fields.
COLUMNS_ZSTD = 2
STORED_ZSTD = 4
_REQUIRED = HAS_MODEL | HAS_START | HAS_NUMBER | COLUMNS_ZSTD | STORED_ZSTD

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
    def body_bytes(self) -> int:
        """Size of all planes."""
        own = sum(self.payload.planes.values()) if self.payload else 0
        return self.columns_bytes + own + self.stored_bytes


def encode_header(header: Header) -> bytes:
    """Magic to checksum. Expects fields that hold all rules."""
    fields = bytes((header.required >> 8,))
    fields += encode_varint(header.original_bytes) + header.original_hash
    fields += encode_varints(header.xz_bytes, header.zstd_bytes)
    fields += encode_varint(2 * header.num_runs + header.first_is_stored)
    fields += encode_varints(header.columns_bytes, header.stored_bytes)
    if header.payload:
        fields += header.payload.model.encode() + header.payload.encode()
    if header.optional & HAS_SUFFIX:
        fields += bytes((len(header.suffix) - 1,)) + header.suffix[1:].encode()
    if header.optional & HAS_SETTINGS:
        check = header.settings_check or 0
        fields += bytes((check % 256, check // 256))
    out = MAGIC + bytes((VERSION, header.required & 255, header.optional))
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
    _check_known(required)
    size = cursor.varint()
    require(size <= MAX_HEADER_BYTES, f"header of {size} bytes, at most {MAX_HEADER_BYTES}")
    base = cursor.offset
    end = base + size + CRC_BYTES
    if len(data) < end:
        raise Truncated(f"the file has {len(data)} of at least {end} bytes")
    fields = Cursor(cursor.take(size), what="header", base=base)
    crc = int.from_bytes(cursor.take(CRC_BYTES), "little")
    require(crc32(data[: base + size]) == crc, "header: wrong checksum")
    header = _read_fields(fields, required=required, optional=optional)
    # Room for the data of optional features to come; without one, stray bytes are an error.
    if not optional & ~(_OPTIONAL | all_optional()):
        fields.finish()
    _check_header(header)
    return header, end


def _read_fields(cursor: Cursor, *, required: int, optional: int) -> Header:
    required |= cursor.byte() << 8
    _check_known(required)
    _check_features(required, optional)
    original_bytes, original_hash = cursor.varint(), bytes(cursor.take(HASH_BYTES))
    xz_bytes, zstd_bytes, run_code = (cursor.varint() for _ in range(3))
    header = Header(
        required=required,
        optional=optional,
        original_bytes=original_bytes,
        original_hash=original_hash,
        xz_bytes=xz_bytes,
        zstd_bytes=zstd_bytes,
        num_runs=run_code >> 1,
        first_is_stored=bool(run_code & 1),
        columns_bytes=cursor.varint(),
        stored_bytes=cursor.varint(),
        payload=None,
    )
    if required & HAS_MODEL:
        model = read_model_ref(cursor, has_number=bool(required & HAS_NUMBER))
        payload = payload_of(required).read(cursor, model, required)
        header = replace(header, payload=payload)
    if optional & HAS_SUFFIX:
        header = replace(header, suffix="." + bytes(cursor.take(cursor.byte())).decode("latin-1"))
        check_suffix(header.suffix)
    if optional & HAS_SETTINGS:
        check = int.from_bytes(cursor.take(SETTINGS_BYTES), "little")
        header = replace(header, settings_check=check)
    return header


def _check_known(required: int) -> None:
    unknown = required & ~(_REQUIRED | all_required())
    if unknown:
        raise UnsupportedVersion(f"unknown required features {unknown:#04x}")


def _check_features(required: int, optional: int) -> None:
    """Which features go together: this decides which fields the header has."""
    if not required & HAS_MODEL:
        has_some = required & (HAS_START | HAS_NUMBER)
        is_alone = not (has_some or foreign_features(required, optional, None))
        require(is_alone, "header: features of a model, but no model")
    elif foreign_features(required, optional, payload_of(required)):
        raise Corrupt("header: features of two codecs")


def _check_header(header: Header) -> None:
    """What the fields must say of each other before a size among them is believed."""
    table, stored, columns = header.table, header.stored_bytes, header.columns_bytes
    has_first = not header.first_is_stored or table.num_runs
    has_model = (table.num_text_runs > 0) == (header.payload is not None)
    has_stored = (table.num_stored_runs > 0) == (stored > 0)
    has_columns = (table.num_runs > 0) == (columns > 0)
    require(has_first, "header: a first run, but no runs")
    require(has_model, "header: runs that need a model and model fields do not agree")
    require(has_stored, f"header: {table.num_stored_runs} stored runs in {stored} bytes")
    require(has_columns, f"header: {table.num_runs} runs in {columns} bytes of columns")
    if header.payload:
        header.payload.check(table, header.columns_bytes)
