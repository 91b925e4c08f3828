"""Probabilities and log-odds as integers: exact, symmetric, and the same for ever."""

from __future__ import annotations

import hashlib
import struct
from decimal import Decimal, localcontext

import pytest

from llmzip.codecs.log_odds import MAX_ODDS, NAT, ONES_BITS, SQUASH, STRETCH, stretch
from tests import arith_prose

ONE = 1 << ONES_BITS
SQUASH_HASH = "5ab6a98948b5a214bc828c08edc12ed8b87175708f387d8ad4fcd5377b545f28"
STRETCH_HASH = "7eb895208567042d5586f0042928132cf0df4e08749861ce4935d314df58fd36"


def digest(numbers: list[int]) -> str:
    return hashlib.sha256(struct.pack(f"<{len(numbers)}i", *numbers)).hexdigest()


def test_tables_are_part_of_the_format() -> None:
    assert digest(SQUASH) == SQUASH_HASH
    assert digest(STRETCH) == STRETCH_HASH


def test_sizes() -> None:
    assert len(SQUASH) == 2 * MAX_ODDS + 1
    assert len(STRETCH) == 1 << 12


def test_squash_rises() -> None:
    assert all(a <= b for a, b in zip(SQUASH, SQUASH[1:], strict=False))
    inner = SQUASH[4 * NAT : -4 * NAT]  # near the ends a step is less than a unit
    assert all(a < b for a, b in zip(inner, inner[1:], strict=False))
    assert 1 <= SQUASH[0] and SQUASH[-1] < ONE  # what a coder's bit may have


def test_squash_is_symmetric() -> None:
    assert SQUASH[MAX_ODDS] == ONE // 2
    assert all(a + b == ONE for a, b in zip(SQUASH, reversed(SQUASH), strict=True))


def test_squash_is_the_logistic_function() -> None:
    with localcontext() as context:
        context.prec = 50
        for odds in [*range(-MAX_ODDS, MAX_ODDS + 1, 61), -1, 0, 1, MAX_ODDS]:
            exact = ONE / (1 + (Decimal(-odds) / NAT).exp())
            assert abs(SQUASH[MAX_ODDS + odds] - exact) <= 1


def test_squash_is_what_the_format_says() -> None:
    assert {odds - MAX_ODDS: ones for odds, ones in enumerate(SQUASH)} == arith_prose.SQUASH


def test_stretch_is_what_the_format_says() -> None:
    assert [stretch(p) for p in range(0, 1 << 16, 7)] == [
        arith_prose.log_odds(p) for p in range(0, 1 << 16, 7)
    ]


def test_stretch_undoes_squash() -> None:
    """Each probability's log-odds are the largest that do not pass the middle of its interval."""
    for part, odds in enumerate(STRETCH):
        middle = (2 * part + 1) << (ONES_BITS - 13)
        index = odds + MAX_ODDS
        assert SQUASH[index] <= middle < SQUASH[index + 1]


def test_stretch_rises_and_is_symmetric() -> None:
    assert all(a <= b for a, b in zip(STRETCH, STRETCH[1:], strict=False))
    # The largest that does not pass, so that mirrored ones differ by one unit at most.
    assert {a + b for a, b in zip(STRETCH, reversed(STRETCH), strict=True)} <= {-1, 0}


@pytest.mark.parametrize("p", [0, 1, 15, 16, 32767, 32768, 65520, 65535])
def test_stretch_looks_at_twelve_bits(p: int) -> None:
    assert stretch(p) == STRETCH[p >> 4]
