"""The vector plane of sign vectors: one step for the whole file, and a bit for each number.

Owns the order of the bits and the header field of the step. Does not know what the vectors mean,
nor the chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llmzip.store.varint import Cursor, encode_varint, require
from llmzip.store.vectors import MAX_STEP, MIN_STEP, STEP_UNIT, GridMem


@dataclass(frozen=True, kw_only=True)
class SignCode:
    """The header field of sign vectors."""

    step: int  # in units of STEP_UNIT

    def encode(self) -> bytes:
        """The header field's bytes."""
        return encode_varint(self.step)

    @classmethod
    def read(cls, cursor: Cursor) -> SignCode:
        """The inverse of `encode`. Raises Corrupt."""
        step = cursor.varint()
        is_step = MIN_STEP <= STEP_UNIT * step <= MAX_STEP
        require(is_step, f"header: a step of {step} is out of range")
        return cls(step=step)


def plane_bytes(count: int, num_mem: int, dim: int) -> int:
    """The size of the plane of `count` chunks."""
    return -(-count * num_mem * dim // 8)


def are_signs(mems: Sequence[GridMem]) -> bool:
    """Whether vectors can be stored so: every number is the same step, or its negative."""
    steps = {step for mem in mems for step in mem.steps.tolist()}
    return len(steps) == 1 and all((np.abs(mem.symbols) == 1).all() for mem in mems)


def pack_signs(mems: Sequence[GridMem]) -> tuple[SignCode, bytes]:
    """Vectors of one shape, at least one, for which `are_signs` holds, to a header field and a
    plane."""
    bits = np.stack([mem.symbols for mem in mems]).ravel() > 0
    step = int(mems[0].steps[0]) // STEP_UNIT
    return SignCode(step=step), np.packbits(bits, bitorder="little").tobytes()


def unpack_signs(
    data: bytes | memoryview, code: SignCode, *, count: int, num_mem: int, dim: int
) -> list[GridMem]:
    """The inverse of `pack_signs`: `count` chunks' vectors. Raises Corrupt."""
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little")
    size = count * num_mem * dim
    require(not bits[size:].any(), "vector plane: its unused bits are not 0")
    return list(_mems(bits[:size].reshape(count, num_mem, dim), code))


def salvage_signs(
    data: bytes | memoryview, code: SignCode, *, count: int, num_mem: int, dim: int
) -> list[GridMem]:
    """The vectors of as many of the `count` first chunks as there are bytes for."""
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little")
    count = min(count, len(bits) // (num_mem * dim))
    return list(_mems(bits[: count * num_mem * dim].reshape(count, num_mem, dim), code))


def _mems(bits: np.ndarray, code: SignCode) -> Iterator[GridMem]:
    for own in bits:
        yield GridMem(
            symbols=2 * own.astype(np.int16) - 1,
            steps=np.full(len(own), STEP_UNIT * code.step, dtype=np.uint16),
        )
