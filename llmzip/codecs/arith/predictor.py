"""The probability of every decision: the language model's, and what the text has taught so far.

Owns what the text itself teaches while it is coded (which token followed which, and how far such
counts are to be trusted) and which opinions are mixed. Does not know how decisions become bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from llmzip.codecs.arith.mixer import CONSTANT, Mixer
from llmzip.codecs.log_odds import NAT, stretch
from llmzip.codecs.token_odds import Tree

Seen: TypeAlias = tuple[int, int]  # a token and how often it was seen

NUM_ORDERS = 4  # tokens after the last 0, 1, 2 and 3 tokens
_MAX_COUNT = 255
_LEVELS = (1, 2, 3, 4, 5, 7, 10, 15, 23, 35, 60, 100, 200, 400)  # counts told apart
_LEVEL_OF = [bisect_right(_LEVELS, count) for count in range(_LEVELS[-1] + 1)]
_MEANS = (0, 1, 2, 3, 4, 5, 8, 12, 18, 28, 46, 78, 145, 290, 500)  # a count of each level
_NUM_LEVELS = len(_MEANS)
_RATE_BITS = 7  # how fast a learnt probability follows
_LEAST_ONES, _MOST_ONES = 1 << 6, (1 << 16) - (1 << 6)

_MATCH_TOKENS = 3  # a match is looked up by so many tokens
_LONGEST_MATCH = 31
_MATCH_RATE_BITS = 6


class Trust:
    """Learnt probabilities of a right turn, by how often both turns were seen."""

    def __init__(self) -> None:
        self._ones = [
            ((10 * right + 4) << 16) // (10 * (left + right) + 8)
            for left in _MEANS
            for right in _MEANS
        ]

    def odds(self, left: int, right: int) -> tuple[int, int]:
        """Log-odds of a right turn, and the cell that `learn` is to be told."""
        cell = _level(left) * _NUM_LEVELS + _level(right)
        return stretch(self._ones[cell]), cell

    def learn(self, cell: int, bit: int) -> None:
        """Follow what came."""
        ones = self._ones[cell]
        ones += ((bit << 16) - ones) >> _RATE_BITS
        self._ones[cell] = max(_LEAST_ONES, min(_MOST_ONES, ones))


def _level(count: int) -> int:
    return _LEVEL_OF[count] if count <= _LEVELS[-1] else _NUM_LEVELS - 1


class Successors:
    """Tokens seen after each context of one, two and three tokens."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], dict[int, int]] = {}

    def of(self, past: Sequence[int]) -> list[list[Seen]]:
        """For each order from 1 up: tokens and their counts. past: at least the last three."""
        found = []
        for order in range(1, NUM_ORDERS):
            counts = self._after.get(tuple(past[-order:])) if len(past) >= order else None
            found.append(list(counts.items()) if counts else [])
        return found

    def add(self, past: Sequence[int], token: int) -> None:
        """Count a token behind what came before it."""
        for order in range(1, NUM_ORDERS):
            if len(past) < order:
                return
            counts = self._after.setdefault(tuple(past[-order:]), {})
            counts[token] = min(counts.get(token, 0) + 1, _MAX_COUNT)


class Matches:
    """The last place in any lane that the end of a lane repeats."""

    def __init__(self, num_lanes: int) -> None:
        self._places: dict[tuple[int, ...], tuple[int, int]] = {}
        self._at = [(0, 0)] * num_lanes  # lane and index of the token expected next
        self._length = [0] * num_lanes
        self._ones = [(1 << 16) - (26214 << 1) // (2 * i + 3) for i in range(_LONGEST_MATCH + 1)]

    def expected(self, pasts: Sequence[Sequence[int]], lane: int) -> tuple[int, int]:
        """The token that followed there, and how many tokens match; -1 and 0 where none."""
        length = self._length[lane]
        if not length:
            return -1, 0
        where, index = self._at[lane]
        if index >= len(pasts[where]):
            return -1, 0
        return pasts[where][index], length

    def odds(self, length: int) -> int:
        """Log-odds that a match of this length goes on."""
        return stretch(self._ones[length])

    def learn(self, length: int, is_right: bool) -> None:
        """Follow whether a decision went as the match expected."""
        ones = self._ones[length]
        ones += ((is_right << 16) - ones) >> _MATCH_RATE_BITS
        self._ones[length] = max(1 << 14, min(_MOST_ONES, ones))

    def add(self, pasts: Sequence[Sequence[int]], lane: int) -> None:
        """Follow the match, or look for one, after a token was added to a lane's past."""
        past = pasts[lane]
        length, (where, index) = self._length[lane], self._at[lane]
        if length and index < len(pasts[where]) and pasts[where][index] == past[-1]:
            self._length[lane] = min(length + 1, _LONGEST_MATCH)
            self._at[lane] = (where, index + 1)
        else:
            self._length[lane] = 0
        if len(past) < _MATCH_TOKENS:
            return
        key = tuple(past[-_MATCH_TOKENS:])
        if not self._length[lane] and key in self._places:
            self._at[lane] = where, index = self._places[key]
            self._length[lane] = _common(pasts[where], index, past)
        self._places[key] = (lane, len(past))


def _common(past: Sequence[int], end: int, other: Sequence[int]) -> int:
    """How many tokens before `end` agree with the end of another past."""
    most = min(end, len(other), _LONGEST_MATCH)
    length = 0
    while length < most and past[end - 1 - length] == other[-1 - length]:
        length += 1
    return length


# Sets of weights, by: the longest context known and whether a match speaks; the model's certainty
# and the match's length; the depth; the node.
_BY_CONTEXT, _BY_CERTAINTY, _BY_DEPTH, _BY_NODE = 0, 64, 128, 256
_CERTAIN = (307, 819, 1536, 3072, 5120)  # bounds of the model's |log-odds|, in units of 1 / NAT
_MOST_DEPTH = 15
_MAX_NODE_COUNT = 1023

assert NAT == 1024


class BitCoder(Protocol):
    """Codes one decision: returns `bit`, or reads it where `bit` is None."""

    def bit(self, ones: int, bit: int | None) -> int: ...


class Predictor:
    """What one segment has taught, and the past of its lanes."""

    def __init__(self, tree: Tree, num_lanes: int) -> None:
        self.pasts: list[list[int]] = [[] for _ in range(num_lanes)]
        self._depth = tree.depth
        self._ways = tree.bits.tobytes()  # [V * depth]
        self._children = tree.children.tolist()
        self._seen: dict[int, list[int]] = {}  # node -> left and right turns, whatever the context
        self._trust = [Trust() for _ in range(NUM_ORDERS)]
        self._successors = Successors()
        self._matches = Matches(num_lanes)
        self._mixer = Mixer(num_last=2 * (NUM_ORDERS + 1))
        self._num_tokens = 0

    def code(
        self, coder: BitCoder, lane: int, odds: Callable[[int, int], int], token: int | None
    ) -> int:
        """Code a lane's next token, or read it where it is None, and learn from it. odds: (depth,
        node) -> the model's log-odds of a right turn there, rounded."""
        past, ways, depth = self.pasts[lane], self._ways, self._depth
        mixer, trust = self._mixer, self._trust
        after = self._successors.of(past)
        expected, match_length = self._matches.expected(self.pasts, lane)
        target = -1 if token is None else token * depth
        node = at = 0
        while node >= 0:
            x = odds(at, node)
            inputs = [x, CONSTANT, 0, 0, 0, 0, 0]
            cells: list[tuple[int, int]] = []
            longest = 0
            if turns := self._seen.get(node):
                inputs[2], cell = trust[0].odds(turns[0], turns[1])
                cells.append((0, cell))
                longest = 1
            halves: list[tuple[list[Seen], list[Seen]]] = []
            for order, found in enumerate(after, 1):
                if not found:
                    halves.append(([], []))
                    continue
                left: list[Seen] = []
                right: list[Seen] = []
                count_left = count_right = 0
                for pair in found:
                    if ways[pair[0] * depth + at]:
                        right.append(pair)
                        count_right += pair[1]
                    else:
                        left.append(pair)
                        count_left += pair[1]
                halves.append((left, right))
                inputs[2 + order], cell = trust[order].odds(count_left, count_right)
                cells.append((order, cell))
                longest = order + 1
            way = -1
            if expected >= 0:
                way = ways[expected * depth + at]
                match_odds = self._matches.odds(match_length)
                inputs[6] = match_odds if way else -match_odds
            context = 2 * longest + (way >= 0)
            certainty = 4 * _certainty(x) + _match_class(match_length, way)
            at_depth = _BY_DEPTH + min(at, _MOST_DEPTH)
            sets = _BY_CONTEXT + context, _BY_CERTAINTY + certainty, at_depth, _BY_NODE + node
            ones = mixer.mix(inputs, sets, context)
            bit = coder.bit(ones, None if target < 0 else ways[target + at])
            mixer.learn(bit)
            for order, cell in cells:
                trust[order].learn(cell, bit)
            if way >= 0:
                self._matches.learn(match_length, way == bit)
                if way != bit:
                    expected = -1
            self._count(node, bit)
            after = [pair[bit] for pair in halves]
            node = self._children[node][bit]
            at += 1
        token = -1 - node
        self._learn_token(lane, token)
        return token

    def _count(self, node: int, bit: int) -> None:
        """Count a turn at a node; old ones weigh half once there are many."""
        turns = self._seen.setdefault(node, [0, 0])
        turns[bit] += 1
        if turns[bit] > _MAX_NODE_COUNT:
            turns[:] = [turns[0] + 1 >> 1, turns[1] + 1 >> 1]

    def _learn_token(self, lane: int, token: int) -> None:
        past = self.pasts[lane]
        self._successors.add(past, token)
        past.append(token)
        self._matches.add(self.pasts, lane)
        self._num_tokens += 1
        self._mixer.pace(self._num_tokens)


def _certainty(odds: int) -> int:
    size = abs(odds)
    return sum(size >= bound for bound in _CERTAIN)


def _match_class(length: int, way: int) -> int:
    return 0 if way < 0 else 3 if length > 15 else 2 if length > 4 else 1
