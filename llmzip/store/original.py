"""What a container says of its original: its hash, the checks of its parts, its name's suffix.

Owns which hash it is, how many of its bytes stand for a part, and which suffixes may be kept, so
that a file can never name a path.
"""

from __future__ import annotations

import re
from hashlib import blake2b

from llmzip.errors import Corrupt

HASH_BYTES = 32


def content_hash(data: bytes) -> bytes:
    """BLAKE2b-256 of the original bytes."""
    return new_content_hash(data).digest()


def new_content_hash(data: bytes = b"") -> blake2b:
    """The same for bytes that come in parts: has update, copy and digest."""
    return blake2b(data, digest_size=HASH_BYTES)


def chunk_check(data: bytes, *, size: int) -> int:
    """Some bits to find the chunk that went wrong: the first bytes of `content_hash`, one or two.

    Not a proof of anything; the hash of the whole original is.
    """
    return int.from_bytes(content_hash(data)[:size], "little")


def segment_check(data: bytes) -> int:
    """32 bits to find the segment that went wrong: the first four bytes of `content_hash`."""
    return int.from_bytes(content_hash(data)[:4], "little")


_MOST_BYTES = 16  # with its dot
_SUFFIX = re.compile(r"\.[A-Za-z0-9_+-]+")


def is_suffix(text: str) -> bool:
    """Whether a container can keep this suffix: a dot, then ASCII letters, digits, "_", "+", "-";
    16 characters at most."""
    return _SUFFIX.fullmatch(text) is not None and len(text) <= _MOST_BYTES


def check_suffix(suffix: str) -> None:
    """Raise Corrupt for a suffix that is not allowed."""
    if not is_suffix(suffix):
        raise Corrupt("the suffix of the original's name is not allowed")
