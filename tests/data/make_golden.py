"""Makes the frozen `.crm` files of format v1: `python -m tests.data.make_golden`.

The text is real, the language model is not: its token ids are the bytes' values (a space glued to
the byte after it adds 256), and the mem vectors are small numbers that anyone can recognise.

`v1_prose.crm` is not made here: it is a real file of `v1_prose.txt`, written by the first version
of llmzip, and `make_prose.sh` has its command. Optimisation gives other bits on other machines, so
the file is kept to be read, not to be made again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from llmzip.store.arith_payload import ArithPayload, ArithSegment
from llmzip.store.container import Container, write_container
from llmzip.store.cram_payload import Chunk, CramPayload
from llmzip.store.model_ref import NUMBERED, ModelRef
from llmzip.store.original import chunk_check, content_hash, segment_check
from llmzip.store.payload import Payload, Run, StoredRun, TextRun
from llmzip.store.residual import Name, Ranked
from llmzip.store.vectors import GridMem

HERE = Path(__file__).parent

# bf16 bit patterns
ONE, MINUS_TWO, HALF, ZERO, ONE_AND_A_HALF = 0x3F80, 0xC000, 0x3F00, 0x0000, 0x3FC0


TEXTS = [b"to be or ", b"not to", b" be", b" that is"]
BINARY = b"\x00\xff\x00\xfe"

MODEL = ModelRef(
    model_id="toy",
    revision="0123456789abcdef0123456789abcdef01234567",
    digest=bytes(range(16)),
    start_id=7,
)


def chunk(
    text: bytes,
    *,
    num_tokens: int,
    starts: bool,
    patches: list[tuple[int, Name]],
    mem: list[int] | GridMem,
    check_bytes: int = 2,
) -> Chunk:
    return Chunk(
        num_tokens=num_tokens,
        num_bytes=len(text),
        check=chunk_check(text, size=check_bytes),
        starts_segment=starts,
        patches=tuple(patches),
        mem=_array(mem) if isinstance(mem, list) else mem,
    )


def _array(mem: list[int]) -> np.ndarray | None:
    return np.array([mem], dtype=np.uint16) if mem else None


def grid(*vectors: list[int], steps: list[int]) -> GridMem:
    return GridMem(
        symbols=np.array(vectors, dtype=np.int16), steps=np.array(steps, dtype=np.uint16)
    )


def toy(*runs: Run, original: bytes, payload: Payload) -> Container:
    """A file of the made-up model."""
    return Container(
        original_bytes=len(original),
        original_hash=content_hash(original),
        xz_bytes=88,
        zstd_bytes=38,
        runs=runs,
        payload=payload,
    )


def crammed(
    *chunks: Chunk,
    num_mem: int,
    mem_dim: int,
    bits: int,
    signs: bool = False,
    streams: tuple[bytes, ...] = (),
    shared: tuple[GridMem | None, ...] = (),
) -> Container:
    """The text in one crammed run, then the binary bytes."""
    payload = CramPayload(
        model=MODEL,
        num_mem=num_mem,
        mem_dim=mem_dim,
        bits=bits,
        context_tokens=16,
        min_margin=0.5,
        signs=signs,
        chunks=chunks,
        streams=streams,
        shared=shared,
    )
    text = b"".join(TEXTS)
    runs = (TextRun(num_bytes=len(text)), StoredRun(data=BINARY))
    return toy(*runs, original=text + BINARY, payload=payload)


def tiny() -> Container:
    """Every part of the format once: a patch, a literal chunk, two segments, stored bytes."""
    return crammed(
        chunk(TEXTS[0], num_tokens=7, starts=True, patches=[], mem=[ONE, MINUS_TWO, HALF, ZERO]),
        chunk(TEXTS[1], num_tokens=5, starts=False, patches=[(1, 111)], mem=[HALF] * 4),
        chunk(TEXTS[2], num_tokens=2, starts=False, patches=[(0, 354), (1, 101)], mem=[]),
        chunk(
            TEXTS[3],
            num_tokens=6,
            starts=True,
            patches=[(0, 372), (5, 115)],
            mem=[ZERO, ZERO, ONE, ONE],
        ),
        num_mem=1,
        mem_dim=4,
        bits=16,
    )


def coded() -> Container:
    """The same text with coded planes: every kind of patch, two steps, two vectors a chunk."""
    return crammed(
        chunk(
            TEXTS[0],
            num_tokens=7,
            starts=True,
            patches=[],
            mem=grid([1, -2, 0, 0, 1], [0, 3, -1, 0, 0], steps=[ONE, ONE]),
        ),
        chunk(
            TEXTS[1],
            num_tokens=5,
            starts=False,
            patches=[(1, Ranked(skip=1, size=1, index=0)), (3, Ranked(skip=4, size=3, index=2))],
            mem=grid([0, 0, 0, -1, 2], [1, 1, -1, 0, 0], steps=[ONE, ONE_AND_A_HALF]),
        ),
        chunk(TEXTS[2], num_tokens=2, starts=False, patches=[(0, 354), (1, 101)], mem=[]),
        chunk(
            TEXTS[3],
            num_tokens=6,
            starts=True,
            patches=[(0, Ranked(skip=30, size=1, index=0)), (5, 115)],
            mem=grid([-1, 0, 1, 0, 0], [0, 0, 0, 0, -1], steps=[ONE, ONE]),
        ),
        num_mem=2,
        mem_dim=5,
        bits=2,
    )


def signs() -> Container:
    """The same text with vectors of signs, one token named by rank."""
    return _signs(Ranked(skip=1, size=1, index=0), 115)


def streams() -> Container:
    """The same with streams of patched tokens. Nothing has coded them: the file is sound, but no
    text comes out of it."""
    return _signs(None, None, streams=(b"\x12\x34\x56", b"\x78"))


def shared() -> Container:
    """`signs` with two vectors before the first segment and others before the second."""
    first = grid([1, -2, 0, 0, 1], [0, 3, -1, 0, 0], steps=[ONE, ONE])
    return _signs(
        Ranked(skip=1, size=1, index=0),
        115,
        shared=(first, grid([0] * 5, [0, 0, 0, 0, -1], steps=[ONE, ONE_AND_A_HALF])),
    )


def numbered() -> Container:
    """`tiny` with a model that has a number."""
    (model_id, revision, digest) = NUMBERED[1]
    model = ModelRef(model_id=model_id, revision=revision, digest=digest, start_id=1)
    whole = tiny()
    assert isinstance(whole.payload, CramPayload)
    return replace(whole, payload=replace(whole.payload, model=model))


def _signs(
    *names: Name, streams: tuple[bytes, ...] = (), shared: tuple[GridMem | None, ...] = ()
) -> Container:
    mems = [grid([1, -1, -1, 1, 1], steps=[ONE]), grid([-1, 1, 1, 1, -1], steps=[ONE])]
    patches: list[list[tuple[int, Name]]] = [
        [], [(1, names[0])], [(0, 354), (1, 101)], [(5, names[1])]
    ]  # fmt: skip
    held = [mems[0], mems[1], [], mems[0]]
    chunks = [
        chunk(text, num_tokens=size, starts=starts, patches=own, mem=mem, check_bytes=1)
        for text, size, starts, own, mem in zip(
            TEXTS, (7, 5, 2, 6), (True, False, False, True), patches, held, strict=True
        )
    ]
    return crammed(
        *chunks, num_mem=1, mem_dim=5, bits=1, signs=True, streams=streams, shared=shared
    )


def arith() -> Container:
    """The same text in two segments, the second of which goes on behind the binary bytes.

    Nothing has coded the streams: the file is sound, but no text comes out of it.
    """
    first, second = TEXTS[0], b"".join(TEXTS[1:])
    text = first + second
    return toy(
        TextRun(num_bytes=15),
        StoredRun(data=BINARY),
        TextRun(num_bytes=11),
        original=text[:15] + BINARY + text[15:],
        payload=ArithPayload(
            model=MODEL,
            segments=(
                segment(first, num_tokens=7, num_lanes=1, stream=b"\x11\x22\x33"),
                segment(second, num_tokens=13, num_lanes=2, stream=b"\x44\x55"),
            ),
            prefix_tokens=4,
            window_tokens=300,
            guard_code=80,
            wrap=1,
            mem=grid([1, -2, 0, 0, 1], [0, 3, -1, 0, 0], steps=[ONE, ONE_AND_A_HALF]),
        ),
    )


def segment(text: bytes, *, num_tokens: int, num_lanes: int, stream: bytes) -> ArithSegment:
    return ArithSegment(
        num_tokens=num_tokens,
        num_bytes=len(text),
        check=segment_check(text),
        num_lanes=num_lanes,
        stream=stream,
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


def named() -> Container:
    """Of a file hobbit.txt, with a check of the settings; otherwise as `tiny`."""
    return replace(tiny(), suffix=".txt", settings_check=0x1234)


GOLDEN = {
    "v1_tiny.crm": tiny,
    "v1_stored.crm": stored,
    "v1_named.crm": named,
    "v1_coded.crm": coded,
    "v1_signs.crm": signs,
    "v1_streams.crm": streams,
    "v1_shared.crm": shared,
    "v1_number.crm": numbered,
    "v1_arith.crm": arith,
}


if __name__ == "__main__":
    for name, make in GOLDEN.items():
        (HERE / name).write_bytes(write_container(make()))
