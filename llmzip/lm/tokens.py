"""Bytes to token ids and back, proven reversible for every piece.

Owns the table from ids to bytes and the rule that no text is translated: not its line ends, not its
Unicode form, not what looks like a special token in it. Knows no weights and no chunks. `codec`
encodes with it and decodes through `bytes_of`; only encoding imports the tokenizers library.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmzip.errors import Corrupt, ModelUnavailable

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BLOCK_BYTES = 1 << 16  # tokenised at once; the library needs far more memory than the text
_MAX_VOCAB_SIZE = 1 << 24
_SPACE = "\u2581"  # stands for a space in SentencePiece vocabularies
_MAX_CACHED_RUNS = 1 << 16
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_alphabet() -> str:
    """The printable stand-in of each byte in byte-level vocabularies, as GPT-2 introduced it."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return "".join(chr(byte if byte in plain else next(others)) for byte in range(256))


_ALPHABET = frozenset(_byte_alphabet())
_FROM_ALPHABET = codecs.charmap_build(_byte_alphabet())


@dataclass(frozen=True)
class Piece:
    """A run of the input. `ids` is None where the vocabulary cannot spell these bytes."""

    data: bytes
    ids: tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True)
class _Style:
    """How a vocabulary writes bytes down."""

    byte_level: bool  # in GPT-2's alphabet; else as SentencePiece does
    byte_fallback: bool  # characters that a SentencePiece vocabulary lacks become <0xNN> tokens


class Tokens:
    """The vocabulary of one model. Encoding is deterministic and leaves the environment alone."""

    bos_id: int | None  # what the tokenizer's post-processor puts first
    vocab_size: int  # highest id + 1; a model may have more logits than that

    def __init__(
        self, file: Path, style: _Style, table: list[bytes | None], bos_id: int | None
    ) -> None:
        self.bos_id = bos_id
        self.vocab_size = len(table)
        self._file = file
        self._style = style
        self._table = table
        self._safe: dict[str, bool] = {}
        self._runs: dict[str, list[Piece]] = {}

    @classmethod
    def load(cls, path: Path) -> Tokens:
        """Read `tokenizer.json` in the model directory `path`. Raises `ModelUnavailable`."""
        file = path / "tokenizer.json"
        content = _read(file, needs_merges=False)
        try:
            style = _style_of(content)
            if style is None:
                raise _unusable(file, "its vocabulary is neither byte-level nor SentencePiece")
            bos_id = _first_special_id(content.get("post_processor"))
            return cls(file, style, _table(content, style), bos_id)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as cause:
            raise _unusable(file, "it does not describe a vocabulary") from cause

    @property
    def missing_bytes(self) -> bytes:
        """The byte values that no token means by itself; runs that hold them may have no ids."""
        return bytes(byte for byte in range(256) if byte not in self._byte_ids)

    def bytes_of(self, ids: Sequence[int]) -> bytes:
        """The bytes that `ids` mean. Raises `Corrupt` at an id that means none."""
        table, size = self._table, self.vocab_size
        parts = [table[i] if 0 <= i < size else None for i in ids]
        if None in parts:
            at = parts.index(None)
            raise Corrupt(
                f"token {at} of {len(parts)} has id {ids[at]}, which stands for no bytes",
                hint="the file is damaged or was made with another model",
            )
        return b"".join(part for part in parts if part is not None)

    def encode(self, data: bytes) -> list[Piece]:
        """Cut `data` into pieces with and without ids; joined, their data is `data` again.

        Neighbours differ in kind. `bytes_of(piece.ids) == piece.data` was checked for each piece
        that has ids. Raises `ModelUnavailable` where the library refuses the tokenizer.
        """
        return list(_merge(piece for block in _blocks(data) for piece in self._encode(block)))

    def _encode(self, block: bytes) -> Iterator[Piece]:
        # Each invalid byte becomes one lone surrogate; encoding with the same handler undoes it.
        text = block.decode("utf-8", "surrogateescape")
        for is_safe, run in _split(text, {char for char in set(text) if not self._is_safe(char)}):
            if len(run) > 2:
                yield from self._tokenise(run) if is_safe else self._spell(run)
                continue
            pieces = self._runs.get(run)  # binary data is a crowd of tiny runs
            if pieces is None:
                pieces = list(self._tokenise(run) if is_safe else self._spell(run))
                if len(self._runs) < _MAX_CACHED_RUNS:
                    self._runs[run] = pieces
            yield from pieces

    def _tokenise(self, text: str) -> Iterator[Piece]:
        """Ids from the library; where they do not give `text` back, halve it and try again."""
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
        """One token a byte, for the characters whose bytes all have one."""
        byte_ids = self._byte_ids
        for char in text:
            data = char.encode("utf-8", "surrogateescape")
            ids = tuple(byte_ids[byte] for byte in data if byte in byte_ids)
            yield Piece(data, ids if self._means(ids, data) else None)

    def _means(self, ids: Sequence[int], data: bytes) -> bool:
        try:
            return self.bytes_of(ids) == data
        except Corrupt:
            return False

    def _is_safe(self, char: str) -> bool:
        """Whether the library is likely to keep `char`. A wrong yes costs time, never bytes."""
        safe = self._safe.get(char)
        if safe is None:
            safe = self._safe[char] = self._find_safe(char)
        return safe

    def _find_safe(self, char: str) -> bool:
        if "\ud800" <= char <= "\udfff":
            return False
        data = char.encode()
        has_bytes = all(byte in self._byte_ids for byte in data)
        if self._style.byte_level:
            return has_bytes
        is_whole = data in self._meanings
        return char != _SPACE and (is_whole or (self._style.byte_fallback and has_bytes))

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return _build(self._file, self._style)

    @cached_property
    def _meanings(self) -> frozenset[bytes | None]:
        return frozenset(self._table)

    @cached_property
    def _byte_ids(self) -> dict[int, int]:
        """byte -> lowest id that means this byte alone"""
        ids: dict[int, int] = {}
        for token_id, data in enumerate(self._table):
            if data is not None and len(data) == 1:
                ids.setdefault(data[0], token_id)
        return ids


def _blocks(data: bytes) -> Iterator[bytes]:
    """`data` in blocks, cut in front of a space: where nearly every tokenizer cuts anyway."""
    start = 0
    while len(data) - start > BLOCK_BYTES:
        half, end = start + BLOCK_BYTES // 2, start + BLOCK_BYTES
        at = data.rfind(b" ", half, end)
        if at < 0:
            at = data.rfind(b"\n", half, end) + 1
        if at <= 0:
            at = end
            while at > end - 3 and data[at] & 0xC0 == 0x80:  # not inside a character
                at -= 1
        yield data[start:at]
        start = at
    yield data[start:]


def _split(text: str, unsafe: set[str]) -> Iterator[tuple[bool, str]]:
    """Runs of `text` in order, each with whether it is free of the characters in `unsafe`."""
    if not unsafe:
        runs = [text]
    else:
        runs = re.split(f"([{''.join(map(re.escape, sorted(unsafe)))}]+)", text)
    for rank, run in enumerate(runs):
        if run:
            yield rank % 2 == 0, run


def _merge(pieces: Iterable[Piece]) -> Iterator[Piece]:
    for has_ids, run in groupby(pieces, key=lambda piece: piece.ids is not None):
        same = list(run)
        data = b"".join(piece.data for piece in same)
        ids = chain.from_iterable(piece.ids for piece in same if piece.ids is not None)
        yield Piece(data, tuple(ids) if has_ids else None)


def _read(file: Path, *, needs_merges: bool = True) -> Any:
    try:
        raw = file.read_bytes()
        return (None if needs_merges else _without_merges(raw)) or json.loads(raw)
    except (OSError, ValueError, RecursionError) as cause:
        raise _unusable(file, "it cannot be read as JSON") from cause


def _without_merges(raw: bytes) -> Any:
    """`raw` as JSON but for its merges: half of the file, and decoding needs none of it.

    None where they are not the last thing in it, which is where the tokenizers library puts them.
    """
    at = raw.find(b'"merges":')
    if at < 0 or not re.search(rb"\]\s*\}\s*\}\s*\Z", raw[-99:]):
        return None
    try:
        content = json.loads(raw[:at] + b'"merges":[]}}')
    except ValueError:
        return None
    return content if content.keys() >= {"added_tokens", "decoder", "post_processor"} else None


def _nodes(part: Any) -> Iterator[dict[str, Any]]:
    """Every object in a part of the tokenizer's settings, nested ones included."""
    if isinstance(part, dict):
        yield part
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from _nodes(inner)


def _style_of(content: Any) -> _Style | None:
    byte_fallback = bool(content["model"].get("byte_fallback"))
    steps = (content.get("pre_tokenizer"), content.get("decoder"))
    kinds = {node.get("type") for node in _nodes(list(steps))}
    marks_space = any(
        node.get("type") == "Replace" and node.get("content") == _SPACE
        for node in _nodes(content.get("normalizer"))
    )
    if "ByteLevel" in kinds:
        return _Style(byte_level=True, byte_fallback=False)
    if marks_space or "Metaspace" in kinds or byte_fallback:
        return _Style(byte_level=False, byte_fallback=byte_fallback)
    return None


def _table(content: Any, style: _Style) -> list[bytes | None]:
    """What each id means; None for special tokens and ids without a token."""
    vocab = content["model"]["vocab"]
    if isinstance(vocab, list):  # Unigram: [token, score], the id is the place
        vocab = {entry[0]: token_id for token_id, entry in enumerate(vocab)}
    added = content.get("added_tokens") or []
    ids = [*vocab.values(), *(token["id"] for token in added)]
    if min(ids) < 0 or max(ids) >= _MAX_VOCAB_SIZE:
        raise ValueError("ids outside of what a vocabulary can have")
    table: list[bytes | None] = [None] * (max(ids) + 1)
    meanings = _byte_level(list(vocab)) if style.byte_level else map(_sentencepiece, vocab)
    for token_id, meaning in zip(vocab.values(), meanings, strict=True):
        table[token_id] = meaning or None
    for token in added:
        text = token["content"] if style.byte_level else token["content"].replace(_SPACE, " ")
        table[token["id"]] = None if token.get("special") else text.encode() or None
    return table


def _byte_level(tokens: list[str]) -> list[bytes]:
    """All tokens are translated as one string: one character of the alphabet is one byte."""
    try:
        joined, _ = codecs.charmap_encode("".join(tokens), "strict", _FROM_ALPHABET)
    except UnicodeEncodeError:
        return _byte_level([token if _ALPHABET.issuperset(token) else "" for token in tokens])
    ends = list(accumulate(map(len, tokens)))
    return [joined[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _sentencepiece(token: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(_SPACE, " ").encode()


def _first_special_id(part: Any) -> int | None:
    """The id that a post-processor puts before the text, or None."""
    if not part:
        return None
    if part["type"] == "Sequence":
        found = (_first_special_id(inner) for inner in part["processors"])
        return next((token_id for token_id in found if token_id is not None), None)
    if part["type"] in ("BertProcessing", "RobertaProcessing"):
        return int(part["cls"][1])
    if part["type"] == "TemplateProcessing" and "SpecialToken" in part["single"][0]:
        name = part["single"][0]["SpecialToken"]["id"]
        return int(part["special_tokens"][name]["ids"][0])
    return None


def _build(file: Path, style: _Style) -> Tokenizer:
    """The library's tokenizer without the steps that would change the text."""
    from tokenizers import Tokenizer

    content = _read(file)
    for part in ("normalizer", "post_processor", "decoder", "truncation", "padding"):
        content[part] = None
    steps = list(_nodes(content.get("pre_tokenizer")))
    for step in steps:
        if "add_prefix_space" in step:
            step["add_prefix_space"] = False
        if step.get("type") == "Metaspace":
            step["prepend_scheme"] = "never"
    if not style.byte_level and all(step.get("type") != "Metaspace" for step in steps):
        content["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    for token in content.get("added_tokens") or []:
        token |= {"lstrip": False, "rstrip": False, "single_word": False}
    if content["model"].get("dropout"):
        content["model"]["dropout"] = None  # random merges
    try:
        tokenizer = Tokenizer.from_str(json.dumps(content))
    except Exception as cause:  # the library raises nothing narrower
        raise _unusable(file, f"the tokenizers library refuses it: {cause}") from cause
    # Not done by removing them: the library would give their ids to the added tokens that stay.
    tokenizer.encode_special_tokens = True
    return tokenizer


def _unusable(file: Path, reason: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"{file} cannot be used: {reason}", hint="fetch the model again or choose another model"
    )
