"""The header's model block: which model a file needs, and the sizes of what the model decodes.

Owns the fields that only files with a model have, their coding, and the feature bits that say which
of them are there. Does not know the header around them.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmzip.errors import Corrupt
from llmzip.store.arith_fields import ArithFields, encode_arith, read_arith
from llmzip.store.cram_fields import CodedFields, encode_coded, read_coded
from llmzip.store.records import (
    COMMIT_BYTES,
    DIGEST_BYTES,
    MAX_NAME_BYTES,
    check_geometry,
    check_name,
    check_start,
    is_commit,
)
from llmzip.store.varint import Cursor, encode_varint
from llmzip.store.vectors import RAW_BITS, packed_bytes

# Required features. HAS_LITERAL and HAS_CODED are of crammed chunks: no arith file has them.
HAS_START = 8
HAS_LITERAL = 16
HAS_CODED = 32
HAS_ARITH = 64


@dataclass(frozen=True, kw_only=True)
class ModelFields:
    """The part of the header that only files with a model have.

    `num_mem` and `mem_dim` are of each chunk's vectors, in arith files of the shared ones (0
    without any). All other numbers are of crammed chunks, and 0 in arith files.
    """

    model_id: str
    revision: str
    model_digest: bytes
    start_id: int | None
    num_mem: int
    mem_dim: int
    bits: int = 0
    context_tokens: int = 0
    margin_code: int = 0
    num_chunks: int = 0
    num_literal: int = 0
    patch_bytes: int = 0
    coded: CodedFields | None = None
    arith: ArithFields | None = None

    @property
    def features(self) -> int:
        """The required features that say which fields are there."""
        return (
            HAS_START * (self.start_id is not None)
            | HAS_LITERAL * (self.num_literal > 0)
            | HAS_CODED * (self.coded is not None)
            | HAS_ARITH * (self.arith is not None)
        )

    @property
    def num_vector_chunks(self) -> int:
        """Chunks that have mem vectors."""
        return self.num_chunks - self.num_literal

    @property
    def vector_bytes(self) -> int:
        """Size of the vector plane."""
        fields = self.coded or self.arith
        if fields:
            return fields.vector_bytes
        return packed_bytes(self.num_vector_chunks, self.num_mem, self.mem_dim, self.bits)

    @property
    def stream_bytes(self) -> int:
        """Size of the plane of arith streams."""
        return self.arith.stream_bytes if self.arith else 0


def encode_model(model: ModelFields) -> bytes:
    """The block's bytes. Expects fields that hold the rules of `records`."""
    name = model.model_id.encode()
    out = encode_varint(len(name)) + name
    if is_commit(model.revision):
        out += b"\x01" + bytes.fromhex(model.revision)
    else:
        label = model.revision.encode()
        out += (encode_varint(len(label) + 1) + label) if label else b"\x00"
    out += model.model_digest
    start = b"" if model.start_id is None else encode_varint(model.start_id)
    if model.arith:
        shape = (model.num_mem, model.mem_dim)
        return out + start + encode_arith(model.arith, shape=shape)
    for number in (model.num_mem, model.mem_dim, model.bits, model.context_tokens):
        out += encode_varint(number)
    out += start + bytes((model.margin_code,)) + encode_varint(model.num_chunks)
    if model.num_literal:
        out += encode_varint(model.num_literal)
    out += encode_varint(model.patch_bytes)
    return out + encode_coded(model.coded) if model.coded else out


def read_model(cursor: Cursor, features: int) -> ModelFields:
    """The inverse of `encode_model`. Raises Corrupt, UnsupportedVersion."""
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
    if features & HAS_ARITH:
        start_id = _read_start(cursor, features)
        arith, (num_mem, mem_dim) = read_arith(cursor)
        return ModelFields(
            model_id=model_id,
            revision=revision,
            model_digest=digest,
            start_id=start_id,
            num_mem=num_mem,
            mem_dim=mem_dim,
            arith=arith,
        )
    num_mem, mem_dim, bits, context_tokens = (cursor.varint() for _ in range(4))
    check_geometry(num_mem, mem_dim, bits, context_tokens)
    if (bits < RAW_BITS) != bool(features & HAS_CODED):
        raise Corrupt(f"header: {bits} bits per dimension and the feature bits do not agree")
    return ModelFields(
        model_id=model_id,
        revision=revision,
        model_digest=digest,
        num_mem=num_mem,
        mem_dim=mem_dim,
        bits=bits,
        context_tokens=context_tokens,
        start_id=_read_start(cursor, features),
        margin_code=cursor.byte(),
        num_chunks=cursor.varint(),
        num_literal=cursor.varint() if features & HAS_LITERAL else 0,
        patch_bytes=cursor.varint(),
        coded=read_coded(cursor) if features & HAS_CODED else None,
    )


def _read_start(cursor: Cursor, features: int) -> int | None:
    start_id = cursor.varint() if features & HAS_START else None
    check_start(start_id)
    return start_id


def _read_text(cursor: Cursor, size: int, *, what: str) -> str:
    if size > MAX_NAME_BYTES:
        raise Corrupt(f"header: {what} of {size} bytes, at most {MAX_NAME_BYTES}")
    try:
        text = bytes(cursor.take(size)).decode()
    except UnicodeDecodeError as error:
        raise Corrupt(f"header: {what} is not UTF-8") from error
    check_name(text, what=what)
    return text
