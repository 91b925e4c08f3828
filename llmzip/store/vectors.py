"""Mem vectors as bits: the vector plane.

Owns how a mem array becomes bytes. A mem array holds bf16 bit patterns: `mem: [n, K, D] uint16`
(n chunks, K vectors each, D dimensions). Does not know torch, the chunks, or the file around the
plane. Called by `llmzip.store.container`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmzip.errors import Corrupt, SettingsError, UnsupportedVersion

MemBits = npt.NDArray[np.uint16]

SUPPORTED_BITS = (16,)
MAX_NUM_MEM = 1024
MAX_MEM_DIM = 65536

_EXPONENT = np.uint16(0x7F80)  # all eight exponent bits set: infinity or NaN


def is_finite(mem: MemBits) -> bool:
    """Whether no bf16 bit pattern is an infinity or a NaN."""
    return not bool(((mem & _EXPONENT) == _EXPONENT).any())


def packed_bytes(count: int, num_mem: int, dim: int, bits: int) -> int:
    """Size of the plane, so that a reader can check it before allocating anything.

    Raises UnsupportedVersion for a precision that this llmzip cannot read.
    """
    if bits not in SUPPORTED_BITS:
        raise UnsupportedVersion(
            f"mem vectors of {bits} bits per dimension; this llmzip reads {_supported()}",
            hint="a newer llmzip may read this file",
        )
    return count * num_mem * dim * 2


def pack_vectors(mem: MemBits, *, bits: int) -> bytes:
    """`mem: [n, K, D] uint16` to bytes. Raises SettingsError if it cannot be stored."""
    if bits not in SUPPORTED_BITS:
        raise SettingsError(
            f"bits must be {_supported()}, got {bits}", hint=f"use --bits {SUPPORTED_BITS[0]}"
        )
    if mem.dtype != np.uint16 or mem.ndim != 3:
        raise SettingsError(f"mem must be uint16 [n, K, D], got {mem.dtype} {list(mem.shape)}")
    if not is_finite(mem):
        raise SettingsError("mem vectors hold an infinity or a NaN, which no file may")
    return mem.astype("<u2", copy=False).tobytes()


def unpack_vectors(
    data: bytes | memoryview, *, count: int, num_mem: int, dim: int, bits: int
) -> MemBits:
    """Bytes to `mem: [n, K, D] uint16`.

    Raises Corrupt for a wrong size, an infinity or a NaN.
    """
    size = packed_bytes(count, num_mem, dim, bits)
    if len(data) != size:
        raise Corrupt(f"vector plane: {size} bytes expected, {len(data)} found")
    # A copy of its own: the file's bytes can be freed, and torch accepts a writable array only.
    mem = np.frombuffer(data, dtype="<u2").astype(np.uint16).reshape(count, num_mem, dim)
    if not is_finite(mem):
        raise Corrupt("vector plane: an infinity or a NaN among the mem vectors")
    return mem


def _supported() -> str:
    return " or ".join(str(bits) for bits in SUPPORTED_BITS)
