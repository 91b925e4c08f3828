"""The input of a codec: which stretches of a file are text for the model, and their tokens.

Owns the three reasons to store a stretch with zstd instead, told from the bytes alone: it is
binary, it is so dense that no model of text can predict it (compressed, encrypted or encoded data),
or it repeats itself so much that zstd needs next to nothing. Knows nothing of codecs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import zstandard

if TYPE_CHECKING:
    from llmzip.lm.tokens import Tokens

_BLOCK_BYTES = 4096
# A ratio taken on fewer bytes says more about zstd's framing than about the data.
_JUDGED_BYTES = 1024
_BINARY_SHARE = 0.1  # control characters and bytes that are not UTF-8
_DENSE_RATIO = 0.75  # zstd's share of the original: prose 0.5, base64 0.76, random 1.0
_REPETITIVE_RATIO = 0.05
# Fewer tokens than this are stored: a vector for so little is waste even beside other 16-bit
# vectors.
_MIN_CRAM_TOKENS = 8
_SHORT_BYTES = 64  # a short stretch of text between stored ones is stored with them

_TEXT_CONTROLS = frozenset(b"\t\n\r\f\x1b")
_CONTROLS = bytes(c for c in range(32) if c not in _TEXT_CONTROLS) + b"\x7f"


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Consecutive bytes of one kind."""

    data: bytes
    is_text: bool  # worth the model


@dataclass(frozen=True, kw_only=True)
class Part:
    """A stretch of the input: its bytes, and its tokens where it is for the model."""

    data: bytes
    ids: tuple[int, ...] | None


def split_stretches(data: bytes) -> list[Stretch]:
    """Cut data into stretches that alternate in kind; joined they are `data`."""
    joined = _join(_blocks(data))
    if len(joined) == 1:
        return joined
    return _join(
        Stretch(data=s.data, is_text=s.is_text and len(s.data) >= _SHORT_BYTES) for s in joined
    )


def tokenised_parts(stretches: Sequence[Stretch], tokens: Tokens) -> list[Part]:
    """Tokenise the stretches of text; what has no tokens, or hardly any, stays bytes. Neighbours
    differ in kind."""
    parts: list[Part] = []
    for stretch in stretches:
        pieces = tokens.encode(stretch.data) if stretch.is_text else []
        found = [Part(data=piece.data, ids=piece.ids) for piece in pieces]
        for part in found or [Part(data=stretch.data, ids=None)]:
            if part.ids is not None and len(part.ids) < _MIN_CRAM_TOKENS:
                part = Part(data=part.data, ids=None)
            if parts and (parts[-1].ids is None) == (part.ids is None):
                before = parts.pop()
                ids = None if part.ids is None else (before.ids or ()) + part.ids
                part = Part(data=before.data + part.data, ids=ids)
            parts.append(part)
    return parts


def _join(stretches: Iterable[Stretch]) -> list[Stretch]:
    """Neighbours of one kind made one."""
    return [
        Stretch(data=b"".join(stretch.data for stretch in run), is_text=is_text)
        for is_text, run in groupby(stretches, key=lambda stretch: stretch.is_text)
    ]


def _blocks(data: bytes) -> Iterator[Stretch]:
    compressor = zstandard.ZstdCompressor(level=3)
    start = 0
    while start < len(data):
        end = _cut(data, start)
        block = data[start:end]
        yield Stretch(data=block, is_text=_is_text(block, compressor))
        start = end


def _cut(data: bytes, start: int) -> int:
    """End of the block that starts here, moved back to a line or word end where one is near."""
    end = start + _BLOCK_BYTES
    if end >= len(data):
        return len(data)
    for mark in (b"\n", b" "):
        found = data.rfind(mark, end - 256, end)
        if found >= 0:
            return found + 1
    return end


def _is_text(block: bytes, compressor: zstandard.ZstdCompressor) -> bool:
    # Replacement characters stand for bytes that are not UTF-8; a block cut inside a character
    # adds at most one.
    not_utf8 = block.decode("utf-8", "replace").count("\ufffd") - block.count(b"\xef\xbf\xbd")
    controls = len(block) - len(block.translate(None, _CONTROLS))
    if not_utf8 + controls > max(2, _BINARY_SHARE * len(block)):
        return False
    if len(block) < _JUDGED_BYTES:
        return True
    ratio = len(compressor.compress(block)) / len(block)
    return _REPETITIVE_RATIO <= ratio <= _DENSE_RATIO
