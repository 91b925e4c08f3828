"""The chunk columns: everything per run and per chunk except vectors, patches and stored bytes.

Owns the coding of the run table and the columns (token counts, byte counts, checks, segment starts,
literal marks). Does not know the header, the planes, or the language model.

Runs of a file alternate between crammed and stored, so that only the kind of the first is kept.
Counts are coded as differences from what the totals of the run predict, which makes most of them
one byte and the last one always zero. Files with coded planes pack them in bits, without the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice, repeat
from typing import Literal

import numpy as np

from llmzip.errors import Corrupt
from llmzip.store.cram_payload import MAX_CHUNK_TOKENS, Chunk
from llmzip.store.payload import Run, RunTable, StoredRun
from llmzip.store.shared_vectors import SharedSpan, read_spans
from llmzip.store.varint import (
    MAX_VARINT_BYTES,
    Cursor,
    encode_varint,
    encode_varints,
    pack_rice,
    read_rice,
    require,
    unzigzag,
    zigzag,
)


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
    shared_spans: list[SharedSpan]

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
    check_bytes: int  # of each chunk's check
    num_shared: int = 0  # spans of shared vectors

    def max_bytes(self, table: RunTable) -> int:
        """No columns block of this size is larger: bounds what a zstd frame may claim."""
        counts = 3 * table.num_runs + 2 * self.num_chunks + 2 * self.num_shared + 1
        return counts * MAX_VARINT_BYTES + (
            3 * self.num_chunks + 2  # 16-bit check and two bitmap bits per chunk
        )


def encode_columns(
    runs: Sequence[Run],
    chunks_of_runs: Sequence[Sequence[Chunk]],
    *,
    coded: bool,
    check_bytes: int,
    shared: bytes = b"",
) -> bytes:
    """All of it as one block. Expects values that hold the rules of `cram_payload`.

    chunks_of_runs: of the runs of text, in order. shared: the columns of `pack_shared`.
    """
    tokens = [[chunk.num_tokens for chunk in chunks] for chunks in chunks_of_runs]
    sizes = [[chunk.num_bytes for chunk in chunks] for chunks in chunks_of_runs]
    chunks = list(chain.from_iterable(chunks_of_runs))
    out, text_runs = bytearray(), iter(tokens)
    for run in runs:
        if not isinstance(run, StoredRun):
            counts = next(text_runs)
            out += encode_varints(len(counts), sum(counts))
        out += encode_varint(run.num_bytes)
    num_segments = sum(chunk.starts_segment for chunk in chunks)
    out += encode_varint(num_segments)
    out += _encode_counts(tokens, [[1] * len(counts) for counts in tokens], coded=coded)
    out += _encode_counts(sizes, tokens, coded=coded)
    out += np.array([chunk.check for chunk in chunks], dtype=f"<u{check_bytes}").tobytes()
    if len(tokens) < num_segments < len(chunks):
        out += _encode_bitmap([chunk.starts_segment for chunk in chunks])
    if any(chunk.mem is None for chunk in chunks):
        out += _encode_bitmap([chunk.mem is None for chunk in chunks])
    return bytes(out + shared)


def decode_columns(cursor: Cursor, table: RunTable, size: ChunkCounts) -> CramColumns:
    """The inverse of `encode_columns`; the cursor must hold nothing else. Raises Corrupt."""
    runs = _read_run_table(cursor, table, size)
    crammed = [run for run in runs if run.num_chunks]
    num_chunks = size.num_chunks
    num_segments = cursor.varint()
    is_possible = len(crammed) <= num_segments <= num_chunks
    require(is_possible, f"columns: {num_segments} segments for {num_chunks} chunks")
    # Two counts of a byte at least (or of no fixed size) and a check: refused here, before the
    # loops below.
    is_enough = (size.check_bytes + 2 * (not size.is_coded)) * num_chunks <= cursor.remaining
    require(is_enough, f"columns: {cursor.remaining} bytes for {num_chunks} chunks")
    ones = [[1] * run.num_chunks for run in crammed]
    tokens = _read_counts(cursor, crammed, ones, noun="tokens", coded=size.is_coded)
    sizes = _read_counts(cursor, crammed, tokens, noun="bytes", coded=size.is_coded)
    num_tokens = list(chain.from_iterable(tokens))
    is_small = max(num_tokens, default=0) <= MAX_CHUNK_TOKENS
    require(is_small, f"columns: a chunk of more than {MAX_CHUNK_TOKENS} tokens")
    checks = np.frombuffer(
        cursor.take(size.check_bytes * num_chunks), dtype=f"<u{size.check_bytes}"
    ).tolist()
    starts = _read_starts(cursor, crammed, num_segments=num_segments, num_chunks=num_chunks)
    literal = [False] * num_chunks
    if size.num_literal:
        literal = _read_bitmap(cursor, num_chunks, ones=size.num_literal)
    spans = read_spans(cursor, count=size.num_shared, num_segments=num_segments)
    cursor.finish()
    return CramColumns(
        runs=runs,
        num_tokens=num_tokens,
        num_bytes=list(chain.from_iterable(sizes)),
        checks=checks,
        starts=starts,
        literal=literal,
        shared_spans=spans,
    )


def _read_run_table(cursor: Cursor, table: RunTable, size: ChunkCounts) -> tuple[RunTotals, ...]:
    totals = []
    for index in range(table.num_runs):
        num_chunks = num_tokens = 0
        if not table.is_stored(index):
            num_chunks, num_tokens = cursor.varint(), cursor.varint()
            is_possible = 1 <= num_chunks <= num_tokens <= num_chunks * MAX_CHUNK_TOKENS
            require(is_possible, f"run {index}: {num_tokens} tokens in {num_chunks} chunks")
        num_bytes = cursor.varint()
        # No token stands for nothing, and no run is empty.
        is_enough = num_bytes >= max(num_tokens, 1)
        require(is_enough, f"run {index}: {num_bytes} bytes for {num_tokens} tokens")
        totals.append(RunTotals(num_chunks=num_chunks, num_tokens=num_tokens, num_bytes=num_bytes))
    adds_up = sum(total.num_chunks for total in totals) == size.num_chunks
    require(adds_up, f"run table: its chunks do not add up to {size.num_chunks}")
    return tuple(totals)


def _encode_counts(
    counts_of_runs: Sequence[Sequence[int]],
    weights_of_runs: Sequence[Sequence[int]],
    *,
    coded: bool,
) -> bytes:
    """For each chunk, its count less its share, by weight, of what is left of its run.

    weights: of tokens, 1 for each chunk; of bytes, the tokens of each chunk.
    """
    numbers: list[int] = []
    for counts, weights in zip(counts_of_runs, weights_of_runs, strict=True):
        left, weight_left = sum(counts), sum(weights)
        for count, weight in zip(counts, weights, strict=True):
            numbers.append(zigzag(count - left * weight // weight_left))
            left, weight_left = left - count, weight_left - weight
        if coded:
            numbers.pop()
    return pack_rice(numbers) if coded else encode_varints(*numbers)


def _read_counts(
    cursor: Cursor,
    runs: Sequence[RunTotals],
    weights_of_runs: Sequence[Sequence[int]],
    *,
    noun: Literal["tokens", "bytes"],
    coded: bool,
) -> list[list[int]]:
    """The inverse of `_encode_counts`. Raises Corrupt."""
    num_codes = sum(map(len, weights_of_runs)) - len(runs) * coded
    found = read_rice(cursor, num_codes, what="columns") if coded else cursor.varints(num_codes)
    codes = iter(found)
    counts_of_runs: list[list[int]] = []
    for run, weights in zip(runs, weights_of_runs, strict=True):
        left = run.num_tokens if noun == "tokens" else run.num_bytes
        weight_left, counts = sum(weights), []
        own = chain(islice(codes, len(weights) - coded), repeat(0))
        for weight, code in zip(weights, own, strict=False):
            count = left * weight // weight_left + unzigzag(code)
            left, weight_left = left - count, weight_left - weight
            # A token at least for every chunk, and a byte for every token, here and in what is
            # left; nothing after the last.
            if count < weight or left < weight_left or (left and not weight_left):
                raise Corrupt(f"columns: chunk of {count} {noun} before byte {cursor.offset}")
            counts.append(count)
        counts_of_runs.append(counts)
    return counts_of_runs


def _read_starts(
    cursor: Cursor, crammed: Sequence[RunTotals], *, num_segments: int, num_chunks: int
) -> list[bool]:
    if num_segments == num_chunks:
        return [True] * num_chunks
    needed = set(
        accumulate((run.num_chunks for run in crammed[:-1]), initial=0)
    )  # runs' first ones
    if num_segments == len(crammed):
        return [index in needed for index in range(num_chunks)]
    found = _read_bitmap(cursor, num_chunks, ones=num_segments)
    starts_all = all(found[index] for index in needed)
    require(starts_all, "columns: a run does not start with a segment")
    return found


def _encode_bitmap(bits: Sequence[bool]) -> bytes:
    """Lowest bit first; the unused high bits of the last byte are zero."""
    return np.packbits(np.array(bits, dtype=np.bool_), bitorder="little").tobytes()


def _read_bitmap(cursor: Cursor, count: int, *, ones: int) -> list[bool]:
    start = cursor.offset
    packed = np.frombuffer(cursor.take((count + 7) // 8), dtype=np.uint8)
    bits = np.unpackbits(packed, bitorder="little").astype(np.bool_)
    is_right = int(bits.sum()) == ones and not bits[count:].any()
    require(is_right, f"columns: bitmap at byte {start} should have {ones} bits set of {count}")
    found: list[bool] = bits[:count].tolist()
    return found
