"""The streams of patched tokens: one for each segment, which only the language model can read.

Owns how their sizes and bytes stand behind the positions of the patches. Does not know what is in
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmzip.store.varint import Cursor, encode_varint


def pack_streams(streams: Sequence[bytes]) -> bytes:
    """The streams of all segments, empty ones where no token is patched."""
    return b"".join(encode_varint(len(each)) for each in streams) + b"".join(streams)


def read_streams(cursor: Cursor, *, num_segments: int) -> tuple[bytes, ...]:
    """The inverse of `pack_streams`. Raises Corrupt."""
    sizes = [cursor.varint() for _ in range(num_segments)]
    found = tuple(bytes(cursor.take(size)) for size in sizes)
    cursor.finish()
    return found


def salvage_streams(cursor: Cursor, *, num_segments: int) -> Iterator[bytes | None]:
    """The streams that are whole; None from the first that is not."""
    sizes: list[int] = []
    while len(sizes) < num_segments and cursor.remaining:
        sizes.append(cursor.varint())
    for size in sizes:
        if size > cursor.remaining:
            return
        yield bytes(cursor.take(size))
