"""The original as a row of pieces: stored bytes, and texts that a model gives.

Owns where each piece lies in the original, which pieces a range of bytes needs, how they are put
together, the check of what came out; and what can still be read of a damaged file, in which only a
piece whose decoded text passes its check is intact. Knows nothing of how a piece is coded.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from llmzip.errors import Corrupt, IntegrityError, SettingsError, Truncated
from llmzip.store.container import Container, container_of
from llmzip.store.header import read_header
from llmzip.store.opening import check_size, check_work, read_columns
from llmzip.store.original import content_hash
from llmzip.store.payload import Run, StoredRun, TextRun
from llmzip.store.varint import Cursor

_HOPELESS = "without it none of the text can be found"


@dataclass(frozen=True)
class LostRun:
    """A stored run: nothing vouches for its bytes."""

    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Damaged:
    """What was read of a damaged file."""

    container: Container  # the runs of text; what is unreadable of their payload is empty
    runs: tuple[TextRun | LostRun, ...]  # all, in order
    unreadable: frozenset[int]  # pieces


def read_damaged(data: bytes, *, max_output_bytes: int, max_tokens: int | None = None) -> Damaged:
    """All that can be found in a file whose header and columns are sound.

    Raises what `read_header` raises, Corrupt where the columns are damaged, LimitExceeded.
    """
    header, header_bytes = read_header(data)
    check_size(header.original_bytes, max_output_bytes)
    body = memoryview(data)[header_bytes : header_bytes + header.body_bytes]
    if len(body) < header.columns_bytes:
        raise Truncated(f"the file ends inside its table of chunks; {_HOPELESS}")
    if header.payload is None:
        raise Corrupt(
            "all of the text is stored bytes, which have no checks of their own",
            hint="take the file from where it came once more",
        )
    # Of a file that is cut short, no other size bounds the table: each piece has a token.
    check_work(header.payload.num_pieces, len(data), max_tokens)
    plane = Cursor(body[: header.columns_bytes], what="columns", base=header_bytes)
    try:
        columns = read_columns(header, plane)
    except Corrupt as error:
        raise Corrupt(f"the table of chunks is damaged; {_HOPELESS} ({error})") from error
    check_work(columns.total_tokens, len(data), max_tokens)
    rest = body[header.columns_bytes :]
    payload, unreadable = header.payload.salvage(columns, rest, optional=header.optional)
    runs = tuple(
        LostRun(size) if header.table.is_stored(index) else TextRun(num_bytes=size)
        for index, size in enumerate(columns.run_bytes)
    )
    text_runs = tuple(run for run in runs if isinstance(run, TextRun))
    return Damaged(
        container=container_of(header, text_runs, payload), runs=runs, unreadable=unreadable
    )


Texts = Sequence[bytes | None]  # of the pieces; None: not decoded, or to something else

_HINT = "the file is intact but decodes to other text here; try --device cpu"


@dataclass(frozen=True)
class Extent:
    """Bytes `first` up to `last` of the original."""

    first: int
    last: int
    data: bytes | None = None  # of a stored run that is not lost
    piece: int | None = None  # which gives them, from its byte `offset` on
    offset: int = 0

    def bytes_of(self, texts: Texts) -> bytes | None:
        """Its bytes; None where they are lost, or not decoded."""
        if self.piece is None:
            return self.data
        text = texts[self.piece]
        return None if text is None else text[self.offset : self.offset + self.last - self.first]


class PieceMap:
    """Where the pieces of a file lie in its original."""

    def __init__(self, runs: Sequence[Run | LostRun], sizes: Sequence[int], noun: str) -> None:
        """sizes: bytes of each piece. All pieces, joined, are the bytes of the model's runs."""
        self._runs, self.noun = runs, noun
        self._starts = list(accumulate(sizes, initial=0))  # in the text

    @classmethod
    def of(cls, container: Container, runs: Sequence[Run | LostRun] | None = None) -> PieceMap:
        """The places in a file. runs: of a damaged one, with those that are lost."""
        runs, payload = container.runs if runs is None else runs, container.payload
        if payload is None:
            return cls(runs, [], "chunk")  # the name that `info`, `salvage` and `--chunks` use
        return cls(runs, [piece.num_bytes for piece in payload.pieces], payload.noun)

    @property
    def num_pieces(self) -> int:
        return len(self._starts) - 1

    def extents(self, first: int, last: int) -> Iterator[Extent]:
        """What bytes `first` up to `last` of the original are made of, in order."""
        place = text = 0
        for run in self._runs:
            low, high = max(first, place), min(last, place + run.num_bytes)
            is_text = not isinstance(run, (StoredRun, LostRun))
            if low < high and is_text:
                yield from self._text_extents(low, high, shift=place - text)
            elif low < high:
                data = run.data[low - place : high - place] if isinstance(run, StoredRun) else None
                yield Extent(low, high, data=data)
            place += run.num_bytes
            text += run.num_bytes * is_text

    def _text_extents(self, first: int, last: int, *, shift: int) -> Iterator[Extent]:
        """shift: from a place in the text to the same in the original."""
        begin = first - shift
        index = bisect_right(self._starts, begin) - 1
        while begin < last - shift:
            end = min(self._starts[index + 1], last - shift)
            offset = begin - self._starts[index]
            yield Extent(begin + shift, end + shift, piece=index, offset=offset)
            begin, index = end, index + 1

    def wanted(self, first: int, last: int) -> range:
        """The pieces that bytes `first` up to `last` need."""
        found = [e.piece for e in self.extents(first, last) if e.piece is not None]
        return range(found[0], found[-1] + 1) if found else range(0)

    def span_of(self, first: int, last: int) -> tuple[int, int]:
        """The bytes of pieces `first` to `last`, counted from 1, and what is stored between them.
        Raises SettingsError."""
        if not 1 <= first <= last <= self.num_pieces:
            raise SettingsError(
                f"`chunks`: {first}-{last}, the file has {self.num_pieces} {self.noun}s",
                settings=("chunks",),
            )
        pieces = range(first - 1, last)
        whole = self.extents(0, sum(run.num_bytes for run in self._runs))
        found = [extent for extent in whole if extent.piece in pieces]
        return found[0].first, found[-1].last


def restore(container: Container, texts: Texts, span: tuple[int, int] | None = None) -> bytes:
    """The original from the texts of its pieces, or the bytes of a range of it, checked.

    The hash of the whole is checked if the whole is asked for, or is here without a model. Raises
    IntegrityError.
    """
    layout = PieceMap.of(container)
    if span is not None and not layout.num_pieces:
        return restore(container, texts)[span[0] : span[1]]
    first, last = span or (0, container.original_bytes)
    parts: list[bytes] = []
    for extent in layout.extents(first, last):
        data = extent.bytes_of(texts)
        if data is None:
            assert extent.piece is not None, "a sound file has no lost runs"
            raise IntegrityError(
                f"{layout.noun} {extent.piece + 1} of {layout.num_pieces} decodes to different "
                "text. Nothing was written.",
                hint=_HINT,
            )
        parts.append(data)
    whole = b"".join(parts)
    if span is None and (
        len(whole) != container.original_bytes or content_hash(whole) != container.original_hash
    ):
        raise IntegrityError(
            "the decoded text fails the hash of the whole file. Nothing was written.", hint=_HINT
        )
    return whole
