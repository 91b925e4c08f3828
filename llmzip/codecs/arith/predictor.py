"""The probability of every decision: the language model's, and what the text has taught so far.

Owns the walk through a token's decisions, the same in both directions, and what is learnt from each
and from the token. State of one segment, shared by its lanes. Integers only: what goes in are the
model's log-odds rounded by `cells`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from llmzip.codecs.arith.fixed_point import NAT
from llmzip.codecs.arith.learners import NUM_ORDERS, Matches, Seen, Successors, Trust
from llmzip.codecs.arith.mixer import CONSTANT, Mixer
from llmzip.codecs.arith.tree import Tree

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
        """Code a lane's next token, or read it where it is None, and learn from it.

        odds: (depth, node) -> the model's log-odds of a right turn there, rounded.
        """
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
            turns = self._seen.get(node)
            if turns:
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
            sets = (
                _BY_CONTEXT + context,
                _BY_CERTAINTY + 4 * _certainty(x) + _match_class(match_length, way),
                _BY_DEPTH + min(at, _MOST_DEPTH),
                _BY_NODE + node,
            )
            ones = mixer.mix(inputs, sets, context)
            bit = coder.bit(ones, None if target < 0 else ways[target + at])
            mixer.learn(bit)
            for order, cell in cells:
                trust[order].learn(cell, bit)
            if way >= 0:
                self._matches.learn(match_length, way == bit)
                if way != bit:
                    expected = -1
            if turns is None:
                turns = self._seen[node] = [0, 0]
            turns[bit] += 1
            if turns[bit] > _MAX_NODE_COUNT:
                turns[:] = [turns[0] + 1 >> 1, turns[1] + 1 >> 1]
            after = [pair[bit] for pair in halves]
            node = self._children[node][bit]
            at += 1
        token = -1 - node
        self._learn_token(lane, token)
        return token

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
