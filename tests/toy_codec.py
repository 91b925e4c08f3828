"""A third codec, as somebody would add one without touching a file of the package.

It stores the tokens of a text by their ids, eight to a piece, and asks the model for nothing but
its vocabulary. Small, and in every respect a codec.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

from llmzip.codecs.base import Codec, DecodingModel, Draft, Estimate, Request, Source, model_ref
from llmzip.codecs.context import Context
from llmzip.codecs.table import CODECS, register
from llmzip.config import EXTRA_CODECS, CompressSettings
from llmzip.errors import Corrupt
from llmzip.lm.loaded import LoadedModel
from llmzip.progress import Progress
from llmzip.store.container import Container
from llmzip.store.figures import Figures, PieceFigures
from llmzip.store.model_ref import ModelRef, read_start
from llmzip.store.original import chunk_check
from llmzip.store.payload import (
    HAS_START,
    EncodedPayload,
    Payload,
    PayloadFields,
    Run,
    RunTable,
    StoredRun,
    TextRun,
    encode_run_bytes,
    max_run_bytes,
    read_run_bytes,
)
from llmzip.store.payloads import PAYLOADS
from llmzip.store.pieces import Texts
from llmzip.store.stored import container_with, pack_stored, xz_bytes
from llmzip.store.varint import MAX_VARINT_BYTES, Cursor, encode_varint

HAS_TOY = 1 << 15
_PIECE_TOKENS = 8
_MOST_TOKENS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ToyPiece:
    ids: tuple[int, ...]
    num_bytes: int
    check: int

    @property
    def num_tokens(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class ToyPayload(Payload):
    codec: ClassVar[str] = "toy"
    noun: ClassVar[str] = "handful"
    model: ModelRef
    handfuls: tuple[ToyPiece, ...]

    @property
    def pieces(self) -> tuple[ToyPiece, ...]:
        return self.handfuls

    def check(self, runs: Sequence[Run]) -> None:
        for piece in self.pieces:
            if not 1 <= piece.num_tokens <= piece.num_bytes or not 0 <= piece.check <= 0xFFFF:
                raise Corrupt("a handful that cannot be")
        if sum(piece.num_bytes for piece in self.pieces) != sum(
            run.num_bytes for run in runs if isinstance(run, TextRun)
        ):
            raise Corrupt("the handfuls hold another number of bytes than the runs")

    def piece_figures(self, planes: Mapping[str, int]) -> list[PieceFigures]:
        return [
            PieceFigures(
                kind="segment", num_tokens=each.num_tokens, stream_bits=8 * len(_ids(each))
            )
            for each in self.pieces
        ]


@dataclass(frozen=True, kw_only=True)
class ToyFigures(Figures):
    codec: ClassVar[str] = "toy"
    noun: ClassVar[str] = "handful"
    num_segments: int
    num_tokens: int

    @property
    def num_pieces(self) -> int:
        return self.num_segments

    def fields(self) -> dict[str, object]:
        return {"toy": {"handfuls": self.num_segments}}

    def lines(self) -> list[str]:
        return [f"handfuls  {self.num_segments}"]

    def summary(self) -> str:
        return f", {self.count_text}"


@dataclass(frozen=True, kw_only=True)
class ToyColumns:
    run_bytes: list[int]
    pieces: list[tuple[int, int, int]]  # tokens, bytes, check

    @property
    def total_tokens(self) -> int:
        return sum(num_tokens for num_tokens, _, _ in self.pieces)


@dataclass(frozen=True, kw_only=True)
class ToyFields(PayloadFields):
    codec: ClassVar[str] = "toy"
    marker: ClassVar[int] = HAS_TOY
    own_required: ClassVar[int] = HAS_TOY
    plane_names: ClassVar[tuple[str, ...]] = ("ids",)
    no_figures: ClassVar[Mapping[str, object]] = {"toy": None}
    model: ModelRef
    num_handfuls: int
    ids_bytes: int

    @property
    def num_pieces(self) -> int:
        return self.num_handfuls

    @property
    def planes(self) -> Mapping[str, int]:
        return {"ids": self.ids_bytes}

    @classmethod
    def of(cls, payload: Payload, runs: Sequence[Run]) -> EncodedPayload:
        assert isinstance(payload, ToyPayload)
        plane = b"".join(map(_ids, payload.pieces))
        columns = encode_run_bytes(run.num_bytes for run in runs)
        for each in payload.pieces:
            columns += encode_varint(each.num_tokens) + encode_varint(each.num_bytes)
            columns += each.check.to_bytes(2, "little")
        fields = cls(model=payload.model, num_handfuls=len(payload.pieces), ids_bytes=len(plane))
        return EncodedPayload(
            fields=fields,
            columns=columns,
            least_columns_bytes=len(runs) + len(payload.pieces),
            planes=plane,
        )

    def encode(self) -> bytes:
        numbers = encode_varint(self.num_pieces) + encode_varint(self.ids_bytes)
        return self.model.encode_start() + numbers

    @classmethod
    def read(cls, cursor: Cursor, model: ModelRef, required: int) -> ToyFields:
        start_id = read_start(cursor, has_start=bool(required & HAS_START))
        model = replace(model, start_id=start_id)
        return cls(model=model, num_handfuls=cursor.varint(), ids_bytes=cursor.varint())

    def check(self, table: RunTable, columns_bytes: int) -> None:
        if not table.num_runs + self.num_pieces <= columns_bytes or not self.num_pieces:
            raise Corrupt(f"header: {self.num_pieces} handfuls in {columns_bytes} bytes of columns")

    def max_columns_bytes(self, table: RunTable) -> int:
        return max_run_bytes(table) + self.num_pieces * (2 * MAX_VARINT_BYTES + 2)

    def read_columns(self, cursor: Cursor, table: RunTable) -> ToyColumns:
        run_bytes = read_run_bytes(cursor, table)
        pieces = []
        for _ in range(self.num_pieces):
            num_tokens, num_bytes = cursor.varint(), cursor.varint()
            if not 1 <= num_tokens <= min(num_bytes, _MOST_TOKENS):
                raise Corrupt(f"columns: a handful of {num_tokens} tokens")
            pieces.append((num_tokens, num_bytes, int.from_bytes(cursor.take(2), "little")))
        cursor.finish()
        return ToyColumns(run_bytes=run_bytes, pieces=pieces)

    def read_payload(self, columns: ToyColumns, planes: Cursor, *, optional: int) -> ToyPayload:
        plane = planes.part(self.ids_bytes, what="ids")
        payload = ToyPayload(model=self.model, handfuls=tuple(self._pieces(columns, plane)))
        plane.finish()
        return payload

    def salvage(
        self, columns: ToyColumns, body: memoryview, *, optional: int
    ) -> tuple[ToyPayload, frozenset[int]]:
        found: list[ToyPiece] = []
        try:
            for piece in self._pieces(columns, Cursor(body, what="ids")):
                found.append(piece)
        except Corrupt:
            pass
        lost = columns.pieces[len(found) :]
        empty = [ToyPiece(ids=(), num_bytes=size, check=check) for _, size, check in lost]
        unreadable = frozenset(range(len(found), len(columns.pieces)))
        return ToyPayload(model=self.model, handfuls=(*found, *empty)), unreadable

    def figures(self, columns: ToyColumns, planes: Cursor, *, optional: int) -> ToyFigures:
        return ToyFigures(num_segments=len(columns.pieces), num_tokens=columns.total_tokens)

    def _pieces(self, columns: ToyColumns, plane: Cursor) -> Iterator[ToyPiece]:
        for num_tokens, num_bytes, check in columns.pieces:
            ids = tuple(plane.varint() for _ in range(num_tokens))
            yield ToyPiece(ids=ids, num_bytes=num_bytes, check=check)


class ToyCodec(Codec):
    name: ClassVar[str] = "toy"

    def check(self, settings: CompressSettings, context: Context) -> None:
        """Nothing of a context is refused."""

    def encode(
        self, source: Source, loaded: LoadedModel, settings: CompressSettings, context: Context
    ) -> Draft:
        runs: list[Run] = []
        pieces: list[ToyPiece] = []
        for part in source.parts:
            if part.ids is None:
                runs.append(StoredRun(data=part.data))
                continue
            runs.append(TextRun(num_bytes=len(part.data)))
            for begin in range(0, len(part.ids), _PIECE_TOKENS):
                context.check()
                ids = part.ids[begin : begin + _PIECE_TOKENS]
                text = loaded.tokens.bytes_of(ids)
                pieces.append(
                    ToyPiece(ids=ids, num_bytes=len(text), check=chunk_check(text, size=2))
                )
                context.report(Progress(stage="code", chunks_done=len(pieces)))
        payload = ToyPayload(model=model_ref(loaded), handfuls=tuple(pieces))
        model = DecodingModel.of(loaded)

        def read_back(packed: bytes, found: Container) -> Texts:
            request = Request(wanted=range(len(pieces)), stage="verify")
            return self.decode(found, model, request, context)

        container = container_with(source.data, runs, payload)
        return Draft(container=container, read_back=read_back)

    def estimate(
        self, source: Source, loaded: LoadedModel, settings: CompressSettings, context: Context
    ) -> Estimate:
        context.check()
        num_tokens = sum(len(part.ids or ()) for part in source.parts)
        stored = b"".join(part.data for part in source.parts if part.ids is None)
        return Estimate(
            codec=self.name,
            original_bytes=len(source.data),
            container_bytes=len(pack_stored(stored)) + 2 * num_tokens + 60,
            xz_bytes=xz_bytes(source.data),
            seconds=1e-6 * num_tokens,
            result="ids",
            sample="all of the text",
        )

    def decode(
        self, container: Container, model: DecodingModel, request: Request, context: Context
    ) -> list[bytes | None]:
        assert isinstance(container.payload, ToyPayload)
        pieces = container.payload.pieces
        texts: list[bytes | None] = [None] * len(pieces)
        for index in request.wanted:
            context.check()
            if index in (request.unreadable or ()):
                continue
            piece = pieces[index]
            try:
                text = model.tokens.bytes_of(piece.ids)
            except Corrupt:
                continue
            if len(text) == piece.num_bytes and chunk_check(text, size=2) == piece.check:
                texts[index] = text
                context.report(Progress(stage=request.stage, chunks_done=index + 1))
        return texts


def _ids(piece: ToyPiece) -> bytes:
    return b"".join(map(encode_varint, piece.ids))


@contextmanager
def registered() -> Iterator[None]:
    """The toy codec beside those of the package, until the block ends."""
    register(ToyCodec(), ToyFields)
    try:
        yield
    finally:
        del CODECS["toy"], PAYLOADS["toy"]
        EXTRA_CODECS.remove("toy")
