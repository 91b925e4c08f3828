"""The texts that are crammed: natural ones from files, random words, and any table's `text` column.

Owns how a source becomes samples of enough tokens, the same ones for the same seed. Knows nothing
of vectors.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmzip.errors import InputError
from llmzip.lm.tokens import Tokens

NATURAL, RANDOM, TABLE = "natural", "random", "table"
MAX_FILE_BYTES = 1 << 28
_WORD_BYTES = range(4, 13)  # of a vocabulary's words: a space and 3 to 11 letters
_LEAST_WORDS = 50


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One text to be crammed from its front."""

    source: str
    index: int
    name: str  # where it is from, for people
    ids: tuple[int, ...]

    @property
    def key(self) -> str:
        """Tells it from all others of a study."""
        return f"{self.source} {self.index}"


def natural_samples(
    paths: Sequence[Path], tokens: Tokens, *, count: int, num_tokens: int, seed: int
) -> list[Sample]:
    """Passages that do not overlap, from all files in proportion to their size, each at a line's or
    word's start. Raises InputError where the files are too short."""
    found: list[tuple[str, tuple[int, ...]]] = []
    for path in paths:
        data = _read(path)
        for start, ids in _passages(data, tokens, num_tokens):
            found.append((f"{path.name} at byte {start:,}", ids))
    if len(found) < count:
        raise InputError(
            f"the files have {len(found)} passages of {num_tokens} tokens, {count} are needed",
            hint="name more files, or ask for fewer or shorter texts",
        )
    chosen = sorted(random.Random(f"{seed} natural").sample(range(len(found)), count))
    return [
        Sample(source=NATURAL, index=index, name=found[place][0], ids=found[place][1])
        for index, place in enumerate(chosen)
    ]


def random_samples(
    words: Sequence[str], tokens: Tokens, *, count: int, num_tokens: int, seed: int
) -> list[Sample]:
    """Words drawn evenly from a list, with spaces between them (Kuratov et al. 2025 drew from the
    100,000 words of GloVe)."""
    if len(words) < _LEAST_WORDS:
        raise InputError(f"{len(words)} words are too few, {_LEAST_WORDS} at least")
    samples = []
    for index in range(count):
        chance = random.Random(f"{seed} random {index}")
        ids: list[int] = []
        length = num_tokens
        while len(ids) < num_tokens:  # a word has a token at least, as a rule
            drawn = " ".join(chance.choice(words) for _ in range(length))
            ids = tokens.ids_of(drawn.encode())
            length *= 2
        name = f"random words, seed {seed}.{index}"
        samples.append(Sample(source=RANDOM, index=index, name=name, ids=tuple(ids[:num_tokens])))
    return samples


def table_samples(path: Path, tokens: Tokens, *, count: int, num_tokens: int) -> list[Sample]:
    """The first texts of a CSV file's `text` column that are long enough."""
    samples: list[Sample] = []
    for row, text in _texts_of(path):
        ids = tokens.ids_of(text.encode())
        if len(ids) >= num_tokens and len(samples) < count:
            name = f"{path.name} row {row}"
            taken = tuple(ids[:num_tokens])
            samples.append(Sample(source=TABLE, index=len(samples), name=name, ids=taken))
    if len(samples) < count:
        raise InputError(
            f"{path} has {len(samples)} texts of {num_tokens} tokens, {count} are needed",
            hint="ask for fewer or shorter texts",
        )
    return samples


def check_length(samples: Sequence[Sample], num_tokens: int) -> None:
    """Raise InputError for a text of fewer tokens."""
    if any(len(sample.ids) < num_tokens for sample in samples):
        raise InputError(f"a text has fewer than {num_tokens} tokens")


def words_of_file(path: Path) -> list[str]:
    """A word from each line: what stands before the first space."""
    lines = _read(path).decode("utf-8", errors="replace").splitlines()
    return list(dict.fromkeys(line.split()[0] for line in lines if line.split()))


def words_of_vocabulary(tokens: Tokens) -> list[str]:
    """What tokens mean that are a space and a lower-case word; else, in small vocabularies, any
    pronounceable syllables."""
    whole = [
        meaning[1:].decode()
        for meaning in tokens.meanings
        if meaning
        and len(meaning) in _WORD_BYTES
        and meaning[:1] == b" "
        and meaning[1:].isalpha()
        and meaning[1:].islower()
        and meaning.isascii()
    ]
    if len(whole) >= _LEAST_WORDS:
        return whole
    return [a + b + c for a in "bdfgklmnprstv" for b in "aeiou" for c in "lmnrst"]


def _passages(
    data: bytes, tokens: Tokens, num_tokens: int
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """One behind the other, each from the first line or word behind the one before."""
    start, step = 0, 8 * num_tokens
    while start < len(data):
        size = step
        ids = tokens.ids_of(_whole_text(data[start : start + size]))
        while len(ids) < num_tokens and start + size < len(data):
            size *= 2
            ids = tokens.ids_of(_whole_text(data[start : start + size]))
        if len(ids) < num_tokens:
            return
        yield start, tuple(ids[:num_tokens])
        start += len(tokens.bytes_of(ids[:num_tokens]))
        breaks = [place for place in (data.find(b"\n", start), data.find(b" ", start)) if place > 0]
        start = min(breaks, default=len(data)) + 1


def _whole_text(data: bytes) -> bytes:
    """Without what is no UTF-8, half a character at the end above all."""
    return data.decode("utf-8", errors="ignore").encode()


def _texts_of(path: Path) -> Iterator[tuple[int, str]]:
    text = _read(path).decode("utf-8-sig", errors="replace")
    limit = csv.field_size_limit(MAX_FILE_BYTES)
    try:
        rows = csv.DictReader(text.splitlines(keepends=True))
        if "text" not in (rows.fieldnames or ()):
            raise InputError(f"{path} has no column named text")
        for number, row in enumerate(rows, start=1):
            yield number, row["text"] or ""
    except csv.Error as error:
        raise InputError(f"{path} is no CSV file: {error}") from error
    finally:
        csv.field_size_limit(limit)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    return data
