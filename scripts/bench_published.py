"""What others publish of files that `bench.py size` may be given.

Owns the figures, their sources, and the files that they are of. Nothing here was measured by us.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Published:
    """What others say that their compressor makes of a file."""

    name: str
    bytes: int | None  # None: not said
    bits_per_byte: float
    source: str


ALICE29_SHA256 = "7467306ee0feed4971260f3c87421154a05be571d944e9cb021a5713700c38f0"
PUBLISHED = {  # by SHA-256 of the whole file
    ALICE29_SHA256: (
        Published(
            name="ts_zip, RWKV 169M in 8 bits",
            bytes=21_713,
            bits_per_byte=1.142,
            source="https://bellard.org/ts_zip",
        ),
        Published(
            name="Nacrith, SmolLM2-135M base, GPU",
            bytes=None,
            bits_per_byte=0.918,
            source="https://arxiv.org/abs/2602.19626",
        ),
    ),
}


def published_of(data: bytes) -> tuple[Published, ...]:
    """What is published of exactly these bytes."""
    return PUBLISHED.get(hashlib.sha256(data).hexdigest(), ())
