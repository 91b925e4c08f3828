"""The header fields of files with crammed chunks, and how the chunks become planes and back.

Owns these fields, their coding, and what they must say of each other and of the other counts. The
columns and planes have their own modules, `cram_columns` and `cram_planes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import ClassVar

from llmzip.errors import Corrupt
from llmzip.store.cram_columns import ChunkCounts, CramColumns, decode_columns, encode_columns
from llmzip.store.cram_figures import CramFigures
from llmzip.store.cram_payload import (
    BF16_SAFE,
    Chunk,
    CramPayload,
    check_chunk,
    chunks_of_runs,
)
from llmzip.store.cram_planes import (
    CodedFields,
    Content,
    encode_planes,
    read_coded,
    read_planes,
    salvage_mems,
    salvage_patches,
    salvage_tokens,
)
from llmzip.store.margins import margin_code, margin_value
from llmzip.store.model_ref import ModelRef, read_start
from llmzip.store.payload import HAS_START, EncodedPayload, Payload, PayloadFields, Run, RunTable
from llmzip.store.shared_vectors import (
    SharedFields,
    SharedMems,
    pack_shared,
    shared_damage,
)
from llmzip.store.varint import Cursor, encode_varints, require
from llmzip.store.vectors import packed_bytes

HAS_LITERAL = 16
HAS_CODED = 32
HAS_SIGNS = 128
HAS_STREAMS = 256
HAS_SHARED = 1024


@dataclass(frozen=True, kw_only=True)
class CramFields(PayloadFields):
    """The part of the header that only files with crammed chunks have."""

    codec: ClassVar[str] = "cram"
    marker: ClassVar[int] = 0
    own_required: ClassVar[int] = HAS_LITERAL | HAS_CODED | HAS_SIGNS | HAS_STREAMS | HAS_SHARED
    own_optional: ClassVar[int] = BF16_SAFE
    plane_names: ClassVar[tuple[str, ...]] = ("shared", "vectors", "patches")
    no_figures: ClassVar[Mapping[str, object]] = CramFigures().fields()

    empty: CramPayload  # the payload without its chunks and its margin
    margin_code: int
    num_chunks: int
    num_literal: int
    patch_bytes: int
    coded: CodedFields | None
    shared: SharedFields | None

    @property
    def model(self) -> ModelRef:  # type: ignore[override]  # nobody sets it
        return self.empty.model

    @property
    def features(self) -> int:
        own = HAS_LITERAL * (self.num_literal > 0) | HAS_CODED * (self.coded is not None)
        own |= HAS_STREAMS * (self.coded is not None and self.coded.position_bytes is not None)
        own |= HAS_SHARED * (self.shared is not None)
        return super().features | own | HAS_SIGNS * self.empty.signs

    @property
    def num_pieces(self) -> int:
        return self.num_chunks

    @property
    def planes(self) -> Mapping[str, int]:
        coded, bits = self.coded, self.empty.bits
        vectors = coded.vector_bytes if coded else packed_bytes(*self._shape, bits)
        shared = {"shared": self._shared_bytes} if self.shared else {}
        return {**shared, "vectors": vectors, "patches": self.patch_bytes}

    @property
    def slow_bytes(self) -> int:
        return sum(self.planes.values()) if self.coded else 0

    @classmethod
    def of(cls, payload: Payload, runs: Sequence[Run]) -> EncodedPayload:
        assert isinstance(payload, CramPayload)
        chunks, is_coded = payload.chunks, payload.is_coded
        vectors, patches, coded = encode_planes(
            chunks, is_coded=is_coded, are_signs=payload.signs, streams=payload.streams
        )
        shared, shared_columns, shared_plane = pack_shared(payload.shared)
        fields = cls(
            empty=replace(payload, chunks=(), streams=(), shared=(), min_margin=None),
            margin_code=margin_code(payload.min_margin),
            num_chunks=len(chunks),
            num_literal=sum(chunk.mem is None for chunk in chunks),
            patch_bytes=len(patches),
            coded=coded,
            shared=shared,
        )
        return EncodedPayload(
            fields=fields,
            columns=encode_columns(
                runs,
                chunks_of_runs(chunks, runs),
                coded=is_coded,
                check_bytes=payload.check_bytes,
                shared=shared_columns,
            ),  # fmt: skip
            # Those of a coded file have a byte at least for each chunk, to bound their number.
            least_columns_bytes=len(chunks) * is_coded,
            planes=shared_plane + vectors + patches,
        )

    def encode(self) -> bytes:
        empty, counts = self.empty, [self.num_chunks, self.patch_bytes]
        if self.num_literal:
            counts.insert(1, self.num_literal)
        out = encode_varints(empty.num_mem, empty.mem_dim, empty.bits, empty.context_tokens)
        out += empty.model.encode_start() + bytes((self.margin_code,))
        out += encode_varints(*counts) + (self.coded.encode() if self.coded else b"")
        return out + (self.shared.encode() if self.shared else b"")

    @classmethod
    def read(cls, cursor: Cursor, model: ModelRef, required: int) -> CramFields:
        empty = CramPayload(
            model=model,
            num_mem=cursor.varint(),
            mem_dim=cursor.varint(),
            bits=cursor.varint(),
            context_tokens=cursor.varint(),
            min_margin=None,
            chunks=(),
            signs=bool(required & HAS_SIGNS),
        )
        empty.check_geometry()
        bits, agree = empty.bits, empty.is_coded == bool(required & HAS_CODED)
        agree &= empty.is_coded or not required & (HAS_SIGNS | HAS_STREAMS | HAS_SHARED)
        require(agree, f"header: {bits} bits per dimension and the feature bits do not agree")
        start_id = read_start(cursor, has_start=bool(required & HAS_START))
        margin_code, num_chunks = cursor.byte(), cursor.varint()
        num_literal = cursor.varint() if required & HAS_LITERAL else 0
        is_possible = not required & HAS_LITERAL or 1 <= num_literal <= num_chunks
        is_possible &= not empty.signs or num_literal < num_chunks
        require(is_possible, f"header: {num_literal} literal chunks of {num_chunks}")
        patch_bytes, coded = cursor.varint(), None
        if required & HAS_CODED:
            shape = (num_chunks - num_literal, empty.num_mem, empty.mem_dim)
            in_streams = bool(required & HAS_STREAMS)
            coded = read_coded(cursor, shape, are_signs=empty.signs, in_streams=in_streams)
        shared = None
        if required & HAS_SHARED:
            shared = SharedFields.read(cursor, mem_dim=empty.mem_dim, num_chunks=num_chunks)
        return cls(
            empty=replace(empty, model=replace(model, start_id=start_id)),
            margin_code=margin_code,
            num_chunks=num_chunks,
            num_literal=num_literal,
            patch_bytes=patch_bytes,
            coded=coded,
            shared=shared,
        )

    def check(self, table: RunTable, columns_bytes: int) -> None:
        # A chunk takes a byte of one plane at least; this ties all counts to the file's size.
        plane, size = ("columns", columns_bytes) if self.coded else ("patches", self.patch_bytes)
        num_chunks, num_runs = self.num_chunks, table.num_text_runs
        is_possible = num_runs <= num_chunks <= size
        require(
            is_possible, f"header: {num_chunks} chunks in {num_runs} runs, {size} bytes of {plane}"
        )
        if self.coded:
            self.coded.check(self._shape, patch_bytes=self.patch_bytes)

    def max_columns_bytes(self, table: RunTable) -> int:
        return self._counts.max_bytes(table)

    def read_columns(self, cursor: Cursor, table: RunTable) -> CramColumns:
        return decode_columns(cursor, table, self._counts)

    def read_payload(self, columns: CramColumns, planes: Cursor, *, optional: int) -> CramPayload:
        shared = self._read_shared(columns, planes)
        return self._payload(*self._chunks(columns, planes), shared, optional)

    def figures(self, columns: CramColumns, planes: Cursor, *, optional: int) -> CramFigures:
        planes.take(self._shared_bytes)
        if self.coded:
            num_patches, num_patched = self.coded.num_patches, self.coded.num_patched
        else:
            chunks, _ = self._chunks(columns, planes)
            counts = [len(chunk.patches) for chunk in chunks if chunk.mem is not None]
            num_patches, num_patched = sum(counts), sum(count > 0 for count in counts)
        empty, held = self.empty, [not is_literal for is_literal in columns.literal]
        return CramFigures(
            num_crammed=self.num_chunks - self.num_literal - num_patched,
            num_patched=num_patched,
            num_literal=self.num_literal,
            num_segments=sum(columns.starts),
            num_tokens=columns.total_tokens,
            num_vector_tokens=sum(compress(columns.num_tokens, held)),
            vector_text_bytes=sum(compress(columns.num_bytes, held)),
            vector_bytes=self.planes["vectors"],
            num_patches=num_patches,
            num_mem=empty.num_mem,
            mem_dim=empty.mem_dim,
            bits_per_dimension=empty.bits,
            context_tokens=empty.context_tokens,
            min_margin=self._margin,
            bf16_safe=bool(optional & BF16_SAFE),
            num_shared_vectors=self.shared.num_sets * self.shared.num_mem if self.shared else 0,
            shared_bits=8 * self._shared_bytes,
        )

    def salvage(
        self, columns: CramColumns, body: memoryview, *, optional: int
    ) -> tuple[CramPayload, frozenset[int]]:
        shared = self._salvage_shared(columns, body)
        body, size = body[self._shared_bytes :], self.planes["vectors"]
        mems = salvage_mems(body[:size], self._shape, self.coded)
        patches = body[size : size + self.patch_bytes]
        found = salvage_patches(patches, columns, self.coded)
        streams = salvage_tokens(patches, columns, self.coded)
        contents: list[Content] = []
        lost: set[int] = set()
        for index, is_literal in enumerate(columns.literal):
            mem, own = None if is_literal else next(mems), next(found)
            if own is None or (mem is None and not is_literal):
                lost.add(index)
            contents.append((mem, own or ()))
        chunks = _joined(columns, contents)
        payload = self._payload(chunks, tuple(each or b"" for each in streams), shared, optional)
        for index, chunk in enumerate(chunks):
            try:
                check_chunk(chunk, payload, number=index)
            except Corrupt:
                lost.add(index)
        for segment, stream in zip(payload.segment_ranges, streams, strict=False):
            if stream is None:
                lost |= {index for index in segment if chunks[index].in_stream}
        return payload, frozenset(lost)

    @property
    def _margin(self) -> float | None:
        return margin_value(self.margin_code) if self.margin_code else None

    @property
    def _shared_bytes(self) -> int:
        return self.shared.num_bytes if self.shared else 0

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.num_chunks - self.num_literal, self.empty.num_mem, self.empty.mem_dim

    @property
    def _counts(self) -> ChunkCounts:
        is_coded = self.coded is not None
        return ChunkCounts(
            num_chunks=self.num_chunks, num_literal=self.num_literal, is_coded=is_coded,
            check_bytes=self.empty.check_bytes,
            num_shared=self.shared.num_sets if self.shared else 0,
        )  # fmt: skip

    def _payload(
        self,
        chunks: tuple[Chunk, ...],
        streams: tuple[bytes, ...],
        shared: SharedMems,
        optional: int,
    ) -> CramPayload:
        return replace(
            self.empty, chunks=chunks, streams=streams, shared=shared, min_margin=self._margin,
            bf16_safe=bool(optional & BF16_SAFE),
        )  # fmt: skip

    def _read_shared(self, columns: CramColumns, planes: Cursor) -> SharedMems:
        if self.shared is None:
            return ()
        return self.shared.read_mems(
            planes.take(self.shared.num_bytes), columns.shared_spans,
            mem_dim=self.empty.mem_dim, num_segments=sum(columns.starts),
        )  # fmt: skip

    def _salvage_shared(self, columns: CramColumns, body: memoryview) -> SharedMems:
        try:
            return self._read_shared(columns, Cursor(body, what="body"))
        except Corrupt as error:
            raise shared_damage(error) from error

    def _chunks(
        self, columns: CramColumns, planes: Cursor
    ) -> tuple[tuple[Chunk, ...], tuple[bytes, ...]]:
        vectors = planes.take(self.planes["vectors"])
        patches = planes.part(self.patch_bytes, what="patches")
        contents, streams = read_planes(self._shape, self.coded, columns, vectors, patches)
        return _joined(columns, contents), streams


def _joined(columns: CramColumns, contents: Iterable[Content]) -> tuple[Chunk, ...]:
    """Chunks of what the columns and the other planes say. Nothing is checked."""
    counts = zip(columns.num_tokens, columns.num_bytes, columns.checks, strict=True)
    return tuple(
        Chunk(
            num_tokens=num_tokens,
            num_bytes=num_bytes,
            check=check,
            starts_segment=starts,
            patches=patches,
            mem=mem,
        )
        for (num_tokens, num_bytes, check), starts, (mem, patches) in zip(
            counts, columns.starts, contents, strict=True
        )
    )
