"""zstd for the planes that may profit from it: never larger, never a bomb.

Owns the choice between raw and zstd bytes and the safe way back. Does not know what the bytes are.
"""

from __future__ import annotations

import zstandard

from llmzip.errors import Corrupt, LimitExceeded

ZSTD_LEVEL = 19

# A zstd block yields at most 128 KiB and takes 4 bytes at least (RLE: 3 of header, 1 of data).
_MAX_EXPANSION = (128 << 10) // 4


def squeeze(data: bytes, *, least_bytes: int = 0) -> tuple[bytes, bool]:
    """The bytes to store, and whether they are a zstd frame.

    They are one only when that is smaller, and has no fewer than `least_bytes`.
    """
    if not data:
        return data, False
    packed = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=False).compress(data)
    return (packed, True) if least_bytes <= len(packed) < len(data) else (data, False)


def frame_content_bytes(frame: bytes | memoryview, *, what: str) -> int:
    """How many bytes a zstd frame says it holds. Raises Corrupt if it does not say, or lies."""
    try:
        size = int(zstandard.get_frame_parameters(bytes(frame[:32])).content_size)
    except zstandard.ZstdError as error:
        raise Corrupt(f"{what}: not a zstd frame") from error
    # Also refuses the markers for an unknown size, which are near 2**64.
    if size > len(frame) * _MAX_EXPANSION:
        raise Corrupt(f"{what}: {size} bytes cannot come from a zstd frame of {len(frame)}")
    return size


def unsqueeze(frame: bytes | memoryview, *, num_bytes: int, what: str) -> bytes:
    """The `num_bytes` bytes of exactly one zstd frame. Raises Corrupt, LimitExceeded.

    Callers bound `num_bytes` first: this is what gets allocated.
    """
    size = frame_content_bytes(frame, what=what)
    if size != num_bytes or not num_bytes:
        raise Corrupt(f"{what}: {num_bytes} bytes expected, the zstd frame holds {size}")
    try:
        data = zstandard.ZstdDecompressor().decompress(
            frame, max_output_size=num_bytes, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise Corrupt(f"{what}: damaged zstd frame ({error})") from error
    except MemoryError as error:
        raise LimitExceeded(f"{what}: no memory for {num_bytes} bytes") from error
    if len(data) != num_bytes:
        raise Corrupt(f"{what}: {num_bytes} bytes expected, {len(data)} came out of zstd")
    return data
