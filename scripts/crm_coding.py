"""How `.crm` files write things: fields, numbers in bytes and in bits, streams of the range coder.

Written from docs/FORMAT.md for `read_crm.py`, with the standard library alone. Knows no file.
"""

import re
from bisect import bisect_right
from itertools import accumulate, count, islice

MAX_ID, ONE = 2**31 - 1, 2**24
# No part of a name. The last range is what Python makes of bytes that are not UTF-8.
MISLEADING = re.compile("[\0-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class BadFile(Exception):
    """The file breaks a rule of the format."""


def need(condition, message):
    if not condition:
        raise BadFile(message)


class Fields(dict):
    """Fields by name. One that is not there counts as 0."""

    def __missing__(self, name):
        return 0


class Reader:
    """Reads bytes from front to back."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        need(size <= len(self.data) - self.at, f"{size} bytes expected at byte {self.at}")
        self.at += size
        return self.data[self.at - size : self.at]

    def end(self):
        need(self.at == len(self.data), f"{len(self.data) - self.at} bytes too many")

    def u8(self):
        return self.take(1)[0]

    def varint(self):
        digits = [self.u8()]
        while digits[-1] > 127 and len(digits) < 9:
            digits.append(self.u8())
        need(digits[-1] < 128 and (digits[-1] or len(digits) == 1), f"varint before {self.at}")
        return sum((digit & 127) << 7 * place for place, digit in enumerate(digits))

    def name(self, size=None):
        data = self.take(self.varint() if size is None else size)
        text = data.decode(errors="surrogateescape")
        need(1 <= len(data) <= 255 and not MISLEADING.search(text), f"name before {self.at}")
        return text

    def suffix(self):
        text = self.take(self.u8()).decode(errors="surrogateescape")
        need(re.fullmatch("[A-Za-z0-9_+-]{1,15}", text), f"suffix before {self.at}")
        return "." + text

    def revision(self):
        code = self.varint()
        text = self.name(code - 1) if code > 1 else ""
        need(not re.fullmatch("[0-9a-f]{40}", text), "a commit stored as text")
        return self.take(20).hex() if code == 1 else text

    def fields(self, table, known):
        """Adds the fields of a table (see `read_crm`) to those that are known."""
        for given, rows in (line.split(":") for line in table.strip().splitlines()):
            for row in rows.split(",") if all(known[name] for name in given.split()) else ():
                name, kind, *limits = row.split()
                value = self.take(int(kind)).hex() if kind.isdigit() else getattr(self, kind)()
                limits = [int(limit) if limit.isdigit() else known[limit] for limit in limits]
                least, most = *limits, *(0, 2**63 - 1)[len(limits) :]
                need(isinstance(value, str) or least <= value <= most, f"{name} is {value}")
                known[name] = value
        return known

    def bitmap(self, size, ones):
        bits = int.from_bytes(self.take((size + 7) // 8), "little")
        need(bits >> size == 0 and bits.bit_count() == ones, f"bitmap before {self.at}")
        return [bool(bits >> place & 1) for place in range(size)]

    def rice(self, size):
        """A list of `size` numbers in Rice codes."""
        if not size:
            return []
        low_bits = self.u8()
        bits = (byte >> place & 1 for byte in iter(self.u8, None) for place in range(8))
        highs = [next(zeros for zeros in count() if next(bits)) << low_bits for _ in range(size)]
        numbers = [high + sum(next(bits) << place for place in range(low_bits)) for high in highs]
        costs = [size * (k + 1) + sum(number >> k for number in numbers) for k in range(63)]
        padding = any(islice(bits, -min(costs) % 8))
        need(low_bits == costs.index(min(costs)) and not padding, "Rice codes: not the shortest")
        need(max(numbers) < 2**63, "Rice codes: number too large")
        return numbers


class Decoder:
    """Reads symbols from a stream of the range coder."""

    def __init__(self, data, least_bytes):
        need(len(data) >= least_bytes, "coded plane too small")
        self.data, self.least_bytes, self.at = data, least_bytes, 0
        self.point, self.width = self.digits(8), 2**64 - 1

    def digits(self, size):
        """The next bytes as a number; zeros follow the last one."""
        self.at += size
        return int.from_bytes(self.data[self.at - size : self.at].ljust(size, b"\0"), "big")

    def symbol(self, starts):
        """A symbol. Each has the interval from its start to the next one's, the last to ONE."""
        scale = self.width >> 24
        need(self.point // scale < ONE, "damaged stream")
        found = bisect_right(starts, self.point // scale) - 1
        start, end = starts[found], starts[found + 1] if found + 1 < len(starts) else ONE
        self.point, self.width = self.point - scale * start, scale * (end - start)
        if self.width < 2**32:
            self.point, self.width = self.point << 32 | self.digits(4), self.width << 32
        return found

    def symbols(self, counts, amount):
        """Symbols under the same counts, which then change."""
        share, total = ONE - len(counts), sum(counts)
        starts = [i + n * share // total for i, n in enumerate(accumulate(counts[:-1], initial=0))]
        found = [self.symbol(starts) for _ in range(amount)]
        for symbol in found:
            counts[symbol] += 32
        while found and sum(counts) > 2**21:
            counts[:] = [(n + 1) // 2 for n in counts]
        return found

    def uniform(self, size):
        unit = ONE // size
        return self.symbol(range(0, size * unit, unit))

    def numbers(self, counts, amount):
        """Numbers by their classes, which have these counts."""
        classes = self.symbols(counts, amount)
        highs = [self.uniform(2 ** (c - 16)) << 16 if c > 16 else 0 for c in classes]
        lows = [self.uniform(2 ** min(c, 16)) if c else 0 for c in classes]
        numbers = [2**c + high + low - 1 for c, high, low in zip(classes, highs, lows, strict=True)]
        need(max(numbers, default=0) <= MAX_ID, "number too large")
        return numbers

    def end(self):
        """Refuses all but the shortest x in the interval, the smallest of these, with its padding.

        In units of the last bit that was read, the interval goes from x - point to width above it.
        """
        stream = self.data.rstrip(b"\0")
        need(len(self.data) == max(len(stream), self.least_bytes), "coded plane too large")
        unit = 256 ** max(self.at - len(stream), 0)  # of the last byte of x
        need(len(stream) <= self.at and self.point < unit, "stream: not the smallest")
        if stream:  # the next number that has a byte less must be beyond the interval
            need(self.point + (256 - stream[-1]) * unit >= self.width, "stream: not the shortest")
