"""Hostile work: sound files that make a reader or the model toil for each of their few bytes.

Owns the list of files whose only fault is how much they ask for. A reader of their structure may
accept them, but must be done with them in its time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from llmzip.errors import LimitExceeded
from llmzip.store.arith_payload import ArithSegment
from llmzip.store.container import Container, write_container
from llmzip.store.cram_payload import Chunk
from llmzip.store.residual import Patch
from llmzip.store.vectors import GridMem
from tests.containers import arith_container, cram_container
from tests.soak.hostile import Bomb

MOST_TOKENS, MOST_SEGMENT_TOKENS, MOST_VECTORS, MOST_SYMBOL = 65535, 1 << 24, 1024, 1023
ONE = 0x3F80


def work_bombs() -> Iterator[Bomb]:
    """All of them."""
    for name, container in (
        ("100 chunks of 65535 tokens, raw", _cram(100, 16)),
        ("100 chunks of 65535 tokens, coded", _cram(100, 4)),
        ("100 chunks of 65535 tokens and a patch", _cram(100, 4, ((MOST_TOKENS - 1, 5),))),
        ("2000 chunks of 65535 tokens and a patch", _cram(2000, 4, ((MOST_TOKENS - 1, 5),))),
        ("2^24 tokens in 4096 bytes", _arith(MOST_SEGMENT_TOKENS, 4096)),
        ("60 segments of 4096 tokens in a byte", _arith(4096, 1, 60)),
    ):
        data = write_container(container)
        yield Bomb(name=f"work: {name}", data=data, error=LimitExceeded, is_work=True)
    # What has few tokens, and all the vectors and symbols there can be, is read, and then decoded.
    data = write_container(_cram(1, 4, num_mem=MOST_VECTORS))
    yield Bomb(name="work: 1024 vectors of one number", data=data, error=None)


def _cram(
    num_chunks: int, bits: int, patches: tuple[Patch, ...] = (), *, num_mem: int = 1
) -> Container:
    """Chunks of vectors with one number each; the last chunk has the patches."""
    mem = np.full((num_mem, 1), ONE, dtype=np.uint16)
    grid = GridMem(
        symbols=np.full((num_mem, 1), MOST_SYMBOL, dtype=np.int16),
        steps=np.full(num_mem, ONE, dtype=np.uint16),
    )
    chunk = Chunk(
        num_tokens=MOST_TOKENS,
        num_bytes=MOST_TOKENS,
        check=0,
        starts_segment=True,
        patches=(),
        mem=mem if bits == 16 else grid,
    )
    chunks = (*(chunk,) * (num_chunks - 1), replace(chunk, patches=patches))
    return cram_container(chunks, num_mem=num_mem, mem_dim=1, bits=bits)


def _arith(num_tokens: int, stream_bytes: int, num_segments: int = 1) -> Container:
    segment = ArithSegment(
        num_tokens=num_tokens,
        num_bytes=num_tokens,
        check=0,
        num_lanes=64,
        stream=bytes(stream_bytes),
    )
    return arith_container(
        (segment,) * num_segments, prefix_tokens=0, window_tokens=256, guard_code=80
    )
