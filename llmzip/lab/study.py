"""A study: its settings, the model it runs on, and the folder its rows go to.

Owns what all studies share: opening models and the folder, batches of trials, decoding, progress,
and what the folder holds in the end. Does not know what is measured.
"""

from __future__ import annotations

import importlib.metadata
import platform
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import torch

from llmzip.codecs.cram.calibration import calibration_of
from llmzip.config import VERSION, ComputeSettings
from llmzip.errors import SettingsError
from llmzip.lab.batch import decode_greedily
from llmzip.lab.folder import Folder, Row, Settings, Value, finite
from llmzip.lab.recipes import Recipe
from llmzip.lab.report import write_report
from llmzip.lab.runner import OnStep, TrialRunner
from llmzip.lab.texts import Sample, Texts
from llmzip.lab.trials import COLUMNS, Greedy, Outcome, Trial, trial_row
from llmzip.lm.devices import borrowed_torch
from llmzip.lm.loaded import LoadedModel, load_for_compression
from llmzip.lm.tokens import Tokens
from llmzip.lm.zoo import PUBLISHED_MODEL, resolve
from llmzip.progress import check_cancelled

# Called with what is being done, how many texts of it are done, and of how many.
OnProgress: TypeAlias = Callable[[str, int, int], None]
Cancel: TypeAlias = threading.Event | None
Summary: TypeAlias = dict[str, Any]


class Watch(TypedDict, total=False):
    """How a study is followed and stopped."""

    on_progress: OnProgress
    cancel: Cancel


# One part of a measurement: its description, the samples that are left, and what measures a group
# of them.
Part: TypeAlias = tuple[str, Sequence[Sample], Callable[[Sequence[Sample]], Iterable[Row]]]

# Texts of a group: what is lost at most when a study is stopped. On an accelerator a step for many
# texts takes little longer than one for a few.
_GROUP_SIZE = {"cpu": 8, "cuda": 64, "mps": 16}

# Bits that a vector holds, divided by those it gains in the calibration's few steps (default model:
# 2.9).
_HELD_OF_GAIN = 2.5
_FIRST_SHARE = 0.7  # of what vectors are expected to hold, where a search begins
_USUAL_TOKEN_BITS = 6.0  # of a token without left context, to estimate with before texts are read
_ROOM = 2.5  # tokens of a text, divided by those that its vectors are expected to hold


@dataclass(frozen=True, kw_only=True)
class LabSettings:
    """The settings that all studies share."""

    out: Path
    texts: Texts
    models: tuple[str, ...] = (PUBLISHED_MODEL,)
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

    def to_settings(self) -> Settings:
        """What a study's folder records, and what must not change. Raises InputError."""
        return {
            "models": list(self.models),
            "revision": self.revision,
            "num_mem": list(self.num_mem),
            "seed": self.seed,
            **self.texts.to_settings(),
            **{f"recipe_{name}": value for name, value in vars(self.recipe).items()},
        }


@dataclass(kw_only=True)
class Study:
    """One model and one folder."""

    loaded: LoadedModel
    folder: Folder
    recipe: Recipe
    seed: int
    on_progress: OnProgress
    cancel: Cancel = None
    batch_tokens: int | None = None  # of a step, which the device was seen to hold

    @property
    def model(self) -> str:
        """The model's name in rows."""
        return self.loaded.files.model_id

    @property
    def own_rows(self) -> list[Row]:
        """Rows of this model."""
        return [row for row in self.folder.rows if row["model"] == self.model]

    @property
    def max_tokens(self) -> int:
        """Tokens that a text may have beside one vector and the start token."""
        return self.loaded.decode_lm.max_positions - 2

    @property
    def held_bits(self) -> float:
        """Surprisal that one vector is expected to hold, by the model's calibration."""
        return _HELD_OF_GAIN * calibration_of(self.loaded).gain_bits

    @property
    def expected_tokens(self) -> int:
        """Tokens of natural text that one vector is expected to hold."""
        return max(4, int(self.held_bits / _USUAL_TOKEN_BITS))

    def first_bits(self, num_mem: int) -> float:
        """Surprisal with which the search for the longest exact length begins: rarely too much."""
        return _FIRST_SHARE * num_mem * self.held_bits

    def samples(self, texts: Texts, *, num_mem: int) -> list[list[Sample]]:
        """The samples of each source. Raises InputError where a source has too few."""
        length = texts.tokens or int(_ROOM * num_mem * self.expected_tokens)
        length = min(length, self.loaded.decode_lm.max_positions - num_mem - 1)
        return texts.samples(self.loaded.tokens, num_tokens=length, seed=self.seed)

    def rows_with(self, purpose: str, **values: Value) -> list[Row]:
        """Rows of this model with a purpose, and with these values in other columns."""
        wanted = {"purpose": purpose, **values}.items()
        return [row for row in self.own_rows if all(row[name] == value for name, value in wanted)]

    def without_rows(
        self, samples: Sequence[Sample], purpose: str, **values: Value
    ) -> list[Sample]:
        """The samples that have no row with a purpose and these values in other columns."""
        done = {(row["source"], row["text"]) for row in self.rows_with(purpose, **values)}
        return [sample for sample in samples if (sample.source, sample.index) not in done]

    def measure(self, parts: Sequence[Part], *, total: int, last: str = "") -> None:
        """Measure samples in groups that are run side by side, and append the rows of each group as
        soon as it is done.

        total: samples of all parts, those that an earlier run has measured included. last: what
        progress says in the end; empty: nothing.
        """
        done = total - sum(len(left) for _, left, _ in parts)
        size = _GROUP_SIZE[self.loaded.lm.device.type]
        for what, left, measure in parts:
            for first in range(0, len(left), size):
                self.on_progress(what, done + first, total)
                self.folder.add(measure(left[first : first + size]))
            done += len(left)
        if last:
            self.on_progress(last, total, total)

    def trials(self, samples: Sequence[Sample], num_tokens: int, num_mem: int) -> list[Trial]:
        """A trial of each sample with the study's seed."""
        return [
            Trial(sample=sample, num_tokens=num_tokens, num_mem=num_mem, seed=self.seed)
            for sample in samples
        ]

    def cram(
        self,
        trials: Iterable[Trial],
        *,
        recipe: Recipe | None = None,
        on_step: OnStep = lambda runs: None,
    ) -> Iterator[Outcome]:
        """Cram trials with the study's recipe, or another one."""
        runner = self.runner(recipe, on_step=on_step)
        yield from runner.run(trials)
        self.batch_tokens = runner.batch_tokens

    def runner(
        self, recipe: Recipe | None = None, *, on_step: OnStep = lambda runs: None
    ) -> TrialRunner:
        """Runs trials with the study's recipe, or another one, and reads texts without vectors."""
        return TrialRunner(
            self.loaded.lm, self.loaded.decode_lm, recipe or self.recipe,
            start_id=self.loaded.start_id, batch_tokens=self.batch_tokens, on_step=on_step,
            cancel=self.cancel,
        )  # fmt: skip

    def plain_bits(self, ids: Sequence[int]) -> list[float]:
        """Surprisal of each token of a text, without vectors."""
        found: list[float] = self.runner().plain(ids).bits.tolist()
        return found

    def decode(self, outcomes: Sequence[Outcome]) -> list[Greedy]:
        """Decode greedily, as the decompressor does."""
        check_cancelled(self.cancel)
        return decode_greedily(self.loaded.decode_lm, outcomes, start_id=self.loaded.start_id)

    def rows_of(self, purpose: str, outcomes: Sequence[Outcome], *, bits: int = 16) -> list[Row]:
        """Rows of outcomes with as many vectors each; those right teacher-forced are decoded."""
        right = [outcome for outcome in outcomes if outcome.accuracy == 1]
        decoded = dict(zip(map(id, right), self.decode(right), strict=True))
        return [
            trial_row(purpose, self.model, outcome, decoded.get(id(outcome)), bits=bits)
            for outcome in outcomes
        ]

    def decoded_rows(
        self,
        purpose: str,
        outcomes: Sequence[Outcome],
        *,
        setting: str = "",
        details: Iterable[float | None] | None = None,
    ) -> list[Row]:
        """Rows of outcomes with the same number of vectors, all of them decoded. details: one for
        each outcome."""
        details = [None] * len(outcomes) if details is None else details
        found = zip(outcomes, self.decode(outcomes), details, strict=True)
        return [
            trial_row(purpose, self.model, outcome, greedy, setting=setting, detail=detail)
            for outcome, greedy, detail in found
        ]


@dataclass(frozen=True, kw_only=True)
class Lab:
    """The folder of a study, and how each of its models is opened."""

    name: str
    settings: LabSettings
    folder: Folder
    on_progress: OnProgress
    cancel: Cancel

    def studies(self) -> Iterator[Study]:
        """One model after the other. Raises ModelUnavailable."""
        settings = self.settings
        for model in settings.models:
            with borrowed_torch(settings.compute.threads):
                files = resolve(
                    model, revision=settings.revision, offline=settings.offline,
                    report=lambda line: self.on_progress(line, 0, 0),
                )  # fmt: skip
                yield Study(
                    loaded=load_for_compression(files, Tokens.load(files.path), settings.compute),
                    folder=self.folder, recipe=settings.recipe, seed=settings.seed,
                    on_progress=self.on_progress, cancel=self.cancel,
                )  # fmt: skip

    def finish(
        self,
        tables: Sequence[Mapping[str, object]],
        draw: Callable[..., object] | None = None,
        *drawn: object,
        **parts: object,
    ) -> Summary:
        """Write the summary, the picture and the report; returns the summary. draw: takes the
        folder and what is to be drawn. parts: what the summary has beside the tables."""
        versions = {
            "llmzip": VERSION,
            **{name: importlib.metadata.version(name) for name in ("torch", "transformers")},
            "python": platform.python_version(),
            "threads": str(torch.get_num_threads()),
        }
        whole = {"study": self.name, "tables": tables, **parts, "versions": versions}
        summary: Summary = finite(whole)
        self.folder.write_summary(summary)
        if draw is not None:
            draw(self.folder.path, *drawn)
        write_report(self.folder.path)
        return summary


@contextmanager
def open_lab(
    name: str,
    settings: LabSettings,
    *,
    own: Settings | None = None,
    on_progress: OnProgress = lambda what, done, total: None,
    cancel: Cancel = None,
) -> Iterator[Lab]:
    """The folder of a study, new or as an earlier run left it. own: settings of this study alone.
    Raises InputError, ResumeRefused."""
    recorded = {**settings.to_settings(), **(own or {})}
    folder = Folder.open(settings.out, name, recorded, columns=COLUMNS, restart=settings.restart)
    with closing(folder):
        yield Lab(
            name=name, settings=settings, folder=folder, on_progress=on_progress, cancel=cancel
        )
