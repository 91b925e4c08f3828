"""A damaged `.crm` file: what of it can still be read.

Owns which parts must be sound for any of the rest to be found. Nothing here is verified: only a
piece whose decoded text passes its check is intact.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmzip.errors import Corrupt, Truncated
from llmzip.store.container import Container, container_of
from llmzip.store.header import read_header
from llmzip.store.limits import check_size, check_work
from llmzip.store.opening import read_columns
from llmzip.store.payload import TextRun
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
