"""Variable-length integers and a bounds-checked reader: the primitives of every plane.

Owns the integer coding (LEB128, shortest form only, below 2**63; zigzag for signed values) and the
rule that no read may leave its buffer. Does not know what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmzip.errors import Corrupt, FormatError

MAX_VARINT = 2**63 - 1
MAX_VARINT_BYTES = 9  # 9 x 7 = 63 bits: a tenth byte could only carry a value out of range


def require(condition: object, message: str) -> None:
    """Raise Corrupt with this message unless the condition holds."""
    if not condition:
        raise Corrupt(message)


def encode_varint(value: int) -> bytes:
    """LEB128: 7 bits a byte, lowest first, top bit set on all but the last byte."""
    if not 0 <= value <= MAX_VARINT:
        raise ValueError(f"varint out of range: {value}")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_varints(*values: int) -> bytes:
    """The same for one value after the other."""
    return b"".join(map(encode_varint, values))


def zigzag(value: int) -> int:
    """Signed to unsigned, small magnitudes first: 0, -1, 1, -2, 2 become 0, 1, 2, 3, 4."""
    return 2 * value if value >= 0 else -2 * value - 1


def unzigzag(code: int) -> int:
    """The inverse of `zigzag`."""
    return -(code + 1) // 2 if code & 1 else code // 2


class Cursor:
    """Reads a buffer from front to back and never past its end.

    `what` and `base` (the buffer's offset in the file) go into messages. `short` is the error for
    a read past the end: Truncated where the file itself may have been cut, Corrupt (the default)
    inside a plane whose size has already passed a checksum.
    """

    def __init__(
        self,
        data: bytes | memoryview,
        *,
        what: str,
        base: int = 0,
        short: type[FormatError] = Corrupt,
    ) -> None:
        self._data = memoryview(data).cast("B")
        self._size = len(self._data)
        self._what = what
        self._base = base
        self._short = short
        self._position = 0

    @property
    def offset(self) -> int:
        """Offset in the file of the next byte."""
        return self._base + self._position

    @property
    def remaining(self) -> int:
        return self._size - self._position

    def take(self, count: int) -> memoryview:
        """The next `count` bytes, as a view: nothing is copied or allocated."""
        if count > self.remaining:
            raise self._early(count)
        view = self._data[self._position : self._position + count]
        self._position += count
        return view

    def rest(self) -> memoryview:
        """All bytes that are left; the position stays where it is."""
        return self._data[self._position :]

    def part(self, count: int, *, what: str) -> Cursor:
        """A cursor of its own over the next `count` bytes. what: its name in messages."""
        base = self.offset
        return Cursor(self.take(count), what=what, base=base, short=self._short)

    def byte(self) -> int:
        # Indexed in place: `take` would build a view for each byte of each number.
        if self._position == self._size:
            raise self._early(1)
        value = self._data[self._position]
        self._position += 1
        return value

    def varint(self) -> int:
        start = self.offset
        value = 0
        for index in range(MAX_VARINT_BYTES):
            byte = self.byte()
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                # A number has one encoding only: padding would give two files of one content.
                if byte == 0 and index:
                    raise Corrupt(f"{self._what}: padded varint at byte {start}")
                return value
        raise Corrupt(f"{self._what}: varint at byte {start} is 2**63 or more")

    def varints(self, count: int) -> list[int]:
        """The next `count` varints, decoded together with numpy where all of them are valid."""
        data = np.frombuffer(self._data, dtype=np.uint8)[self._position :]
        data = data[: count * MAX_VARINT_BYTES]
        ends = np.flatnonzero(data < 0x80)[:count] + 1
        starts = np.concatenate((np.zeros(1, dtype=np.int64), ends[:-1]))
        sizes = ends - starts[: len(ends)]
        # A list with a varint that is cut, too long or padded is read one by one, so that the error
        # names the byte.
        is_padded = (data[ends - 1] == 0) & (sizes > 1)
        if len(ends) < count or (sizes > MAX_VARINT_BYTES).any() or is_padded.any():
            return [self.varint() for _ in range(count)]
        values = np.zeros(count, dtype=np.int64)
        for index in range(int(sizes.max(initial=0))):
            longer = np.flatnonzero(sizes > index)
            part = data[starts[longer] + index].astype(np.int64) & 0x7F
            values[longer] |= part << 7 * index
        self._position += int(ends[-1]) if count else 0
        numbers: list[int] = values.tolist()
        return numbers

    def finish(self) -> None:
        """Raise Corrupt unless every byte has been read."""
        if self.remaining:
            raise Corrupt(f"{self._what}: {self.remaining} unused bytes at byte {self.offset}")

    def _early(self, count: int) -> FormatError:
        return self._short(
            f"{self._what} ends too early: {count} bytes expected at byte {self.offset}, "
            f"{self.remaining} left"
        )


MAX_LOW_BITS = 62


def pack_rice(numbers: Sequence[int]) -> bytes:
    """A byte k, then bits, the lowest of each byte first: for each number, its value without the
    lowest k bits in unary (that many zeros, then a one); after all of these, the lowest k bits of
    each number, lowest first.

    k is the smallest parameter that needs the fewest bits. An empty list gives no bytes.
    """
    if not numbers:
        return b""
    values = np.array(numbers, dtype=np.int64)
    low_bits = _best_low_bits(values)
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
    require(low_bits <= MAX_LOW_BITS, f"{what}: numbers of more than {low_bits} bits")
    bits = np.unpackbits(np.frombuffer(cursor.rest(), dtype=np.uint8), bitorder="little")
    ones = np.flatnonzero(bits)[:count]
    num_bits = int(ones[-1]) + 1 + low_bits * count if len(ones) else 0
    place = f"before byte {cursor.offset}"
    is_complete = len(ones) == count and num_bits <= len(bits)
    require(is_complete, f"{what}: fewer than {count} numbers {place}")
    highs = np.diff(ones, prepend=-1) - 1
    is_small = int(highs.max()) <= MAX_VARINT >> low_bits
    require(is_small, f"{what}: a number of 2**63 or more {place}")
    cursor.take((num_bits + 7) // 8)
    lows = bits[int(ones[-1]) + 1 : num_bits].reshape(count, low_bits).astype(np.int64)
    values = (highs << low_bits) + (lows << np.arange(low_bits)).sum(axis=1)
    if bits[num_bits : -(-num_bits // 8) * 8].any() or _best_low_bits(values) != low_bits:
        raise Corrupt(f"{what}: not the shortest form before byte {cursor.offset}")
    numbers: list[int] = values.tolist()
    return numbers


def _best_low_bits(values: np.ndarray) -> int:
    """The k that needs the fewest bits. As k grows, the number of bits falls and then rises."""
    best, fewest = 0, len(values) + sum(values.tolist())
    for low_bits in range(1, MAX_LOW_BITS + 1):
        num_bits = len(values) * (low_bits + 1) + sum((values >> low_bits).tolist())
        if num_bits >= fewest:
            break
        best, fewest = low_bits, num_bits
    return best
