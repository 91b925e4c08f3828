"""Hostile texts: files in which every number may be there, and none of it is what the model needs.

Owns the list of files that are refused only when they are decoded. Loads torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llmzip.errors import Corrupt, IntegrityError, LimitExceeded, LlmzipError
from llmzip.store.container import Container, read_container, write_container
from llmzip.store.cram_payload import Chunk
from llmzip.store.payload import StoredRun, TextRun
from llmzip.store.residual import Ranked
from llmzip.store.vectors import GridMem
from tests.containers import arith_of, changed, cram_of
from tests.soak.decoding import KINDS, pack
from tests.soak.hostile import Bomb

MAX_STEP = 0x7F60
LARGEST, SMALLEST, MINUS_ZERO = 0x7F7F, 0x0001, 0x8000  # bf16
VOCABULARY, MAX_ID = 260, 2**31 - 1


def text_bombs(model: Path) -> Iterator[Bomb]:
    """All of them. A sound file holds the text of `decoding`, whatever else it says."""
    files = {kind: read_container(pack(model, kind)) for kind in KINDS}
    for name, container, error in (
        *_raw(files["raw"]),
        *_coded(files["coded"]),
        *_arith(files["arith"]),
    ):
        yield Bomb(name=name, data=write_container(container), error=error)


Case = tuple[str, Container, type[LlmzipError] | None]


def _with_chunks(container: Container, change: Callable[[Chunk], Chunk]) -> Container:
    """Every chunk that has vectors, changed. All chunks are in the first run."""
    chunks = tuple(each if each.mem is None else change(each) for each in cram_of(container).chunks)
    return _of_size(changed(container, chunks=chunks), sum(chunk.num_bytes for chunk in chunks))


def _of_size(container: Container, num_bytes: int) -> Container:
    """The same with a first run of so many bytes."""
    first, *others = container.runs
    assert isinstance(first, TextRun) and all(isinstance(run, StoredRun) for run in others)
    return changed(container, runs=(TextRun(num_bytes=num_bytes), *others))


def _raw(raw: Container) -> Iterator[Case]:
    for bits in (LARGEST, SMALLEST, MINUS_ZERO, 0):
        shape = (cram_of(raw).num_mem, cram_of(raw).mem_dim)
        mem = np.full(shape, bits, dtype=np.uint16)
        both = mem.copy()
        both[:, ::2] ^= 0x8000
        for name, other in (("the same", mem), ("two signs", both)):
            container = _with_chunks(raw, lambda chunk, other=other: replace(chunk, mem=other))
            yield f"vectors of {bits:04x}, {name}", container, IntegrityError
    narrow = _with_chunks(raw, lambda chunk: replace(chunk, mem=np.zeros((1, 32), np.uint16)))
    yield "vectors of half a model", changed(narrow, mem_dim=32), Corrupt
    for token, error in (
        (VOCABULARY - 1, IntegrityError),
        (VOCABULARY, Corrupt),
        (MAX_ID, Corrupt),
    ):
        patches = ((0, token),)  # the first of these tokens stands for no bytes
        patched = _with_chunks(raw, lambda chunk, patches=patches: replace(chunk, patches=patches))
        yield f"token {token}", patched, error
    for token, error in ((5, IntegrityError), (VOCABULARY, Corrupt), (MAX_ID, Corrupt)):
        yield f"start token {token}", changed(raw, start_id=token), error
    long = _with_chunks(raw, lambda chunk: replace(chunk, num_tokens=65535, num_bytes=65535))
    yield "chunks of 65535 tokens", long, LimitExceeded
    wide = _with_chunks(raw, lambda chunk: replace(chunk, num_bytes=1 << 20))
    yield "chunks of 1 MiB", wide, IntegrityError
    yield "no margin at all", changed(raw, min_margin=0.0), None
    yield "a context of 2^31 - 1 tokens", changed(raw, context_tokens=2**31 - 1), None


def _coded(coded: Container) -> Iterator[Case]:
    sign = np.where(np.arange(cram_of(coded).mem_dim) % 2, 1, -1)[np.newaxis].astype(np.int16)
    huge = GridMem(symbols=sign, steps=np.array([MAX_STEP], dtype=np.uint16))
    yield "the largest step", _with_chunks(coded, lambda c: replace(c, mem=huge)), IntegrityError
    for rank in (Ranked(skip=255, size=1, index=0), Ranked(skip=0, size=256, index=255)):
        ranked = _with_chunks(coded, lambda c, rank=rank: replace(c, patches=((0, rank),)))
        ranked = changed(ranked, streams=())
        yield f"ranks from {rank.skip + 1}, {rank.size} of them", ranked, IntegrityError


def _arith(file: Container) -> Iterator[Case]:
    arith = arith_of(file)
    assert arith.mem and len(arith.segments) == 1
    segment = arith.segments[0]

    def other(**changes: Any) -> Container:
        return changed(file, **changes)

    def segment_of(num_tokens: int, num_lanes: int, stream: bytes) -> Container:
        lying = replace(segment, num_tokens=num_tokens, num_lanes=num_lanes, stream=stream)
        lying = replace(lying, num_bytes=num_tokens)
        return other(segments=(lying,), runs=(TextRun(num_bytes=num_tokens),))

    for symbol, step in ((1, MAX_STEP), (-1, MAX_STEP), (1023, 0x7A00), (0, 0x0080)):
        symbols = np.full_like(arith.mem.symbols, 1)
        symbols[:, ::2] = symbol
        mem = GridMem(symbols=symbols, steps=np.full_like(arith.mem.steps, step))
        yield f"shared vectors of {symbol} x {step:04x}", other(mem=mem), IntegrityError
    yield "no shared vectors", other(mem=None), IntegrityError
    for token in (VOCABULARY, MAX_ID):
        yield f"start token {token}, arith", changed(file, start_id=token), Corrupt
    yield "a window of 1 token", other(window_tokens=1), Corrupt
    yield "a window of 2^24 tokens", other(window_tokens=2**24), None
    yield "a prefix of 65535 tokens", other(prefix_tokens=65535), None
    yield "another guard", other(guard_code=255), None
    for name, stream in (("zeros", bytes(5)), ("ones", b"\xff" * 5)):
        container = replace(segment, stream=stream)
        yield f"a stream of {name}", other(segments=(container,)), IntegrityError
        # More text than a stream of 5 bytes can hold.
        for num_tokens in (400, 2000):
            title = f"{num_tokens} tokens of {name}"
            yield title, segment_of(num_tokens, 64, stream), IntegrityError
    yield "2^24 tokens", segment_of(2**24, 64, bytes(4096)), LimitExceeded
