"""The header of a `.crm` file: all that can be known without reading a chunk.

Owns the magic, the version and feature bits, the header's fields and its checksum, and the layout
of the planes behind it. Does not know what is in the planes. Called by `llmzip.store.container`.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

from llmzip.errors import Corrupt, NotACrmFile, Truncated, UnsupportedVersion
from llmzip.store.coded import CodedFields, check_coded, encode_coded, read_coded
from llmzip.store.columns import TableSize
from llmzip.store.records import (
    COMMIT_BYTES,
    DIGEST_BYTES,
    HASH_BYTES,
    MAX_NAME_BYTES,
    check_geometry,
    check_name,
    check_start,
    is_commit,
)
from llmzip.store.varint import Cursor, encode_varint
from llmzip.store.vectors import RAW_BITS, packed_bytes

# A byte above 127, CR LF, ^Z, LF: copies that strip bits, translate newlines or stop at ^Z show.
MAGIC = b"\x89CRM\r\n\x1a\n"
VERSION = 1
MAX_HEADER_BYTES = 1 << 20
CRC_BYTES = 4

# Required features: a reader that does not know a bit must refuse the file.
HAS_MODEL = 1
COLUMNS_ZSTD = 2
STORED_ZSTD = 4
HAS_START = 8
HAS_LITERAL = 16
HAS_CODED = 32
KNOWN_REQUIRED = 63

# Optional features: a reader may ignore what it does not know.
BF16_SAFE = 1
KNOWN_OPTIONAL = 1

_NEWER = "a newer llmzip may read this file"


@dataclass(frozen=True, kw_only=True)
class ModelFields:
    """The part of the header that only files with a crammed run have."""

    model_id: str
    revision: str
    model_digest: bytes
    num_mem: int
    mem_dim: int
    bits: int
    context_tokens: int
    start_id: int | None
    margin_code: int
    num_chunks: int
    num_literal: int
    patch_bytes: int
    coded: CodedFields | None = None

    @property
    def num_vector_chunks(self) -> int:
        """Chunks that have mem vectors."""
        return self.num_chunks - self.num_literal


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
    def vector_bytes(self) -> int:
        m = self.model
        if m and m.coded:
            return m.coded.vector_bytes
        return packed_bytes(m.num_vector_chunks, m.num_mem, m.mem_dim, m.bits) if m else 0

    @property
    def body_bytes(self) -> int:
        """Size of all planes."""
        return self.columns_bytes + self.vector_bytes + self.patch_bytes + self.stored_bytes


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
        fields += _encode_model(header.model)
    out = MAGIC + bytes((VERSION, header.required, header.optional))
    out += encode_varint(len(fields)) + fields
    return out + crc32(out).to_bytes(CRC_BYTES, "little")


def read_header(data: bytes) -> tuple[Header, int]:
    """The header and its size in bytes, up to and with its checksum.

    Raises NotACrmFile, Truncated, Corrupt, UnsupportedVersion.
    """
    if data[: len(MAGIC)] != MAGIC:
        if data and MAGIC.startswith(data):
            raise Truncated(f"the file ends after {len(data)} bytes, inside its magic")
        raise NotACrmFile("not a .crm file: the magic bytes are missing")
    cursor = Cursor(data, what="file", short=Truncated)
    cursor.take(len(MAGIC))
    version = cursor.byte()
    if version != VERSION:
        raise UnsupportedVersion(f"format version {version}, this llmzip reads 1", hint=_NEWER)
    required, optional = cursor.byte(), cursor.byte()
    unknown = required & ~KNOWN_REQUIRED
    if unknown:
        raise UnsupportedVersion(f"unknown required features {unknown:#04x}", hint=_NEWER)
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


def _encode_model(model: ModelFields) -> bytes:
    name = model.model_id.encode()
    out = encode_varint(len(name)) + name
    if is_commit(model.revision):
        out += b"\x01" + bytes.fromhex(model.revision)
    else:
        label = model.revision.encode()
        out += (encode_varint(len(label) + 1) + label) if label else b"\x00"
    out += model.model_digest
    for number in (model.num_mem, model.mem_dim, model.bits, model.context_tokens):
        out += encode_varint(number)
    if model.start_id is not None:
        out += encode_varint(model.start_id)
    out += bytes((model.margin_code,)) + encode_varint(model.num_chunks)
    if model.num_literal:
        out += encode_varint(model.num_literal)
    out += encode_varint(model.patch_bytes)
    return out + encode_coded(model.coded) if model.coded else out


def _read_fields(cursor: Cursor, *, required: int, optional: int) -> Header:
    reserved = cursor.byte()
    if reserved:
        raise UnsupportedVersion(f"reserved byte is {reserved}, not 0", hint=_NEWER)
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
        model=_read_model(cursor, required) if required & HAS_MODEL else None,
    )


def _read_model(cursor: Cursor, required: int) -> ModelFields:
    model_id = _read_text(cursor, cursor.varint(), what="model id")
    if not model_id:
        raise Corrupt("header: empty model id")
    code = cursor.varint()
    if code == 1:
        revision = bytes(cursor.take(COMMIT_BYTES)).hex()
    else:
        revision = _read_text(cursor, max(code - 1, 0), what="revision")
        if is_commit(revision):
            raise Corrupt("header: a commit stored as text")
    digest = bytes(cursor.take(DIGEST_BYTES))
    num_mem, mem_dim, bits, context_tokens = (cursor.varint() for _ in range(4))
    check_geometry(num_mem, mem_dim, bits, context_tokens)
    if (bits < RAW_BITS) != bool(required & HAS_CODED):
        raise Corrupt(f"header: {bits} bits per dimension and the feature bits do not agree")
    start_id = cursor.varint() if required & HAS_START else None
    check_start(start_id)
    return ModelFields(
        model_id=model_id,
        revision=revision,
        model_digest=digest,
        num_mem=num_mem,
        mem_dim=mem_dim,
        bits=bits,
        context_tokens=context_tokens,
        start_id=start_id,
        margin_code=cursor.byte(),
        num_chunks=cursor.varint(),
        num_literal=cursor.varint() if required & HAS_LITERAL else 0,
        patch_bytes=cursor.varint(),
        coded=read_coded(cursor) if required & HAS_CODED else None,
    )


def _read_text(cursor: Cursor, size: int, *, what: str) -> str:
    if size > MAX_NAME_BYTES:
        raise Corrupt(f"header: {what} of {size} bytes, at most {MAX_NAME_BYTES}")
    try:
        text = bytes(cursor.take(size)).decode()
    except UnicodeDecodeError as error:
        raise Corrupt(f"header: {what} is not UTF-8") from error
    check_name(text, what=what)
    return text


def _check_header(header: Header) -> None:
    """What the fields must say of each other before a size among them is believed."""
    table, model = header.table, header.model
    counted_bytes = header.columns_bytes if model and model.coded else header.patch_bytes
    wrong = ""
    if header.first_is_stored and not table.num_runs:
        wrong = "a first run, but no runs"
    elif (table.num_cram_runs > 0) != (model is not None):
        wrong = "crammed runs and model fields do not agree"
    elif not table.num_cram_runs <= table.num_chunks <= counted_bytes:
        # A chunk takes a byte of that plane at least; this ties all counts to the file's size.
        wrong = f"{table.num_chunks} chunks in {table.num_cram_runs} runs, {counted_bytes} bytes "
        wrong += "of columns" if model and model.coded else "of patches"
    elif model is None and (
        header.required & (HAS_START | HAS_LITERAL | HAS_CODED) or header.optional & BF16_SAFE
    ):
        wrong = "features of a model, but no model"
    elif header.required & HAS_LITERAL and not 1 <= table.num_literal <= table.num_chunks:
        wrong = f"{table.num_literal} literal chunks of {table.num_chunks}"
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
