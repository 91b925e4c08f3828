"""Full cramming as an experiment: many trials are run side by side, as many as the device holds.

Owns the order of a step: measure, decide, then move, so that the vectors which are reported are
those which were measured. The first token counts like every other. Knows nothing of capacity or
files.
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

from llmzip.codecs.cram.engine import OPTIMISER_SLACK
from llmzip.codecs.cram.slots import as_stored
from llmzip.lab.batch import Batch, plain_text
from llmzip.lab.recipes import Optimiser, Recipe
from llmzip.lab.trials import Outcome, Plain, Trial
from llmzip.lm.devices import MemoryGauge, out_of_memory_error, too_little_memory
from llmzip.lm.layout import segment_start
from llmzip.lm.model import FrozenLM
from llmzip.progress import check_cancelled

NO_ROOM_HINT = "fewer --tokens or a smaller model"
_PACE_STEPS, _LAST_TOKENS = 25, 2
# Tokens of one step: on a CPU always, elsewhere until it is known how much memory a step takes.
_BATCH_TOKENS = {"cpu": 384, "cuda": 4096, "mps": 2048}


@dataclass(kw_only=True)
class Run:
    """A trial that is being optimised."""

    trial: Trial
    mem: Tensor  # [K, D] fp32, what the optimiser moves
    optimiser: Optimiser
    step: int = 0
    margins: Tensor | None = None  # [L] measured last
    best_mem: Tensor | None = None
    best: tuple[int, int, float] = (-1, 0, 0.0)  # score of best_mem, see `Batch.scores`
    best_step: int = 0
    gained_step: int = 0  # the last step at which more tokens were right than ever before
    most_right: list[int] = field(default_factory=list)  # so far, at each step
    seconds: float = 0.0
    is_over: bool = False


OnStep: TypeAlias = Callable[[Sequence[Run]], None]


class TrialRunner:
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
        """lm: optimises. decode_lm: measures what is reported, in the decoder's numerics.
        batch_tokens: of the first step. on_step: called with all runs after each measurement,
        before the vectors move."""
        self._lm, self._decode_lm, self._recipe = lm, decode_lm, recipe
        self._on_step, self._cancel = on_step, cancel
        needs_slack = recipe.slack and recipe.until == 1 and lm is not decode_lm
        self.slack = OPTIMISER_SLACK if needs_slack else 0.0
        self._wanted = recipe.min_margin + self.slack
        self._start = segment_start(start_id)
        self._gauge: MemoryGauge | None = MemoryGauge(lm.device)
        self.batch_tokens = batch_tokens or _BATCH_TOKENS[lm.device.type]  # that a step may have

    def run(self, trials: Iterable[Trial]) -> Iterator[Outcome]:
        """Cram every trial; outcomes come in the order in which the runs end. Raises LimitExceeded
        where the device has no room for one trial."""
        queue, waiting, runs = iter(trials), list[Run](), list[Run]()
        while True:
            self._fill(runs, waiting, queue)
            if not runs:
                return
            waiting[:0] = self._advance(runs)
            for run in runs:
                if run.is_over:
                    assert run.best_mem is not None
                    yield self.outcome(
                        run.trial, run.best_mem,
                        steps=run.step, best_step=run.best_step, seconds=run.seconds,
                    )  # fmt: skip
            runs = [run for run in runs if not run.is_over]

    def plain(self, ids: Sequence[int]) -> Plain:
        """Read a text without vectors."""
        return plain_text(self._decode_lm, ids, start=self._start)

    def outcome(
        self, trial: Trial, mem: Tensor, *, steps: int = 0, best_step: int = 0, seconds: float = 0.0
    ) -> Outcome:
        """Measure vectors in the decoder's numerics. mem: [K, D] holding bf16 values."""
        batch = Batch(self._decode_lm, self._start, [trial.ids])
        margins, bits = batch.margins_and_bits(mem[None])
        return Outcome(
            trial=trial, mem=mem.cpu(), margins=margins.cpu(), bits=bits.cpu(),
            plain=self.plain(trial.ids), steps=steps, best_step=best_step, seconds=seconds,
        )  # fmt: skip

    def _fill(self, runs: list[Run], waiting: list[Run], queue: Iterator[Trial]) -> None:
        """Add the runs that wait, then new trials, while there is room."""
        while True:
            if not waiting:
                trial = next(queue, None)
                if trial is None:
                    return
                waiting.append(self._begin(trial))
            trials = [run.trial for run in (*runs, waiting[0])]
            is_full = _step_tokens(trials) > self.batch_tokens
            if runs and (is_full or trials[-1].num_mem != trials[0].num_mem):
                return
            runs.append(waiting.pop(0))

    def _begin(self, trial: Trial) -> Run:
        mem = trial.warm_mem
        if mem is None:
            seed = f"{trial.seed} {trial.sample.key}"
            mem = self._recipe.start(self._lm, trial.num_mem, seed)
        optimiser = self._recipe.optimiser(self._lm, mem.numel())
        return Run(trial=trial, mem=mem.to(self._lm.device).clone(), optimiser=optimiser)

    def _advance(self, runs: list[Run]) -> list[Run]:
        """Step until a run is over. Returns half of the runs, postponed, if memory runs out."""
        postponed: list[Run] = []
        error = out_of_memory_error(lambda: self._until_one_is_over(runs), self._lm.device)
        if error is not None:
            if len(runs) == 1:
                raise too_little_memory("one text", hint=NO_ROOM_HINT) from error
            self._gauge = None  # the limit is known now: no more estimates
            self.batch_tokens //= 2
            kept = len(runs) // 2
            postponed = runs[kept:]
            del runs[kept:]
        elif self._gauge is not None:
            taken = _step_tokens([run.trial for run in runs])
            fits = self._gauge.step_tokens(taken)
            if fits > taken:
                self.batch_tokens = max(self.batch_tokens, fits)
        return postponed

    def _until_one_is_over(self, runs: Sequence[Run]) -> None:
        batch = Batch(self._lm, self._start, [run.trial.ids for run in runs])
        mem = torch.stack([run.mem for run in runs])  # [B, K, D]
        optimiser = runs[0].optimiser.with_others([run.optimiser for run in runs[1:]])
        try:
            while not any(run.is_over for run in runs):
                check_cancelled(self._cancel)
                began = time.monotonic()
                found = batch.measure(mem, self._recipe)
                gradients = batch.gradients()  # before anything is decided: memory may run out
                scores = batch.scores(self._wanted)
                for run, margins, score in zip(runs, found, scores, strict=True):
                    run.margins = margins
                    self._decide(run, score)
                self._on_step(runs)
                mem = optimiser.move(mem.flatten(1), gradients).view_as(mem)
                share = (time.monotonic() - began) / len(runs)
                for row, run in enumerate(runs):
                    run.seconds += share
                    if not run.is_over:
                        run.mem = mem[row]
                        run.step += 1
        finally:
            for row, run in enumerate(runs):
                run.optimiser = optimiser.row(row)

    def _decide(self, run: Run, score: tuple[int, int, float]) -> None:
        """Keep the vectors if they are the best so far, and end the run if they are good enough or
        if nothing has improved for too long. score: as `Batch.scores`."""
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
        """Whether more tokens are wrong than the run would put right in time at twice its pace.
        The last few tokens are not counted: they do not depend on the pace."""
        if run.step < _PACE_STEPS:
            return False
        gained = run.best[0] - run.most_right[-1 - _PACE_STEPS]
        wrong = run.trial.num_tokens - run.best[0]
        steps_left = self._recipe.max_steps - run.step
        return wrong - _LAST_TOKENS > 2 * gained * steps_left / _PACE_STEPS


def _step_tokens(trials: Sequence[Trial]) -> int:
    """Tokens that one step of these trials computes, padding included."""
    return len(trials) * max(trial.num_tokens + trial.num_mem for trial in trials)
