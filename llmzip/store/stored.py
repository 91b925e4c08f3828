"""Files without a model, and the sizes that other compressors reach.

Owns how bytes are kept that no model is worth, and how xz and zstd are measured. Knows nothing of
models.
"""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from itertools import groupby

import zstandard

from llmzip.store.container import Container, write_container
from llmzip.store.original import content_hash
from llmzip.store.payload import Payload, Run, StoredRun, TextRun


def stored_container(data: bytes) -> Container:
    """A container that holds `data` without a model."""
    return container_with(data, (StoredRun(data=data),) if data else ())


def pack_stored(data: bytes) -> bytes:
    """The same as bytes, for its size."""
    return write_container(stored_container(data))


def container_with(data: bytes, runs: Sequence[Run], payload: Payload | None = None) -> Container:
    """A container of `data`. Empty runs vanish, neighbours of one kind become one."""
    return Container(
        original_bytes=len(data),
        original_hash=content_hash(data),
        xz_bytes=xz_bytes(data),
        zstd_bytes=zstd_bytes(data),
        runs=join_runs(runs),
        payload=payload,
    )


def join_runs(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Runs that alternate in kind, none of them empty."""
    kept = [run for run in runs if run.num_bytes]
    joined: list[Run] = []
    for kind, group in groupby(kept, type):
        if kind is StoredRun:
            data = b"".join(run.data for run in group if isinstance(run, StoredRun))
            joined.append(StoredRun(data=data))
        else:
            joined.append(TextRun(num_bytes=sum(run.num_bytes for run in group)))
    return tuple(joined)


def xz_bytes(data: bytes) -> int:
    """Size that `xz -9e` gives; a dictionary no larger than the data gives the same at less
    memory."""
    lzma2 = {
        "id": lzma.FILTER_LZMA2,
        "preset": 9 | lzma.PRESET_EXTREME,
        "dict_size": min(1 << 26, max(4096, len(data))),
    }
    return len(lzma.compress(data, check=lzma.CHECK_CRC64, filters=[lzma2]))


def zstd_bytes(data: bytes) -> int:
    """Size that `zstd -19` gives."""
    return len(zstandard.ZstdCompressor(level=19).compress(data))
