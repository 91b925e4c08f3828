"""What every container says, whichever codec made it.

Owns the sizes that other compressors reach, and the container of a file kept without a model. Knows
nothing of models. Called by `encoding`, `arith_encoding`, `codec` and `estimate`.
"""

from __future__ import annotations

import lzma

import zstandard

from llmzip.store.container import Container, Run, StoredRun, content_hash, write_container


def pack_stored(data: bytes) -> bytes:
    """A container that holds `data` without a model."""
    return write_container(blank_container(data, (StoredRun(data=data),) if data else ()))


def blank_container(data: bytes, runs: tuple[Run, ...]) -> Container:
    """A container of `data` that says nothing yet of a model."""
    return Container(
        original_bytes=len(data),
        original_hash=content_hash(data),
        xz_bytes=xz_bytes(data),
        zstd_bytes=zstd_bytes(data),
        runs=runs,
    )


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
