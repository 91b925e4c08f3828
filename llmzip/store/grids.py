"""The coded vector plane: vectors on a grid, entropy-coded.

Owns the order of the symbols in the stream, the first guess of their distribution, and the header
fields that both need. Does not know what the vectors mean, nor the chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from llmzip.errors import Corrupt
from llmzip.store.range_coder import UNIT, Counts, RangeCoder, RangeReader, RangeWriter
from llmzip.store.varint import Cursor, encode_varints, require
from llmzip.store.vectors import MAX_STEP, MAX_SYMBOL, MIN_STEP, STEP_UNIT, GridMem

PRIOR_SYMBOLS = 16  # the weight of the first guess, in coded symbols for each of the alphabet
MAX_PRIOR = 255
DIMENSIONS_PER_BYTE = 64  # a plane has at least one byte for so many dimensions of a vector


@dataclass(frozen=True, kw_only=True)
class GridCode:
    """The header fields of the coded vectors."""

    max_symbol: int  # the largest |symbol|, 1 at least
    first_step: int  # the smallest step, in units of STEP_UNIT
    step_span: int  # the largest step less the smallest, in the same units
    prior: int  # the first guess, see `prior_counts`

    def check(self) -> None:
        """Raise Corrupt unless each field is in range."""
        largest, first, last = self.max_symbol, self.first_step, self.first_step + self.step_span
        is_symbol = 1 <= largest <= MAX_SYMBOL
        require(is_symbol, f"header: largest symbol {largest}, not 1 to {MAX_SYMBOL}")
        are_steps = MIN_STEP <= STEP_UNIT * first <= STEP_UNIT * last <= MAX_STEP
        require(are_steps, f"header: steps from {first} to {last} are out of range")

    def encode(self) -> bytes:
        """The header fields' bytes."""
        numbers = encode_varints(self.max_symbol, self.first_step, self.step_span)
        return numbers + bytes((self.prior,))

    @classmethod
    def read(cls, cursor: Cursor) -> GridCode:
        """The inverse of `encode`. Raises Corrupt."""
        code = cls(
            max_symbol=cursor.varint(),
            first_step=cursor.varint(),
            step_span=cursor.varint(),
            prior=cursor.byte(),
        )
        code.check()
        return code


NO_VECTORS = GridCode(max_symbol=1, first_step=MIN_STEP // STEP_UNIT, step_span=0, prior=0)


def least_bytes(count: int, num_mem: int, dim: int) -> int:
    """The fewest bytes that the plane may have, so that its size limits the number of vectors."""
    return count * num_mem * -(-dim // DIMENSIONS_PER_BYTE)


def check_plane_bytes(plane_bytes: int, count: int, num_mem: int, dim: int) -> None:
    """Raise Corrupt for a plane of fewer bytes than `least_bytes`."""
    least = least_bytes(count, num_mem, dim)
    is_enough = plane_bytes >= least
    require(is_enough, f"header: {plane_bytes} bytes of vectors, at least {least} expected")


def pack_grids(mems: Sequence[GridMem]) -> tuple[GridCode, bytes]:
    """Vectors of one shape to header fields and a plane. Expects vectors without a `problem`."""
    if not mems:
        return NO_VECTORS, b""
    symbols = np.stack([mem.symbols for mem in mems])  # [n, K, D]
    codes = np.stack([mem.steps for mem in mems]).astype(np.int32) // STEP_UNIT  # [n, K]
    code = _code_of(symbols, codes, prior=_best_prior(symbols))
    return code, _write(code, symbols, codes)


def unpack_grids(
    data: bytes | memoryview, code: GridCode, *, count: int, num_mem: int, dim: int
) -> list[GridMem]:
    """The inverse of `pack_grids`: `count` chunks' vectors. Raises Corrupt.

    Callers have checked the counts with `least_bytes`.
    """
    if not count:
        is_empty = not len(data) and code == NO_VECTORS
        require(is_empty, "vector plane: coded vectors, but no chunk has any")
        return []
    symbols = np.zeros((count, num_mem, dim), dtype=np.int16)
    codes = np.zeros((count, num_mem), dtype=np.int32)
    _walk(RangeReader(data, what="vector plane"), code, symbols, codes)
    is_as_said = _code_of(symbols, codes, prior=code.prior) == code
    require(is_as_said, "vector plane: symbols or steps are not what the header says")
    # A content has one encoding only: this refuses a longer stream, and bytes behind the stream.
    is_canonical = _write(code, symbols, codes) == bytes(data)
    require(is_canonical, "vector plane: not the canonical encoding of its contents")
    return list(map(_grid_mem, symbols, codes))


def salvage_grids(
    data: bytes | memoryview, code: GridCode, *, count: int, num_mem: int, dim: int
) -> list[GridMem | None]:
    """The vectors that a damaged plane still gives; only those before the damage are right, and the
    caller has to check which. None where no vector could be read."""
    symbols = np.zeros((count, num_mem, dim), dtype=np.int16)
    codes = np.full((count, num_mem), -1, dtype=np.int32)
    with suppress(Corrupt):
        _walk(RangeReader(data, what="vector plane"), code, symbols, codes)
    return [
        _grid_mem(own, steps) if (steps >= 0).all() else None
        for own, steps in zip(symbols, codes, strict=True)
    ]


def _grid_mem(symbols: np.ndarray, codes: np.ndarray) -> GridMem:
    return GridMem(symbols=symbols, steps=(STEP_UNIT * codes).astype(np.uint16))


@lru_cache(maxsize=4)
def prior_counts(prior: int, max_symbol: int) -> tuple[int, ...]:
    """First counts of the symbols -max_symbol to max_symbol, from the header's byte `prior`.

    The top bit chooses between a normal distribution (0) and a Laplacian (1). The lower seven bits
    are the width; a larger number is a narrower distribution. Each weight is the one before times a
    ratio, in integers: for the Laplacian the ratio is constant, for the normal distribution it
    falls by a constant factor.
    """
    width = (4 + prior % 4) << (prior % 128 // 4)
    ratio = (1 << 53) // ((1 << 21) + width)  # 2^32 / (1 + width / 2^21)
    falling = ratio * ratio >> 32 if prior < 128 else 1 << 32
    weights = [1 << 32]
    for _ in range(max_symbol):
        weights.append(weights[-1] * ratio >> 32)
        ratio = ratio * falling >> 32
    total = 2 * sum(weights) - weights[0]
    weight_of_all = PRIOR_SYMBOLS * UNIT * (2 * max_symbol + 1)
    half = [max(1, weight_of_all * weight // total) for weight in weights]
    return (*half[:0:-1], *half)


def _best_prior(symbols: np.ndarray) -> int:
    """The byte whose distribution gives all symbols the fewest bits. Any byte would be valid."""
    size = max(1, int(np.abs(symbols).max()))
    seen = np.bincount(symbols.ravel().astype(np.int32) + size, minlength=2 * size + 1)
    costs = []
    for prior in range(MAX_PRIOR + 1):
        counts = np.array(prior_counts.__wrapped__(prior, size), dtype=np.float64)
        costs.append(float(seen.sum() * np.log2(counts.sum()) - (seen * np.log2(counts)).sum()))
    return int(np.argmin(costs))


def _code_of(symbols: np.ndarray, codes: np.ndarray, *, prior: int) -> GridCode:
    return GridCode(
        max_symbol=max(1, int(np.abs(symbols).max())),
        first_step=int(codes.min()),
        step_span=int(codes.max() - codes.min()),
        prior=prior,
    )


def _write(code: GridCode, symbols: np.ndarray, codes: np.ndarray) -> bytes:
    writer = RangeWriter()
    _walk(writer, code, symbols, codes)
    return writer.finish(least_bytes=least_bytes(*symbols.shape))


def _walk(coder: RangeCoder, code: GridCode, symbols: np.ndarray, codes: np.ndarray) -> None:
    """Code every vector: its step, then its symbols.

    symbols: [n, K, D] int16; codes: [n, K] int32, steps in units of STEP_UNIT. With a writer the
    arrays are the input, with a reader they are filled.
    """
    dim = symbols.shape[2]
    symbol_model = Counts(prior_counts(code.prior, code.max_symbol))
    num_steps = code.step_span + 1
    step_model = Counts([max(1, UNIT // num_steps)] * num_steps)
    for vector, step in zip(symbols.reshape(-1, dim), codes.reshape(-1, 1), strict=True):
        if num_steps > 1:
            step[:] = code.first_step + coder.symbols(step_model, 1, step - code.first_step)
        else:
            step[:] = code.first_step
        shifted = vector.astype(np.int32) + code.max_symbol
        vector[:] = coder.symbols(symbol_model, dim, shifted) - code.max_symbol
