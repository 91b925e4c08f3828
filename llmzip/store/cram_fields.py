"""The header fields of files with crammed chunks, and how the chunks become planes and back.

Owns these fields, their coding, and what they must say of each other and of the other counts. The
columns and planes have their own modules, `cram_columns` and `cram_planes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from llmzip.errors import Corrupt
from llmzip.store.cram_columns import ChunkCounts, CramColumns, decode_columns, encode_columns
from llmzip.store.cram_figures import CramFigures
from llmzip.store.cram_payload import (
    BF16_SAFE,
    Chunk,
    CramPayload,
    check_chunk,
    check_geometry,
    chunks_of_runs,
    margin_code,
    margin_value,
)
from llmzip.store.cram_planes import (
    CodedFields,
    Content,
    encode_planes,
    read_coded,
    read_planes,
    salvage_mems,
    salvage_patches,
)
from llmzip.store.model_ref import ModelRef, read_start
from llmzip.store.payload import HAS_START, EncodedPayload, Payload, PayloadFields, Run, RunTable
from llmzip.store.varint import Cursor, encode_varint
from llmzip.store.vectors import RAW_BITS, packed_bytes

HAS_LITERAL = 16
HAS_CODED = 32


@dataclass(frozen=True, kw_only=True)
class CramFields(PayloadFields):
    """The part of the header that only files with crammed chunks have."""

    codec: ClassVar[str] = "cram"
    marker: ClassVar[int] = 0
    own_required: ClassVar[int] = HAS_LITERAL | HAS_CODED
    own_optional: ClassVar[int] = BF16_SAFE
    plane_names: ClassVar[tuple[str, ...]] = ("vectors", "patches")
    no_figures: ClassVar[Mapping[str, object]] = CramFigures().fields()

    model: ModelRef
    num_mem: int
    mem_dim: int
    bits: int
    context_tokens: int
    margin_code: int
    num_chunks: int
    num_literal: int
    patch_bytes: int
    coded: CodedFields | None

    @property
    def features(self) -> int:
        own = HAS_LITERAL * (self.num_literal > 0) | HAS_CODED * (self.coded is not None)
        return super().features | own

    @property
    def num_pieces(self) -> int:
        return self.num_chunks

    @property
    def num_vector_chunks(self) -> int:
        """Chunks that have mem vectors."""
        return self.num_chunks - self.num_literal

    @property
    def planes(self) -> Mapping[str, int]:
        vectors = packed_bytes(*self._shape, self.bits)
        if self.coded:
            vectors = self.coded.vector_bytes
        return {"vectors": vectors, "patches": self.patch_bytes}

    @property
    def slow_bytes(self) -> int:
        return sum(self.planes.values()) if self.coded else 0

    @property
    def counts(self) -> ChunkCounts:
        """What the columns are read against."""
        return ChunkCounts(
            num_chunks=self.num_chunks,
            num_literal=self.num_literal,
            is_coded=self.coded is not None,
        )

    @classmethod
    def of(cls, payload: Payload, runs: Sequence[Run]) -> EncodedPayload:
        assert isinstance(payload, CramPayload)
        chunks, is_coded = payload.chunks, payload.is_coded
        planes = encode_planes(chunks, is_coded=is_coded)
        fields = cls(
            model=payload.model,
            num_mem=payload.num_mem,
            mem_dim=payload.mem_dim,
            bits=payload.bits,
            context_tokens=payload.context_tokens,
            margin_code=margin_code(payload.min_margin),
            num_chunks=len(chunks),
            num_literal=sum(chunk.mem is None for chunk in chunks),
            patch_bytes=len(planes.patches),
            coded=planes.coded,
        )
        return EncodedPayload(
            fields=fields,
            columns=encode_columns(runs, chunks_of_runs(chunks, runs), coded=is_coded),
            # Those of a coded file have a byte at least for each chunk, to bound their number.
            least_columns_bytes=len(chunks) * is_coded,
            planes=planes.vectors + planes.patches,
        )

    def encode(self) -> bytes:
        numbers = (self.num_mem, self.mem_dim, self.bits, self.context_tokens)
        out = b"".join(map(encode_varint, numbers)) + self.model.encode_start()
        out += bytes((self.margin_code,)) + encode_varint(self.num_chunks)
        if self.num_literal:
            out += encode_varint(self.num_literal)
        out += encode_varint(self.patch_bytes)
        return out + self.coded.encode() if self.coded else out

    @classmethod
    def read(cls, cursor: Cursor, model: ModelRef, required: int) -> CramFields:
        num_mem, mem_dim, bits, context_tokens = (cursor.varint() for _ in range(4))
        check_geometry(num_mem, mem_dim, bits, context_tokens)
        if (bits < RAW_BITS) != bool(required & HAS_CODED):
            raise Corrupt(f"header: {bits} bits per dimension and the feature bits do not agree")
        start_id = read_start(cursor, has_start=bool(required & HAS_START))
        margin_code, num_chunks = cursor.byte(), cursor.varint()
        num_literal = cursor.varint() if required & HAS_LITERAL else 0
        if required & HAS_LITERAL and not 1 <= num_literal <= num_chunks:
            raise Corrupt(f"header: {num_literal} literal chunks of {num_chunks}")
        return cls(
            model=replace(model, start_id=start_id),
            num_mem=num_mem,
            mem_dim=mem_dim,
            bits=bits,
            context_tokens=context_tokens,
            margin_code=margin_code,
            num_chunks=num_chunks,
            num_literal=num_literal,
            patch_bytes=cursor.varint(),
            coded=read_coded(cursor) if required & HAS_CODED else None,
        )

    def check(self, table: RunTable, columns_bytes: int) -> None:
        # A chunk takes a byte of one plane at least; this ties all counts to the file's size.
        plane, size = ("columns", columns_bytes) if self.coded else ("patches", self.patch_bytes)
        if not table.num_text_runs <= self.num_chunks <= size:
            raise Corrupt(
                f"header: {self.num_chunks} chunks in {table.num_text_runs} runs, "
                f"{size} bytes of {plane}"
            )
        if self.coded:
            self.coded.check(self._shape, patch_bytes=self.patch_bytes)

    def max_columns_bytes(self, table: RunTable) -> int:
        return self.counts.max_bytes(table)

    def read_columns(self, cursor: Cursor, table: RunTable) -> CramColumns:
        return decode_columns(cursor, table, self.counts)

    def read_payload(self, columns: CramColumns, planes: Cursor, *, optional: int) -> CramPayload:
        return self._payload(self._chunks(columns, planes), optional)

    def figures(self, columns: CramColumns, planes: Cursor, *, optional: int) -> CramFigures:
        if self.coded:
            num_patches, num_patched = self.coded.num_patches, self.coded.num_patched
        else:
            chunks = self._chunks(columns, planes)
            counts = [len(chunk.patches) for chunk in chunks if chunk.mem is not None]
            num_patches, num_patched = sum(counts), sum(count > 0 for count in counts)
        held = [index for index, is_literal in enumerate(columns.literal) if not is_literal]
        return CramFigures(
            num_crammed=self.num_vector_chunks - num_patched,
            num_patched=num_patched,
            num_literal=self.num_literal,
            num_segments=sum(columns.starts),
            num_tokens=columns.total_tokens,
            num_vector_tokens=sum(columns.num_tokens[index] for index in held),
            vector_text_bytes=sum(columns.num_bytes[index] for index in held),
            vector_bytes=self.planes["vectors"],
            num_patches=num_patches,
            num_mem=self.num_mem,
            mem_dim=self.mem_dim,
            bits_per_dimension=self.bits,
            context_tokens=self.context_tokens,
            min_margin=margin_value(self.margin_code) if self.margin_code else None,
            bf16_safe=bool(optional & BF16_SAFE),
        )

    def salvage(
        self, columns: CramColumns, body: memoryview, *, optional: int
    ) -> tuple[CramPayload, frozenset[int]]:
        size = self.planes["vectors"]
        mems = salvage_mems(body[:size], self._shape, self.coded)
        patches = body[size : size + self.patch_bytes]
        found = salvage_patches(patches, columns, self.coded)
        contents: list[Content] = []
        lost: set[int] = set()
        for index, is_literal in enumerate(columns.literal):
            mem, own = None if is_literal else next(mems), next(found)
            if own is None or (mem is None and not is_literal):
                lost.add(index)
            contents.append((mem, own or ()))
        payload = self._payload(_joined(columns, contents), optional)
        for index, chunk in enumerate(payload.chunks):
            try:
                check_chunk(chunk, payload, number=index)
            except Corrupt:
                lost.add(index)
        return payload, frozenset(lost)

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.num_vector_chunks, self.num_mem, self.mem_dim

    def _chunks(self, columns: CramColumns, planes: Cursor) -> Iterator[Chunk]:
        vectors = planes.take(self.planes["vectors"])
        patches = planes.part(self.patch_bytes, what="patches")
        contents = read_planes(self._shape, self.coded, columns, vectors, patches)
        return _joined(columns, contents)

    def _payload(self, chunks: Iterator[Chunk], optional: int) -> CramPayload:
        """Nothing is checked."""
        return CramPayload(
            model=self.model,
            num_mem=self.num_mem,
            mem_dim=self.mem_dim,
            bits=self.bits,
            context_tokens=self.context_tokens,
            min_margin=margin_value(self.margin_code) if self.margin_code else None,
            bf16_safe=bool(optional & BF16_SAFE),
            chunks=tuple(chunks),
        )


def _joined(columns: CramColumns, contents: Iterable[Content]) -> Iterator[Chunk]:
    """Chunks of what the columns and the other planes say. Nothing is checked."""
    for num_tokens, num_bytes, check, starts, (mem, patches) in zip(
        columns.num_tokens, columns.num_bytes, columns.checks, columns.starts, contents, strict=True
    ):
        yield Chunk(
            num_tokens=num_tokens,
            num_bytes=num_bytes,
            check=check,
            starts_segment=starts,
            patches=patches,
            mem=mem,
        )
