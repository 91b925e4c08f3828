"""Mem vectors as bits: the raw vector plane, and vectors on a uniform grid.

Owns the two forms of mem vectors: raw bf16 bit patterns, `mem: [n, K, D] uint16` (n chunks, K
vectors each, D dimensions), and `GridMem`, small integers times a step per vector; and the exact
rule that turns the second form into the first. Does not know torch, entropy coding, the chunks, or
the file around the plane.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmzip.errors import Corrupt, SettingsError, UnsupportedVersion

MemBits: TypeAlias = npt.NDArray[np.uint16]

RAW_BITS = 16
CODED_BITS = range(1, 9)
MAX_NUM_MEM = 1024
MAX_MEM_DIM = 65536
MAX_SYMBOL = 1023

# A step is a bf16 number whose low five bits are 0: 1, 1.25, 1.5 or 1.75 times a power of two. No
# subnormals, which some processors flush to zero.
STEP_UNIT = 32
MIN_STEP = 0x0080
MAX_STEP = 0x7F60

_EXPONENT = np.uint16(0x7F80)  # all eight exponent bits set: infinity or NaN


@dataclass(frozen=True, kw_only=True, eq=False)
class GridMem:
    """The mem vectors of one chunk on a uniform grid: each number is a symbol times its step."""

    symbols: npt.NDArray[np.int16]  # [K, D]
    steps: npt.NDArray[np.uint16]  # [K], bf16 bit patterns from MIN_STEP to MAX_STEP

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GridMem):
            return NotImplemented
        return np.array_equal(self.symbols, other.symbols) and np.array_equal(
            self.steps, other.steps
        )

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash

    def to_bits(self) -> MemBits:
        """The numbers as bf16 bit patterns: [K, D] uint16. Raises Corrupt if one is infinite."""
        bits = grid_values(self.symbols, self.steps)
        if not is_finite(bits):
            raise Corrupt("mem vectors whose step makes them infinite")
        return bits

    def problem(self, num_mem: int, mem_dim: int) -> str:
        """Why these cannot be the vectors of one chunk; empty where they can."""
        for name, array, shape, kind in (
            ("symbols", self.symbols, [num_mem, mem_dim], "int16"),
            ("steps", self.steps, [num_mem], "uint16"),
        ):
            if list(array.shape) != shape or str(array.dtype) != kind:
                return f"{name} are {array.dtype} {list(array.shape)}, not {kind} {shape}"
        if int(self.symbols.max()) > MAX_SYMBOL or int(self.symbols.min()) < -MAX_SYMBOL:
            return f"a symbol beyond {MAX_SYMBOL}"
        if not all(map(is_step, self.steps.tolist())):
            return f"an invalid step among {self.steps.tolist()}"
        if not is_finite(grid_values(np.abs(self.symbols).max(axis=1, keepdims=True), self.steps)):
            return "a step that makes its vector infinite"
        return ""


def mem_bits(mem: MemBits | GridMem) -> MemBits:
    """Either form as bf16 bit patterns: [K, D] uint16. Raises what `GridMem.to_bits` raises."""
    return mem.to_bits() if isinstance(mem, GridMem) else mem


def grid_values(symbols: npt.NDArray[np.int16], steps: npt.NDArray[np.uint16]) -> MemBits:
    """bf16 bits of symbol x step, rounded to the nearest, ties to even.

    symbols: [..., K, D]; steps: [..., K]; result: [..., K, D]. The product is exact in fp32 (13
    bits at most), so that the conversion to bf16, done in integers, is the only rounding. Symbol 0
    gives +0.
    """
    factors = (steps.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # callers check for infinities
        exact = symbols.astype(np.float32) * factors[..., np.newaxis]
    wide = exact.view(np.uint32)
    even = (wide >> 16) & 1
    return ((wide + np.uint32(0x7FFF) + even) >> 16).astype(np.uint16)


def is_step(pattern: int) -> bool:
    """Whether a bf16 bit pattern may be a step."""
    return MIN_STEP <= pattern <= MAX_STEP and pattern % STEP_UNIT == 0


def step_value(pattern: int) -> float:
    """The number that a step's bit pattern stands for."""
    return float(np.array([pattern << 16], dtype=np.uint32).view(np.float32)[0])


def quantise_step(step: float) -> int:
    """The bit pattern of the allowed step with the ratio nearest to 1 to a positive number.

    Numbers below the smallest or above the largest step give that step. Raises ValueError for a
    number that is not positive and finite.
    """
    if not 0 < step < math.inf:
        raise ValueError(f"a step must be positive and finite, not {step}")
    fraction, exponent = math.frexp(step)
    eighths = 8 * fraction  # 4 <= eighths < 8; the allowed steps have 4, 5, 6 and 7 here
    lower = int(eighths)
    nearest = lower if eighths * eighths <= lower * (lower + 1) else lower + 1
    code = 4 * (exponent - 1 + 127) + nearest - 4
    return max(MIN_STEP, min(MAX_STEP, STEP_UNIT * code))


def is_finite(mem: MemBits) -> bool:
    """Whether no bf16 bit pattern is an infinity or a NaN."""
    return not bool(((mem & _EXPONENT) == _EXPONENT).any())


def check_bits(bits: int) -> None:
    """Raise UnsupportedVersion for a precision that this llmzip cannot read."""
    if bits != RAW_BITS and bits not in CODED_BITS:
        raise UnsupportedVersion(
            f"mem vectors of {bits} bits per dimension; this llmzip reads 1 to 8 and {RAW_BITS}",
            hint="a newer llmzip may read this file",
        )


def packed_bytes(count: int, num_mem: int, dim: int, bits: int) -> int:
    """Bytes of `count` chunks' vectors: exact for 16 bits, else without the gain of entropy coding.

    Raises UnsupportedVersion for a precision that this llmzip cannot read.
    """
    check_bits(bits)
    return (count * num_mem * dim * bits + 7) // 8


def pack_vectors(mem: MemBits) -> bytes:
    """`mem: [n, K, D] uint16` to bytes. Raises SettingsError if it cannot be stored."""
    if mem.dtype != np.uint16 or mem.ndim != 3:
        raise SettingsError(f"mem must be uint16 [n, K, D], got {mem.dtype} {list(mem.shape)}")
    if not is_finite(mem):
        raise SettingsError("mem vectors with an infinity or a NaN cannot be stored")
    return mem.astype("<u2", copy=False).tobytes()


def unpack_vectors(data: bytes | memoryview, *, count: int, num_mem: int, dim: int) -> MemBits:
    """Bytes to `mem: [n, K, D] uint16`.

    Raises Corrupt for a wrong size, an infinity or a NaN.
    """
    size = packed_bytes(count, num_mem, dim, RAW_BITS)
    if len(data) != size:
        raise Corrupt(f"vector plane: {size} bytes expected, {len(data)} found")
    # A copy, so that the file's bytes can be freed, and as torch needs a writable array.
    mem = np.frombuffer(data, dtype="<u2").astype(np.uint16).reshape(count, num_mem, dim)
    if not is_finite(mem):
        raise Corrupt("vector plane: an infinity or a NaN among the mem vectors")
    return mem
