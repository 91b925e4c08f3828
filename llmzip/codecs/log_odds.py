"""Probabilities and log-odds as integers, the same on every machine.

Owns their units, and the tables that lead from one to the other.
"""

from __future__ import annotations

from bisect import bisect_right

NAT = 1024  # log-odds are in units of 1 / 1024 nat
MAX_ODDS = 12 * NAT  # of a probability: more is not told apart
ONES_BITS = 24  # a probability is in units of 2^-24; learners keep 16 bits of it
_SCALE = 80  # bits after the point while the tables are made


def _exponentials(count: int) -> list[int]:
    """e^(i / NAT) for i below `count`, in units of 2^-80: powers of a Taylor sum."""
    step = term = 1 << _SCALE
    for n in range(1, 12):
        term //= n * NAT
        step += term
    found = [1 << _SCALE]
    while len(found) < count:
        found.append(found[-1] * step >> _SCALE)
    return found


def _squash_table() -> list[int]:
    upper = [
        (power << ONES_BITS) // (power + (1 << _SCALE)) for power in _exponentials(MAX_ODDS + 1)
    ]
    return [(1 << ONES_BITS) - ones for ones in upper[:0:-1]] + upper


# SQUASH[MAX_ODDS + odds] is 2^24 / (1 + e^-odds), for odds from -MAX_ODDS to MAX_ODDS.
SQUASH = _squash_table()

_STRETCH_BITS = 12
# Log-odds of a probability of 16 bits, by its upper twelve: those of the middle of the interval.
STRETCH = [
    max(bisect_right(SQUASH, (2 * part + 1) << (ONES_BITS - _STRETCH_BITS - 1)) - 1, 0) - MAX_ODDS
    for part in range(1 << _STRETCH_BITS)
]


def stretch(ones16: int) -> int:
    """ln(p / (1 - p)) in units of 1 / NAT, for p of 16 bits."""
    return STRETCH[ones16 >> 16 - _STRETCH_BITS]


assert NAT == 1 << 10  # shifts elsewhere count on it
