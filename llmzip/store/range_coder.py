"""Entropy coding of small integers: adaptive counts and one range coder stream.

Owns how counts become intervals, how counts adapt to the symbols coded so far, and the bytes of the
stream. Does not know what the symbols mean.

The arithmetic is that of the library `constriction`. Its models take floats, but they are given
integers only, for which they are exact, so that docs/FORMAT.md needs no floats.
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
UNIT = 32  # what one symbol adds to its count; the first counts of a model may be smaller
MAX_TOTAL = 1 << 21  # 65536 symbols; beyond that all counts are halved
WORD_BYTES = 4
STATE_BITS = 64
SUREST = 1 << 8  # the least probability of either value of an adaptive bit, in units of 2^-24
MAX_PENDING_BITS = 1 << 16  # bits that a writer collects for one call of the library


class Counts:
    """A weight for each symbol of an alphabet: a first guess, to which coded symbols are added."""

    def __init__(self, first: Iterable[int]) -> None:
        self.counts = np.array(list(first), dtype=np.int64)

    def add(self, symbols: Integers) -> None:
        """Count symbols. While the sum is over MAX_TOTAL, all counts are halved, rounding up."""
        self.counts += UNIT * np.bincount(symbols, minlength=len(self.counts))
        while int(self.counts.sum()) > MAX_TOTAL:
            self.counts = (self.counts + 1) // 2


class AdaptiveBit:
    """The probability that the next bit is a 1: a first guess that adapts to the coded bits.

    A new bit gets the weight 1 / (seen + 2), and 1 / (most_seen + 2) at least, so that the first
    bits count most.
    """

    __slots__ = ("ones", "_seen", "_most_seen")

    def __init__(self, ones: int = ONE // 2, *, seen: int = 0, most_seen: int = 254) -> None:
        """ones: the first guess, in units of 2^-24. seen: the number of bits that it is worth."""
        self.ones = ones
        self._seen = seen
        self._most_seen = most_seen

    def add(self, bit: int) -> None:
        """Adapt to a coded bit. `ones` stays within 1 to 2^24 - 1."""
        target = ONE - SUREST if bit else SUREST
        self.ones += (target - self.ones) // (self._seen + 2)
        if self._seen < self._most_seen:
            self._seen += 1


def boundaries(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where the interval of each symbol starts in [0, 2^24), and 2^24 itself: [n + 1]. No interval
    is empty.

    counts: [n], of two symbols at least; their sum is at least 1 and below 2^39.
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
        """Code symbols with the present counts of a model, then add the symbols to them."""
        chosen = _given(values)
        if num_symbols:
            self._encode_bits()
            self._encoder.encode(chosen, _categorical(model.counts))
            model.add(chosen)
        return chosen

    def uniform(self, sizes: Integers, values: Integers | None) -> Integers:
        """Code one number below each of `sizes` (2 to 2^16), all values equally likely."""
        chosen = _given(values)
        if len(sizes):
            self._encode_bits()
            self._encoder.encode(chosen, stream.model.Uniform(), sizes)
        return chosen

    def bit(self, ones: int, bit: int | None) -> int:
        """Code a bit that is 1 with probability ones / 2^24; `ones` is 1 to 2^24 - 1.

        The interval of 0 is [0, 2^24 - ones), that of 1 is the rest of [0, 2^24).
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
        """The bytes of the stream, filled up with zeros to `least_bytes`.

        Any number in the final interval decodes to the same symbols. The one that the library
        chooses has up to seven bytes more than the shortest one, which is taken here.
        """
        self._encode_bits()
        words = self._encoder.get_compressed()
        num_words, (lower, width) = self._encoder.pos()  # the interval, after the finished words
        num_bytes = WORD_BYTES * (num_words + 2)
        number = int.from_bytes(words.astype(">u4").tobytes().ljust(num_bytes, b"\0"), "big")
        first = number - (number - lower) % (1 << STATE_BITS)  # `number` lies in the interval
        kept = num_bytes
        while kept and (shorter := _round_up(first, num_bytes - kept + 1)) < first + width:
            number, kept = shorter, kept - 1
        return number.to_bytes(num_bytes, "big")[:kept].ljust(least_bytes, b"\0")


class RangeReader:
    """Reads back what a `RangeWriter` wrote. The only error, whatever the bytes are, is Corrupt.

    Any bytes decode to symbols, and to as many as are asked for. So callers limit the number of
    symbols, and encode them again to compare the bytes.
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
        except BaseException as error:  # the library's panics do not derive from Exception
            raise Corrupt(f"{self._what}: damaged stream of coded symbols") from error


RangeCoder: TypeAlias = RangeWriter | RangeReader


def _categorical(counts: npt.NDArray[np.int64]) -> object:
    """The library's model with exactly the intervals of `boundaries`.

    The library scales weights so that their sum is 2^24 - n and then adds one to each. Here their
    sum is that already, so that it scales by exactly 1.
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
    """The smallest number, `number` or above, whose lowest `num_bytes` bytes are 0."""
    return -(-number >> 8 * num_bytes) << 8 * num_bytes


def _given(values: Integers | None) -> Integers:
    assert values is not None, "a writer needs values"
    return np.ascontiguousarray(values, dtype=np.int32)
