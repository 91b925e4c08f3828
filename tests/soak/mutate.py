"""Random changes to `.crm` files that keep enough of their form to get past the first checks.

Owns how a file is changed: bytes anywhere, bytes of a plane, one field of the header, planes of
another file, zstd put on or taken off. Checksums are put right nearly always.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from random import Random
from typing import Any

import zstandard

from llmzip.errors import FormatError
from llmzip.store.header import COLUMNS_ZSTD, CRC_BYTES, STORED_ZSTD, encode_header
from tests.soak.files import FRONT_BYTES, PLANES, Parts, assemble, reseal, signed, take_apart

POWERS = [1 << bits for bits in (7, 8, 10, 14, 16, 20, 21, 24, 28, 31, 32, 35, 40, 48, 56, 62, 63)]
LIMITS = sorted({0, 1, 2, 3, *(power + off for power in POWERS for off in (-2, -1, 0, 1))})
NAMES = ("", "x", "a/b", "../../etc", "v\x1b[2J", "\u202egnp.exe", "é" * 128, "0a" * 20, "\0", "~")
MAX_BYTES = 1 << 16  # of a file made here: what it costs to read grows with its size


def mutate(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """A changed file. others: sound files, parts of which may get into it."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        try:
            parts = take_apart(data)
            data = rng.choice(CHANGES)(parts, others, rng)
        except (
            FormatError,
            ValueError,
            UnicodeError,
        ):  # no header to change, or none to be written
            data = change_bytes(data, rng)
            data = reseal(data) if rng.random() < 0.9 else data
    return data[:MAX_BYTES] if len(data) <= MAX_BYTES else reseal(data[:MAX_BYTES])


def change_bytes(data: bytes, rng: Random) -> bytes:
    """A few bytes changed, put in, taken out, doubled or moved."""
    if not data:
        return rng.randbytes(rng.randrange(1, 9))
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 1, 2, 4, 8, 16, 64, 300)))
    part = data[at:end] or b"\0"  # at the end, something is put behind it
    other = rng.randrange(len(data))
    new = rng.choice(
        (
            bytes([part[0] ^ 1 << rng.randrange(8)]) + part[1:],
            rng.randbytes(len(part)),
            rng.randbytes(rng.randrange(1, 20)) + part,
            bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF))]) * len(part),
            part * rng.choice((2, 3, 50)),
            data[other : other + len(part)],
            b"\xff" * 8 + b"\x7f" + part[1:],  # the largest varint
            b"",
        )
    )
    return data[:at] + new + data[end:]


def _change_file(parts: Parts, _others: Sequence[bytes], rng: Random) -> bytes:
    data = change_bytes(parts.data, rng)
    return reseal(data) if rng.random() < 0.9 else data


def _change_front(parts: Parts, _others: Sequence[bytes], rng: Random) -> bytes:
    """The features: a bit more or less."""
    at = rng.choice((FRONT_BYTES - 2, FRONT_BYTES - 2, FRONT_BYTES - 1))
    flipped = bytes([parts.data[at] ^ 1 << rng.randrange(8)])
    return reseal(parts.data[:at] + flipped + parts.data[at + 1 :])


def _change_plane(parts: Parts, _others: Sequence[bytes], rng: Random) -> bytes:
    name = rng.choice(PLANES)
    plane = change_bytes(parts.plane(name), rng)
    return assemble(parts.header, _planes(parts) | {name: plane})


def _change_field(parts: Parts, _others: Sequence[bytes], rng: Random) -> bytes:
    """One field of the header; sizes of planes stay as they are half of the time."""
    header = _with_other_field(parts.header, rng)
    if rng.random() < 0.5:
        return assemble(header, _planes(parts))
    return signed(encode_header(header)[:-CRC_BYTES], b"".join(_planes(parts).values()))


def _splice(parts: Parts, others: Sequence[bytes], rng: Random) -> bytes:
    """A plane, or the header, of another file."""
    other = take_apart(rng.choice(others))
    name = rng.choice((*PLANES, ""))
    if not name:
        return assemble(other.header, _planes(parts))
    return assemble(parts.header, _planes(parts) | {name: other.plane(name)})


def _change_zstd(parts: Parts, _others: Sequence[bytes], rng: Random) -> bytes:
    """A plane put into a zstd frame or taken out of one, its feature changed or not."""
    name, bit = rng.choice((("columns", COLUMNS_ZSTD), ("stored", STORED_ZSTD)))
    plane = parts.plane(name)
    if parts.header.required & bit:
        try:
            # What the frame claims to hold is not to be trusted here, either.
            unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 23)
            plane = unpacker.stream_reader(plane).read(MAX_BYTES)
        except zstandard.ZstdError:
            pass
    if rng.random() < 0.5:
        plane = change_bytes(plane, rng)
    if rng.random() < 0.7:
        compressor = zstandard.ZstdCompressor(
            level=rng.choice((1, 19)),
            write_checksum=rng.random() < 0.3,
            write_content_size=rng.random() < 0.8,
        )
        plane = compressor.compress(plane)
        required = parts.header.required | bit
    else:
        required = parts.header.required & ~bit
    return assemble(replace(parts.header, required=required), _planes(parts) | {name: plane})


Change = Callable[[Parts, Sequence[bytes], Random], bytes]
CHANGES: tuple[Change, ...] = (
    _change_file, _change_front, _change_plane, _change_plane, _change_field, _change_field,
    _splice, _change_zstd,
)  # fmt: skip


def _planes(parts: Parts) -> dict[str, bytes]:
    return {name: parts.plane(name) for name in PLANES}


def _with_other_field(record: Any, rng: Random) -> Any:
    """The same dataclass with one field changed, of its own or of a dataclass inside it."""
    names = [each.name for each in fields(record) if getattr(record, each.name) not in (None, ())]
    name = rng.choice(names)
    return replace(record, **{name: _other_value(getattr(record, name), rng)})


def _other_value(value: Any, rng: Random) -> Any:
    if is_dataclass(value):
        return _with_other_field(value, rng)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((rng.choice(LIMITS), value + rng.choice((-2, -1, 1, 2)), 2 * value))
    if isinstance(value, str):
        return rng.choice(NAMES)
    return rng.randbytes(len(value))
