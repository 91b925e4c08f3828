"""A study under way: the model it runs on, where its rows go, and how far it is.

Owns what all studies need: the model, batches of trials, decoding. Knows nothing of what is being
asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from llmzip.config import ComputeSettings
from llmzip.lab.crammer import Crammer, Outcome, Run, Trial
from llmzip.lab.decoding import Greedy, decode_greedily
from llmzip.lab.folder import Folder, Row
from llmzip.lab.recipes import Recipe
from llmzip.lab.rows import trial_row
from llmzip.lab.texts import Sample
from llmzip.lm.loaded import LoadedModel, load_for_compression
from llmzip.lm.tokens import Tokens
from llmzip.lm.torch_settings import borrowed_torch
from llmzip.lm.zoo import resolve
from llmzip.progress import check_cancelled

# Takes what is being done, how much of it is done, and of how much.
Tell: TypeAlias = Callable[[str, int, int], None]

# Texts of a group: what a run that is stopped may lose. On an accelerator a step for many takes
# little longer than one for a few.
_TOGETHER = {"cpu": 8, "cuda": 64, "mps": 16}


@dataclass(kw_only=True)
class Study:
    """One model and one folder."""

    loaded: LoadedModel
    folder: Folder
    recipe: Recipe
    seed: int
    tell: Tell
    cancel: threading.Event | None = None
    batch_tokens: int | None = None  # of a step, that the device was seen to hold

    @property
    def model(self) -> str:
        """The model's name in rows."""
        return self.loaded.files.model_id

    @property
    def own_rows(self) -> list[Row]:
        """Rows of this model."""
        return [row for row in self.folder.rows if row["model"] == self.model]

    @property
    def most_tokens(self) -> int:
        """That a text may have beside one vector and the start token."""
        return self.loaded.decode_lm.max_positions - 2

    def cram(
        self,
        trials: Iterable[Trial],
        *,
        recipe: Recipe | None = None,
        on_step: Callable[[Sequence[Run]], None] = lambda runs: None,
    ) -> Iterator[Outcome]:
        """Cram trials with the study's recipe, or another one."""
        crammer = self.crammer(recipe, on_step=on_step)
        yield from crammer.run(trials)
        self.batch_tokens = crammer.batch_tokens

    def crammer(
        self,
        recipe: Recipe | None = None,
        *,
        on_step: Callable[[Sequence[Run]], None] = lambda runs: None,
    ) -> Crammer:
        """What crams with the study's recipe, or another one, and reads texts without vectors."""
        return Crammer(
            self.loaded.lm, self.loaded.decode_lm, recipe or self.recipe,
            start_id=self.loaded.start_id, batch_tokens=self.batch_tokens, on_step=on_step,
            cancel=self.cancel,
        )  # fmt: skip

    def plain_bits(self, ids: Sequence[int]) -> list[float]:
        """Surprisal of each token of a text, without vectors."""
        found: list[float] = self.crammer().plain(ids).bits.tolist()
        return found

    def groups(
        self, left: Sequence[Sample], what: str, *, done: int, total: int
    ) -> Iterator[Sequence[Sample]]:
        """Samples in groups that are worked on side by side, told of before each."""
        together = _TOGETHER[self.loaded.lm.device.type]
        for at in range(0, len(left), together):
            self.tell(what, done + at, total)
            yield left[at : at + together]

    def decode(self, outcomes: Sequence[Outcome]) -> list[Greedy]:
        """Greedily, as a file would be."""
        check_cancelled(self.cancel)
        return decode_greedily(self.loaded.decode_lm, outcomes, start_id=self.loaded.start_id)

    def rows_of(
        self, purpose: str, outcomes: Sequence[Outcome], **more: str | float | int
    ) -> list[Row]:
        """Rows of outcomes that have as many vectors each. Those all right when teacher-forced are
        decoded."""
        whole = [outcome for outcome in outcomes if outcome.accuracy == 1]
        decoded = dict(zip(map(id, whole), self.decode(whole), strict=True))
        return [
            trial_row(purpose, self.model, outcome, decoded.get(id(outcome)), **more)  # type: ignore[arg-type]
            for outcome in outcomes
        ]


@contextmanager
def opened_model(
    model: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    compute: ComputeSettings,
    report: Callable[[str], None],
) -> Iterator[LoadedModel]:
    """A model, found or fetched. Raises ModelUnavailable."""
    with borrowed_torch(compute.threads):
        files = resolve(model, revision=revision, offline=offline, report=report)
        yield load_for_compression(files, Tokens.load(files.path), compute)
