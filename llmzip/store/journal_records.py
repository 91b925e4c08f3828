"""The path of a journal, where its records are in the file, and the words for work that differs.

Owns the names of the file, the index of its valid records, and reading their bytes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from hashlib import blake2b

from llmzip.errors import Corrupt

SUFFIX = ".part"
NEW = ".new"  # beside the file while it is written anew
CRC_BYTES = 4  # at the end of a record
_MOST_NAME_BYTES = 255  # the limit of most file systems


def journal_path(target: str) -> str:
    """The path of the journal of an output: its name with a suffix, in the same directory. A name
    that would be too long is cut and gets a hash."""
    folder, name = os.path.split(target)
    if len(os.fsencode(name + SUFFIX + NEW)) > _MOST_NAME_BYTES:
        mark = blake2b(os.fsencode(name), digest_size=8).hexdigest()
        head = os.fsencode(name)[: _MOST_NAME_BYTES // 2].decode(errors="ignore")
        name = f"{head}-{mark}.crm"
    return os.path.join(folder, name + SUFFIX)


@dataclass(frozen=True)
class Place:
    """A range of bytes in the file."""

    offset: int
    size: int


@dataclass(kw_only=True)
class Contents:
    """Where the valid records of a file are, where they end, and the CRC up to there."""

    kept: dict[str, list[Place]] = field(default_factory=dict)
    states: dict[str, Place] = field(default_factory=dict)
    order: list[tuple[str, Place]] = field(default_factory=list)  # `kept`, as it was added
    end: int = 0
    crc: int = 0

    def add(self, name: str, offset: int, sizes: tuple[int, int], crc: int) -> None:
        """Add a record. Its kept bytes begin at `offset`, then come those of its state, and its
        CRC. sizes: of the first two."""
        kept_bytes, state_bytes = sizes
        if kept_bytes:
            place = Place(offset, kept_bytes)
            self.kept.setdefault(name, []).append(place)
            self.order.append((name, place))
        if state_bytes:
            self.states[name] = Place(offset + kept_bytes, state_bytes)
        self.end, self.crc = offset + kept_bytes + state_bytes + CRC_BYTES, crc


def read_at(handle: int, offset: int, size: int) -> bytes:
    """Read `size` bytes at `offset`. Raises OSError, also where the file ends before that."""
    os.lseek(handle, offset, os.SEEK_SET)
    parts = []
    while size > 0:
        part = os.read(handle, size)
        if not part:
            raise OSError(0, "it became shorter")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def invalid_record(why: str) -> Corrupt:
    """The error for records that are undamaged, but that this llmzip would not have written."""
    return Corrupt(
        f"the work kept of an earlier run is invalid: {why}",
        hint="--restart discards it and starts anew",
    )


def difference(key: str, before: object, now: object) -> str:
    """How one fact of the work in a journal differs from that of a run, in words."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return f"the {key} is different"
    if key == "input":
        return "it is of another input, or the input has changed since"
    other = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    said = [f"{k} was {_text(before.get(k))}, is {_text(now.get(k))}" for k in other]
    return f"other {key}: " + ", ".join(said)


def _text(value: object) -> str:
    return "not given" if value is None else str(value)
