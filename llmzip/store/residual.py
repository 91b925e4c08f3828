"""Patches as bits: what the mem vectors of a chunk do not carry.

Owns the coding of (position, token id) pairs. Does not know why a token was patched, nor what its
id means. Called by `llmzip.store.container` (and `records` for the rules).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llmzip.errors import Corrupt
from llmzip.store.varint import Cursor, encode_varint

Patch = tuple[int, int]  # (position in the chunk, token id)

MAX_TOKEN_ID = 2**31 - 1


def check_patches(patches: Iterable[Patch], *, num_tokens: int) -> None:
    """Raise Corrupt unless positions ascend strictly inside the chunk and ids are in range."""
    previous = -1
    for position, token_id in patches:
        if not previous < position < num_tokens:
            raise Corrupt(
                f"patch position {position} after {previous} in a chunk of {num_tokens} tokens"
            )
        if not 0 <= token_id <= MAX_TOKEN_ID:
            raise Corrupt(f"token id {token_id} at position {position} is over {MAX_TOKEN_ID}")
        previous = position


def pack_patches(patches: Sequence[Patch]) -> bytes:
    """Count, then the gaps between positions, then the token ids, all varints.

    Raises ValueError if positions do not ascend strictly.
    """
    positions = [-1, *(position for position, _ in patches)]
    gaps = [here - before - 1 for before, here in zip(positions, positions[1:], strict=False)]
    numbers = [len(patches), *gaps, *(token_id for _, token_id in patches)]
    return b"".join(map(encode_varint, numbers))


def read_patches(cursor: Cursor, *, num_tokens: int) -> tuple[Patch, ...]:
    """The patches of one chunk of `num_tokens` tokens. Raises Corrupt."""
    count = cursor.varint()
    # A patch takes two bytes at least, so a count that cannot be met is refused before the loop.
    if count > num_tokens or 2 * count > cursor.remaining:
        raise Corrupt(
            f"{count} patches before byte {cursor.offset} for {num_tokens} tokens, "
            f"{cursor.remaining} bytes left"
        )
    positions = []
    position = -1
    for _ in range(count):
        position += 1 + cursor.varint()
        positions.append(position)
    patches = tuple((position, cursor.varint()) for position in positions)
    check_patches(patches, num_tokens=num_tokens)
    return patches


def pack_literal(patches: Sequence[Patch]) -> bytes:
    """A chunk whose every token is a patch: only the ids, since count and positions are known."""
    return b"".join(encode_varint(token_id) for _, token_id in patches)


def read_literal(cursor: Cursor, *, num_tokens: int) -> tuple[Patch, ...]:
    """The inverse of `pack_literal`. Raises Corrupt."""
    if num_tokens > cursor.remaining:
        raise Corrupt(f"literal chunk of {num_tokens} tokens, {cursor.remaining} bytes left")
    patches = tuple((position, cursor.varint()) for position in range(num_tokens))
    check_patches(patches, num_tokens=num_tokens)
    return patches
