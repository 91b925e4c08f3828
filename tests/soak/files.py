"""`.crm` files as bytes to be tampered with: their parts, their records, and right checksums.

Owns how a file is taken apart and sealed again, whatever is in it. Does not decide what to damage.
Needs neither torch nor pytest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch
from zlib import crc32

from llmzip.errors import FormatError
from llmzip.store.arith_fields import ArithFields
from llmzip.store.container import parse_container
from llmzip.store.cram_fields import CramFields
from llmzip.store.header import CRC_BYTES, MAGIC, Header, encode_header, read_header
from llmzip.store.opening import END_MARK
from llmzip.store.varint import Cursor, encode_varint

DATA = Path(__file__).parents[1] / "data"
FRONT_BYTES = len(MAGIC) + 3  # and version, required and optional features
TAIL_BYTES = CRC_BYTES + len(END_MARK)
PLANES = ("columns", "shared", "vectors", "patches", "streams", "stored")
_READERS = ("header", "opening", "container", "varint")  # modules that make cursors


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Bytes `start` up to `stop` of a file become `new`."""

    label: str
    start: int
    stop: int
    new: bytes

    def apply(self, data: bytes) -> bytes:
        """The damaged file, checksums as they were."""
        return data[: self.start] + self.new + data[self.stop :]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A sound file, taken apart."""

    data: bytes
    header: Header
    fields: tuple[int, int]  # where the header's fields lie
    planes: Mapping[str, tuple[int, int]]  # where each plane lies, empty ones included

    def plane(self, name: str) -> bytes:
        first, last = self.planes[name]
        return self.data[first:last]


def golden() -> dict[str, bytes]:
    """The frozen files, by name."""
    return {path.name: path.read_bytes() for path in sorted(DATA.glob("v1_*.crm"))}


def take_apart(data: bytes) -> Parts:
    """The parts of a file that the reader accepts."""
    header, end = read_header(data)
    cursor = Cursor(data, what="file")
    cursor.take(FRONT_BYTES)
    size = cursor.varint()
    fields = (cursor.offset, cursor.offset + size)
    own = header.payload.planes if header.payload else {}
    sizes = {"columns": header.columns_bytes, **own, "stored": header.stored_bytes}
    assert set(sizes) <= set(PLANES)
    planes = {}
    for name in PLANES:
        planes[name] = (end, end + sizes.get(name, 0))
        end += sizes.get(name, 0)
    return Parts(data=data, header=header, fields=fields, planes=planes)


def seal(front: bytes, fields: bytes, body: bytes) -> bytes:
    """A file with right checksums. front: version and features."""
    head = MAGIC + front + encode_varint(len(fields)) + fields
    return signed(head, body)


def assemble(header: Header, planes: Mapping[str, bytes]) -> bytes:
    """A file with right checksums, and a header that says how large its planes are."""
    payload = header.payload
    if isinstance(payload, CramFields):
        payload = replace(payload, patch_bytes=len(planes["patches"]))
        if payload.coded:
            coded = replace(payload.coded, vector_bytes=len(planes["vectors"]))
            payload = replace(payload, coded=coded)
        if payload.shared:
            shared = replace(payload.shared, num_bytes=len(planes["shared"]))
            payload = replace(payload, shared=shared)
    elif isinstance(payload, ArithFields):
        payload = replace(
            payload, vector_bytes=len(planes["vectors"]), stream_bytes=len(planes["streams"])
        )
    header = replace(
        header,
        columns_bytes=len(planes["columns"]),
        stored_bytes=len(planes["stored"]),
        payload=payload,
    )
    body = b"".join(planes[name] for name in PLANES)
    return signed(encode_header(header)[:-CRC_BYTES], body)


def reseal(data: bytes) -> bytes:
    """The same bytes with right checksums and end mark, as far as their places can be told."""
    try:
        cursor = Cursor(data, what="file")
        cursor.take(FRONT_BYTES)
        size = cursor.varint()
        cursor.take(size)
        end = cursor.offset
        cursor.take(CRC_BYTES + TAIL_BYTES)
    except FormatError:
        return data
    return signed(data[:end], data[end + CRC_BYTES : -TAIL_BYTES])


def signed(head: bytes, body: bytes) -> bytes:
    """A file of anything up to the header's checksum, and a body, with right checksums."""

    def crc(part: bytes) -> bytes:
        return crc32(part).to_bytes(CRC_BYTES, "little")

    return head + crc(head) + body + crc(body) + END_MARK


def apply_signed(parts: Parts, edit: Edit) -> bytes:
    """The damaged file under right checksums, its sizes put right if the edit lies in one part."""
    first, last = parts.fields
    if first <= edit.start and edit.stop <= last:
        fields = parts.data[first : edit.start] + edit.new + parts.data[edit.stop : last]
        front = parts.data[len(MAGIC) : FRONT_BYTES]
        return seal(front, fields, b"".join(map(parts.plane, PLANES)))
    for name, (first, last) in parts.planes.items():
        if first <= edit.start and edit.stop <= last and first < last:
            plane = parts.data[first : edit.start] + edit.new + parts.data[edit.stop : last]
            return assemble(parts.header, {n: parts.plane(n) for n in PLANES} | {name: plane})
    return reseal(edit.apply(parts.data))


def records(parts: Parts) -> list[tuple[int, int]]:
    """Where a file's records lie: all that the reader takes at once, each raw vector, and each 16
    bytes of a plane."""
    size = len(parts.data)
    end = size - len(END_MARK)
    found = {*_reads(parts.data), (size - TAIL_BYTES, end), (end, size)}
    payload = parts.header.payload
    if isinstance(payload, CramFields) and not payload.coded:
        found |= set(
            _rows(parts.planes["vectors"], 2 * payload.empty.num_mem * payload.empty.mem_dim)
        )
    for place in parts.planes.values():
        found |= {place, *_rows(place, 16)}
    return sorted((first, last) for first, last in found if first < last)


def _rows(place: tuple[int, int], num_bytes: int) -> list[tuple[int, int]]:
    return [(at, min(at + num_bytes, place[1])) for at in range(*place, num_bytes)]


def _reads(data: bytes) -> Sequence[tuple[int, int]]:
    """Every read that the reader makes in a file, but those in unpacked planes."""
    found: list[tuple[int, int]] = []

    class Watched(Cursor):
        """A cursor that notes what is read, one number at a time."""

        def __init__(self, *arguments: object, what: str, **options: object) -> None:
            super().__init__(*arguments, what=what, **options)  # type: ignore[arg-type]
            self._is_in_file = not what.startswith("unpacked")

        def _note(self, start: int) -> None:
            if self._is_in_file:
                found.append((start, self.offset))

        def take(self, count: int) -> memoryview:
            start, view = self.offset, super().take(count)
            self._note(start)
            return view

        def byte(self) -> int:
            start, value = self.offset, super().byte()
            self._note(start)
            return value

        def varint(self) -> int:
            start, value = self.offset, super().varint()
            self._note(start)
            return value

        def varints(self, count: int) -> list[int]:
            return [self.varint() for _ in range(count)]

    with ExitStack() as patches:
        for name in _READERS:
            patches.enter_context(patch(f"llmzip.store.{name}.Cursor", Watched))
        parse_container(data)
    return found
