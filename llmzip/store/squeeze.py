"""zstd for planes that it makes smaller, with bounded memory when they are read.

Owns the choice between raw and zstd bytes, and decompression that checks the size before it
allocates. Does not know what the bytes mean.
"""

from __future__ import annotations

import zstandard

from llmzip.errors import Corrupt, LimitExceeded
from llmzip.store.varint import require

ZSTD_LEVEL = 19

# A zstd block yields at most 128 KiB and takes 4 bytes at least (RLE: 3 of header, 1 of data).
_MAX_EXPANSION = (128 << 10) // 4


def squeeze(data: bytes, *, least_bytes: int = 0) -> tuple[bytes, bool]:
    """The bytes to store, and whether they are a zstd frame.

    They are a zstd frame only where it is smaller than `data` and has at least `least_bytes` bytes.
    """
    if not data:
        return data, False
    packed = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=False).compress(data)
    return (packed, True) if least_bytes <= len(packed) < len(data) else (data, False)


def frame_content_bytes(frame: bytes | memoryview, *, what: str) -> int:
    """The number of bytes that a zstd frame says it holds. Raises Corrupt where it does not say, or
    where a frame of its size cannot hold so many."""
    try:
        size = int(zstandard.get_frame_parameters(bytes(frame[:32])).content_size)
    except zstandard.ZstdError as error:
        raise Corrupt(f"{what}: not a zstd frame") from error
    # Also refuses the markers for an unknown size, which are near 2**64.
    is_possible = size <= len(frame) * _MAX_EXPANSION
    require(is_possible, f"{what}: {size} bytes cannot come from a zstd frame of {len(frame)}")
    return size


def unsqueeze(frame: bytes | memoryview, *, num_bytes: int, what: str) -> bytes:
    """The `num_bytes` bytes of exactly one zstd frame. Raises Corrupt, LimitExceeded.

    Callers check `num_bytes` against a limit first: so much memory is allocated.
    """
    size = frame_content_bytes(frame, what=what)
    is_size = size == num_bytes > 0
    require(is_size, f"{what}: {num_bytes} bytes expected, the zstd frame holds {size}")
    try:
        data = zstandard.ZstdDecompressor().decompress(
            frame, max_output_size=num_bytes, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise Corrupt(f"{what}: damaged zstd frame ({error})") from error
    except MemoryError as error:
        raise LimitExceeded(f"{what}: no memory for {num_bytes} bytes") from error
    is_whole = len(data) == num_bytes
    require(is_whole, f"{what}: {num_bytes} bytes expected, {len(data)} came out of zstd")
    return data
