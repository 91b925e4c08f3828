"""Hostile files: what each is, and what a reader must answer to it.

Owns the form of such a file and the ways to make one from a sound one. The lists are in
`hostile_headers` and `hostile_planes`; no file is kept, all are made. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmzip.config import DEFAULT_MAX_OUTPUT_BYTES
from llmzip.errors import LlmzipError
from llmzip.store.header import CRC_BYTES, Header, encode_header
from llmzip.store.varint import encode_varint
from tests.soak.files import PLANES, Parts, assemble, golden, signed, take_apart

HUGE = 2**63 - 1
GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Bomb:
    """A file, and what reading all of it must raise: this error or one of its kinds."""

    name: str
    data: bytes
    error: type[LlmzipError] | None  # None: it is sound, if odd
    looks_sound: bool = False  # to `info`, which does not look where the fault is
    is_work: bool = False  # a reader may accept it: the error is for who wants it decoded
    max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES


def sound_files() -> dict[str, Parts]:
    """The frozen files: tiny, coded, arith, stored and two of prose."""
    names = {name: name.removeprefix("v1_").removesuffix(".crm") for name in golden()}
    return {names[name]: take_apart(data) for name, data in golden().items()}


def numbers(*values: int) -> bytes:
    """Varints."""
    return b"".join(map(encode_varint, values))


def lying(header: Header, parts: Parts) -> bytes:
    """The planes of a file behind another header, checksums right."""
    body = b"".join(map(parts.plane, PLANES))
    return signed(encode_header(header)[:-CRC_BYTES], body)


def with_planes(parts: Parts, planes: Mapping[str, bytes], header: Header | None = None) -> bytes:
    """Other planes in a file, and the header that fits them."""
    return assemble(header or parts.header, {n: parts.plane(n) for n in PLANES} | planes)


def numbers_of(record: Any, path: str = "") -> list[str]:
    """Dotted names of all numbers in a header."""
    found = []
    for name, value in vars(record).items():
        if type(value) is int:
            found.append(path + name)
        elif hasattr(value, "__dataclass_fields__"):
            found += numbers_of(value, f"{path}{name}.")
    return found


def changed(record: Any, path: str, value: Any) -> Any:
    """The same dataclass, with the field of a dotted name changed."""
    name, _, rest = path.partition(".")
    return replace(record, **{name: changed(getattr(record, name), rest, value) if rest else value})


def stored_file(stored: Parts, plane: bytes, *, num_bytes: int, zstd: bool = True) -> bytes:
    """A file of one stored run that is said to have so many bytes."""
    header = replace(stored.header, original_bytes=num_bytes, required=4 * zstd)
    columns = numbers(num_bytes)
    return with_planes(stored, {"columns": columns, "stored": plane}, header)
