"""One original in `.crm` files of every kind, made with a tiny model, for tests that read parts.

Owns the text and how the files are put together: each has several pieces, several segments, and
stored bytes between and behind the text. Called by the tests of random access and of salvage.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from llmzip.api import compress as codec
from llmzip.codecs.arith import encoder as arith_encoding
from llmzip.config import CompressSettings
from llmzip.store.container import (
    ArithRun,
    Container,
    CramRun,
    StoredRun,
    content_hash,
    read_container,
    write_container,
)
from tests.tiny_models import TEXT

KINDS = ("raw", "coded", "arith")
_WHOLE = TEXT.encode()
FIRST, BETWEEN, SECOND, TAIL = _WHOLE[:110], b"\0\1\2stored\xff", _WHOLE[120:190], b"\3tail\xfe"
ORIGINAL = FIRST + BETWEEN + SECOND + TAIL
_CRAM: dict[str, Any] = {"budget_bits": 60.0, "max_steps": 40, "context_tokens": 16}
_SETTINGS: dict[str, dict[str, Any]] = {
    "raw": {"bits": 16, **_CRAM},
    "coded": {"preset": "fast", "bits": 3, **_CRAM},
    "arith": {"codec": "arith", "shared_mem": 1},
}


@cache
def held(kind: str, model: Path) -> bytes:
    """The file of a kind: crammed and stored runs in turn, or segments of which one goes on behind
    the stored bytes."""
    texts = (FIRST + SECOND,) if kind == "arith" else (FIRST, SECOND)
    with pytest.MonkeyPatch.context() as patch:
        # A random model predicts worse than zstd, and no text here is as long as a segment.
        patch.setattr(arith_encoding, "pack_stored", lambda data: bytes(1 << 20))
        patch.setattr("llmzip.codecs.arith.segments._TOKENS_OF_ONE_LANE", 30)
        patch.setattr("llmzip.codecs.arith.segments._SEGMENT_BYTES", 50)
        found = [
            read_container(
                codec.compress_bytes(text, CompressSettings(model=str(model), **_SETTINGS[kind]))
            )
            for text in texts
        ]
    between, tail = StoredRun(data=BETWEEN), StoredRun(data=TAIL)
    if kind == "arith":
        first, second = ArithRun(num_bytes=len(FIRST)), ArithRun(num_bytes=len(SECOND))
        return _file(found[0], (first, between, second, tail))
    runs = [run for one in found for run in one.runs]
    assert [type(run) for run in runs] == [CramRun, CramRun]
    return _file(found[0], (runs[0], between, runs[1], tail))


@cache
def pieces(kind: str, model: Path) -> tuple[tuple[int, int], ...]:
    """Where each chunk or segment begins and ends in the text without what is stored."""
    container = read_container(held(kind, model))
    places, begin = [], 0
    for piece in container.arith.segments if container.arith else container.chunks:
        places.append((begin, begin + piece.num_bytes))
        begin += piece.num_bytes
    return tuple(places)


def in_original(place: int) -> int:
    """Where a byte of the text lies in the original."""
    return place if place < len(FIRST) else place + len(BETWEEN)


def piece_of_each_byte(kind: str, model: Path) -> list[int | None]:
    """The chunk or segment that gives each byte of the original; None: it is stored."""
    found: list[int | None] = [None] * len(ORIGINAL)
    for number, (first, last) in enumerate(pieces(kind, model)):
        for place in range(first, last):
            found[in_original(place)] = number
    return found


def _file(like: Container, runs: tuple[Any, ...]) -> bytes:
    return write_container(
        replace(like, runs=runs, original_bytes=len(ORIGINAL), original_hash=content_hash(ORIGINAL))
    )
