"""The studies from settings to a finished folder: texts, measurements, summary, pictures, report.

Owns what each study measures by default and the order of its parts. Knows no terminal.
"""

from __future__ import annotations

import importlib.metadata
import platform
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from llmzip.codecs.cram.calibration import calibration_of
from llmzip.config import VERSION, ComputeSettings
from llmzip.errors import InputError, SettingsError
from llmzip.lab.folder import Folder, Value, finite
from llmzip.lab.recipes import Recipe
from llmzip.lab.rows import COLUMNS
from llmzip.lab.study import Study, Tell, opened_model
from llmzip.lab.texts import (
    Sample,
    natural_samples,
    random_samples,
    table_samples,
    words_of_file,
    words_of_vocabulary,
)
from llmzip.lm.loaded import LoadedModel
from llmzip.lm.zoo import DEFAULT_MODEL

# What a vector holds, of what it gains in the calibration's few steps (default model: 2.9).
_HELD_OF_GAIN, _FIRST_SHARE = 2.5, 0.7
_USUAL_TOKEN_BITS = 6.0  # of a token without left context, to reckon with before texts are read
_ROOM = 2.5  # a text has so many times the tokens that its vectors are expected to hold
_HASH_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Where texts come from."""

    files: tuple[Path, ...] = ()  # natural texts
    table: Path | None = None  # a CSV file with a column named text
    use_random: bool = False  # random words
    words: Path | None = None  # the list that they are from; None: the vocabulary's words
    count: int = 20  # of each source
    tokens: int | None = None  # of each text; None: enough for what is expected to fit

    def __post_init__(self) -> None:
        if not (self.files or self.table or self.use_random):
            raise SettingsError(
                "there is no text to be crammed", hint="name files, --table FILE, or --random"
            )
        if self.count < 1 or (self.tokens is not None and self.tokens < 2):
            raise SettingsError("--texts is 1 at least, --tokens 2")

    def samples(self, loaded: LoadedModel, *, num_mem: int, seed: int) -> list[list[Sample]]:
        """The samples of each source. Raises InputError where a source has too few."""
        length = self.tokens or int(_ROOM * num_mem * expected_tokens(loaded))
        length = min(length, loaded.decode_lm.max_positions - num_mem - 1)
        ask = {"count": self.count, "num_tokens": length}
        found = []
        if self.files:
            found.append(natural_samples(self.files, loaded.tokens, seed=seed, **ask))
        if self.table:
            found.append(table_samples(self.table, loaded.tokens, **ask))
        if self.use_random:
            words = words_of_file(self.words) if self.words else words_of_vocabulary(loaded.tokens)
            found.append(random_samples(words, loaded.tokens, seed=seed, **ask))
        return found

    def facts(self) -> dict[str, Value | Sequence[Value]]:
        """What must not change while a run's folder grows. Raises InputError."""
        paths = [*self.files, *filter(None, (self.table, self.words))]
        return {
            "texts": [f"{path.name} {_hash(path)}" for path in paths],
            "random": self.use_random,
            "count": self.count,
            "tokens": self.tokens,
        }


@dataclass(frozen=True, kw_only=True)
class LabSettings:
    """What every study is told."""

    out: Path
    texts: Texts
    models: tuple[str, ...] = (DEFAULT_MODEL,)
    revision: str | None = None
    num_mem: tuple[int, ...] = (1,)
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0
    restart: bool = False
    offline: bool = False
    compute: ComputeSettings = field(default_factory=ComputeSettings)

    def __post_init__(self) -> None:
        if not self.models or not self.num_mem or not all(1 <= k <= 64 for k in self.num_mem):
            raise SettingsError("--mem is one or more numbers from 1 to 64")

    def facts(self) -> dict[str, Value | Sequence[Value]]:
        """What a run's folder is bound to."""
        return {
            "models": list(self.models),
            "revision": self.revision,
            "num_mem": list(self.num_mem),
            "seed": self.seed,
            **self.texts.facts(),
            **{f"recipe_{name}": value for name, value in vars(self.recipe).items()},
        }


@dataclass(frozen=True, kw_only=True)
class Lab:
    """A study's folder, and how each of its models is opened."""

    settings: LabSettings
    folder: Folder
    tell: Tell
    cancel: threading.Event | None

    def studies(self) -> Iterator[Study]:
        """One model behind the other. Raises ModelUnavailable."""
        settings = self.settings
        for model in settings.models:
            with opened_model(
                model,
                revision=settings.revision,
                offline=settings.offline,
                compute=settings.compute,
                report=lambda line: self.tell(line, 0, 0),
            ) as loaded:
                yield Study(
                    loaded=loaded, folder=self.folder, recipe=settings.recipe, seed=settings.seed,
                    tell=self.tell, cancel=self.cancel,
                )  # fmt: skip


@contextmanager
def opened_lab(
    name: str,
    settings: LabSettings,
    *,
    tell: Tell,
    cancel: threading.Event | None,
    more: Mapping[str, Value | Sequence[Value]] | None = None,
) -> Iterator[Lab]:
    """The folder of a study, new or as an earlier run left it. more: settings of this study alone.

    Raises InputError, ResumeRefused.
    """
    facts = {**settings.facts(), **(more or {})}
    folder = Folder.open(settings.out, name, facts, columns=COLUMNS, restart=settings.restart)
    with closing(folder):
        yield Lab(settings=settings, folder=folder, tell=tell, cancel=cancel)


def held_bits(loaded: LoadedModel) -> float:
    """Surprisal that one vector may hold, as far as the calibration tells."""
    return _HELD_OF_GAIN * calibration_of(loaded).gain_bits


def expected_tokens(loaded: LoadedModel) -> int:
    """Tokens of natural text that one vector may hold."""
    return max(4, int(held_bits(loaded) / _USUAL_TOKEN_BITS))


def first_bits(loaded: LoadedModel, num_mem: int) -> float:
    """Where the search for the longest exact length begins: what is hardly ever too much."""
    return _FIRST_SHARE * num_mem * held_bits(loaded)


def versions() -> dict[str, str]:
    """Of what computed the figures."""
    return {
        "llmzip": VERSION,
        **{name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        "python": platform.python_version(),
        "threads": str(torch.get_num_threads()),
    }


def finish(lab: Lab, summary: dict[str, Any], draw: Callable[[Path], object]) -> dict[str, Any]:
    """Write the summary, the pictures and the report; returns the whole summary."""
    from llmzip.lab.report import write_report

    whole: dict[str, Any] = finite({**summary, "versions": versions()})
    lab.folder.write_summary(whole)
    draw(lab.folder.path)
    write_report(lab.folder.path)
    return whole


def _hash(path: Path) -> str:
    try:
        return blake2b(path.read_bytes(), digest_size=_HASH_BYTES).hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
