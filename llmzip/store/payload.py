"""What a codec stores of a file's text: the part of a container that one codec alone understands.

Owns the two interfaces behind which a container keeps it: `Payload`, the contents, and
`PayloadFields`, what the header says of them before any of them is read. Each codec has one class
of either kind, which know their feature bits, planes, limits and figures; `payloads` has the table
of them. Does not know any codec.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from llmzip.errors import Corrupt
from llmzip.store.figures import Figures, PieceFigures
from llmzip.store.model_ref import ModelRef
from llmzip.store.varint import MAX_VARINT_BYTES, Cursor, encode_varint
from llmzip.store.vectors import GridMem

Tensors: TypeAlias = dict[str, npt.NDArray[np.generic]]

# Required features of every file with a model.
HAS_MODEL = 1
HAS_START = 8
HAS_NUMBER = 512


class Piece(Protocol):
    """The least part of a text that is decoded and checked on its own: a chunk, a segment."""

    @property
    def num_tokens(self) -> int: ...

    @property
    def num_bytes(self) -> int:
        """Of the original."""

    @property
    def check(self) -> int:
        """The first bytes of the hash of the original bytes, to find a piece that went wrong."""


@dataclass(frozen=True, kw_only=True)
class TextRun:
    """Consecutive bytes of the original that the payload gives. The runs of this kind, joined in
    order, are the text of the payload's pieces."""

    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """Consecutive bytes kept as they are (in the file: raw, or zstd if that is smaller)."""

    data: bytes

    @property
    def num_bytes(self) -> int:
        return len(self.data)


Run = TextRun | StoredRun


@dataclass(frozen=True, kw_only=True)
class RunTable:
    """How many runs there are. Stored runs and others alternate, so that only the kind of the first
    is kept."""

    num_runs: int
    first_is_stored: bool

    def is_stored(self, run: int) -> bool:
        """Whether a run, counted from 0, is a stored one."""
        return (run % 2 == 0) == self.first_is_stored

    def stored_ones(self, run_bytes: Sequence[int]) -> Sequence[int]:
        """Of the sizes of all runs, those of the stored ones."""
        return run_bytes[1 - self.first_is_stored :: 2]

    @property
    def num_stored_runs(self) -> int:
        return (self.num_runs + self.first_is_stored) // 2

    @property
    def num_text_runs(self) -> int:
        return self.num_runs - self.num_stored_runs


class Columns(Protocol):
    """The run table and the sizes of all pieces, as read from the file's first plane."""

    @property
    def run_bytes(self) -> Sequence[int]:
        """The original bytes of each run."""

    @property
    def total_tokens(self) -> int:
        """Of all pieces."""


@dataclass(frozen=True, kw_only=True)
class RunColumns:
    """The run table alone: of a file without a payload."""

    run_bytes: list[int]
    total_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class EncodedPayload:
    """A payload as bytes. The columns take no fewer bytes than the least, even as a zstd frame."""

    fields: PayloadFields
    columns: bytes
    least_columns_bytes: int
    planes: bytes  # all planes between the columns and the stored bytes


class Payload(ABC):
    """What a codec stores of a text."""

    codec: ClassVar[str]
    noun: ClassVar[str]  # what a piece is called
    # Segments decoded together when reading goes on; one where a segment is decoded side by side
    # with itself.
    segments_ahead: ClassVar[int] = 1
    model: ModelRef

    @property
    @abstractmethod
    def pieces(self) -> Sequence[Piece]:
        """In the order of the text."""

    @property
    def segment_ranges(self) -> list[range]:
        """The numbers of the pieces of each part that is decodable without the others."""
        return [range(number, number + 1) for number in range(len(self.pieces))]

    @property
    def num_tokens(self) -> int:
        """What the model has to decode for all of it."""
        return sum(piece.num_tokens for piece in self.pieces)

    @property
    def optional(self) -> int:
        """The optional features that it has."""
        return 0

    @abstractmethod
    def check(self, runs: Sequence[Run]) -> None:
        """Raise Corrupt (UnsupportedVersion for a value of a later format) unless every rule of the
        format holds, for the payload itself and with the runs of its file."""

    @abstractmethod
    def piece_figures(self, planes: Mapping[str, int]) -> list[PieceFigures]:
        """What each piece takes. planes: the size of each plane in bytes."""

    @property
    def shared_mems(self) -> Sequence[GridMem | None]:
        """The vectors before each segment, if any."""
        return [None] * len(self.segment_ranges)

    def patched_positions(self) -> list[list[int]]:
        """Of each piece, the tokens that are stored by name: their margins mean nothing."""
        return [[] for _ in self.pieces]

    def tensors(self, first_bytes: Sequence[int]) -> Tensors:
        """Its vectors and what belongs to them; "mem": [N, K, D] uint16, the bits of bf16.
        first_bytes: where each piece begins in the original."""
        return {"mem": np.empty((0, 0, 0), dtype=np.uint16)}

    @property
    def bits_per_dimension(self) -> int:
        """Of its vectors, as the header names it; 0 where it does not."""
        return 0


class PayloadFields(ABC):
    """What the header of a file says of a payload: enough to check all sizes before anything of
    that size is allocated."""

    codec: ClassVar[str]
    # A required feature that no other payload has, or 0 for the one that needs none.
    marker: ClassVar[int]
    own_required: ClassVar[int]  # features that files of this kind alone may have
    own_optional: ClassVar[int] = 0
    plane_names: ClassVar[tuple[str, ...]]
    # What stands in the place of `Figures.fields` for files of another kind.
    no_figures: ClassVar[Mapping[str, object]] = {}
    model: ModelRef

    @classmethod
    @abstractmethod
    def of(cls, payload: Any, runs: Sequence[Run]) -> EncodedPayload:
        """A payload of this kind as bytes. Expects what `Payload.check` accepts."""

    @property
    @abstractmethod
    def planes(self) -> Mapping[str, int]:
        """The name and the size in bytes of each plane behind the columns, in order."""

    @property
    @abstractmethod
    def num_pieces(self) -> int: ...

    @property
    def features(self) -> int:
        """The required features that say which fields are there."""
        has_start, has_number = self.model.start_id is not None, self.model.number is not None
        return self.marker | HAS_START * has_start | HAS_NUMBER * has_number

    @abstractmethod
    def encode(self) -> bytes:
        """The fields' bytes, behind those of `ModelRef`. Expects fields that hold all rules."""

    @classmethod
    @abstractmethod
    def read(cls, cursor: Cursor, model: ModelRef, required: int) -> PayloadFields:
        """The inverse of `encode`. model: without its start token. Raises Corrupt."""

    @abstractmethod
    def check(self, table: RunTable, columns_bytes: int) -> None:
        """Raise Corrupt unless the counts can be true: they bound all work on the planes."""

    @abstractmethod
    def max_columns_bytes(self, table: RunTable) -> int:
        """No columns of this size are larger: bounds what a zstd frame may claim."""

    @abstractmethod
    def read_columns(self, cursor: Cursor, table: RunTable) -> Any:
        """The columns (see `Columns`); the cursor must hold nothing else. Raises Corrupt."""

    @abstractmethod
    def read_payload(self, columns: Any, planes: Cursor, *, optional: int) -> Payload:
        """The payload; leaves the cursor behind its planes. columns: of `read_columns`. Raises
        Corrupt, LimitExceeded."""

    @abstractmethod
    def salvage(
        self, columns: Any, body: memoryview, *, optional: int
    ) -> tuple[Payload, frozenset[int]]:
        """What can be read of a damaged or cut body, and the numbers of the pieces that cannot.
        Raises Corrupt or Truncated where that is nothing."""

    @abstractmethod
    def figures(self, columns: Any, planes: Cursor, *, optional: int) -> Figures:
        """The figures, without decoding what takes long. planes: as for `read_payload`."""

    @property
    def slow_bytes(self) -> int:
        """Bytes that take a second a megabyte to read."""
        return 0


def encode_run_bytes(run_bytes: Iterable[int]) -> bytes:
    """A run table of sizes alone."""
    return b"".join(map(encode_varint, run_bytes))


def read_run_bytes(cursor: Cursor, table: RunTable) -> list[int]:
    """The inverse of `encode_run_bytes`. Raises Corrupt."""
    found = [cursor.varint() for _ in range(table.num_runs)]
    if 0 in found:
        raise Corrupt(f"run {found.index(0)}: no bytes")
    return found


def max_run_bytes(table: RunTable) -> int:
    """No run table of sizes alone is larger."""
    return table.num_runs * MAX_VARINT_BYTES
