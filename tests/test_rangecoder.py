"""Entropy coding: intervals, streams and Rice codes, against the reference reader's own decoder."""

from __future__ import annotations

from contextlib import nullcontext
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from crm_coding import BadFile, Decoder, Reader
from hypothesis import given, settings
from hypothesis import strategies as st

from llmzip.errors import Corrupt
from llmzip.store.range_coder import (
    MAX_PENDING_BITS,
    MAX_TOTAL,
    ONE,
    SUREST,
    AdaptiveBit,
    Counts,
    RangeReader,
    RangeWriter,
    boundaries,
)
from llmzip.store.varint import Cursor, pack_rice, read_rice


def ints(values: Any) -> np.ndarray:
    return np.array(values, dtype=np.int32)


# Intervals and counts


def test_intervals_are_the_documented_ones() -> None:
    assert boundaries(np.array([1, 1])).tolist() == [0, 1 << 23, ONE]
    assert boundaries(np.array([0, 5])).tolist() == [0, 1, ONE]
    assert boundaries(np.array([3, 0, 1])).tolist() == [
        0,
        1 + 3 * (ONE - 3) // 4,
        2 + 3 * (ONE - 3) // 4,
        ONE,
    ]
    large = boundaries(np.array([2**38 - 1, 1]))
    assert large.tolist() == [0, 1 + (2**38 - 1) * (ONE - 2) // 2**38, ONE]


@settings(max_examples=100, derandomize=True, database=None)
@given(counts=st.lists(st.integers(0, 2**20), min_size=2, max_size=60).filter(any))
def test_no_interval_is_empty(counts: list[int]) -> None:
    found = boundaries(np.array(counts))
    assert found[0] == 0 and found[-1] == ONE and (np.diff(found) >= 1).all()
    total = sum(counts)
    for index in range(len(counts)):
        assert found[index] == index + sum(counts[:index]) * (ONE - len(counts)) // total


def test_counts_grow_and_are_halved() -> None:
    counts = Counts([5, 0, 7])
    counts.add(ints([2, 2, 0]))
    assert counts.counts.tolist() == [37, 0, 71]
    counts = Counts([0, 3, MAX_TOTAL - 3 - 32])
    counts.add(ints([1]))
    assert counts.counts.sum() == MAX_TOTAL
    counts.add(ints([0]))
    assert counts.counts.tolist() == [16, 18, (MAX_TOTAL - 34) // 2]


def test_adaptive_bit_follows_what_it_sees() -> None:
    bit = AdaptiveBit()
    bit.add(1)
    assert bit.ones == ONE // 2 + (ONE // 2 - SUREST) // 2
    bit = AdaptiveBit(3000, seen=8, most_seen=9)
    for ones in (3000 - 275, 2725 - 225, 2500 - 204):  # a 10th, then 11ths of the way, rounded up
        bit.add(0)
        assert bit.ones == ones


@pytest.mark.parametrize("first", [1, SUREST, ONE // 2, ONE - 1])
@pytest.mark.parametrize("value", [0, 1])
def test_adaptive_bit_stays_in_range(first: int, value: int) -> None:
    bit = AdaptiveBit(first)
    for _ in range(10_000):
        bit.add(value)
        assert 1 <= bit.ones < ONE
    likely = bit.ones if value else ONE - bit.ones
    assert likely >= ONE - 2 * SUREST


# Streams

PROBABILITIES = st.sampled_from([1, 2, 1000, ONE // 2, ONE - 2, ONE - 1]) | st.integers(1, ONE - 1)


def reference_bit(decoder: Any, ones: int) -> int:
    """docs/FORMAT.md's bit, on the reference reader's decoder."""
    bit: int = decoder.symbol((0, ONE - ones))
    return bit


@st.composite
def sessions(draw: st.DrawFn) -> list[tuple[str, Any, list[int]]]:
    """Calls to a coder: ("symbols", first counts, symbols), ("uniform", sizes, numbers) or
    ("bit", probabilities, bits)."""
    calls: list[tuple[str, Any, list[int]]] = []
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(["symbols", "uniform", "bit"]))
        if kind == "bit":
            ones = draw(st.lists(PROBABILITIES, max_size=8))
            calls.append((kind, ones, [draw(st.integers(0, 1)) for _ in ones]))
            continue
        if kind == "uniform":
            sizes = draw(st.lists(st.integers(2, 65536), max_size=8))
            calls.append(("uniform", sizes, [draw(st.integers(0, n - 1)) for n in sizes]))
            continue
        size = draw(st.sampled_from([2, 3, 23, 2047]))
        seed = draw(st.integers(0, 2**32 - 1))
        rng = np.random.default_rng(seed)
        counts = rng.integers(0, draw(st.sampled_from([2, 50, 10**6])), size)
        counts[int(rng.integers(size))] += 1
        amount = draw(st.sampled_from([0, 1, 2, 70, 700]))
        some = rng.integers(0, draw(st.sampled_from([1, size])), amount)
        calls.append(("symbols", counts.tolist(), some.tolist()))
    return calls


@settings(max_examples=150, derandomize=True, database=None, deadline=None)
@given(calls=sessions())
def test_two_decoders_agree(calls: list[tuple[str, Any, list[int]]]) -> None:
    writer = RangeWriter()
    for kind, what, values in calls:
        if kind == "symbols":
            writer.symbols(Counts(what), len(values), ints(values))
        elif kind == "bit":
            assert [writer.bit(*one) for one in zip(what, values, strict=True)] == values
        else:
            writer.uniform(ints(what), ints(values))
    data = writer.finish(least_bytes=3)
    reader, reference = RangeReader(data, what="test"), Decoder(data, 3)
    for kind, what, values in calls:
        if kind == "symbols":
            model, plain = Counts(what), list(what)
            assert reader.symbols(model, len(values), None).tolist() == values
            assert reference.symbols(plain, len(values)) == values
            assert model.counts.tolist() == plain
        elif kind == "bit":
            assert [reader.bit(ones, None) for ones in what] == values
            assert [reference_bit(reference, ones) for ones in what] == values
        else:
            assert reader.uniform(ints(what), None).tolist() == values
            assert [reference.uniform(size) for size in what] == values
    reference.end()  # the one form of what was coded


def interval(calls: list[tuple[list[int], list[int]]]) -> tuple[Fraction, Fraction]:
    """Where a stream's number lies: the encoder of docs/FORMAT.md in exact arithmetic."""
    parts: list[tuple[int, int]] = []
    for counts, symbols in calls:
        starts = boundaries(np.array(counts)).tolist()
        parts += [(starts[symbol], starts[symbol + 1]) for symbol in symbols]
    return narrowed(parts)


def narrowed(parts: list[tuple[int, int]]) -> tuple[Fraction, Fraction]:
    """[0, 1) after a start and an end within [0, 2^24) for each symbol."""
    low, width, scale_bits = 0, (1 << 64) - 1, 64
    for start, end in parts:
        scale = width >> 24
        low += scale * start
        width = scale * (end - start)
        if width < 1 << 32:
            low, width, scale_bits = low << 32, width << 32, scale_bits + 32
    return Fraction(low, 1 << scale_bits), Fraction(low + width, 1 << scale_bits)


@settings(max_examples=150, derandomize=True, database=None, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    amount=st.integers(1, 60),
    size=st.sampled_from([2, 5, 300]),
    skew=st.sampled_from([1, 4, 40]),
)
def test_a_stream_is_the_shortest_number_in_its_interval(
    seed: int, amount: int, size: int, skew: int
) -> None:
    rng = np.random.default_rng(seed)
    counts = (1 + 10**6 * rng.random(size) ** skew).astype(np.int64)
    symbols = rng.choice(size, amount, p=counts / counts.sum())
    writer = RangeWriter()
    writer.symbols(Counts(counts), amount, ints(symbols))
    data = writer.finish(least_bytes=0)
    first, end = interval([(counts.tolist(), symbols.tolist())])
    number = int.from_bytes(data, "big")
    assert first <= Fraction(number, 256 ** len(data)) < end
    if number:
        assert Fraction(number - 1, 256 ** len(data)) < first  # the smallest of its length
    for shorter in range(len(data)):
        unit = 256**shorter
        assert -(-first * unit // 1) >= end * unit
    longest = 256 ** (len(data) + 1)
    least = int(-(-first * longest // 1)).to_bytes(len(data) + 2, "big")[1:]
    longer = {data + b"\1", least} - {data + b"\0"}
    for other in (data, *longer):
        decoder = Decoder(other, 0)
        if first <= Fraction(int.from_bytes(other, "big"), 256 ** len(other)) < end:
            assert decoder.symbols(counts.tolist(), amount) == symbols.tolist()
            with nullcontext() if other == data else pytest.raises(BadFile):
                decoder.end()


@settings(max_examples=150, derandomize=True, database=None, deadline=None)
@given(coded=st.lists(st.tuples(PROBABILITIES, st.integers(0, 1)), min_size=1, max_size=60))
def test_bits_have_exactly_their_intervals(coded: list[tuple[int, int]]) -> None:
    """The library's intervals, those of a whole list at once, are the integers of the text."""
    writer = RangeWriter()
    parts = []
    for ones, bit in coded:
        writer.bit(ones, bit)
        parts.append((ONE - ones, ONE) if bit else (0, ONE - ones))
    data = writer.finish(least_bytes=0)
    num_words, (low, width) = writer._encoder.pos()
    first, end = narrowed(parts)
    assert end - first == Fraction(width, 1 << (32 * num_words + 64))
    assert (first * (1 << 32 * num_words + 64)) % (1 << 64) == low
    assert first <= Fraction(int.from_bytes(data, "big"), 256 ** len(data)) < end


@pytest.mark.parametrize("ones", [1, 2, ONE // 2, ONE - 2, ONE - 1])
def test_one_bit_to_the_last_unit(ones: int) -> None:
    """The point at either side of the border, through the reader."""
    scale = ((1 << 64) - 1) >> 24
    border = scale * (ONE - ones)
    for point, bit in ((border - 1, 0), (border, 1), (0, 0), (scale * ONE - 1, 1)):
        assert RangeReader(point.to_bytes(8, "big"), what="test").bit(ones, None) == bit
    with pytest.raises(Corrupt):
        RangeReader(b"\xff" * 8, what="test").bit(ones, None)
    with pytest.raises(BadFile):
        reference_bit(Decoder(b"\xff" * 8, 0), ones)


def test_many_bits_are_encoded_in_parts() -> None:
    rng = np.random.default_rng(1)
    amount = MAX_PENDING_BITS + 3
    ones = rng.integers(1, 4, amount) * (ONE // 4)
    bits = (rng.random(amount) * ONE < ones).astype(int).tolist()
    writer, single = RangeWriter(), RangeWriter()
    for probability, bit in zip(ones.tolist(), bits, strict=True):
        writer.bit(probability, bit)
        single.bit(probability, bit)
        single._encode_bits()
    data = writer.finish(least_bytes=0)
    assert data == single.finish(least_bytes=0)
    reader = RangeReader(data, what="test")
    assert [reader.bit(probability, None) for probability in ones.tolist()] == bits


def test_no_symbols_take_no_bytes() -> None:
    writer = RangeWriter()
    writer.symbols(Counts([1, 1]), 0, ints([]))
    writer.uniform(ints([]), ints([]))
    assert writer.finish(least_bytes=0) == b""
    assert writer.finish(least_bytes=3) == bytes(3)


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(data=st.binary(max_size=20), seed=st.integers(0, 2**32 - 1))
def test_any_bytes_give_symbols_or_corrupt(data: bytes, seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 100, 7) + 1
    reader, reference = RangeReader(data, what="test"), Decoder(data, 0)
    plain = counts.tolist()
    try:
        found = reader.symbols(Counts(counts), 40, None).tolist()
    except Corrupt:
        with pytest.raises(BadFile):
            reference.symbols(plain, 40)
    else:
        assert reference.symbols(plain, 40) == found


# Rice codes


def test_rice_bytes() -> None:
    assert pack_rice([]) == b""
    assert pack_rice([4, 2, 3]).hex(" ") == "01 54 02"
    assert pack_rice([0, 0, 2]).hex(" ") == "00 13"
    assert pack_rice([0]) == b"\0\1"
    assert read_rice(Cursor(b"", what="test"), 0, what="test") == []


@settings(max_examples=200, derandomize=True, database=None)
@given(
    numbers=st.lists(st.integers(0, 300) | st.integers(0, 2**40) | st.just(0), max_size=30),
    tail=st.binary(max_size=3),
)
def test_rice_round_trip(numbers: list[int], tail: bytes) -> None:
    data = pack_rice(numbers)
    source = Cursor(data + tail, what="test")
    assert read_rice(source, len(numbers), what="test") == numbers
    assert bytes(source.rest()) == tail
    reference = Reader(data + tail)
    assert reference.rice(len(numbers)) == numbers and reference.at == len(data)
    if numbers:
        sizes = [len(numbers) * (k + 1) + sum(n >> k for n in numbers) for k in range(63)]
        assert data[0] == sizes.index(min(sizes)) and len(data) == 1 + (min(sizes) + 7) // 8


@settings(max_examples=300, derandomize=True, database=None)
@given(data=st.binary(max_size=12), count=st.integers(1, 6))
def test_any_bytes_give_rice_numbers_or_corrupt(data: bytes, count: int) -> None:
    source, reference = Cursor(data, what="test"), Reader(data)
    try:
        numbers = read_rice(source, count, what="test")
    except Corrupt:
        with pytest.raises(BadFile):
            reference.rice(count)
        return
    assert pack_rice(numbers) == data[: source.offset]
    assert reference.rice(count) == numbers and reference.at == source.offset


@pytest.mark.parametrize(
    "data, count, message",
    [
        ("", 1, "too early"),
        ("3f ff", 1, "more than 63 bits"),
        ("00 00", 1, "fewer than 1"),
        ("00 01", 2, "fewer than 2"),
        ("08 01", 1, "fewer than 1"),
        ("05 01", 1, "shortest"),
        ("00 03", 1, "shortest"),
        ("01 01", 1, "shortest"),
        ("3e 04 00 00 00 00 00 00 00 00 00", 1, "2\\*\\*63"),
    ],
)
def test_rice_damage(data: str, count: int, message: str) -> None:
    with pytest.raises(Corrupt, match=message):
        read_rice(Cursor(bytes.fromhex(data), what="test"), count, what="test")
    with pytest.raises(BadFile):
        Reader(bytes.fromhex(data)).rice(count)
