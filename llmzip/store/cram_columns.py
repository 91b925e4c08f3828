"""The chunk columns: everything per run and per chunk except vectors, patches and stored bytes.

Owns the coding of the run table and the columns (token counts, byte counts, checks, segment starts,
literal marks). Does not know the header, the planes, or the language model.

Runs of a file alternate between crammed and stored, so that only the kind of the first is kept.
Counts are coded as differences from what the totals of the run predict, which makes most of them
one byte and the last one always zero. Files with coded planes pack them in bits, without the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np

from llmzip.errors import Corrupt
from llmzip.store.cram_payload import MAX_CHUNK_TOKENS, Chunk
from llmzip.store.payload import Run, RunTable, StoredRun
from llmzip.store.rice import pack_rice, read_rice
from llmzip.store.varint import MAX_VARINT_BYTES, Cursor, encode_varint, unzigzag, zigzag


@dataclass(frozen=True, kw_only=True)
class RunTotals:
    """One run: crammed, or stored (no chunks and tokens)."""

    num_chunks: int
    num_tokens: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class CramColumns:
    """The run table, and one value per chunk in each list, chunks of all runs in file order."""

    runs: tuple[RunTotals, ...]
    num_tokens: list[int]
    num_bytes: list[int]
    checks: list[int]
    starts: list[bool]  # the chunk starts a segment
    literal: list[bool]  # the chunk has no vectors

    @property
    def run_bytes(self) -> list[int]:
        """The original bytes of each run."""
        return [run.num_bytes for run in self.runs]

    @property
    def total_tokens(self) -> int:
        """Of all chunks."""
        return sum(self.num_tokens)


@dataclass(frozen=True, kw_only=True)
class ChunkCounts:
    """What the header says of the chunks; the columns are read against it."""

    num_chunks: int
    num_literal: int
    is_coded: bool

    def max_bytes(self, table: RunTable) -> int:
        """No columns block of this size is larger: bounds what a zstd frame may claim."""
        return (3 * table.num_runs + 2 * self.num_chunks + 1) * MAX_VARINT_BYTES + (
            3 * self.num_chunks + 2  # 16-bit check and two bitmap bits per chunk
        )


def encode_columns(
    runs: Sequence[Run], chunks_of_runs: Sequence[Sequence[Chunk]], *, coded: bool
) -> bytes:
    """All of it as one block. Expects values that hold the rules of `cram_payload`.

    chunks_of_runs: of the runs of text, in order.
    """
    crammed = [
        RunTotals(
            num_chunks=len(chunks),
            num_tokens=sum(chunk.num_tokens for chunk in chunks),
            num_bytes=sum(chunk.num_bytes for chunk in chunks),
        )
        for chunks in chunks_of_runs
    ]
    chunks = [chunk for each in chunks_of_runs for chunk in each]
    totals = iter(crammed)
    out = bytearray()
    for run in runs:
        if not isinstance(run, StoredRun):
            total = next(totals)
            out += encode_varint(total.num_chunks) + encode_varint(total.num_tokens)
        out += encode_varint(run.num_bytes)
    num_segments = sum(chunk.starts_segment for chunk in chunks)
    out += encode_varint(num_segments)
    for differences in _differences(chunks, crammed):
        numbers = [zigzag(number) for run in differences for number in (run[:-1] if coded else run)]
        out += pack_rice(numbers) if coded else b"".join(map(encode_varint, numbers))
    out += np.array([chunk.check for chunk in chunks], dtype="<u2").tobytes()
    if len(crammed) < num_segments < len(chunks):
        out += _encode_bitmap([chunk.starts_segment for chunk in chunks])
    if any(chunk.mem is None for chunk in chunks):
        out += _encode_bitmap([chunk.mem is None for chunk in chunks])
    return bytes(out)


def decode_columns(cursor: Cursor, table: RunTable, size: ChunkCounts) -> CramColumns:
    """The inverse of `encode_columns`; the cursor must hold nothing else. Raises Corrupt."""
    runs = _read_run_table(cursor, table, size)
    crammed = [run for run in runs if run.num_chunks]
    num_chunks = size.num_chunks
    num_segments = cursor.varint()
    if not len(crammed) <= num_segments <= num_chunks:
        raise Corrupt(f"columns: {num_segments} segments for {num_chunks} chunks")
    # Two counts of a byte at least (or of no fixed size) and a check of two: refused here, before
    # the loops below.
    if (2 if size.is_coded else 4) * num_chunks > cursor.remaining:
        raise Corrupt(f"columns: {cursor.remaining} bytes for {num_chunks} chunks")
    codes = _read_codes(cursor, crammed, coded=size.is_coded)
    token_counts = _token_counts(crammed, codes, at=cursor.offset)
    codes = _read_codes(cursor, crammed, coded=size.is_coded)
    byte_counts = _byte_counts(crammed, codes, token_counts, at=cursor.offset)
    checks = np.frombuffer(cursor.take(2 * num_chunks), dtype="<u2").tolist()
    starts = _read_starts(cursor, crammed, num_segments=num_segments, num_chunks=num_chunks)
    literal = [False] * num_chunks
    if size.num_literal:
        literal = _read_bitmap(cursor, num_chunks, ones=size.num_literal)
    cursor.finish()
    return CramColumns(
        runs=runs,
        num_tokens=token_counts,
        num_bytes=byte_counts,
        checks=checks,
        starts=starts,
        literal=literal,
    )


def _read_run_table(cursor: Cursor, table: RunTable, size: ChunkCounts) -> tuple[RunTotals, ...]:
    totals = []
    for index in range(table.num_runs):
        num_chunks = num_tokens = 0
        if not table.is_stored(index):
            num_chunks, num_tokens = cursor.varint(), cursor.varint()
            if not 1 <= num_chunks <= num_tokens <= num_chunks * MAX_CHUNK_TOKENS:
                raise Corrupt(f"run {index}: {num_tokens} tokens in {num_chunks} chunks")
        num_bytes = cursor.varint()
        # No token stands for nothing, and no run is empty.
        if num_bytes < max(num_tokens, 1):
            raise Corrupt(f"run {index}: {num_bytes} bytes for {num_tokens} tokens")
        totals.append(RunTotals(num_chunks=num_chunks, num_tokens=num_tokens, num_bytes=num_bytes))
    if sum(total.num_chunks for total in totals) != size.num_chunks:
        raise Corrupt(f"run table: its chunks do not add up to {size.num_chunks}")
    return tuple(totals)


def _differences(
    chunks: Sequence[Chunk], crammed: Sequence[RunTotals]
) -> tuple[list[list[int]], ...]:
    """Tokens, then bytes: for each run, each chunk's count less the prediction."""
    all_tokens: list[list[int]] = []
    all_bytes: list[list[int]] = []
    counts = ((chunk.num_tokens, chunk.num_bytes) for chunk in chunks)
    for run in crammed:
        tokens_left, bytes_left = run.num_tokens, run.num_bytes
        all_tokens.append([])
        all_bytes.append([])
        for index, (num_tokens, num_bytes) in enumerate(islice(counts, run.num_chunks)):
            all_tokens[-1].append(num_tokens - tokens_left // (run.num_chunks - index))
            all_bytes[-1].append(num_bytes - bytes_left * num_tokens // tokens_left)
            tokens_left -= num_tokens
            bytes_left -= num_bytes
    return all_tokens, all_bytes


def _read_codes(cursor: Cursor, crammed: Sequence[RunTotals], *, coded: bool) -> Iterator[int]:
    """The zigzag codes of the differences, for all chunks of all runs."""
    num_chunks = sum(run.num_chunks for run in crammed)
    if not coded:
        return iter(cursor.varints(num_chunks))
    packed = iter(read_rice(cursor, num_chunks - len(crammed), what="columns"))
    return chain.from_iterable(chain(islice(packed, run.num_chunks - 1), (0,)) for run in crammed)


def _token_counts(crammed: Sequence[RunTotals], codes: Iterator[int], *, at: int) -> list[int]:
    counts = []
    for run in crammed:
        tokens_left = run.num_tokens
        for chunks_left in range(run.num_chunks, 0, -1):
            count = tokens_left // chunks_left + unzigzag(next(codes))
            # Leaves a token at least for every later chunk, and nothing after the last.
            high = min(MAX_CHUNK_TOKENS, tokens_left - (chunks_left - 1))
            low = tokens_left if chunks_left == 1 else 1
            if not low <= count <= high:
                raise Corrupt(f"columns: chunk of {count} tokens before byte {at}")
            counts.append(count)
            tokens_left -= count
    return counts


def _byte_counts(
    crammed: Sequence[RunTotals], codes: Iterator[int], token_counts: Sequence[int], *, at: int
) -> list[int]:
    counts = []
    tokens = iter(token_counts)
    for run in crammed:
        tokens_left, bytes_left = run.num_tokens, run.num_bytes
        for num_tokens in islice(tokens, run.num_chunks):
            count = bytes_left * num_tokens // tokens_left + unzigzag(next(codes))
            tokens_left -= num_tokens
            bytes_left -= count
            # A byte at least for every token, here and in what is left; nothing after the last.
            if count < num_tokens or bytes_left < tokens_left or (bytes_left and not tokens_left):
                raise Corrupt(f"columns: chunk of {count} bytes before byte {at}")
            counts.append(count)
    return counts


def _read_starts(
    cursor: Cursor, crammed: Sequence[RunTotals], *, num_segments: int, num_chunks: int
) -> list[bool]:
    if num_segments == num_chunks:
        return [True] * num_chunks
    needed = np.cumsum([0, *(run.num_chunks for run in crammed[:-1])])  # first chunks of the runs
    if num_segments == len(crammed):
        starts = np.zeros(num_chunks, dtype=np.bool_)
        starts[needed] = True
        return starts.tolist()
    found = _read_bitmap(cursor, num_chunks, ones=num_segments)
    if not all(found[index] for index in needed.tolist()):
        raise Corrupt("columns: a run does not start with a segment")
    return found


def _encode_bitmap(bits: Sequence[bool]) -> bytes:
    """Lowest bit first; the unused high bits of the last byte are zero."""
    return np.packbits(np.array(bits, dtype=np.bool_), bitorder="little").tobytes()


def _read_bitmap(cursor: Cursor, count: int, *, ones: int) -> list[bool]:
    start = cursor.offset
    packed = np.frombuffer(cursor.take((count + 7) // 8), dtype=np.uint8)
    bits = np.unpackbits(packed, bitorder="little").astype(np.bool_)
    if int(bits.sum()) != ones or bits[count:].any():
        raise Corrupt(f"columns: bitmap at byte {start} should have {ones} bits set of {count}")
    found: list[bool] = bits[:count].tolist()
    return found
