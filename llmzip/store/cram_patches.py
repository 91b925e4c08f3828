"""The coded patch plane: positions, ranks and token ids, entropy-coded.

Owns their order in the stream, the models' first counts, and the coding of one patch as a kind with
parameters. Where the language model codes the tokens (`cram_streams`), only positions and the ids
of literal chunks stand here. Does not know why a token was patched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np

from llmzip.errors import Corrupt
from llmzip.store.range_coder import Counts, Integers, RangeCoder, RangeReader, RangeWriter
from llmzip.store.residual import Name, Patch, Ranked, plain_ids
from llmzip.store.varint import require

# Kinds of a patch: a token id, a group of ranks, one rank above DIRECT + 1, and from SINGLE on one
# kind for each single rank skip + 1, for skip = 1, 2, ... DIRECT.
ID, GROUP, ESCAPE, SINGLE = range(4)
DIRECT = 20
LOW_BITS = 16


@dataclass(frozen=True, kw_only=True)
class ChunkPatches:
    """One chunk's part of the plane. A literal chunk has a patch for each of its tokens."""

    num_tokens: int
    is_literal: bool
    patches: tuple[Patch, ...] = ()  # empty where they are to be read


def _first(*counts: tuple[int, int]) -> Counts:
    """Counts from pairs (count, number of symbols with it)."""
    return Counts(count for count, times in counts for _ in range(times))


@dataclass
class _Models:
    """The adaptive counts, and the tokens and patches that are left, from one chunk to the next."""

    tokens_left: int  # of chunks with vectors
    patches_left: int
    in_streams: bool  # the tokens of patches are not coded here
    kinds: Counts = field(
        default_factory=lambda: Counts(
            [224, 16, 16, *(max(2, 256 // (skip * (skip + 1))) for skip in range(1, DIRECT + 1))]
        )
    )
    escapes: Counts = field(default_factory=lambda: _first((16, 8)))
    skips: Counts = field(default_factory=lambda: _first((16, 8)))
    sizes: Counts = field(default_factory=lambda: _first((16, 8)))
    ids: Counts = field(default_factory=lambda: _first((32, 16), (8, 2), (2, 14)))


def least_bytes(num_patches: int, num_literal_tokens: int) -> int:
    """The fewest bytes that the plane may have, so that its size limits the number of patches."""
    return (num_patches + num_literal_tokens + 7) // 8


def pack_coded_patches(chunks: Sequence[ChunkPatches], *, in_streams: bool = False) -> bytes:
    """The plane's bytes. Expects patches that pass `residual.check_patches`. in_streams: positions
    only."""
    num_patches = sum(len(chunk.patches) for chunk in chunks if not chunk.is_literal)
    writer = RangeWriter()
    list(_walk(writer, chunks, num_patches, in_streams, given=True))
    return writer.finish(least_bytes=least_bytes(num_patches, _literal_tokens(chunks)))


def read_coded_patches(
    data: bytes | memoryview,
    chunks: Sequence[ChunkPatches],
    *,
    num_patches: int,
    in_streams: bool = False,
) -> list[tuple[Patch, ...]]:
    """The patches of each chunk, `num_patches` in all those with vectors. Raises Corrupt."""
    is_enough = least_bytes(num_patches, _literal_tokens(chunks)) <= len(data)
    require(is_enough, f"patch plane: {len(data)} bytes for {num_patches} patches")
    is_possible = num_patches <= sum(c.num_tokens for c in chunks if not c.is_literal)
    require(is_possible, f"patch plane: {num_patches} patches, more than there are tokens")
    reader = RangeReader(data, what="patch plane")
    found = list(_walk(reader, chunks, num_patches, in_streams, given=False))
    again = [replace(c, patches=patches) for c, patches in zip(chunks, found, strict=True)]
    # A content has one encoding only: this refuses a longer stream, and bytes behind the stream.
    is_canonical = pack_coded_patches(again, in_streams=in_streams) == bytes(data)
    require(is_canonical, "patch plane: not the canonical encoding of its contents")
    return found


def salvage_coded_patches(
    data: bytes | memoryview,
    chunks: Sequence[ChunkPatches],
    *,
    num_patches: int,
    in_streams: bool = False,
) -> Iterator[tuple[Patch, ...]]:
    """The patches that a damaged plane still gives, of the first chunks; only those before the
    damage are right, and the caller has to check which."""
    with suppress(Corrupt, OverflowError):
        reader = RangeReader(data, what="patch plane")
        yield from _walk(reader, chunks, num_patches, in_streams, given=False)


def _literal_tokens(chunks: Sequence[ChunkPatches]) -> int:
    return sum(chunk.num_tokens for chunk in chunks if chunk.is_literal)


def _walk(
    coder: RangeCoder,
    chunks: Sequence[ChunkPatches],
    num_patches: int,
    in_streams: bool,
    *,
    given: bool,
) -> Iterator[tuple[Patch, ...]]:
    """Code every chunk in order, and give its patches. given: a writer has them already."""
    free_tokens = sum(chunk.num_tokens for chunk in chunks if not chunk.is_literal)
    models = _Models(tokens_left=free_tokens, patches_left=num_patches, in_streams=in_streams)
    for chunk in chunks:
        patches = chunk.patches if given else None
        if chunk.is_literal:
            ids = None if patches is None else np.array(plain_ids(patches), dtype=np.int64)
            yield tuple(enumerate(_code_numbers(coder, models.ids, chunk.num_tokens, ids).tolist()))
        else:
            yield _code_chunk(coder, models, chunk.num_tokens, patches)


def _code_chunk(
    coder: RangeCoder, models: _Models, num_tokens: int, patches: tuple[Patch, ...] | None
) -> tuple[Patch, ...]:
    """One chunk with vectors: which tokens are patched, their kinds, then each kind's numbers."""
    flags = None
    if patches is not None:
        flags = np.zeros(num_tokens, dtype=np.int32)
        flags[[position for position, _ in patches]] = 1
    positions = _code_positions(coder, models, num_tokens, flags)
    if models.in_streams:
        return tuple((position, None) for position in positions)
    tokens = None if patches is None else [token for _, token in patches]
    return tuple(zip(positions, _code_tokens(coder, models, len(positions), tokens), strict=True))


def _code_positions(
    coder: RangeCoder, models: _Models, num_tokens: int, flags: Integers | None
) -> list[int]:
    """The positions of patched tokens. The probability of each token is the share of patches among
    all tokens that are left, of this chunk and those behind it."""
    positions: list[int] = []
    if models.patches_left:
        others = models.tokens_left - models.patches_left
        share = Counts([others, models.patches_left])
        positions = np.flatnonzero(coder.symbols(share, num_tokens, flags)).tolist()
    models.tokens_left -= num_tokens
    models.patches_left -= len(positions)
    if not 0 <= models.patches_left <= models.tokens_left:
        raise Corrupt("patch plane: not as many patches as the header says")
    return positions


def _code_tokens(
    coder: RangeCoder, models: _Models, num_patches: int, tokens: list[Name] | None
) -> list[Name]:
    """The tokens of one chunk's patches, one property after the other.

    The kinds of all patches come first; then the ranks of those of kind ESCAPE; the ranks, sizes
    and indices of kind GROUP; and the ids of kind ID.
    """
    known = None if tokens is None else np.array([_row(t) for t in tokens]).reshape(-1, 5)  # [n, 5]
    kinds = coder.symbols(models.kinds, num_patches, None if known is None else known[:, 0])
    rows = np.zeros((num_patches, 5), dtype=np.int64)  # [n, 5]: as `_row` makes them
    rows[:, 0] = kinds

    def numbers(model: Counts, *, kind: int, column: int, least: int = 0) -> None:
        some = np.flatnonzero(kinds == kind)
        if not len(some):
            return
        values = None if known is None else known[some, column] - least
        rows[some, column] = least + _code_numbers(coder, model, len(some), values)

    singles = kinds >= SINGLE
    rows[singles, 1] = kinds[singles] - SINGLE + 1
    numbers(models.escapes, kind=ESCAPE, column=1, least=DIRECT + 1)
    numbers(models.skips, kind=GROUP, column=1)
    numbers(models.sizes, kind=GROUP, column=2, least=2)
    groups = np.flatnonzero(kinds == GROUP)
    places = None if known is None else known[groups, 3]
    rows[groups, 3] = coder.uniform(rows[groups, 2].astype(np.int32), places)
    numbers(models.ids, kind=ID, column=4)
    return [_token(row) for row in rows.tolist()]


def _row(token: Name) -> tuple[int, int, int, int, int]:
    """Kind, skip, size (of groups), index, token id; 0 where one does not apply."""
    assert token is not None
    if not isinstance(token, Ranked):
        return ID, 0, 0, 0, token
    if token.size > 1:
        return GROUP, token.skip, token.size, token.index, 0
    return (ESCAPE if token.skip > DIRECT else SINGLE + token.skip - 1), token.skip, 0, 0, 0


def _token(row: Sequence[int]) -> Name:
    kind, skip, size, index, token_id = row
    return token_id if kind == ID else Ranked(skip=skip, size=max(size, 1), index=index)


def _code_numbers(
    coder: RangeCoder, model: Counts, amount: int, values: np.ndarray | None
) -> np.ndarray:
    """Numbers of 0 to 2^31 - 1: the size class of each with the model, then the remaining bits.

    The class is the position of the top bit of number + 1. The bits below it are coded as equally
    likely 0 and 1: for all numbers those above the lowest 16 first, then the lowest 16.
    """
    wide = None if values is None else values.astype(np.int64) + 1
    tops = None if wide is None else np.frexp(wide.astype(np.float64))[1] - 1
    classes = coder.symbols(model, amount, tops).astype(np.int64)
    found = np.left_shift(1, classes)
    for shift, widths in ((LOW_BITS, classes - LOW_BITS), (0, np.minimum(classes, LOW_BITS))):
        some = np.flatnonzero(widths > 0)
        sizes = np.left_shift(1, widths[some])
        rest = None if wide is None else (wide[some] >> shift) % sizes
        part = coder.uniform(sizes.astype(np.int32), rest).astype(np.int64)
        found[some] += np.left_shift(part, shift)
    return found - 1
