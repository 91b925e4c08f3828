"""The texts that are crammed: passages of files, random words, and the `text` column of a table.

Owns how a source becomes samples with enough tokens, the same ones for the same seed. Knows nothing
of vectors.
"""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from llmzip.errors import InputError, SettingsError
from llmzip.lab.folder import Settings, read_bytes
from llmzip.lm.tokens import Tokens

NATURAL, RANDOM, TABLE = "natural", "random", "table"
MAX_FILE_BYTES = 1 << 28
_MIN_WORDS = 50
_HASH_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One text; its first tokens are crammed."""

    source: str
    index: int
    name: str  # where it comes from, for people
    ids: tuple[int, ...]

    @property
    def key(self) -> str:
        """Unique in a study."""
        return f"{self.source} {self.index}"


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Where texts come from."""

    files: tuple[Path, ...] = ()  # natural texts
    table: Path | None = None  # a CSV file with a column named text
    use_random: bool = False  # random words
    words: Path | None = None  # the list to draw them from; None: the vocabulary's words
    count: int = 20  # of each source
    tokens: int | None = None  # of each text; None: more than vectors are expected to hold

    def __post_init__(self) -> None:
        if not (self.files or self.table or self.use_random):
            raise SettingsError(
                "there is no text to be crammed", hint="name files, --table FILE, or --random"
            )
        if self.count < 1 or (self.tokens is not None and self.tokens < 2):
            raise SettingsError("--texts is 1 at least, --tokens 2")

    def samples(self, tokens: Tokens, *, num_tokens: int, seed: int) -> list[list[Sample]]:
        """The samples of each source. Raises InputError where a source has too few."""
        length = {"count": self.count, "num_tokens": num_tokens}
        found = []
        if self.files:
            found.append(natural_samples(self.files, tokens, seed=seed, **length))
        if self.table:
            found.append(table_samples(self.table, tokens, **length))
        if self.use_random:
            words = words_of_file(self.words) if self.words else words_of_vocabulary(tokens)
            found.append(random_samples(words, tokens, seed=seed, **length))
        return found

    def to_settings(self) -> Settings:
        """What a study's folder records, and what must not change. Raises InputError."""
        paths = [*self.files, *filter(None, (self.table, self.words))]
        return {
            "texts": [f"{path.name} {_hash(path)}" for path in paths],
            "random": self.use_random,
            "count": self.count,
            "tokens": self.tokens,
        }


def natural_samples(
    paths: Sequence[Path], tokens: Tokens, *, count: int, num_tokens: int, seed: int
) -> list[Sample]:
    """Passages that do not overlap, from all files in proportion to their size, each at a line's or
    word's start. Raises InputError where the files are too short."""
    found = [
        (f"{path.name} at byte {start:,}", ids)
        for path in paths
        for start, ids in _passages(_read(path), tokens, num_tokens)
    ]
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
    if len(words) < _MIN_WORDS:
        raise InputError(f"{len(words)} words are too few, {_MIN_WORDS} at least")
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
    for row, text in enumerate(_texts_of(path), start=1):
        ids = tuple(tokens.ids_of(text.encode())[:num_tokens])
        if len(ids) == num_tokens and len(samples) < count:
            name = f"{path.name} row {row}"
            samples.append(Sample(source=TABLE, index=len(samples), name=name, ids=ids))
    if len(samples) < count:
        raise InputError(
            f"{path} has {len(samples)} texts of {num_tokens} tokens, {count} are needed",
            hint="ask for fewer or shorter texts",
        )
    return samples


def check_length(samples: Sequence[Sample], num_tokens: int) -> None:
    """Raise InputError if a text has fewer tokens."""
    if any(len(sample.ids) < num_tokens for sample in samples):
        raise InputError(f"a text has fewer than {num_tokens} tokens")


def words_of_file(path: Path) -> list[str]:
    """A word from each line: what stands before the first space."""
    lines = _read(path).decode("utf-8", errors="replace").splitlines()
    return list(dict.fromkeys(line.split()[0] for line in lines if line.split()))


def words_of_vocabulary(tokens: Tokens) -> list[str]:
    """The tokens that are a space and a lower-case word; in small vocabularies, which have too few
    of them, pronounceable syllables."""
    whole = [
        meaning[1:].decode()
        for meaning in tokens.meanings
        if meaning and re.fullmatch(rb" [a-z]{3,11}", meaning)
    ]
    if len(whole) >= _MIN_WORDS:
        return whole
    return [a + b + c for a in "bdfgklmnprstv" for b in "aeiou" for c in "lmnrst"]


def _passages(
    data: bytes, tokens: Tokens, num_tokens: int
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Passages one after the other, each from the first line or word after the one before: the
    first byte, and the tokens."""
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
    """The bytes that are UTF-8; above all, without part of a character at the end."""
    return data.decode("utf-8", errors="ignore").encode()


def _texts_of(path: Path) -> Iterator[str]:
    text = _read(path).decode("utf-8-sig", errors="replace")
    limit = csv.field_size_limit(MAX_FILE_BYTES)
    try:
        rows = csv.DictReader(text.splitlines(keepends=True))
        if "text" not in (rows.fieldnames or ()):
            raise InputError(f"{path} has no column named text")
        for row in rows:
            yield row["text"] or ""
    except csv.Error as error:
        raise InputError(f"{path} is not a CSV file: {error}") from error
    finally:
        csv.field_size_limit(limit)


def _read(path: Path) -> bytes:
    data = read_bytes(path, MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    return data


def _hash(path: Path) -> str:
    return blake2b(read_bytes(path), digest_size=_HASH_BYTES).hexdigest()
