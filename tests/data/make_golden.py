"""Makes the frozen `.crm` files of format v1: `python -m tests.data.make_golden`.

The text is real, the language model is not: its token ids are the bytes' values (a space glued to
the byte after it adds 256), and the mem vectors are small numbers that anyone can recognise.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from llmzip.store.container import (
    Chunk,
    Container,
    CramRun,
    StoredRun,
    chunk_check,
    content_hash,
    write_container,
)

HERE = Path(__file__).parent

ONE, MINUS_TWO, HALF, ZERO = 0x3F80, 0xC000, 0x3F00, 0x0000  # bf16 bit patterns


def chunk(
    text: bytes, *, num_tokens: int, starts: bool, patches: list[tuple[int, int]], mem: list[int]
) -> Chunk:
    return Chunk(
        num_tokens=num_tokens,
        num_bytes=len(text),
        check=chunk_check(text),
        starts_segment=starts,
        patches=tuple(patches),
        mem=np.array([mem], dtype=np.uint16) if mem else None,
    )


def tiny() -> Container:
    """Every part of the format once: a patch, a literal chunk, two segments, stored bytes."""
    texts = [b"to be or ", b"not to", b" be", b" that is"]
    binary = b"\x00\xff\x00\xfe"
    original = b"".join(texts) + binary
    run = CramRun(
        chunks=(
            chunk(
                texts[0], num_tokens=7, starts=True, patches=[], mem=[ONE, MINUS_TWO, HALF, ZERO]
            ),
            chunk(texts[1], num_tokens=5, starts=False, patches=[(1, 111)], mem=[HALF] * 4),
            chunk(texts[2], num_tokens=2, starts=False, patches=[(0, 354), (1, 101)], mem=[]),
            chunk(
                texts[3],
                num_tokens=6,
                starts=True,
                patches=[(0, 372), (5, 115)],
                mem=[ZERO, ZERO, ONE, ONE],
            ),
        )
    )
    return Container(
        model_id="toy",
        revision="0123456789abcdef0123456789abcdef01234567",
        model_digest=bytes(range(16)),
        num_mem=1,
        mem_dim=4,
        bits=16,
        context_tokens=16,
        start_id=7,
        original_bytes=len(original),
        original_hash=content_hash(original),
        xz_bytes=88,
        zstd_bytes=38,
        min_margin=0.5,
        bf16_safe=False,
        runs=(run, StoredRun(data=binary)),
    )


def stored() -> Container:
    """No model at all: bytes that zstd holds."""
    original = b"llmzip " * 40
    return Container(
        original_bytes=len(original),
        original_hash=content_hash(original),
        xz_bytes=80,
        zstd_bytes=24,
        runs=(StoredRun(data=original),),
    )


GOLDEN = {"v1_tiny.crm": tiny, "v1_stored.crm": stored}


if __name__ == "__main__":
    for name, make in GOLDEN.items():
        (HERE / name).write_bytes(write_container(make()))
