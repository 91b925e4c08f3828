"""Patches: the tokens of a chunk that its mem vectors do not give, and their encoding as varints.

Owns which patches are valid and the encoding of (position, token id) pairs in files with raw
vectors. Does not know why a token was patched, nor what its id means.

A patch names its token by id; in files of earlier versions also by its rank; or not at all, where
the language model decodes it from the stream of the segment (`cram_streams`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from llmzip.errors import Corrupt
from llmzip.store.varint import Cursor, encode_varint

MAX_TOKEN_ID = 2**31 - 1
MAX_RANK = 256


@dataclass(frozen=True, slots=True, order=True)
class Ranked:
    """A token named by its rank among the model's logits at its position.

    Of the `size` tokens ranked skip + 1 to skip + size (most likely first), it is the one with the
    index-th smallest id, counted from 0.
    """

    skip: int
    size: int
    index: int

    @property
    def problem(self) -> str:
        """Why it is not valid; empty where it is."""
        if self.skip < 0 or self.size < 1 or self.skip + self.size > MAX_RANK:
            return f"ranks {self.skip + 1} to {self.skip + self.size}, at most {MAX_RANK}"
        if not 0 <= self.index < self.size:
            return f"token {self.index} of {self.size}"
        return "the most likely token" if self.skip + self.size == 1 else ""


Name: TypeAlias = int | Ranked | None  # of a token; None: the segment's stream has it
Patch: TypeAlias = tuple[int, Name]  # position in the chunk, token


def check_patches(
    patches: Iterable[Patch],
    *,
    num_tokens: int,
    allow_ranked: bool = False,
    in_stream: bool = False,
) -> None:
    """Raise Corrupt unless positions ascend strictly inside the chunk and tokens are in range.
    in_stream: no token has a name."""
    previous = -1
    for position, token in patches:
        if not previous < position < num_tokens:
            raise Corrupt(
                f"patch position {position} after {previous} in a chunk of {num_tokens} tokens"
            )
        if in_stream != (token is None):
            raise Corrupt(f"patch at position {position}: named twice, or not at all")
        if isinstance(token, Ranked):
            problem = token.problem if allow_ranked else "a rank where only token ids are allowed"
            if problem:
                raise Corrupt(f"patch at position {position}: {problem}")
        elif token is not None and not 0 <= token <= MAX_TOKEN_ID:
            raise Corrupt(f"token id {token} at position {position} is over {MAX_TOKEN_ID}")
        previous = position


def pack_patches(patches: Sequence[Patch]) -> bytes:
    """The number of patches, the gaps between positions, then the token ids, all as varints.

    Raises ValueError if positions do not ascend strictly.
    """
    positions = [-1, *(position for position, _ in patches)]
    gaps = [here - before - 1 for before, here in zip(positions, positions[1:], strict=False)]
    numbers = [len(patches), *gaps, *plain_ids(patches)]
    return b"".join(map(encode_varint, numbers))


def plain_ids(patches: Iterable[Patch]) -> list[int]:
    """The token ids of patches. Raises ValueError if one is named otherwise."""
    ids = []
    for position, token in patches:
        if not isinstance(token, int):
            raise ValueError(f"no token id at position {position}")
        ids.append(token)
    return ids


def read_patches(cursor: Cursor, *, num_tokens: int) -> tuple[Patch, ...]:
    """The patches of one chunk of `num_tokens` tokens. Raises Corrupt."""
    count = cursor.varint()
    # A patch takes two bytes at least, so an impossible count is refused before the loop.
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
    """The patches of a chunk all of whose tokens are patched: the ids alone, as the number and the
    positions are known."""
    return b"".join(map(encode_varint, plain_ids(patches)))


def read_literal(cursor: Cursor, *, num_tokens: int) -> tuple[Patch, ...]:
    """The inverse of `pack_literal`. Raises Corrupt."""
    if num_tokens > cursor.remaining:
        raise Corrupt(f"literal chunk of {num_tokens} tokens, {cursor.remaining} bytes left")
    patches = tuple((position, cursor.varint()) for position in range(num_tokens))
    check_patches(patches, num_tokens=num_tokens)
    return patches
