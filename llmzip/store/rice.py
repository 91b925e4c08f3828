"""Rice codes: lists of small integers in whole bits, for the columns of coded files.

Owns the bits and the choice of their one parameter. Does not know what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmzip.errors import Corrupt
from llmzip.store.varint import MAX_VARINT, Cursor

MAX_LOW_BITS = 62


def pack_rice(numbers: Sequence[int]) -> bytes:
    """A byte k, then bits, lowest of each byte first: the part of each number above its lowest k
    bits, as that many zeros and a one; then those k bits of each, lowest first.

    k is the one that needs the fewest bits, the smallest of several. No numbers: no bytes.
    """
    if not numbers:
        return b""
    values = np.array(numbers, dtype=np.int64)
    low_bits = _best(values)
    highs = values >> low_bits
    ones = np.cumsum(highs + 1) - 1
    bits = np.zeros(int(ones[-1]) + 1 + low_bits * len(values), dtype=np.uint8)
    bits[ones] = 1
    lows = values[:, np.newaxis] >> np.arange(low_bits) & 1  # [n, k]
    bits[int(ones[-1]) + 1 :] = lows.ravel()
    return bytes((low_bits,)) + np.packbits(bits, bitorder="little").tobytes()


def read_rice(cursor: Cursor, count: int, *, what: str) -> list[int]:
    """The inverse of `pack_rice` for `count` numbers. Raises Corrupt."""
    if not count:
        return []
    low_bits = cursor.byte()
    if low_bits > MAX_LOW_BITS:
        raise Corrupt(f"{what}: numbers of more than {low_bits} bits")
    bits = np.unpackbits(np.frombuffer(cursor.rest(), dtype=np.uint8), bitorder="little")
    ones = np.flatnonzero(bits)[:count]
    num_bits = int(ones[-1]) + 1 + low_bits * count if len(ones) else 0
    if len(ones) < count or num_bits > len(bits):
        raise Corrupt(f"{what}: fewer than {count} numbers before byte {cursor.offset}")
    highs = np.diff(ones, prepend=-1) - 1
    if int(highs.max()) > MAX_VARINT >> low_bits:
        raise Corrupt(f"{what}: a number of 2**63 or more before byte {cursor.offset}")
    cursor.take((num_bits + 7) // 8)
    lows = bits[int(ones[-1]) + 1 : num_bits].reshape(count, low_bits).astype(np.int64)
    values = (highs << low_bits) + (lows << np.arange(low_bits)).sum(axis=1)
    if bits[num_bits : -(-num_bits // 8) * 8].any() or _best(values) != low_bits:
        raise Corrupt(f"{what}: not the shortest form before byte {cursor.offset}")
    numbers: list[int] = values.tolist()
    return numbers


def _best(values: np.ndarray) -> int:
    """The k with the fewest bits. They fall, then rise, as k grows."""
    best, fewest = 0, len(values) + sum(values.tolist())
    for low_bits in range(1, MAX_LOW_BITS + 1):
        num_bits = len(values) * (low_bits + 1) + sum((values >> low_bits).tolist())
        if num_bits >= fewest:
            break
        best, fewest = low_bits, num_bits
    return best
