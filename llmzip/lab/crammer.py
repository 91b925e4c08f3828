"""Full cramming as an experiment: what vectors make of a text, good enough for a file or not.

Owns the run of one batch: measure, decide, then step, so that the vectors which are reported are
those which were measured. The first token counts like every other. Knows nothing of capacity or
files. Called by the studies.

Layout: [start token | mem | text]; without left context, so that all a text has to go by is in the
vectors.
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

from llmzip.cram.optimizer import as_stored
from llmzip.lab.recipes import Mover, Recipe
from llmzip.lab.texts import Sample
from llmzip.lm.layout import mem_and_chunk, pad_ids, predicting_rows, segment_start
from llmzip.lm.model import FrozenLM
from llmzip.progress import check_cancelled

OPTIMISER_SLACK = 0.2  # logits
_PACE_STEPS, _LAST_TOKENS = 25, 2
_BATCH_TOKENS = {"cpu": 384, "cuda": 16384, "mps": 2048}  # of one step


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
class Plain:
    """What the model says of a text without vectors."""

    bits: Tensor  # [L] surprisal of each token
    right: Tensor  # [L] bool, whether it is the most likely one


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
        judge: FrozenLM,
        recipe: Recipe,
        *,
        start_id: int | None,
        batch_tokens: int | None = None,
        on_step: OnStep = lambda runs: None,
        cancel: threading.Event | None = None,
    ) -> None:
        """lm: optimises. judge: says what vectors do, in the decoder's numerics. on_step: sees all
        runs under way after each measurement, before they move."""
        self._lm, self._judge, self._recipe = lm, judge, recipe
        self._on_step, self._cancel = on_step, cancel
        # The optimiser's own numerics are off by so much now and then.
        needs_slack = recipe.slack and recipe.until == 1 and lm is not judge
        self.slack = OPTIMISER_SLACK if needs_slack else 0.0
        self._wanted = recipe.min_margin + self.slack
        self._start = segment_start(start_id)
        self._batch_tokens = batch_tokens or _BATCH_TOKENS[lm.device.type]

    def run(self, trials: Iterable[Trial]) -> Iterator[Outcome]:
        """Cram every trial; outcomes in the order in which they are done."""
        queue = iter(trials)
        runs: list[Run] = []
        waiting: Trial | None = None
        while True:
            while True:
                waiting = waiting or next(queue, None)
                if waiting is None or (runs and not self._has_room(runs, waiting)):
                    break
                runs.append(self._begin(waiting))
                waiting = None
            if not runs:
                return
            self._until_one_is_over(runs)
            yield from self._outcomes([run for run in runs if run.is_over])
            runs = [run for run in runs if not run.is_over]

    def plain(self, ids: Sequence[int]) -> Plain:
        """Read a text without vectors."""
        return plain_text(self._judge, ids, start=self._start)

    def _has_room(self, runs: Sequence[Run], trial: Trial) -> bool:
        if trial.num_mem != runs[0].trial.num_mem:
            return False
        sizes = [each.num_tokens + each.num_mem for each in [trial, *(run.trial for run in runs)]]
        return max(sizes) * len(sizes) <= self._batch_tokens

    def _begin(self, trial: Trial) -> Run:
        mem = trial.warm_mem
        if mem is None:
            seed = f"{trial.seed} {trial.sample.key}"
            mem = self._recipe.start(self._lm, trial.num_mem, seed)
        mover = self._recipe.mover(self._lm, mem.numel())
        return Run(trial=trial, mem=mem.to(self._lm.device).clone(), mover=mover)

    def _until_one_is_over(self, runs: Sequence[Run]) -> None:
        batch = _Batch(self._lm, self._start, [run.trial for run in runs])
        while not any(run.is_over for run in runs):
            check_cancelled(self._cancel)
            began = time.monotonic()
            found = batch.measure([run.mem for run in runs], self._recipe)
            for run, margins in zip(runs, found, strict=True):
                self._decide(run, margins)
            self._on_step(runs)
            gradients = batch.gradients()
            for run, gradient in zip(runs, gradients, strict=True):
                if not run.is_over:
                    run.mem = run.mover.move(run.mem.view(1, -1), gradient).view_as(run.mem)
                    run.step += 1
            share = (time.monotonic() - began) / len(runs)
            for run in runs:
                run.seconds += share

    def _decide(self, run: Run, margins: Tensor) -> None:
        """Keep the vectors if they are the best so far, and end the run if they are good enough or
        nothing has become better for long."""
        recipe = self._recipe
        run.margins = margins
        num_right = int((margins > 0).sum())
        num_safe = int(((margins > 0) & (margins >= self._wanted)).sum())
        score = num_right, num_safe, float(margins.clamp(-1.0, self._wanted + 1.0).sum())
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
        margins, bits = _Batch(self._judge, self._start, [trial]).judge(mem[None])
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


class _Batch:
    """Trials laid out as rows."""

    def __init__(self, lm: FrozenLM, start: Sequence[int], trials: Sequence[Trial]) -> None:
        self._lm = lm
        self._ids, self._live = pad_ids([trial.ids for trial in trials], lm.device)  # [B, L]
        with torch.no_grad():
            before, before_live = pad_ids([start] * len(trials), lm.device)
            _, self._state = lm.extend(lm.empty(len(trials)), lm.embed(before), before_live)
            self._embeds = lm.embed(self._ids)  # [B, L, D]
        self._places = self._live.flatten().nonzero()[:, 0]  # [N]
        self._targets = self._ids.flatten()[self._places]  # [N]
        self._num_tokens = [trial.num_tokens for trial in trials]

    def measure(self, mems: Sequence[Tensor], recipe: Recipe) -> list[Tensor]:
        """Margins of each row's tokens with the vectors as they would be stored: [L_row] each."""
        leaf = as_stored(torch.stack(list(mems))).to(self._lm.dtype).requires_grad_(True)
        self._leaf, self._rows = leaf, self._forward(leaf)
        self._found = self._lm.predict(
            self._rows.detach().flatten(0, 1)[self._places],
            self._targets,
            margin_goal=recipe.margin_goal,
            temperature=recipe.temperature,
        )
        return list(self._found.margins.split(self._num_tokens))

    def gradients(self) -> list[Tensor]:
        """Of the loss in each row's vectors, as measured last: [1, K x D] fp32 each."""
        gradient = torch.zeros_like(self._rows)
        gradient.view(-1, gradient.shape[-1])[self._places] = self._found.gradient
        self._rows.backward(gradient)
        assert self._leaf.grad is not None
        return [row.float().view(1, -1) for row in self._leaf.grad]

    @torch.no_grad()
    def judge(self, mem: Tensor) -> tuple[Tensor, Tensor]:
        """Margins and surprisal of all tokens given vectors: [N] each. mem: [B, K, D]."""
        hidden = self._forward(mem.to(self._lm.device, self._lm.dtype)).flatten(0, 1)
        hidden = hidden[self._places]
        found = self._lm.predict(hidden, self._targets, margin_goal=-math.inf)
        return found.margins, self._lm.surprisal_bits(hidden, self._targets)

    def _forward(self, mem: Tensor) -> Tensor:
        embeds, live = mem_and_chunk(mem, self._embeds, self._live)
        hidden, _ = self._lm.extend(self._state, embeds, live)
        return predicting_rows(hidden, mem.shape[1])  # [B, L, Dh]


@torch.no_grad()
def plain_text(lm: FrozenLM, ids: Sequence[int], *, start: Sequence[int]) -> Plain:
    """Read a text without vectors, from a start token if there is one.

    Without one nothing stands before the first token: it may be any, and is not predicted.
    """
    whole, live = pad_ids([[*start, *ids]], lm.device)
    hidden, _ = lm.extend(lm.empty(1), lm.embed(whole), live)
    targets = torch.tensor(ids, dtype=torch.int64, device=lm.device)
    missing = 1 - len(start)
    rows = hidden[0, max(0, len(start) - 1) : -1]
    margins = lm.predict(rows, targets[missing:], margin_goal=-math.inf).margins
    bits = lm.surprisal_bits(rows, targets[missing:])
    if missing:
        bits = torch.cat([bits.new_full((1,), math.log2(lm.vocab_size)), bits])
        margins = torch.cat([margins.new_full((1,), -math.inf), margins])
    return Plain(bits=bits.cpu(), right=(margins > 0).cpu())
