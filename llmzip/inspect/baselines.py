"""What other compressors make of a text, and from what size on a model pays for itself.

Owns which others there are, how each is run, and the break-even size. Needs no model.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import NamedTuple

import zstandard

_XZ = lzma.PRESET_EXTREME | 9


@dataclass(frozen=True, kw_only=True)
class Contender:
    """What one compressor made of a text. None: not measured."""

    name: str
    num_bytes: int
    compress_seconds: float | None = None
    decompress_seconds: float | None = None
    is_forecast: bool = False
    is_ours: bool = False

    def bits_per_byte(self, original_bytes: int) -> float:
        return 8 * self.num_bytes / original_bytes


class _Method(NamedTuple):
    """Both directions."""

    name: str
    pack: Callable[[bytes], bytes]
    unpack: Callable[[bytes], bytes]


def methods() -> list[_Method]:
    """All others, each at its best; brotli only where it is installed."""
    zstd = zstandard.ZstdCompressor(level=19), zstandard.ZstdDecompressor()
    found = [
        _Method("gzip -9", lambda data: gzip.compress(data, 9), gzip.decompress),
        _Method("bzip2 -9", lambda data: bz2.compress(data, 9), bz2.decompress),
        _Method("xz -9e", lambda data: lzma.compress(data, preset=_XZ), lzma.decompress),
        _Method("zstd -19", zstd[0].compress, zstd[1].decompress),
    ]
    with suppress(ImportError):
        brotli = import_module("brotli")
        pack = partial(brotli.compress, quality=11)
        found.append(_Method("brotli 11", pack, brotli.decompress))
    return found


def others(data: bytes) -> Iterator[Contender]:
    """Each of them, run once both ways."""
    for method in methods():
        began = time.perf_counter()
        packed = method.pack(data)
        packed_at = time.perf_counter()
        if method.unpack(packed) != data:
            raise AssertionError(f"{method.name} does not give the data back")
        yield Contender(
            name=method.name,
            num_bytes=len(packed),
            compress_seconds=packed_at - began,
            decompress_seconds=time.perf_counter() - packed_at,
        )


def break_even_bytes(
    ours: Contender, rivals: Sequence[Contender], *, original_bytes: int, model_bytes: int
) -> float | None:
    """How much such text it takes until ours and the model together are smaller than the best
    rival's; None: never, or there is nothing to compare."""
    best = min((each.num_bytes for each in rivals), default=0)
    saved = best - ours.num_bytes
    if saved <= 0 or not original_bytes:
        return None
    return model_bytes * original_bytes / saved
