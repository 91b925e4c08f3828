"""The `.part` file, read and written independently of `llmzip.store.journal`.

Owns a second reading of its layout, and correcting its checksums after manipulation. Needs no
torch.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

MAGIC = b"\x89CRMPART\r\n\x1a\n\x01"
BOOKKEEPING = ("owner", "run")  # records that are no work


@dataclass(frozen=True, kw_only=True)
class Record:
    """A valid record, and where it is in the file."""

    name: str
    kept: bytes
    state: bytes  # still packed
    start: int
    end: int


def read_part(data: bytes) -> list[Record]:
    """The valid records of a file, in order."""
    records: list[Record] = []
    start, crc = len(MAGIC), 0
    if not data.startswith(MAGIC):
        return records
    while start + 9 <= len(data):
        sizes = struct.unpack_from("<BII", data, start)
        end = start + 9 + sum(sizes)
        crc = crc32(data[start:end], crc)
        if len(data) < end + 4 or data[end : end + 4] != struct.pack("<I", crc):
            break
        name_end = start + 9 + sizes[0]
        kept_end = name_end + sizes[1]
        records.append(
            Record(
                name=data[start + 9 : name_end].decode(),
                kept=data[name_end:kept_end],
                state=data[kept_end:end],
                start=start,
                end=end + 4,
            )
        )
        start = end + 4
    return records


def write_part(records: Sequence[Record]) -> bytes:
    """A file of these records with right checksums; their places are not looked at."""
    data, crc = MAGIC, 0
    for record in records:
        name = record.name.encode(errors="surrogateescape")
        body = struct.pack("<BII", len(name), len(record.kept), len(record.state))
        body += name + record.kept + record.state
        crc = crc32(body, crc)
        data += body + struct.pack("<I", crc)
    return data


def chunks_in(kept: bytes) -> int:
    """How many chunks a record of chunks holds. They are a safetensors file whose tensor "plain"
    is a JSON list of them."""
    (size,) = struct.unpack_from("<Q", kept)
    start, end = json.loads(kept[8 : 8 + size])["plain"]["data_offsets"]
    return len(json.loads(kept[8 + size + start : 8 + size + end]))


def num_chunks(data: bytes) -> int:
    """How many finished chunks a `.part` file holds."""
    return sum(
        chunks_in(record.kept)
        for record in read_part(data)
        if record.name == "chunks" and record.kept
    )


def work_names(data: bytes) -> list[str]:
    """Names under which a `.part` file holds work."""
    return [record.name for record in read_part(data) if record.name not in BOOKKEEPING]
