"""What the text itself teaches while it is coded: which token followed which, and how far such
counts are to be trusted.

Owns the counts of tokens after the last none to three tokens, the search for the last place where
the same tokens stood, and the learnt probabilities of both. All integers. Does not know the
language model or the mix.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TypeAlias

from llmzip.codecs.arith.fixed_point import stretch

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
