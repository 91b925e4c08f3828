"""One original in `.crm` files of every kind, made with a tiny model, for tests that read parts.

Owns the text and how the files are put together: each has several pieces, several segments, and
stored bytes between and behind the text.
"""

from __future__ import annotations

from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest

from llmzip.api.compress import compress_bytes
from llmzip.codecs.arith import encoder as arith_encoding
from llmzip.config import CompressSettings
from llmzip.store.container import read_container, write_container
from llmzip.store.original import content_hash
from llmzip.store.payload import StoredRun, TextRun
from tests.containers import changed, cram_of
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
                compress_bytes(text, CompressSettings(model=str(model), **_SETTINGS[kind]))
            )
            for text in texts
        ]
    first, second = (TextRun(num_bytes=len(text)) for text in (FIRST, SECOND))
    runs = (first, StoredRun(data=BETWEEN), second, StoredRun(data=TAIL))
    whole = changed(found[0], runs=runs, original_hash=content_hash(ORIGINAL))
    if kind != "arith":
        assert [len(one.runs) for one in found] == [1, 1]
        payloads = [cram_of(one) for one in found]
        chunks, streams = (
            tuple(each for payload in payloads for each in getattr(payload, name))
            for name in ("chunks", "streams")
        )
        whole = changed(whole, chunks=chunks, streams=streams)
    return write_container(whole)


@cache
def pieces(kind: str, model: Path) -> tuple[tuple[int, int], ...]:
    """Where each chunk or segment begins and ends in the text without what is stored."""
    payload = read_container(held(kind, model)).payload
    assert payload is not None
    ends = list(accumulate(piece.num_bytes for piece in payload.pieces))
    return tuple(pairwise([0, *ends]))


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
