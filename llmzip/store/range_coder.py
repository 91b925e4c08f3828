"""Entropy coding of small integers: adaptive counts and one range coder stream.

Owns how counts become intervals, how counts follow what was seen, and the stream's bytes. Does not
know what the symbols mean.

The arithmetic is that of `constriction`, given integers only: what it makes of them is exact, so
that docs/FORMAT.md describes it without mentioning a float.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from constriction import stream  # type: ignore[import-untyped]

from llmzip.errors import Corrupt

Integers: TypeAlias = npt.NDArray[np.int32]

PRECISION = 24
ONE = 1 << PRECISION
UNIT = 32  # a symbol seen once; the first counts of a model are in fractions of that
MAX_TOTAL = 1 << 21  # 65536 symbols seen: more are made to weigh less
WORD_BYTES = 4
STATE_BITS = 64
SUREST = 1 << 8  # what an adaptive bit leaves to the other value, in units of 2^-24
MAX_PENDING_BITS = 1 << 16  # a writer hands bits to the library in bulk


class Counts:
    """How often each symbol of an alphabet is expected: first guesses, then what was seen."""

    def __init__(self, first: Iterable[int]) -> None:
        self.counts = np.array(list(first), dtype=np.int64)

    def add(self, symbols: Integers) -> None:
        """Count symbols, and halve all counts, rounding up, while they are too large."""
        self.counts += UNIT * np.bincount(symbols, minlength=len(self.counts))
        while int(self.counts.sum()) > MAX_TOTAL:
            self.counts = (self.counts + 1) // 2


class AdaptiveBit:
    """How likely the next bit is a 1: a first guess, then what was seen.

    A new bit counts for 1 / (seen + 2) of the whole, so that the first ones count most, and for no
    less than 1 / (most_seen + 2).
    """

    __slots__ = ("ones", "_seen", "_most_seen")

    def __init__(self, ones: int = ONE // 2, *, seen: int = 0, most_seen: int = 254) -> None:
        """`ones` is a probability in units of 2^-24, as good a guess as `seen` bits would give."""
        self.ones = ones
        self._seen = seen
        self._most_seen = most_seen

    def add(self, bit: int) -> None:
        """Move towards a bit. `ones` does not leave 1 to 2^24 - 1."""
        target = ONE - SUREST if bit else SUREST
        self.ones += (target - self.ones) // (self._seen + 2)
        if self._seen < self._most_seen:
            self._seen += 1


def boundaries(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where each symbol's interval of [0, 2^24) starts, and at last 2^24. None is empty.

    Two symbols at least; the counts' sum is at least 1 and below 2^39.
    """
    size = len(counts)
    below = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(counts)))
    starts: npt.NDArray[np.int64] = np.arange(size + 1) + below * (ONE - size) // below[-1]
    return starts


class RangeWriter:
    """Writes symbols to a stream."""

    def __init__(self) -> None:
        self._encoder = stream.queue.RangeEncoder()
        self._bits: list[int] = []  # not yet encoded
        self._ones: list[int] = []  # the probability of each

    def symbols(self, model: Counts, num_symbols: int, values: Integers | None) -> Integers:
        """Code symbols under one state of a model, then let the model count them."""
        chosen = _given(values)
        if num_symbols:
            self._encode_bits()
            self._encoder.encode(chosen, _categorical(model.counts))
            model.add(chosen)
        return chosen

    def uniform(self, sizes: Integers, values: Integers | None) -> Integers:
        """Code numbers below `sizes` (2 to 2^16 each) that are all as likely."""
        chosen = _given(values)
        if len(sizes):
            self._encode_bits()
            self._encoder.encode(chosen, stream.model.Uniform(), sizes)
        return chosen

    def bit(self, ones: int, bit: int | None) -> int:
        """Code a bit that is 1 with probability ones / 2^24; `ones` is 1 to 2^24 - 1.

        Of [0, 2^24), 0 has what is below 2^24 - ones, and 1 the rest.
        """
        assert bit is not None, "a writer needs values"
        self._bits.append(bit)
        self._ones.append(ones)
        if len(self._bits) >= MAX_PENDING_BITS:
            self._encode_bits()
        return bit

    def _encode_bits(self) -> None:
        if self._bits:
            ones = np.array(self._ones, dtype=np.float64)  # [num_bits]
            assert ones.min() >= 1 and ones.max() < ONE, "a probability out of range"
            weights = np.stack((ONE - ones - 1, ones - 1), axis=1)  # [num_bits, 2]
            bits = np.array(self._bits, dtype=np.int32)
            self._encoder.encode(bits, stream.model.Categorical(perfect=False), weights)
            self._bits, self._ones = [], []

    def finish(self, *, least_bytes: int) -> bytes:
        """The stream, with zeros behind it if it has fewer bytes than that.

        Any number in the last interval will do; the library's own end has up to seven bytes more
        than the shortest one.
        """
        self._encode_bits()
        words = self._encoder.get_compressed()
        num_words, (lower, width) = self._encoder.pos()  # the interval, behind the words before it
        num_bytes = WORD_BYTES * (num_words + 2)
        number = int.from_bytes(words.astype(">u4").tobytes().ljust(num_bytes, b"\0"), "big")
        first = number - (number - lower) % (1 << STATE_BITS)  # `number` lies in the interval
        kept = num_bytes
        while kept and (shorter := _round_up(first, num_bytes - kept + 1)) < first + width:
            number, kept = shorter, kept - 1
        return number.to_bytes(num_bytes, "big")[:kept].ljust(least_bytes, b"\0")


class RangeReader:
    """Reads back what a `RangeWriter` wrote. Whatever the bytes, the only error is Corrupt.

    Any bytes can be read as symbols, without end: callers bound how many they ask for, and compare
    with what the symbols are written as.
    """

    def __init__(self, data: bytes | memoryview, *, what: str) -> None:
        words = np.frombuffer(bytes(data) + bytes(-len(data) % WORD_BYTES), dtype=">u4")
        self._decoder = stream.queue.RangeDecoder(words.astype(np.uint32))
        self._what = what

    def symbols(self, model: Counts, num_symbols: int, _values: Integers | None) -> Integers:
        """The inverse of `RangeWriter.symbols`."""
        found = np.zeros(0, dtype=np.int32)
        if num_symbols:
            found = np.asarray(self._decode(_categorical(model.counts), num_symbols), np.int32)
            model.add(found)
        return found

    def uniform(self, sizes: Integers, _values: Integers | None) -> Integers:
        """The inverse of `RangeWriter.uniform`."""
        if not len(sizes):
            return np.zeros(0, dtype=np.int32)
        return np.asarray(self._decode(stream.model.Uniform(), sizes), np.int32)

    def bit(self, ones: int, _bit: int | None) -> int:
        """The inverse of `RangeWriter.bit`."""
        return int(self._decode(_two_way(ones)))

    def _decode(self, model: object, *amount: int | Integers) -> Any:
        try:
            return self._decoder.decode(model, *amount)
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # a panic of the library is no Exception
            raise Corrupt(f"{self._what}: damaged stream of coded symbols") from error


RangeCoder: TypeAlias = RangeWriter | RangeReader


def _categorical(counts: npt.NDArray[np.int64]) -> object:
    """The library's model with exactly the intervals of `boundaries`.

    It adds one to every weight and scales the rest to 2^24 - n, here by exactly 1.
    """
    weights = np.diff(boundaries(counts)) - 1
    return stream.model.Categorical(weights.astype(np.float64), perfect=False)


@lru_cache(maxsize=1 << 14)
def _two_way(ones: int) -> object:
    """The model of one bit, with the intervals of `RangeWriter.bit`: see `_categorical`."""
    assert 1 <= ones < ONE, "a probability out of range"
    weights = np.array([ONE - ones - 1, ones - 1], dtype=np.float64)
    return stream.model.Categorical(weights, perfect=False)


def _round_up(number: int, num_bytes: int) -> int:
    """The next number, or the same, whose lowest `num_bytes` bytes are 0."""
    return -(-number >> 8 * num_bytes) << 8 * num_bytes


def _given(values: Integers | None) -> Integers:
    assert values is not None, "a writer needs values"
    return np.ascontiguousarray(values, dtype=np.int32)
