"""Line breaks of hard-wrapped text: taken out of the text, and coded apart from it.

Owns which bytes may be breaks, how a text is written without them, and the model that codes them.
Does not know the language model, which reads the unwrapped text.

A *joint* is a single space, or a single line end, between two bytes that are neither white nor
absent. The line end is LF (wrap 1) or CR LF (wrap 2). Unwrapping makes all joints spaces; one flag
per joint says which were line ends. No joint touches another one's neighbour, so the joints of the
unwrapped text are those of the original, and rewrapping gives back any bytes.

A program that fills lines breaks where the next word would pass the width, so the flags are coded
given where that word would end. The width is not known, but each break is a vote for all widths
that would have made it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmzip.store.range_coder import ONE, AdaptiveBit, RangeCoder, RangeWriter

Flags: TypeAlias = npt.NDArray[np.bool_]
Positions: TypeAlias = npt.NDArray[np.int64]

LINE_ENDS = {1: b"\n", 2: b"\r\n"}
FIRST_WIDTH = 72
NUM_WIDTHS = 256  # columns at or beyond the last one vote for it
VOTE = 1 << 20
FADING = 4  # a break takes 2^-4 of the earlier votes
REACH = 12  # columns to either side of the width that are told apart
MOST_SEEN = 1022

# When unwrapping pays
HEAD_BYTES = 1 << 16  # what is looked at
LEAST_LETTERS = 0.75  # of what is not white; tables and logs have fewer
LEAST_BREAKS = 16
LEAST_COLUMNS = 40  # of the median broken line
MOST_BITS_PER_BREAK = 2.5  # a language model wants about 4.7 more for a line end than for a space


def unwrap(data: bytes, wrap: int) -> tuple[bytes, Flags]:
    """The text with spaces for line ends, and whether each of its joints was a line end."""
    pattern = re.compile(rb"(?<=[^ \t\r\n])(?: |" + LINE_ENDS[wrap] + rb")(?=[^ \t\r\n])")
    flags = np.array([found != b" " for found in pattern.findall(data)], dtype=np.bool_)
    return pattern.sub(b" ", data), flags


def num_joints(unwrapped: bytes) -> int:
    """How many flags an unwrapped text has."""
    return len(_joints(np.frombuffer(unwrapped, dtype=np.uint8)))


def rewrap(unwrapped: bytes, flags: Flags, wrap: int) -> bytes:
    """The inverse of `unwrap`. There are `num_joints(unwrapped)` flags."""
    text = np.frombuffer(unwrapped, dtype=np.uint8).copy()
    joints = _joints(text)
    assert len(flags) == len(joints), "one flag per joint"
    breaks = joints[np.asarray(flags, dtype=np.bool_)]
    text[breaks] = ord("\n")
    if wrap == 2:
        text = np.insert(text, breaks, ord("\r"))
    return text.tobytes()


def walk_flags(coder: RangeCoder, unwrapped: bytes, flags: Flags | None) -> Flags:
    """Code the flags of an unwrapped text, in order: the given ones, or those that are read."""
    layout = _layout(unwrapped)
    given = [None] * len(layout.joints) if flags is None else flags.astype(int).tolist()
    known = (layout.lines, layout.columns, layout.ends, layout.opens)
    filling = _Filling()
    joints = zip(*(column.tolist() for column in known), given, strict=True)
    return np.array([filling.walk(coder, *joint) for joint in joints], dtype=np.bool_)


def choose_wrap(data: bytes) -> int:
    """The kind of line end to take out of a text: 1, 2, or 0 if that would not pay.

    It pays for prose in filled lines, whose breaks cost little when coded apart. Verse, source
    code, lists and tables break their lines for reasons of their own, which the language model
    knows best.
    """
    head = data[:HEAD_BYTES]
    letters = re.sub(rb"[^a-zA-Z\x80-\xff]", b"", head)
    if len(letters) < LEAST_LETTERS * len(re.sub(rb"[ \t\r\n]", b"", head)):
        return 0
    num_breaks = {wrap: _num_cheap_breaks(head, wrap) for wrap in LINE_ENDS}
    best = max(num_breaks, key=num_breaks.__getitem__)
    return best if num_breaks[best] else 0


def _num_cheap_breaks(head: bytes, wrap: int) -> int:
    """How many line ends are worth taking out; 0 if they are not."""
    unwrapped, flags = unwrap(head, wrap)
    num_breaks = int(flags.sum())
    num_lines = len(re.findall(rb"[^ \t\r\n]" + LINE_ENDS[wrap], head))  # not blank
    if num_breaks < max(LEAST_BREAKS, num_lines / 3) or len(flags) < 4 * num_breaks:
        return 0
    layout = _layout(unwrapped)
    columns, ends = layout.columns[flags], layout.ends[flags]
    # A broken line starts after the line end before it, of either kind.
    starts = np.maximum(layout.lines[flags], np.append(0, columns[:-1] + 1))
    filled, refused = columns - starts, ends - starts  # each line's length, and what was too long
    if np.median(filled) < LEAST_COLUMNS:
        return 0
    # Most lines must be what filling to one width gives.
    size = int(refused.max()) + 1
    agreeing = np.cumsum(np.bincount(filled, minlength=size) - np.bincount(refused, minlength=size))
    if 2 * agreeing.max() < num_breaks:
        return 0
    writer = RangeWriter()
    walk_flags(writer, unwrapped, flags)
    num_bits = 8 * len(writer.finish(least_bytes=0))
    return num_breaks if num_bits <= MOST_BITS_PER_BREAK * num_breaks else 0


@dataclass(frozen=True, kw_only=True, eq=False)
class _Layout:
    """Where the joints of a text lie. Columns count characters from the start of the text."""

    joints: Positions  # [num_joints] offset, in bytes
    columns: Positions  # [num_joints] column of the joint
    ends: Positions  # [num_joints] column behind the word that follows
    lines: Positions  # [num_joints] column behind the last LF before the joint, or 0
    opens: npt.NDArray[np.bool_]  # [num_joints] the word does not start with a to z


def _joints(text: npt.NDArray[np.uint8]) -> Positions:
    """Offsets of the joints of an unwrapped text."""
    if len(text) < 3:
        return np.zeros(0, dtype=np.int64)
    white = _white(text)
    inner = (text[1:-1] == ord(" ")) & ~white[:-2] & ~white[2:]  # [num_bytes - 2]
    return np.flatnonzero(inner) + 1


def _white(text: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    return np.isin(text, np.frombuffer(b" \t\r\n", dtype=np.uint8))


def _layout(unwrapped: bytes) -> _Layout:
    text = np.frombuffer(unwrapped, dtype=np.uint8)
    joints = _joints(text)
    begins = (text & 0xC0) != 0x80  # a UTF-8 character
    columns = np.append(0, np.cumsum(begins))  # [num_bytes + 1]
    white = np.append(np.flatnonzero(_white(text)), len(text))
    lines = np.append(0, np.flatnonzero(text == ord("\n")) + 1)
    first = text[joints + 1]
    return _Layout(
        joints=joints,
        columns=columns[joints],
        ends=columns[white[np.searchsorted(white, joints, side="right")]],
        lines=columns[lines[np.searchsorted(lines, joints, side="right") - 1]],
        opens=(first < ord("a")) | (first > ord("z")),
    )


class _Filling:
    """What is known of how lines are filled, and the line that is being filled.

    A flag's probability is the mean of two adaptive bits: one knows where the next word would end,
    the other how much room the line has left.
    """

    def __init__(self) -> None:
        self._votes = np.zeros(NUM_WIDTHS, dtype=np.int64)
        self._width = FIRST_WIDTH
        self._settled = False  # the width would have made the last break
        self._start = 0  # column where the line starts
        self._passed = False  # the line has a word beyond the width
        either = (False, True)
        self._by_end = {
            (settled, passed, end, opens): _first_guess(end, passed)
            for settled, passed, end, opens in product(
                either, either, range(-REACH, REACH + 1), either
            )
        }
        self._by_room = {
            (fits, passed, room, opens): _first_guess(-room if fits else 1, passed)
            for fits, passed, room, opens in product(either, either, range(REACH + 1), either)
        }

    def walk(
        self, coder: RangeCoder, line: int, here: int, end: int, opens: bool, flag: int | None
    ) -> int:
        """Code one flag. `line`, `here` and `end` are columns of a layout."""
        if line > self._start:
            self._start, self._passed = line, False
        beyond = end - self._start - self._width
        fits = beyond <= 0
        room = self._width - (here - self._start)
        opens = opens and fits
        by_end = self._by_end[self._settled, self._passed, min(max(beyond, -REACH), REACH), opens]
        by_room = self._by_room[fits, self._passed, min(max(room, 0), REACH), opens]
        bit = coder.bit((by_end.ones + by_room.ones) // 2, flag)
        by_end.add(bit)
        by_room.add(bit)
        if bit:
            self._vote(here - self._start, end - self._start)
            self._start, self._passed = here + 1, False
        elif not fits:
            self._passed = True
        return bit

    def _vote(self, filled: int, refused: int) -> None:
        """Count a break for the widths from `filled` up to `refused`, and take the best one."""
        self._settled = filled <= self._width < refused
        self._votes -= self._votes >> FADING
        self._votes[min(filled, NUM_WIDTHS - 1) : min(refused, NUM_WIDTHS)] += VOTE
        self._width = int(self._votes.argmax())  # the least one of several


def _first_guess(beyond: int, passed: bool) -> AdaptiveBit:
    """A bit for words that end so many columns beyond the width."""
    if passed:
        return AdaptiveBit(ONE // 4, seen=2, most_seen=MOST_SEEN)
    if beyond > 0:
        return AdaptiveBit(ONE - ONE // 16, seen=2, most_seen=MOST_SEEN)
    if beyond > -REACH // 2:
        return AdaptiveBit(ONE // 16 if beyond == 0 else ONE // 64, seen=2, most_seen=MOST_SEEN)
    return AdaptiveBit(ONE // (1024 if beyond <= -REACH else 256), seen=30, most_seen=MOST_SEEN)
