"""The coded vector plane: vectors on a grid, entropy-coded.

Owns the order of the symbols in the stream, the first guess at their distribution, and the header
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
from llmzip.store.varint import Cursor, encode_varint
from llmzip.store.vectors import MAX_STEP, MAX_SYMBOL, MIN_STEP, STEP_UNIT, GridMem

PRIOR_SYMBOLS = 16  # the first guess weighs as much as so many symbols seen, for each in use
MAX_PRIOR = 255
DIMENSIONS_PER_BYTE = 64  # a plane has a byte at least for as many dimensions of a vector


@dataclass(frozen=True, kw_only=True)
class GridCode:
    """What the header says of the coded vectors."""

    max_symbol: int  # the largest |symbol|, 1 at least
    first_step: int  # the smallest step, in units of STEP_UNIT
    step_span: int  # the largest step less the smallest, in the same units
    prior: int  # the first guess, see `prior_counts`

    def check(self) -> None:
        """Raise Corrupt unless each field is in range."""
        steps = (STEP_UNIT * self.first_step, STEP_UNIT * (self.first_step + self.step_span))
        if not 1 <= self.max_symbol <= MAX_SYMBOL:
            raise Corrupt(f"header: largest symbol {self.max_symbol}, at most {MAX_SYMBOL}")
        if not MIN_STEP <= steps[0] <= steps[1] <= MAX_STEP:
            raise Corrupt(f"header: steps from {self.first_step}, {self.step_span} of them more")


NO_VECTORS = GridCode(max_symbol=1, first_step=MIN_STEP // STEP_UNIT, step_span=0, prior=0)


def encode_grid_code(code: GridCode) -> bytes:
    """The header fields' bytes."""
    numbers = (code.max_symbol, code.first_step, code.step_span)
    return b"".join(map(encode_varint, numbers)) + bytes((code.prior,))


def read_grid_code(cursor: Cursor) -> GridCode:
    """The inverse of `encode_grid_code`. Raises Corrupt."""
    max_symbol, first_step, step_span = (cursor.varint() for _ in range(3))
    code = GridCode(
        max_symbol=max_symbol, first_step=first_step, step_span=step_span, prior=cursor.byte()
    )
    code.check()
    return code


def least_bytes(count: int, num_mem: int, dim: int) -> int:
    """The fewest bytes that the plane may have, however little its vectors hold."""
    return count * num_mem * -(-dim // DIMENSIONS_PER_BYTE)


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

    Callers have bounded the counts by `least_bytes`.
    """
    if not count:
        if len(data) or code != NO_VECTORS:
            raise Corrupt("vector plane: coded vectors, but no chunk has any")
        return []
    symbols = np.zeros((count, num_mem, dim), dtype=np.int16)
    codes = np.zeros((count, num_mem), dtype=np.int32)
    _walk(RangeReader(data, what="vector plane"), code, symbols, codes)
    if _code_of(symbols, codes, prior=code.prior) != code:
        raise Corrupt("vector plane: symbols or steps are not what the header says")
    # One content, one spelling: refuses any longer stream for the same, and what follows a stream.
    if _write(code, symbols, codes) != bytes(data):
        raise Corrupt("vector plane: not what its own contents are written as")
    steps = (STEP_UNIT * codes).astype(np.uint16)
    return [GridMem(symbols=symbols[i], steps=steps[i]) for i in range(count)]


def salvage_grids(
    data: bytes | memoryview, code: GridCode, *, count: int, num_mem: int, dim: int
) -> list[GridMem | None]:
    """What a damaged plane still gives: vectors of which those before the damage are right."""
    symbols = np.zeros((count, num_mem, dim), dtype=np.int16)
    codes = np.full((count, num_mem), -1, dtype=np.int32)
    with suppress(Corrupt):
        _walk(RangeReader(data, what="vector plane"), code, symbols, codes)
    steps = (STEP_UNIT * codes).astype(np.uint16)
    return [
        GridMem(symbols=symbols[i], steps=steps[i]) if (codes[i] >= 0).all() else None
        for i in range(count)
    ]


@lru_cache(maxsize=4)
def prior_counts(prior: int, max_symbol: int) -> tuple[int, ...]:
    """First counts of the symbols -max_symbol to max_symbol, from the header's byte.

    The top bit chooses between a normal distribution (0) and a Laplacian; the lower seven bits are
    a width, the larger the narrower. Both come from a ratio between neighbours, in integers: the
    Laplacian's is constant, the normal's falls from step to step by a constant ratio.
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
    """The byte whose distribution fits all symbols best. Any byte would do; this one saves most."""
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

    symbols: [n, K, D] int16; codes: [n, K] int32, steps in units of STEP_UNIT. A writer takes the
    values from there, a reader puts them there.
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
