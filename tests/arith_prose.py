"""Recipe 1 of docs/FORMAT.md, section *Prediction*, written anew from its prose: a second and slow
implementation for the tests to compare with.

Owns no shortcut: contexts and matches are looked for by scanning all that went before. Imports
nothing of `llmzip`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import Protocol

MOST = 12288
ONE = 1 << 24
WHITE = b" \t\r\n"

# Lanes


def prefix_of(prefix_tokens: int, num_tokens: int, num_lanes: int) -> int:
    return min(prefix_tokens, num_tokens - num_lanes) if num_lanes > 1 else 0


def order_of(prefix_tokens: int, num_tokens: int, num_lanes: int) -> list[tuple[int, int]]:
    """Lane and place in the segment of each token, as they stand in the stream."""
    prefix = prefix_of(prefix_tokens, num_tokens, num_lanes)
    rest = num_tokens - prefix
    lanes = [
        list(range(prefix + rest * i // num_lanes, prefix + rest * (i + 1) // num_lanes))
        for i in range(num_lanes)
    ]
    found = [(0, place) for place in range(prefix)]
    while any(lanes):
        found += [(lane, places.pop(0)) for lane, places in enumerate(lanes) if places]
    return found


# The tree


@dataclass(eq=False)
class Node:
    number: int
    first: int
    last: int
    middle: int = -1
    left: Node | int = -1  # an int is a token
    right: Node | int = -1


def grow(meanings: Sequence[bytes | None]) -> list[Node]:
    """The nodes by their number; the first is the root."""
    leaves = sorted((data, i) for i, data in enumerate(meanings) if data)
    weights = [2**32 // (token + 40) for _, token in leaves]
    before = [0, *accumulate(weights)]
    nodes = [Node(0, 0, len(leaves))]
    for node in nodes:  # which grows
        wanted = before[node.first] + before[node.last]
        place = next(i for i in range(node.first, len(before)) if 2 * before[i] >= wanted)
        place = min(max(place, node.first + 1), node.last - 1)
        if place - 1 > node.first and wanted - 2 * before[place - 1] < 2 * before[place] - wanted:
            place -= 1
        node.middle = place
        halves: list[Node | int] = []
        for first, last in ((node.first, place), (place, node.last)):
            if last - first == 1:
                halves.append(leaves[first][1])
            else:
                halves.append(Node(len(nodes), first, last))
                nodes.append(halves[-1])
        node.left, node.right = halves
    return nodes


def tokens_under(node: Node | int) -> list[int]:
    if isinstance(node, int):
        return [node]
    return tokens_under(node.left) + tokens_under(node.right)


def way_to(nodes: Sequence[Node], token: int) -> list[tuple[Node, int]]:
    """Each node on the way to a token, and the turn taken there."""
    found = []
    node: Node | int = nodes[0]
    while not isinstance(node, int):
        turn = int(token in tokens_under(node.right))
        found.append((node, turn))
        node = node.right if turn else node.left
    assert node == token
    return found


# Cells


def bend(u: int) -> int:
    size = abs(u) + abs(u) ** 3 // (12 * 2**20)
    return size if u > 0 else -size


def edges(offset: int) -> list[Fraction]:
    """Between cell k and cell k + 1, for k from -14 on, in nats."""
    shift = 384 * offset // 64
    return [Fraction(bend(384 * k + shift + 192), 1024) for k in range(-14, 14)]


def rounded(odds: float, offset: int) -> int:
    k = sum(edge <= Fraction(odds) for edge in edges(offset)) - 14
    return min(max(bend(384 * k + 384 * offset // 64), -MOST), MOST)


# From log-odds to probability and back


def _squash() -> dict[int, int]:
    term = power = 1 << 80
    step = term
    for i in range(1, 12):
        term = term // (1024 * i)
        step += term
    found = {}
    for s in range(MOST + 1):
        found[s] = 2**24 * power // (power + 2**80)
        power = power * step >> 80
    return found | {-s: 2**24 - ones for s, ones in found.items() if s}


SQUASH = _squash()


def log_odds(p: int) -> int:
    wanted = ((p >> 4) * 2 + 1) * 2**11
    low, high = -MOST - 1, MOST
    while low < high:  # the largest s whose SQUASH is at most `wanted`
        s = (low + high + 1) // 2
        low, high = (s, high) if s >= -MOST and SQUASH[s] <= wanted else (low, s - 1)
    return max(low, -MOST)


# The forecast

_BEGINS = (0, 1, 2, 3, 4, 5, 7, 10, 15, 23, 35, 60, 100, 200, 400)
_TYPICAL = (0, 1, 2, 3, 4, 5, 8, 12, 18, 28, 46, 78, 145, 290, 500)


def _level(count: int) -> int:
    return max(i for i, begin in enumerate(_BEGINS) if begin <= count)


class Prose:
    """A segment under way."""

    def __init__(self, nodes: Sequence[Node], num_lanes: int) -> None:
        self.lanes: list[list[int]] = [[] for _ in range(num_lanes)]
        self.events: Counter[str] = Counter()  # what happened, for tests that want it to
        self._root = nodes[0]
        self._halves = {
            node.number: (set(tokens_under(node.left)), set(tokens_under(node.right)))
            for node in nodes
        }
        self._turns: dict[int, list[int]] = {}
        self._tables: list[dict[tuple[int, int], int]] = [{} for _ in range(4)]
        self._match: list[tuple[int, int] | None] = [None] * num_lanes
        self._match_length = [0] * num_lanes
        self._threes: list[tuple[tuple[int, ...], int, int]] = []
        self._match_p = {length: 65536 - 52428 // (2 * length + 3) for length in range(1, 32)}
        self._weights: dict[tuple[int, int], list[int]] = {}
        self._last: dict[int, list[int]] = {}

    def token(
        self, lane: int, odds: Callable[[int, int], int], turn_of: Callable[[int], int]
    ) -> int:
        """Walk to a lane's next token. odds: (turns before, node) -> x; turn_of: `ones` -> turn."""
        before = sum(map(len, self.lanes))
        rate = 197 + 1769 * 200 // (200 + before)
        after = [self._after(lane, size) for size in (1, 2, 3)]
        expected = self.expected(lane)
        length = self._match_length[lane]
        node: Node | int = self._root
        depth = 0
        while not isinstance(node, int):
            left, right = self._halves[node.number]
            x = odds(depth, node.number)
            inputs = [x, 307]
            c = 0
            used: list[tuple[int, tuple[int, int]]] = []
            pairs = [tuple(self._turns.get(node.number, (0, 0)))]
            for counts in after:
                pairs.append(
                    (
                        sum(n for token, n in counts.items() if token in left),
                        sum(n for token, n in counts.items() if token in right),
                    )
                )
            for table, (on_left, on_right) in enumerate(pairs):
                if on_left + on_right == 0:
                    inputs.append(0)
                    continue
                c = table + 1
                levels = (_level(on_left), _level(on_right))
                used.append((table, levels))
                inputs.append(log_odds(self._probability(table, levels)))
            speaks = expected is not None
            goes_right = int(expected in right)
            if speaks:
                odds_of_match = log_odds(self._match_p[length])
                inputs.append(odds_of_match if goes_right else -odds_of_match)
            else:
                inputs.append(0)
            certain = sum(bound <= abs(x) for bound in (307, 819, 1536, 3072, 5120))
            spoken = 0 if not speaks else 1 if length <= 4 else 2 if length <= 15 else 3
            by_context = 2 * c + speaks
            keys = (by_context, 4 * certain + spoken, min(depth, 15), node.number)
            sets = [
                self._weights.setdefault((i, key), [65536, 0] + [9830] * 5)
                for i, key in enumerate(keys)
            ]
            outputs = [_clip(_dot(weights, inputs)) for weights in sets]
            last = self._last.setdefault(by_context, [16384] * 4)
            ones = SQUASH[_clip(_dot(last, outputs))]
            turn = turn_of(ones)

            for i, weights in enumerate(sets):
                step = ((turn << 24) - SQUASH[outputs[i]] >> 8) * rate * (12 if i == 3 else 1)
                _grow(weights, step, inputs)
            _grow(last, ((turn << 24) - ones >> 8) * 13, outputs)
            for table, levels in used:
                p = self._probability(table, levels)
                p += ((turn << 16) - p) >> 7
                self._tables[table][levels] = min(max(p, 64), 65472)
            if speaks:
                p = self._match_p[length]
                p += ((65536 if turn == goes_right else 0) - p) >> 6
                self._match_p[length] = min(max(p, 16384), 65472)
                self.events["match is right" if turn == goes_right else "match is wrong"] += 1
                if turn != goes_right:
                    expected = None
            turns = self._turns.setdefault(node.number, [0, 0])
            turns[turn] += 1
            if turns[turn] > 1023:
                turns[:] = [(count + 1) >> 1 for count in turns]
                self.events["turns halved"] += 1
            node = node.right if turn else node.left
            depth += 1
        self._add(lane, node)
        return node

    def _probability(self, table: int, levels: tuple[int, int]) -> int:
        left, right = (_TYPICAL[level] for level in levels)
        first = (10 * right + 4) * 2**16 // (10 * (left + right) + 8)
        return self._tables[table].setdefault(levels, first)

    def _after(self, lane: int, size: int) -> dict[int, int]:
        """Tokens that came after the lane's last `size`, anywhere in the segment."""
        if len(self.lanes[lane]) < size:
            return {}
        context = self.lanes[lane][-size:]
        counts: Counter[int] = Counter()
        for past in self.lanes:
            for i in range(size, len(past)):
                if past[i - 1] == context[-1] and past[i - size : i] == context:
                    counts[past[i]] += 1
        self.events["count capped"] += any(n > 255 for n in counts.values())
        return {token: min(n, 255) for token, n in counts.items()}

    def expected(self, lane: int) -> int | None:
        """The token that a lane's match expects next."""
        place = self._match[lane]
        if place is None:
            return None
        where, index = place
        if index >= len(self.lanes[where]):
            self.events["not coded yet"] += 1
            return None
        return self.lanes[where][index]

    def _add(self, lane: int, token: int) -> None:
        expected = self.expected(lane)
        past = self.lanes[lane]
        past.append(token)
        place = self._match[lane]
        if place is not None and expected == token:
            self.events["longer than 31"] += self._match_length[lane] == 31
            self._match_length[lane] = min(self._match_length[lane] + 1, 31)
            self._match[lane] = (place[0], place[1] + 1)
        elif place is not None:
            self.events["match ended"] += 1
            self._match[lane], self._match_length[lane] = None, 0
        if len(past) < 3:
            return
        three = tuple(past[-3:])
        if self._match[lane] is None:
            for earlier, where, index in reversed(self._threes):
                if earlier == three:
                    self.events["match in another lane"] += where != lane
                    self._match[lane] = (where, index)
                    self._match_length[lane] = self._agreeing(where, index, past)
                    break
        self._threes.append((three, lane, len(past)))

    def _agreeing(self, where: int, index: int, past: list[int]) -> int:
        one, two = self.lanes[where][:index][::-1], past[::-1]
        length = 0
        for a, b in zip(one, two, strict=False):
            if a != b or length == 31:
                break
            length += 1
        return length


def _dot(weights: Sequence[int], inputs: Sequence[int]) -> int:
    return sum(w * x for w, x in zip(weights, inputs, strict=True)) >> 16


def _clip(odds: int) -> int:
    return min(max(odds, -MOST), MOST)


def _grow(weights: list[int], step: int, inputs: Sequence[int]) -> None:
    for i, x in enumerate(inputs):
        weights[i] += (step * x + 2**25) >> 26


# The stream


class Adaptive:
    def __init__(self, ones: int, seen: int, limit: int) -> None:
        self.ones, self._seen, self._limit = ones, seen, limit

    def add(self, bit: int) -> None:
        self.ones += ((2**24 - 256 if bit else 256) - self.ones) // (self._seen + 2)
        self._seen = min(self._seen + 1, self._limit)


class Digits:
    """The decoder of a range coder's stream."""

    def __init__(self, stream: bytes) -> None:
        self._rest = stream[8:]
        self._point = int.from_bytes(stream[:8].ljust(8, b"\0"), "big")
        self._width = 2**64 - 1

    def bit(self, ones: int) -> int:
        scale = self._width >> 24
        bit = int(self._point // scale >= 2**24 - ones)
        start, end = (2**24 - ones, 2**24) if bit else (0, 2**24 - ones)
        self._point -= scale * start
        self._width = scale * (end - start)
        if self._width < 2**32:
            word, self._rest = self._rest[:4].ljust(4, b"\0"), self._rest[4:]
            self._point = (self._point << 32) + int.from_bytes(word, "big")
            self._width <<= 32
        return bit


class Coder(Protocol):
    """What gives the bit that has a probability."""

    def bit(self, ones: int) -> int: ...


def first_passing() -> list[Adaptive]:
    return [Adaptive(2**21, 6, 254) for _ in range(4)]


def read_offset(coder: Coder, passing: Sequence[Adaptive]) -> int:
    offset = 0
    while offset < 64:
        adaptive = passing[min(offset, 3)]
        bit = coder.bit(adaptive.ones)
        adaptive.add(bit)
        if not bit:
            break
        offset += 1
    return offset


def read_tokens(
    digits: Coder,
    nodes: Sequence[Node],
    num_lanes: int,
    order: Sequence[tuple[int, int]],
    x: Callable[[int, int, int], float],
) -> tuple[list[int], set[int]]:
    """The tokens of a segment in the text's order, and the offsets that were met.

    x: (place, turns before, node) -> the model's log-odds, in nats.
    """
    prose = Prose(nodes, num_lanes)
    passing = first_passing()
    offsets = [0] * num_lanes
    met = set()
    found: dict[int, int] = {}
    for lane, place in order:
        if len(prose.lanes[lane]) % 96 == 0:
            offsets[lane] = read_offset(digits, passing)
            met.add(offsets[lane])

        def odds(depth: int, node: int, place: int = place, offset: int = offsets[lane]) -> int:
            return 0 if offset == 64 else rounded(x(place, depth, node), offset)

        found[place] = prose.token(lane, odds, digits.bit)
    return [found[place] for place in sorted(found)], met


# Line ends


def read_flags(coder: Coder, text: bytes) -> list[int]:
    """For each joint of a segment's decoded bytes, whether it was a line end."""
    column = 0
    columns = []
    for byte in text:
        columns.append(column)
        column += byte & 0xC0 != 0x80
    columns.append(column)
    width, settled = 72, False
    votes = [0] * 256
    by_end: dict[tuple[bool, bool, int, bool], Adaptive] = {}
    by_room: dict[tuple[bool, bool, int, bool], Adaptive] = {}
    line, passed = 0, False
    flags = []
    for at, byte in enumerate(text):
        if byte == ord("\n"):
            line, passed = columns[at + 1], False
        inner = 0 < at < len(text) - 1
        if byte != 32 or not inner or text[at - 1] in WHITE or text[at + 1] in WHITE:
            continue
        f = columns[at] - line
        end = at + 1
        while end < len(text) and text[end] not in WHITE:
            end += 1
        e = columns[end] - line
        d, room = e - width, width - f
        fits = d <= 0
        opens = fits and not ord("a") <= text[at + 1] <= ord("z")
        near, left = min(max(d, -12), 12), min(max(room, 0), 12)
        one = by_end.setdefault((settled, passed, near, opens), _guess(passed, near))
        two = by_room.setdefault((fits, passed, left, opens), _guess(passed, -left if fits else 1))
        flag = coder.bit((one.ones + two.ones) // 2)
        one.add(flag)
        two.add(flag)
        flags.append(flag)
        if not flag:
            passed = passed or d > 0
            continue
        settled = f <= width < e
        votes = [v - (v >> 4) for v in votes]
        for w in range(min(f, 255), min(e, 256)):
            votes[w] += 2**20
        width = votes.index(max(votes))
        line, passed = columns[at + 1], False
    return flags


def _guess(passed: bool, g: int) -> Adaptive:
    if passed:
        return Adaptive(2**22, 2, 1022)
    if g > 0:
        return Adaptive(2**24 - 2**20, 2, 1022)
    if g == 0:
        return Adaptive(2**20, 2, 1022)
    if g > -6:
        return Adaptive(2**18, 2, 1022)
    return Adaptive(2**14 if g == -12 else 2**16, 30, 1022)
