"""Full cramming as an experiment: what vectors make of a text, good enough for a file or not.

Owns the run of many trials side by side, as many as the device holds: measure, decide, then step,
so that the vectors which are reported are those which were measured. The first token counts like
every other. Knows nothing of capacity or files.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from llmzip.codecs.cram.optimizer import as_stored
from llmzip.lab.batch import Batch, Plain, plain_text
from llmzip.lab.recipes import Mover, Recipe
from llmzip.lab.texts import Sample
from llmzip.lm.devices import MemoryGauge, no_room, out_of_room
from llmzip.lm.layout import segment_start
from llmzip.lm.model import FrozenLM
from llmzip.progress import check_cancelled

OPTIMISER_SLACK = 0.2  # logits
LESS = "fewer --tokens or a smaller model"  # to do where one text does not fit
_PACE_STEPS, _LAST_TOKENS = 25, 2
# Of one step: on a CPU always, elsewhere at first, until it is seen how much memory that takes.
_BATCH_TOKENS = {"cpu": 384, "cuda": 4096, "mps": 2048}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The first tokens of a text, to be crammed into so many vectors."""

    sample: Sample
    num_tokens: int
    num_mem: int = 1
    seed: int = 0
    warm_mem: Tensor | None = None  # [K, D] to begin with, else random ones

    @property
    def ids(self) -> tuple[int, ...]:
        return self.sample.ids[: self.num_tokens]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The best vectors of a run and what they do, teacher-forced."""

    trial: Trial
    mem: Tensor  # [K, D] fp32 holding bf16 values, on the CPU
    margins: Tensor  # [L] logits, on the CPU
    bits: Tensor  # [L] surprisal of each token given the vectors, on the CPU
    plain: Plain
    steps: int  # of the run
    best_step: int  # that these vectors are of
    seconds: float  # its share of the batches it was in

    @property
    def tokens_right(self) -> int:
        return int((self.margins > 0).sum())

    @property
    def accuracy(self) -> float:
        return self.tokens_right / self.trial.num_tokens

    @property
    def min_margin(self) -> float:
        return float(self.margins.min())

    @property
    def token_gain(self) -> int:
        """Tokens that the model predicts with the vectors and not without: the paper's measure."""
        return self.tokens_right - int(self.plain.right.sum())

    @property
    def info_gain_bits(self) -> float:
        """Cross-entropy of the text without the vectors less that with them."""
        return float(self.plain.bits.sum() - self.bits.sum())


OnStep: TypeAlias = Callable[[Sequence["Run"]], None]


@dataclass(kw_only=True)
class Run:
    """A trial under way."""

    trial: Trial
    mem: Tensor  # [K, D] fp32, what moves
    mover: Mover
    step: int = 0
    margins: Tensor | None = None  # [L] measured last
    best_mem: Tensor | None = None
    best: tuple[int, int, float] = (-1, 0, 0.0)  # tokens right, with the margin; how safely
    best_step: int = 0
    gained_step: int = 0  # when a token more was right for the last time
    most_right: list[int] = field(default_factory=list)  # so far, at each step
    seconds: float = 0.0
    is_over: bool = False


class Crammer:
    """Runs trials, many at once."""

    def __init__(
        self,
        lm: FrozenLM,
        decode_lm: FrozenLM,
        recipe: Recipe,
        *,
        start_id: int | None,
        batch_tokens: int | None = None,
        on_step: OnStep = lambda runs: None,
        cancel: threading.Event | None = None,
    ) -> None:
        """lm: optimises. decode_lm: says what vectors do, in the decoder's numerics. batch_tokens:
        of a step to begin with. on_step: sees all runs under way after each measurement, before
        they move."""
        self._lm, self._decode_lm, self._recipe = lm, decode_lm, recipe
        self._on_step, self._cancel = on_step, cancel
        # The optimiser's own numerics are off by so much now and then.
        needs_slack = recipe.slack and recipe.until == 1 and lm is not decode_lm
        self.slack = OPTIMISER_SLACK if needs_slack else 0.0
        self._wanted = recipe.min_margin + self.slack
        self._start = segment_start(start_id)
        self._gauge: MemoryGauge | None = MemoryGauge(lm.device)
        self.batch_tokens = batch_tokens or _BATCH_TOKENS[lm.device.type]  # that fit a step so far

    def run(self, trials: Iterable[Trial]) -> Iterator[Outcome]:
        """Cram every trial; outcomes in the order in which they are done. Raises LimitExceeded
        where the device has no room for one."""
        queue, waiting, runs = iter(trials), list[Run](), list[Run]()
        while True:
            self._fill(runs, waiting, queue)
            if not runs:
                return
            waiting[:0] = self._advance(runs)
            yield from self._outcomes([run for run in runs if run.is_over])
            runs = [run for run in runs if not run.is_over]

    def _fill(self, runs: list[Run], waiting: list[Run], queue: Iterator[Trial]) -> None:
        """Take in what waits, then more trials, while there is room."""
        while True:
            if not waiting:
                trial = next(queue, None)
                if trial is None:
                    return
                waiting.append(self._begin(trial))
            if runs and not self._has_room(runs, waiting[0].trial):
                return
            runs.append(waiting.pop(0))

    def _advance(self, runs: list[Run]) -> list[Run]:
        """Step until some run is over. For lack of memory, half of them are put off, and
        returned."""
        put_off: list[Run] = []
        error = out_of_room(lambda: self._until_one_is_over(runs), self._lm.device)
        if error is not None:
            if len(runs) == 1:
                raise no_room("one text", hint=LESS) from error
            self._gauge = None  # the device has said what fits
            self.batch_tokens //= 2
            kept = len(runs) // 2
            put_off = runs[kept:]
            del runs[kept:]
        elif self._gauge is not None:
            taken = _step_tokens([run.trial for run in runs])
            fits = self._gauge.step_tokens(taken)
            if fits > taken:
                self.batch_tokens = max(self.batch_tokens, fits)
        return put_off

    def plain(self, ids: Sequence[int]) -> Plain:
        """Read a text without vectors."""
        return plain_text(self._decode_lm, ids, start=self._start)

    def _has_room(self, runs: Sequence[Run], trial: Trial) -> bool:
        if trial.num_mem != runs[0].trial.num_mem:
            return False
        return _step_tokens([trial, *(run.trial for run in runs)]) <= self.batch_tokens

    def _begin(self, trial: Trial) -> Run:
        mem = trial.warm_mem
        if mem is None:
            seed = f"{trial.seed} {trial.sample.key}"
            mem = self._recipe.start(self._lm, trial.num_mem, seed)
        mover = self._recipe.mover(self._lm, mem.numel())
        return Run(trial=trial, mem=mem.to(self._lm.device).clone(), mover=mover)

    def _until_one_is_over(self, runs: Sequence[Run]) -> None:
        batch = Batch(self._lm, self._start, [run.trial.ids for run in runs])
        mem = torch.stack([run.mem for run in runs])  # [B, K, D]
        mover = runs[0].mover.with_others([run.mover for run in runs[1:]])
        try:
            while not any(run.is_over for run in runs):
                check_cancelled(self._cancel)
                began = time.monotonic()
                found = batch.measure(mem, self._recipe)
                gradients = batch.gradients()  # before anything is decided: memory may run out
                for run, margins, score in zip(
                    runs, found, batch.scores(self._wanted), strict=True
                ):
                    run.margins = margins
                    self._decide(run, score)
                self._on_step(runs)
                mem = mover.move(mem.flatten(1), gradients).view_as(mem)
                share = (time.monotonic() - began) / len(runs)
                for row, run in enumerate(runs):
                    run.seconds += share
                    if not run.is_over:
                        run.mem = mem[row]
                        run.step += 1
        finally:
            for row, run in enumerate(runs):
                run.mover = mover.row(row)

    def _decide(self, run: Run, score: tuple[int, int, float]) -> None:
        """Keep the vectors if they are the best so far, and end the run if they are good enough or
        nothing has become better for long. score: as `Batch.scores`."""
        recipe = self._recipe
        num_right, num_safe, _ = score
        if num_right > run.best[0]:
            run.gained_step = run.step
        if score > run.best:
            run.best, run.best_step, run.best_mem = score, run.step, as_stored(run.mem)
        run.most_right.append(run.best[0])
        enough = num_safe >= math.ceil(recipe.until * run.trial.num_tokens)
        late = run.step - run.gained_step >= recipe.patience or run.step >= recipe.max_steps
        run.is_over = enough or late or (recipe.gives_up and self._is_hopeless(run))

    def _is_hopeless(self, run: Run) -> bool:
        """Whether more tokens are wrong than twice the run's pace would put right in time; the last
        few come at no pace."""
        if run.step < _PACE_STEPS:
            return False
        gained = run.best[0] - run.most_right[-1 - _PACE_STEPS]
        wrong = run.trial.num_tokens - run.best[0]
        steps_left = self._recipe.max_steps - run.step
        return wrong - _LAST_TOKENS > 2 * gained * steps_left / _PACE_STEPS

    def _outcomes(self, runs: Sequence[Run]) -> Iterator[Outcome]:
        for run in runs:
            assert run.best_mem is not None
            yield self.outcome(
                run.trial,
                run.best_mem,
                steps=run.step,
                best_step=run.best_step,
                seconds=run.seconds,
            )

    def outcome(
        self, trial: Trial, mem: Tensor, *, steps: int, best_step: int, seconds: float
    ) -> Outcome:
        """What vectors do for a trial, in the decoder's numerics. mem: [K, D] holding bf16
        values."""
        margins, bits = Batch(self._decode_lm, self._start, [trial.ids]).decode_lm(mem[None])
        return Outcome(
            trial=trial,
            mem=mem.cpu(),
            margins=margins.cpu(),
            bits=bits.cpu(),
            plain=self.plain(trial.ids),
            steps=steps,
            best_step=best_step,
            seconds=seconds,
        )


def _step_tokens(trials: Sequence[Trial]) -> int:
    """What one step of these computes, padding included."""
    return len(trials) * max(trial.num_tokens + trial.num_mem for trial in trials)
