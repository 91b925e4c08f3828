"""Bits that adapt, of line ends and of offsets: each probability compared with docs/FORMAT.md's
prose, also when what is told apart is at its bounds."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from llmzip.codecs.arith.line_breaks import num_joints, walk_flags
from llmzip.codecs.arith.stream import SegmentCoder
from llmzip.codecs.odds_grid import NO_OFFSET
from llmzip.codecs.token_odds import build_tree
from tests.arith_prose import first_passing, read_flags, read_offset


class Known:
    """A coder that notes the probabilities of the bits that it is given."""

    def __init__(self) -> None:
        self.ones: list[int] = []

    def bit(self, ones: int, bit: int | None) -> int:
        assert bit is not None
        self.ones.append(ones)
        return bit


class Told:
    """The same for what asks for bits."""

    def __init__(self, bits: Sequence[int]) -> None:
        self.ones: list[int] = []
        self._bits = iter(bits)

    def bit(self, ones: int) -> int:
        self.ones.append(ones)
        return next(self._bits)


def compare(text: bytes, flags: Sequence[int]) -> None:
    known, told = Known(), Told(flags)
    walk_flags(known, text, np.array(flags, dtype=np.bool_))  # type: ignore[arg-type]
    assert read_flags(told, text) == list(flags)
    assert known.ones == told.ones


def words(rng: random.Random, num_words: int) -> bytes:
    """Also with capitals, characters of two bytes, line ends and doubled spaces between them."""
    alphabet = "etaoin" * 9 + "ETAOIN(é€1"
    parts = []
    for _ in range(num_words):
        parts.append("".join(rng.choices(alphabet, k=rng.randrange(1, 14))))
        parts.append(rng.choice([" "] * 60 + ["\n", "  ", "\r\n", "\t", "\n\n"]))
    return "".join(parts).encode()


def filled(text: bytes, width: int, rng: random.Random, *, slip: float) -> list[int]:
    """Flags as of a program that fills lines, but for some at random."""
    flags, line = [], 0
    for at, byte in enumerate(text):
        if byte == ord("\n"):
            line = at + 1
        if not num_joints(text[max(at - 1, 0) : at + 2]) or at == 0:
            continue
        end = at + 1
        while end < len(text) and text[end] not in b" \t\r\n":
            end += 1
        flag = int(end - line > width) ^ (rng.random() < slip)
        flags.append(flag)
        if flag:
            line = at + 1
    return flags


@pytest.mark.parametrize("width", [1, 30, 71, 72, 79, 200, 255, 400])
@pytest.mark.parametrize("slip", [0.0, 0.02])
def test_filled_lines(width: int, slip: float) -> None:
    rng = random.Random(width)
    text = words(rng, 1500)
    compare(text, filled(text, width, rng, slip=slip))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_line_ends_at_random(share: float) -> None:
    rng = random.Random(7)
    text = words(rng, 2500)
    compare(text, [int(rng.random() < share) for _ in range(num_joints(text))])


def test_old_bits_weigh_less() -> None:
    """More bits of one kind than are counted."""
    rng = random.Random(8)
    text = b"a b " * 4000 + b"c"
    compare(text, [int(rng.random() < 0.3) for _ in range(num_joints(text))])


@pytest.mark.parametrize("most", [0, 1, 2, 5, NO_OFFSET])
def test_offsets(most: int) -> None:
    rng = random.Random(most)
    offsets = [rng.randint(0, most) for _ in range(600)]
    known = Known()
    coder = SegmentCoder(known, build_tree([b"a", b"b"]), len(offsets))  # type: ignore[arg-type]
    for lane, offset in enumerate(offsets):
        coder.offset(lane, offset)
    bits = [b for offset in offsets for b in [1] * offset + [0] * (offset < NO_OFFSET)]
    told, passing = Told(bits), first_passing()
    assert [read_offset(told, passing) for _ in offsets] == offsets
    assert known.ones == told.ones
