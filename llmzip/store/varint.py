"""Variable-length integers and a bounds-checked reader: the primitives of every plane.

Owns the integer coding (LEB128, shortest form only, below 2**63; zigzag for signed values) and the
rule that no read may leave its buffer. Does not know what the numbers mean.
"""

from __future__ import annotations

import numpy as np

from llmzip.errors import Corrupt, FormatError

MAX_VARINT = 2**63 - 1
MAX_VARINT_BYTES = 9  # 9 x 7 = 63 bits: a tenth byte could only carry a value out of range


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
    inside a plane whose size a checksum has already vouched for.
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
        """All bytes that are left, without using them up."""
        return self._data[self._position :]

    def part(self, count: int, *, what: str) -> Cursor:
        """A cursor over the next `count` bytes, under a name of its own."""
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
                # One number, one spelling: padding would give two files for the same content.
                if byte == 0 and index:
                    raise Corrupt(f"{self._what}: padded varint at byte {start}")
                return value
        raise Corrupt(f"{self._what}: varint at byte {start} is 2**63 or more")

    def varints(self, count: int) -> list[int]:
        """The next `count` varints: all at once where their bytes allow it."""
        data = np.frombuffer(self._data, dtype=np.uint8)[self._position :]
        data = data[: count * MAX_VARINT_BYTES]
        ends = np.flatnonzero(data < 0x80)[:count] + 1
        starts = np.concatenate((np.zeros(1, dtype=np.int64), ends[:-1]))
        sizes = ends - starts[: len(ends)]
        # What is cut short, too long or padded goes the slow way, which says where it is wrong.
        if len(ends) < count or (sizes > MAX_VARINT_BYTES).any():
            return [self.varint() for _ in range(count)]
        if ((data[ends - 1] == 0) & (sizes > 1)).any():
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
        """Every byte must have been used."""
        if self.remaining:
            raise Corrupt(f"{self._what}: {self.remaining} unused bytes at byte {self.offset}")

    def _early(self, count: int) -> FormatError:
        return self._short(
            f"{self._what} ends too early: {count} bytes expected at byte {self.offset}, "
            f"{self.remaining} left"
        )
