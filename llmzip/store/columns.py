"""The chunk columns: everything per run and per chunk except vectors, patches and stored bytes.

Owns the coding of the run table and the columns (token counts, byte counts, checks, segment starts,
literal marks). Does not know the header, the planes, or the language model. Called by
`llmzip.store.container`.

Runs of a file alternate between crammed and stored, so that only the kind of the first is kept.
Counts are coded as differences from what the totals of the run predict, which makes most of them
one byte and the last one always zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmzip.errors import Corrupt
from llmzip.store.varint import MAX_VARINT_BYTES, Cursor, encode_varint, unzigzag, zigzag

MAX_CHUNK_TOKENS = 65535


@dataclass(frozen=True, kw_only=True)
class ChunkRow:
    """One chunk, as far as the columns know it."""

    num_tokens: int
    num_bytes: int
    check: int
    starts_segment: bool
    is_literal: bool


@dataclass(frozen=True, kw_only=True)
class RunRows:
    """One run: crammed with its chunks, or stored (no rows)."""

    num_bytes: int
    rows: tuple[ChunkRow, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TableSize:
    """What the header says of the table; the columns are read against it."""

    num_runs: int
    first_is_stored: bool
    num_chunks: int
    num_literal: int

    @property
    def num_stored_runs(self) -> int:
        return (self.num_runs + self.first_is_stored) // 2

    @property
    def num_cram_runs(self) -> int:
        return self.num_runs - self.num_stored_runs

    @property
    def max_bytes(self) -> int:
        """No columns block of this size is larger: bounds what a zstd frame may claim."""
        return (3 * self.num_runs + 2 * self.num_chunks + 1) * MAX_VARINT_BYTES + (
            3 * self.num_chunks + 2  # 16-bit check and two bitmap bits per chunk
        )


def encode_columns(runs: Sequence[RunRows]) -> bytes:
    """Runs in file order to one block. Expects runs that hold the rules of `records`."""
    out = bytearray()
    for run in runs:
        if run.rows:
            out += encode_varint(len(run.rows))
            out += encode_varint(sum(row.num_tokens for row in run.rows))
        out += encode_varint(run.num_bytes)
    rows = [row for run in runs for row in run.rows]
    if not rows:
        return bytes(out)
    starts = [row.starts_segment for row in rows]
    literal = [row.is_literal for row in rows]
    num_cram_runs = sum(1 for run in runs if run.rows)
    out += encode_varint(sum(starts))
    for run in runs:
        out += _encode_token_counts(run)
    for run in runs:
        out += _encode_byte_counts(run)
    for row in rows:
        out += row.check.to_bytes(2, "little")
    if num_cram_runs < sum(starts) < len(rows):
        out += _encode_bitmap(starts)
    if any(literal):
        out += _encode_bitmap(literal)
    return bytes(out)


def decode_columns(cursor: Cursor, size: TableSize) -> tuple[RunRows, ...]:
    """The inverse of `encode_columns`; the cursor must hold nothing else. Raises Corrupt."""
    totals = _read_run_table(cursor, size)
    crammed = [total for total in totals if total.num_chunks]
    if not crammed:
        cursor.finish()
        return tuple(RunRows(num_bytes=total.num_bytes) for total in totals)
    num_segments = cursor.varint()
    if not len(crammed) <= num_segments <= size.num_chunks:
        raise Corrupt(f"columns: {num_segments} segments for {size.num_chunks} chunks")
    # Two counts of a byte at least and a check of two: refused here, before the loops below.
    if 4 * size.num_chunks > cursor.remaining:
        raise Corrupt(f"columns: {cursor.remaining} bytes for {size.num_chunks} chunks")
    token_counts = [count for total in crammed for count in _read_token_counts(cursor, total)]
    byte_counts = _read_byte_counts(cursor, crammed, token_counts)
    checks = [int.from_bytes(cursor.take(2), "little") for _ in range(size.num_chunks)]
    starts = _read_starts(cursor, crammed, num_segments=num_segments, num_chunks=size.num_chunks)
    literal = [False] * size.num_chunks
    if size.num_literal:
        literal = _read_bitmap(cursor, size.num_chunks, ones=size.num_literal)
    cursor.finish()
    rows = iter(
        ChunkRow(
            num_tokens=num_tokens,
            num_bytes=num_bytes,
            check=check,
            starts_segment=start,
            is_literal=is_literal,
        )
        for num_tokens, num_bytes, check, start, is_literal in zip(
            token_counts, byte_counts, checks, starts, literal, strict=True
        )
    )
    return tuple(
        RunRows(num_bytes=t.num_bytes, rows=tuple(next(rows) for _ in range(t.num_chunks)))
        for t in totals
    )


@dataclass(frozen=True, kw_only=True)
class _RunTotals:
    num_chunks: int  # 0: a stored run
    num_tokens: int
    num_bytes: int


def _read_run_table(cursor: Cursor, size: TableSize) -> list[_RunTotals]:
    totals = []
    for index in range(size.num_runs):
        num_chunks = num_tokens = 0
        if (index % 2 == 0) != size.first_is_stored:
            num_chunks, num_tokens = cursor.varint(), cursor.varint()
            if not 1 <= num_chunks <= num_tokens <= num_chunks * MAX_CHUNK_TOKENS:
                raise Corrupt(f"run {index}: {num_tokens} tokens in {num_chunks} chunks")
        num_bytes = cursor.varint()
        # No token stands for nothing, and no run is empty.
        if num_bytes < max(num_tokens, 1):
            raise Corrupt(f"run {index}: {num_bytes} bytes for {num_tokens} tokens")
        totals.append(_RunTotals(num_chunks=num_chunks, num_tokens=num_tokens, num_bytes=num_bytes))
    if sum(total.num_chunks for total in totals) != size.num_chunks:
        raise Corrupt(f"run table: its chunks do not add up to {size.num_chunks}")
    return totals


def _encode_token_counts(run: RunRows) -> bytes:
    out = bytearray()
    tokens_left = sum(row.num_tokens for row in run.rows)
    for index, row in enumerate(run.rows):
        out += encode_varint(zigzag(row.num_tokens - tokens_left // (len(run.rows) - index)))
        tokens_left -= row.num_tokens
    return bytes(out)


def _read_token_counts(cursor: Cursor, total: _RunTotals) -> list[int]:
    counts = []
    tokens_left = total.num_tokens
    for chunks_left in range(total.num_chunks, 0, -1):
        count = tokens_left // chunks_left + unzigzag(cursor.varint())
        # Leaves a token at least for every later chunk, and nothing after the last.
        high = min(MAX_CHUNK_TOKENS, tokens_left - (chunks_left - 1))
        low = tokens_left if chunks_left == 1 else 1
        if not low <= count <= high:
            raise Corrupt(f"columns: chunk of {count} tokens before byte {cursor.offset}")
        counts.append(count)
        tokens_left -= count
    return counts


def _encode_byte_counts(run: RunRows) -> bytes:
    out = bytearray()
    tokens_left = sum(row.num_tokens for row in run.rows)
    bytes_left = run.num_bytes
    for row in run.rows:
        out += encode_varint(zigzag(row.num_bytes - bytes_left * row.num_tokens // tokens_left))
        tokens_left -= row.num_tokens
        bytes_left -= row.num_bytes
    return bytes(out)


def _read_byte_counts(
    cursor: Cursor, crammed: Iterable[_RunTotals], token_counts: Sequence[int]
) -> list[int]:
    counts = []
    tokens = iter(token_counts)
    for total in crammed:
        tokens_left, bytes_left = total.num_tokens, total.num_bytes
        for _ in range(total.num_chunks):
            num_tokens = next(tokens)
            count = bytes_left * num_tokens // tokens_left + unzigzag(cursor.varint())
            tokens_left -= num_tokens
            bytes_left -= count
            # A byte at least for every token, here and in what is left; nothing after the last.
            if count < num_tokens or bytes_left < tokens_left or (bytes_left and not tokens_left):
                raise Corrupt(f"columns: chunk of {count} bytes before byte {cursor.offset}")
            counts.append(count)
    return counts


def _read_starts(
    cursor: Cursor, crammed: Sequence[_RunTotals], *, num_segments: int, num_chunks: int
) -> list[bool]:
    run_starts = [index == 0 for total in crammed for index in range(total.num_chunks)]
    if num_segments == num_chunks:
        return [True] * num_chunks
    if num_segments == len(crammed):
        return run_starts
    starts = _read_bitmap(cursor, num_chunks, ones=num_segments)
    if any(needed and not start for needed, start in zip(run_starts, starts, strict=True)):
        raise Corrupt("columns: a run does not start with a segment")
    return starts


def _encode_bitmap(bits: Sequence[bool]) -> bytes:
    """Lowest bit first; the unused high bits of the last byte are zero."""
    out = bytearray((len(bits) + 7) // 8)
    for index, bit in enumerate(bits):
        out[index // 8] |= bit << index % 8
    return bytes(out)


def _read_bitmap(cursor: Cursor, count: int, *, ones: int) -> list[bool]:
    start = cursor.offset
    packed = cursor.take((count + 7) // 8)
    bits = [bool(packed[index // 8] >> index % 8 & 1) for index in range(count)]
    padding = packed[-1] >> (count % 8 or 8)
    if sum(bits) != ones or padding:
        raise Corrupt(f"columns: bitmap at byte {start} should have {ones} bits set of {count}")
    return bits
