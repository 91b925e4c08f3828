"""Where a journal lies, what its records are made of, how two owners differ, what makes no sense.

Owns the names of the file, where its bytes lie and reading them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from hashlib import blake2b

from llmzip.errors import Corrupt

SUFFIX = ".part"
NEW = ".new"  # beside the file while it is written anew
_NAME_BYTES = 255  # of a file, as most systems have it


def journal_path(target: str) -> str:
    """Where the work on an output is kept: beside it, under its name and more; under a shorter one
    where that would be too long."""
    folder, name = os.path.split(target)
    if len(os.fsencode(name + SUFFIX + NEW)) > _NAME_BYTES:
        mark = blake2b(os.fsencode(name), digest_size=8).hexdigest()
        head = os.fsencode(name)[: _NAME_BYTES // 2].decode(errors="ignore")
        name = f"{head}-{mark}.crm"
    return os.path.join(folder, name + SUFFIX)


@dataclass(frozen=True)
class Place:
    """Bytes in the file."""

    offset: int
    size: int


@dataclass(kw_only=True)
class Contents:
    """Where the valid records of a file are, and where they end."""

    kept: dict[str, list[Place]] = field(default_factory=dict)
    states: dict[str, Place] = field(default_factory=dict)
    order: list[tuple[str, Place]] = field(default_factory=list)  # all that is kept
    end: int = 0
    crc: int = 0


def note(found: Contents, name: str, offset: int, kept_bytes: int, state_bytes: int) -> None:
    """Add a record whose kept bytes begin at `offset`, with the state's behind them."""
    if kept_bytes:
        place = Place(offset, kept_bytes)
        found.kept.setdefault(name, []).append(place)
        found.order.append((name, place))
    if state_bytes:
        found.states[name] = Place(offset + kept_bytes, state_bytes)


def read_at(handle: int, offset: int, size: int) -> bytes:
    """So many bytes from there. Raises OSError."""
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
    """The error for records that are whole, but are not what this llmzip would have written."""
    return Corrupt(
        f"the work kept of an earlier run makes no sense: {why}",
        hint="--restart discards it and starts anew",
    )


def difference(key: str, before: object, now: object) -> str:
    """How two owners' facts differ, in words."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return f"the {key} is another one"
    if key == "input":
        return "it is of another input, or the input has changed since"
    other = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    said = [f"{k} was {_word(before.get(k))}, is {_word(now.get(k))}" for k in other]
    return f"other {key}: " + ", ".join(said)


def _word(value: object) -> str:
    return "not given" if value is None else str(value)
