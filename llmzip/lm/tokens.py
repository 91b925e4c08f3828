"""Bytes to token ids and back; every piece is checked to be reversible.

Owns the table from ids to bytes and the rule that text is never changed: not its line ends, not its
Unicode form, not text that looks like a special token. Knows no weights and no chunks. Only
encoding imports the tokenizers library.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING

from llmzip.errors import Corrupt
from llmzip.lm.digest import read_json, unusable
from llmzip.lm.vocabulary import (
    SPACE,
    Style,
    build_tokenizer,
    first_special_id,
    id_table,
    parse_without_merges,
    style_of,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BLOCK_BYTES = 1 << 16  # of text per call of the library, which needs far more memory than the text
_MAX_CACHED_RUNS = 1 << 16


@dataclass(frozen=True)
class Piece:
    """A part of the input. `ids` is None where the vocabulary has no tokens for these bytes."""

    data: bytes
    ids: tuple[int, ...] | None


class Tokens:
    """The vocabulary of one model. Encoding is deterministic."""

    bos_id: int | None  # the token that the tokenizer's post-processor puts first
    vocab_size: int  # highest id + 1; a model may have more logits than that

    def __init__(
        self, file: Path, style: Style, table: list[bytes | None], bos_id: int | None
    ) -> None:
        self.bos_id, self.vocab_size = bos_id, len(table)
        self._file, self._style, self._table = file, style, table
        self._safe: dict[str, bool] = {}
        self._runs: dict[str, list[Piece]] = {}

    @classmethod
    def load(cls, path: Path) -> Tokens:
        """Read `tokenizer.json` in the model directory `path`. Raises `ModelUnavailable`."""
        file = path / "tokenizer.json"
        content = read_json(file, parse_without_merges)
        try:
            style = style_of(content)
            if style is None:
                raise unusable(file, "its vocabulary is neither byte-level nor SentencePiece")
            bos_id = first_special_id(content.get("post_processor"))
            return cls(file, style, id_table(content, style), bos_id)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as cause:
            raise unusable(file, "it does not describe a vocabulary") from cause

    @property
    def meanings(self) -> Sequence[bytes | None]:
        """The bytes of each id; None for an id without bytes."""
        return self._table

    def bytes_of(self, ids: Sequence[int]) -> bytes:
        """The bytes of `ids`. Raises `Corrupt` at an id without bytes."""
        table, size = self._table, self.vocab_size
        parts = [table[i] if 0 <= i < size else None for i in ids]
        if None in parts:
            at = parts.index(None)
            raise Corrupt(
                f"token {at} of {len(parts)} has id {ids[at]}, which stands for no bytes",
                hint="the file is damaged or was made with another model",
            )
        return b"".join(part for part in parts if part is not None)

    def ids_of(self, data: bytes) -> list[int]:
        """The ids of `data`, leaving out pieces without ids."""
        return [i for piece in self.encode(data) for i in piece.ids or ()]

    def encode(self, data: bytes) -> list[Piece]:
        """Split `data` into pieces, by turns with and without ids, whose data joined is `data`.

        `bytes_of(piece.ids) == piece.data` was checked for each piece that has ids. Raises
        `ModelUnavailable` where the library refuses the tokenizer.
        """
        return list(_merge(piece for block in _blocks(data) for piece in self._encode(block)))

    def _encode(self, block: bytes) -> Iterator[Piece]:
        # Each invalid byte becomes a lone surrogate, which `_spell` encodes with the same handler.
        text = block.decode("utf-8", "surrogateescape")
        for is_safe, run in _split(text, {char for char in set(text) if not self._is_safe(char)}):
            if len(run) > 2:
                yield from self._tokenise(run) if is_safe else self._spell(run)
                continue
            pieces = self._runs.get(run)  # binary data has very many short runs
            if pieces is None:
                pieces = list(self._tokenise(run) if is_safe else self._spell(run))
                if len(self._runs) < _MAX_CACHED_RUNS:
                    self._runs[run] = pieces
            yield from pieces

    def _tokenise(self, text: str) -> Iterator[Piece]:
        """Ids from the library. Where they do not decode to `text`, its halves are tried alone."""
        data = text.encode()
        ids = tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)
        if self._means(ids, data):
            yield Piece(data, ids)
        elif len(text) == 1:
            yield from self._spell(text)
        else:
            half = len(text) // 2
            yield from self._tokenise(text[:half])
            yield from self._tokenise(text[half:])

    def _spell(self, text: str) -> Iterator[Piece]:
        """One token per byte, for the characters whose bytes all have a token."""
        byte_ids = self._byte_ids
        for char in text:
            data = char.encode("utf-8", "surrogateescape")
            ids = tuple(byte_ids[byte] for byte in data if byte in byte_ids)
            yield Piece(data, ids if self._means(ids, data) else None)

    def _means(self, ids: Sequence[int], data: bytes) -> bool:
        with suppress(Corrupt):
            return self.bytes_of(ids) == data
        return False

    def _is_safe(self, char: str) -> bool:
        """Whether the library probably leaves `char` as it is. A wrong yes only costs time."""
        if char not in self._safe:
            self._safe[char] = self._find_safe(char)
        return self._safe[char]

    def _find_safe(self, char: str) -> bool:
        if "\ud800" <= char <= "\udfff":
            return False
        data = char.encode()
        has_bytes = all(byte in self._byte_ids for byte in data)
        if self._style.byte_level:
            return has_bytes
        is_whole = data in self._meanings
        return char != SPACE and (is_whole or (self._style.byte_fallback and has_bytes))

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return build_tokenizer(self._file, self._style)

    @cached_property
    def _meanings(self) -> frozenset[bytes | None]:
        return frozenset(self._table)

    @cached_property
    def _byte_ids(self) -> dict[int, int]:
        """The lowest id of each byte that is a token by itself."""
        single = [(i, data) for i, data in enumerate(self._table) if data and len(data) == 1]
        return {data[0]: i for i, data in reversed(single)}


def _blocks(data: bytes) -> Iterator[bytes]:
    """`data` in blocks that end before a space, where nearly every tokenizer splits anyway."""
    start = 0
    while len(data) - start > BLOCK_BYTES:
        half, end = start + BLOCK_BYTES // 2, start + BLOCK_BYTES
        at = data.rfind(b" ", half, end)
        if at < 0:
            at = data.rfind(b"\n", half, end) + 1
        if at <= 0:
            at = end
            while at > end - 3 and data[at] & 0xC0 == 0x80:  # never inside a character
                at -= 1
        yield data[start:at]
        start = at
    yield data[start:]


def _split(text: str, unsafe: set[str]) -> Iterator[tuple[bool, str]]:
    """Runs of `text` in order, each with whether it is free of the characters in `unsafe`."""
    runs = [text]
    if unsafe:
        runs = re.split(f"([{''.join(map(re.escape, sorted(unsafe)))}]+)", text)
    # The group in the pattern makes every second run one of unsafe characters.
    yield from ((index % 2 == 0, run) for index, run in enumerate(runs) if run)


def _merge(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Join neighbours of the same kind."""
    for has_ids, run in groupby(pieces, key=lambda piece: piece.ids is not None):
        same = list(run)
        data = b"".join(piece.data for piece in same)
        ids = chain.from_iterable(piece.ids for piece in same if piece.ids is not None)
        yield Piece(data, tuple(ids) if has_ids else None)
