"""Hostile headers: every number far too large, names that mislead, sizes beyond all limits.

Owns the list of files whose fault is what their header or run table says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from llmzip.errors import (
    Corrupt,
    FormatError,
    LimitExceeded,
    LlmzipError,
    NotACrmFile,
    Truncated,
    UnsupportedVersion,
)
from llmzip.store.header import MAGIC, MAX_HEADER_BYTES
from tests.soak.files import FRONT_BYTES, PLANES, Parts, seal, signed
from tests.soak.hostile import (
    GIB,
    HUGE,
    Bomb,
    changed,
    lying,
    numbers,
    sound_files,
    stored_file,
    with_planes,
)

# What a terminal acts on, or what makes a name look like another one.
MISLEADING = (
    "\0", "\n", "\r", "\t", "\x1b[2J", "\x1b]0;x\x07", "\x7f", "\x85", "\x9b31m", "\u200e",
    "\u200f", "\u2028", "\u202e", "\u2066", "\u2069",
)  # fmt: skip
# Names like any other: nothing is opened, fetched or run because a file has them.
ODD = (
    "../../etc/passwd", "/", "/etc", "~", "~root/x", "..", "C:\\x", "a/b", "-rf", "%s%n", "$(id)",
    "file:///etc", "\u200b", "\u00ad", "\U000e0041", "\ue000",
)  # fmt: skip


def header_bombs() -> Iterator[Bomb]:
    """All of them, under names of their own."""
    parts = sound_files()
    yield from _beginnings(parts["tiny"])
    yield from _sizes(parts["stored"], parts["tiny"])
    for file in ("tiny", "coded", "arith", "stored"):
        yield from _counts(file, parts[file])
    for file in ("tiny", "arith"):
        yield from _names(file, parts[file])


def _beginnings(tiny: Parts) -> Iterator[Bomb]:
    """Magic, version, features, and the size of the header."""
    front, data = tiny.data[len(MAGIC) : FRONT_BYTES], tiny.data
    start = data[:FRONT_BYTES]

    def headed(size: bytes, rest: bytes = bytes(99)) -> bytes:
        return start + size + rest

    for name, bad, error in (
        ("nothing at all", b"", NotACrmFile),
        ("another magic", b"\x28\xb5\x2f\xfd" + data[4:], NotACrmFile),
        ("half a magic", data[:5], Truncated),
        ("version 2", seal(b"\2" + front[1:], b"\0", b""), UnsupportedVersion),
        ("signs, but no model", seal(b"\1\x80\0", bytes(39), b""), Corrupt),
        ("feature 2^11", seal(front, b"\10" + bytes(99), b""), UnsupportedVersion),
        ("streams, but no model", seal(b"\1\0\0", b"\1" + bytes(39), b""), Corrupt),
        ("number, but no model", seal(b"\1\0\0", b"\2" + bytes(39), b""), Corrupt),
        ("header of 2^20 + 1 bytes", headed(numbers(MAX_HEADER_BYTES + 1)), Corrupt),
        ("header of 2^63 - 1 bytes", headed(numbers(HUGE)), Corrupt),
        ("header of 2^20 bytes, cut", headed(numbers(MAX_HEADER_BYTES)), Truncated),
        ("header size without end", headed(b"\xff" * 99), Corrupt),
        ("a number of 2^63", seal(front, b"\0" + b"\x80" * 9 + b"\1" + bytes(99), b""), Corrupt),
        ("an empty header", seal(front, b"", b""), Corrupt),
        ("2^20 bytes of nothing", seal(front, bytes(MAX_HEADER_BYTES), b""), Corrupt),
    ):
        yield Bomb(name=name, data=bad, error=error)
    first, last = tiny.fields
    fields, body = data[first:last], b"".join(map(tiny.plane, PLANES))
    padded = bytes([len(fields) | 0x80, 0])  # sound, were it not for the zero behind the number
    data = signed(start + padded + fields, body)
    yield Bomb(name="header size padded", data=data, error=Corrupt)
    data = seal(front, fields[:1] + bytes([fields[1] | 0x80, 0]) + fields[2:], body)
    yield Bomb(name="original_bytes padded", data=data, error=Corrupt)
    filled = fields.ljust(MAX_HEADER_BYTES, b"\xff")
    newer = seal(front[:2] + b"\x80", filled, body)
    yield Bomb(name="2^20 bytes of header, an optional feature", data=newer, error=None)


def _counts(file: str, parts: Parts) -> Iterator[Bomb]:
    """Every number of the header, far too large."""
    for path in _numbers(parts.header):
        for value in (2**31, 2**40, 2**62 - 1, HUGE):
            try:
                data = lying(changed(parts.header, path, value), parts)
            except ValueError:  # a byte, or twice the number is written
                continue
            if data == parts.data:  # a field that files of this kind do not have
                continue
            is_label = path in ("xz_bytes", "zstd_bytes")
            error = None if is_label else LlmzipError
            yield Bomb(name=f"{path} is {value} in {file}", data=data, error=error)


def _numbers(record: Any, path: str = "") -> Iterator[str]:
    for field in fields(record):
        value = getattr(record, field.name)
        if is_dataclass(value):
            yield from _numbers(value, f"{path}{field.name}.")
        elif type(value) is int:
            yield path + field.name


def _sizes(stored: Parts, tiny: Parts) -> Iterator[Bomb]:
    """Originals that are larger than anything."""
    frame = stored.plane("stored")
    for name, plane, zstd in (("zstd", frame, True), ("raw", bytes(9), False)):
        huge = stored_file(stored, plane, num_bytes=HUGE, zstd=zstd)
        title = f"2^63 - 1 stored bytes, {name}"
        yield Bomb(name=title, data=huge, error=LimitExceeded)
        raised = {"max_output_bytes": HUGE, "looks_sound": True}
        yield Bomb(name=f"{title}, any output", data=huge, error=Corrupt, **raised)
    over = replace(stored.header, original_bytes=GIB + 1)
    yield Bomb(name="1 byte over the limit", data=lying(over, stored), error=LimitExceeded)
    # 4 chunks, 20 tokens, and all the bytes there can be
    columns = numbers(4, 20, HUGE - 4) + tiny.plane("columns")[3:]
    header = replace(tiny.header, original_bytes=HUGE)
    data = with_planes(tiny, {"columns": columns}, header)
    yield Bomb(name="20 tokens of 2^63 bytes", data=data, error=LimitExceeded)
    runs = numbers(4, 20, HUGE, HUGE) + tiny.plane("columns")[4:]
    data = with_planes(tiny, {"columns": runs}, header)
    options = {"max_output_bytes": HUGE}
    yield Bomb(name="runs of more than the original", data=data, error=Corrupt, **options)


def _names(file: str, parts: Parts) -> Iterator[Bomb]:
    """Names of the model and revisions."""
    for what in ("model_id", "revision"):
        for text, error in (
            *((text, Corrupt) for text in (*MISLEADING, "x" * 256, "é" * 128)),
            *((text, None) for text in (*ODD, "x" * 255)),
        ):
            data = lying(changed(parts.header, f"payload.empty.model.{what}", text), parts)
            yield Bomb(name=f"{what} {ascii(text)} in {file}", data=data, error=error)
    empty = lying(changed(parts.header, "payload.empty.model.model_id", ""), parts)
    yield Bomb(name=f"an empty model_id in {file}", data=empty, error=Corrupt)
    first, last = parts.fields
    header, front = parts.data[first:last], parts.data[len(MAGIC) : FRONT_BYTES]
    commit = b"\1" + bytes.fromhex(parts.header.payload.model.revision)  # type: ignore[union-attr]
    for name, old, new in (
        ("not UTF-8", b"\3toy", b"\3\xff\xfeo"),
        ("a surrogate", b"\3toy", b"\3\xed\xa0\x80"),
        ("a name of 2^63 - 1 bytes", b"\3toy", numbers(HUGE) + b"toy"),
        ("a commit as text", commit, b"\x29" + commit[1:].hex().encode()),
        ("half a commit", commit, commit[:10]),
        ("a revision of 2^63 - 1 bytes", commit, numbers(HUGE) + commit[1:]),
    ):
        assert header.count(old) == 1
        body = b"".join(map(parts.plane, PLANES))
        data = seal(front, header.replace(old, new), body)
        yield Bomb(name=f"{name} in {file}", data=data, error=FormatError)
