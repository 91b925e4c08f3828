"""Texts cut into segments, and their sizes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmzip.codecs.arith import segments as segments_module
from llmzip.codecs.arith.line_breaks import rewrap
from llmzip.codecs.arith.segments import Segment, cut_segments, prefix_tokens
from llmzip.lm.tokens import Piece, Tokens
from llmzip.store.arith_payload import MAX_LANES, MAX_PREFIX_TOKENS
from tests.tiny_models import TEXT

PROSE = TEXT.encode()
LONG = 400_000


@pytest.fixture(scope="module")
def tokens(tiny_model: Callable[..., Path]) -> Tokens:
    return Tokens.load(tiny_model("llama"))


class OneByteTokens:
    """As `Tokens`, but quick: an id a byte."""

    def encode(self, data: bytes) -> list[Piece]:
        return [Piece(data, tuple(data))] if data else []


def cut(
    text: bytes, tokens: object, *, wrap: int = 0, head_tokens: int = 2, max_positions: int = 512
) -> list[Segment]:
    """The segments, after a look at what must hold for any text."""
    found = cut_segments(
        text,
        wrap,
        tokens,
        head_tokens=head_tokens,
        max_positions=max_positions,  # type: ignore
    )
    assert found is not None
    assert b"".join(segment.original for segment in found) == text
    prefix = prefix_tokens(max_positions)
    for segment in found:
        lanes = segment.lanes
        assert lanes.num_tokens == len(segment.ids) >= 1
        assert 1 <= lanes.num_lanes <= min(MAX_LANES, len(segment.ids))
        longest = max(last - first for first, last in lanes.spans)
        assert head_tokens + lanes.prefix_tokens + longest <= max_positions
        # The decoder knows no more than the file's prefix.
        expected = min(prefix, lanes.num_tokens - lanes.num_lanes) if lanes.num_lanes > 1 else 0
        assert lanes.prefix_tokens == expected
        if wrap:
            assert segment.flags is not None
            assert rewrap(segment.unwrapped, segment.flags, wrap) == segment.original
        else:
            assert segment.flags is None and segment.unwrapped == segment.original
        pieces = tokens.encode(segment.unwrapped)  # type: ignore[attr-defined]
        assert segment.ids == [token for piece in pieces for token in piece.ids]
    return found


def test_a_short_text_is_one_segment(tokens: Tokens) -> None:
    (segment,) = cut(PROSE, tokens)
    assert tokens.bytes_of(segment.ids) == PROSE


@pytest.mark.parametrize("text", [b"a", b"\n", b" ", b"\xff", b"ab", "é".encode()])
@pytest.mark.parametrize("wrap", [0, 1, 2])
def test_tiny_texts(text: bytes, wrap: int, tokens: Tokens) -> None:
    (segment,) = cut(text, tokens, wrap=wrap)
    assert segment.lanes.num_lanes == 1


@pytest.mark.parametrize("wrap", [0, 1, 2])
def test_line_ends_are_taken_out(wrap: int, tokens: Tokens) -> None:
    text = PROSE.replace(b"\n", b"\r\n") * 12 if wrap == 2 else PROSE * 12
    found = cut(text, tokens, wrap=wrap)
    assert len(found) > 1
    num_flags = sum(int(segment.flags.sum()) for segment in found if segment.flags is not None)
    assert (num_flags > 50) == (wrap > 0)


@pytest.mark.parametrize("max_positions", [8, 24, 64, 512, 2048, 8192])
@pytest.mark.parametrize("head_tokens", [0, 1, 5])
def test_no_lane_is_longer_than_the_model_reads(max_positions: int, head_tokens: int) -> None:
    for size in (1, 2, 30, 5000):
        text = (PROSE * 8)[:size]
        cut(text, OneByteTokens(), head_tokens=head_tokens, max_positions=max_positions)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_one_lane_as_long_as_the_model_reads(off: int) -> None:
    """Just below, at and above what one lane takes without a prefix being needed."""
    max_positions, head_tokens = 512, 2
    room = max_positions - head_tokens - prefix_tokens(max_positions)
    (segment,) = cut(b"x" * (room + off), OneByteTokens(), head_tokens=head_tokens)
    assert segment.lanes.num_lanes == 1
    (segment,) = cut(b"x" * (room + 65), OneByteTokens(), head_tokens=head_tokens)
    assert segment.lanes.num_lanes == 2


def test_sizes_of_a_large_text() -> None:
    """With a model that reads much: few segments of like size, each of many lanes."""
    text = (PROSE * 600)[:LONG]
    found = cut(text, OneByteTokens(), max_positions=8192)
    sizes = [len(segment.ids) for segment in found]
    assert max(sizes) <= 1 << 16 and min(sizes) > 0.8 * max(sizes)
    assert {segment.lanes.num_lanes for segment in found} <= set(range(10, 17))


def test_segments_end_with_lines_or_words() -> None:
    lines = cut((PROSE * 600)[:LONG], OneByteTokens(), max_positions=8192)
    assert all(segment.original.endswith(b"\n") for segment in lines[:-1])
    words = cut((PROSE.replace(b"\n", b" ") * 600)[:LONG], OneByteTokens(), max_positions=8192)
    assert all(segment.original.startswith(b" ") for segment in words[1:])


def test_one_huge_line() -> None:
    """Without a space to cut at."""
    found = cut(b"a" * LONG, OneByteTokens(), max_positions=8192)
    sizes = [len(segment.ids) for segment in found]
    assert max(sizes) - min(sizes) <= 4


@pytest.mark.parametrize("char", ["é", "€", "\U0001f600"])
def test_no_cut_inside_a_character(char: str) -> None:
    text = ("x" + char * LONG).encode()[: LONG // 4 * 4 + 1]
    text = text[: len(text) - (len(text) - 1) % len(char.encode())]
    found = cut(text, OneByteTokens(), max_positions=8192)
    assert len(found) > 4
    for segment in found:
        segment.original.decode()


@pytest.mark.parametrize("byte", [b"\x80", b"\xbf", b"\xc3", b"\xff"])
def test_bytes_that_are_no_utf8(byte: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be no place between characters to cut at: pieces are of like size even so."""
    monkeypatch.setattr(segments_module, "_SEGMENT_BYTES", 1000)
    found = cut(byte * 10_000, OneByteTokens(), max_positions=8192)
    sizes = [len(segment.ids) for segment in found]
    assert len(found) == 10 and max(sizes) - min(sizes) <= 6


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=300)
    | st.text("a é€\n", max_size=200).map(str.encode)
    | st.text(" \n\r.", max_size=200).map(str.encode),
    st.sampled_from([0, 1, 2]),
    st.integers(1, 60),
)
def test_small_segments_of_any_text(text: bytes, wrap: int, size: int) -> None:
    """With limits made small: whatever the pieces, they join to the text, and are not empty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments_module, "_SEGMENT_BYTES", size)
        patch.setattr(segments_module, "_SEGMENT_TOKENS", 2 * size)
        found = cut(text, OneByteTokens(), wrap=wrap, max_positions=32) if text else []
    assert len(found) <= 2 * len(text)


def test_a_long_text_of_a_real_tokenizer(tokens: Tokens) -> None:
    rng = random.Random(0)
    words = PROSE.split()
    text = b"".join(rng.choice(words) + rng.choice([b" ", b" ", b"\n"]) for _ in range(8000))
    found = cut(text, tokens, wrap=1)
    assert len(found) > 4
    assert all(segment.lanes.num_lanes > 8 for segment in found)


def test_a_text_that_cannot_be_spelt() -> None:
    class Poor(OneByteTokens):
        def encode(self, data: bytes) -> list[Piece]:
            head, mark, tail = data.partition(b"?")
            pieces = [Piece(head, tuple(head)), Piece(mark, None), Piece(tail, tuple(tail))]
            return [piece for piece in pieces if piece.data]

    poor: Tokens = Poor()  # type: ignore[assignment]
    assert cut_segments(b"what", 0, poor, head_tokens=1, max_positions=512) is not None
    assert cut_segments(b"what?", 0, poor, head_tokens=1, max_positions=512) is None
    long = b"x" * (1 << 18) + b"?"  # in the last of several segments
    assert cut_segments(long, 0, poor, head_tokens=1, max_positions=512) is None


@pytest.mark.parametrize("max_positions", [1, 8, 512, 2048, 1 << 20])
def test_a_prefix_is_a_small_part_of_what_the_model_reads(max_positions: int) -> None:
    assert 0 <= prefix_tokens(max_positions) <= min(max_positions / 8, MAX_PREFIX_TOKENS)


def test_segments_are_cut_alike_each_time() -> None:
    text = (PROSE * 100)[:60_000]
    one, two = (cut(text, OneByteTokens()) for _ in range(2))
    assert [(s.original, s.ids, s.lanes) for s in one] == [
        (s.original, s.ids, s.lanes) for s in two
    ]
    assert np.unique([len(s.ids) for s in one]).size > 1
