"""The content of `tokenizer.json`: the bytes of each id, and a tokenizer that changes no text.

Owns the two ways in which vocabularies write bytes: GPT-2's alphabet and SentencePiece's characters
for spaces and bytes. Knows nothing of the text that will be encoded.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmzip.lm.digest import read_json, unusable

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPACE = "\u2581"  # stands for a space in SentencePiece vocabularies
_MAX_VOCAB_SIZE = 1 << 24
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_alphabet() -> str:
    """The printable character for each byte in byte-level vocabularies, as GPT-2 introduced it."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return "".join(chr(byte if byte in plain else next(others)) for byte in range(256))


_ALPHABET = frozenset(byte_alphabet())
_FROM_ALPHABET = codecs.charmap_build(byte_alphabet())


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a vocabulary writes bytes."""

    byte_level: bool  # in GPT-2's alphabet; otherwise as SentencePiece does
    byte_fallback: bool  # a SentencePiece vocabulary writes characters it lacks as <0xNN> tokens


def parse_without_merges(raw: bytes) -> Any:
    """The JSON of a tokenizer without its merges: half of the file, and decoding does not need it.

    Parses the whole where the merges are not the last thing in it, which is where the tokenizers
    library puts them.
    """
    at = raw.find(b'"merges":')
    if at >= 0 and re.search(rb"\]\s*\}\s*\}\s*\Z", raw[-99:]):
        with suppress(ValueError):
            content = json.loads(raw[:at] + b'"merges":[]}}')
            if content.keys() >= {"added_tokens", "decoder", "post_processor"}:
                return content
    return json.loads(raw)


def _nodes(part: Any) -> Iterator[dict[str, Any]]:
    """Every object in a part of the tokenizer's settings, nested ones included."""
    if isinstance(part, dict):
        yield part
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from _nodes(inner)


def style_of(content: Any) -> Style | None:
    """The style of a vocabulary, or None where it has neither of the two."""
    byte_fallback = bool(content["model"].get("byte_fallback"))
    steps = (content.get("pre_tokenizer"), content.get("decoder"))
    kinds = {node.get("type") for node in _nodes(list(steps))}
    marks_space = any(
        node.get("type") == "Replace" and node.get("content") == SPACE
        for node in _nodes(content.get("normalizer"))
    )
    if "ByteLevel" in kinds:
        return Style(byte_level=True, byte_fallback=False)
    if marks_space or "Metaspace" in kinds or byte_fallback:
        return Style(byte_level=False, byte_fallback=byte_fallback)
    return None


def id_table(content: Any, style: Style) -> list[bytes | None]:
    """The bytes of each id. None for special tokens and for ids without a token."""
    vocab = content["model"]["vocab"]
    if isinstance(vocab, list):  # Unigram: [token, score] at the index that is the id
        vocab = {entry[0]: token_id for token_id, entry in enumerate(vocab)}
    added = content.get("added_tokens") or []
    ids = [*vocab.values(), *(token["id"] for token in added)]
    if min(ids) < 0 or max(ids) >= _MAX_VOCAB_SIZE:
        raise ValueError("an id is out of range")
    table: list[bytes | None] = [None] * (max(ids) + 1)
    meanings = _byte_level(list(vocab)) if style.byte_level else map(_sentencepiece, vocab)
    for token_id, meaning in zip(vocab.values(), meanings, strict=True):
        table[token_id] = meaning or None
    for token in added:
        text = token["content"] if style.byte_level else token["content"].replace(SPACE, " ")
        table[token["id"]] = None if token.get("special") else text.encode() or None
    return table


def _byte_level(tokens: list[str]) -> list[bytes]:
    """The bytes of all tokens, translated as one string for speed: one character is one byte."""
    try:
        joined, _ = codecs.charmap_encode("".join(tokens), "strict", _FROM_ALPHABET)
    except UnicodeEncodeError:
        return _byte_level([token if _ALPHABET.issuperset(token) else "" for token in tokens])
    ends = list(accumulate(map(len, tokens)))
    return [joined[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _sentencepiece(token: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode()


def first_special_id(part: Any) -> int | None:
    """The id that a post-processor puts before the text, or None."""
    if not part:
        return None
    if part["type"] == "Sequence":
        found = (first_special_id(inner) for inner in part["processors"])
        return next((token_id for token_id in found if token_id is not None), None)
    if part["type"] in ("BertProcessing", "RobertaProcessing"):
        return int(part["cls"][1])
    if part["type"] == "TemplateProcessing" and "SpecialToken" in part["single"][0]:
        name = part["single"][0]["SpecialToken"]["id"]
        return int(part["special_tokens"][name]["ids"][0])
    return None


def build_tokenizer(file: Path, style: Style) -> Tokenizer:
    """The tokenizer of the tokenizers library, without the steps that would change the text."""
    from tokenizers import Tokenizer

    content = read_json(file)
    for part in ("normalizer", "post_processor", "decoder", "truncation", "padding"):
        content[part] = None
    steps = list(_nodes(content.get("pre_tokenizer")))
    for step in steps:
        if "add_prefix_space" in step:
            step["add_prefix_space"] = False
        if step.get("type") == "Metaspace":
            step["prepend_scheme"] = "never"
    if not style.byte_level and all(step.get("type") != "Metaspace" for step in steps):
        content["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    for token in content.get("added_tokens") or []:
        token |= {"lstrip": False, "rstrip": False, "single_word": False}
    if content["model"].get("dropout"):
        content["model"]["dropout"] = None  # random merges
    try:
        tokenizer = Tokenizer.from_str(json.dumps(content))
    except Exception as cause:  # the library raises nothing narrower
        raise unusable(file, f"the tokenizers library refuses it: {cause}") from cause
    # Special tokens are not removed from the content instead, because the library would then give
    # their ids to the other added tokens.
    tokenizer.encode_special_tokens = True
    return tokenizer
