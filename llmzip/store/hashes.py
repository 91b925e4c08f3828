"""The hash of an original, and the short checks of its parts.

Owns which hash it is and how many of its bytes stand for a part.
"""

from __future__ import annotations

from hashlib import blake2b

HASH_BYTES = 32


def content_hash(data: bytes) -> bytes:
    """BLAKE2b-256 of the original bytes."""
    return new_content_hash(data).digest()


def new_content_hash(data: bytes = b"") -> blake2b:
    """The same for bytes that come in parts: has update, copy and digest."""
    return blake2b(data, digest_size=HASH_BYTES)


def chunk_check(data: bytes) -> int:
    """16 bits to find the chunk that went wrong: the first two bytes of `content_hash`.

    Not a proof of anything; the hash of the whole original is.
    """
    return int.from_bytes(content_hash(data)[:2], "little")


def segment_check(data: bytes) -> int:
    """32 bits to find the segment that went wrong: the first four bytes of `content_hash`."""
    return int.from_bytes(content_hash(data)[:4], "little")
