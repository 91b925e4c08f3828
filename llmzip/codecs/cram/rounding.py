"""Vectors on their way to the grid of a few bits: what is fixed, what still moves, what was best.

Owns the schedule of one chunk whose vectors are stored as whole multiples of a step. Knows nothing
of the model, the loss or the batch around the chunk.

Method: first the vectors are free. Then their coordinates are fixed one group after another, those
nearest to the grid first, while the others go on moving and make up for it. Then, again and again,
the coordinates that the loss pulls hardest are set free and fixed anew, and what is better is kept.
From the start, the tokens that would cost the vectors most are given up: they will be patches.
Related: incremental quantisation (Zhou et al. 2017), large neighbourhood search (Shaw 1998).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from llmzip.codecs.cram.curvature import Curvature

# The step of a grid on which a normally distributed coordinate takes 0 bits, as a share of its
# standard deviation: entropy of the normal distribution, sqrt(2 pi e). Each bit halves it.
_STEP_AT_ZERO_BITS = math.sqrt(2 * math.pi * math.e)
_STEPS_AN_OCTAVE = 4  # the container keeps two bits of a step's mantissa
_FREE_ENOUGH = 0.02  # share of the kept tokens that may still be wrong when fixing begins
_AGAIN_SHARE, _AGAIN_LEAD, _AGAIN_STEPS = 0.15, 2, 6  # of a chunk that is set free once more
# Of a chunk's tokens, wrong ones beyond those that may be patched: the grid is far too coarse, it
# is nearly fine enough.
_FAR_SHARE, _NEAR_SHARE = 0.1, 0.03
_GOAL_BEYOND = 0.2  # logits beyond the margin that count in the score
_SCORE_CAP = 1.5  # logits short of that which count for one token at most
# Of a grid's step: the root mean square, over the coordinates that are free, by which they move at
# most. A step before the path has told of the curvature is half as long.
_REACH, _REACH_AGAIN = 0.1, 0.2
WIDER = 0.25  # logits that are asked for in addition after a refusal


@dataclass(frozen=True, kw_only=True)
class GridPlan:
    """How the vectors of a run come to their grid."""

    bits: float  # of a coordinate, on the first grid tried
    free_steps: int  # at most, before coordinates are fixed
    fixing_steps: int  # of the first pass, in which all coordinates are fixed
    total_steps: int  # when a chunk that fits leaves, however coarse its grid could become
    last_step: int  # when a chunk leaves that does not fit

    def first_steps(self, mem: Tensor) -> Tensor:
        """Steps of the first grid. mem: [K, D] -> [K]."""
        rms = mem.square().mean(dim=1).sqrt()
        return round_steps(rms * _STEP_AT_ZERO_BITS * 2.0**-self.bits)


def round_steps(steps: Tensor) -> Tensor:
    """The nearest steps that the container can hold: bf16 with two bits of mantissa."""
    octave = torch.floor(torch.log2(steps))
    fine = torch.round(torch.exp2(torch.log2(steps) - octave) * _STEPS_AN_OCTAVE)
    return fine / _STEPS_AN_OCTAVE * torch.exp2(octave)


def next_steps(steps: Tensor, direction: int) -> Tensor:
    """Steps that the container can hold, so many places coarser (above 0) or finer."""
    return round_steps(steps * 2.0 ** (direction / _STEPS_AN_OCTAVE))


def least_expected(surprisal_bits: Tensor, count: int) -> Tensor:
    """So many tokens, those that the model expects least. surprisal_bits: [L] -> [L] bool."""
    found = torch.zeros(len(surprisal_bits), dtype=torch.bool)
    found[surprisal_bits.topk(count).indices] = True
    return found


@dataclass(frozen=True, kw_only=True)
class GridGoal:
    """When the vectors of one chunk are good enough."""

    limit: int  # tokens that may be wrong at the end
    wanted: float  # logits by which every other token must lead


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Vectors of which every coordinate is on the grid, and what was measured of them."""

    mem: Tensor  # [K, D] fp32 holding bf16 values
    steps: Tensor  # [K] of the grid
    gradient: Tensor  # [K, D]
    margins: Tensor  # [L] on the CPU


@dataclass(kw_only=True)
class Rounding:
    """One chunk's way to the grid. P = K x D coordinates."""

    given_up: Tensor  # [L] bool on the CPU: tokens that no gradient is asked for
    limit: int  # tokens that may be wrong at the end
    wanted: float  # logits by which every other token must lead
    fixed: Tensor  # [K, D] bool
    steps: Tensor | None = None  # [K] of the grid; None: every coordinate is still free
    free_mem: Tensor | None = None  # [K, D] when the first coordinate was fixed
    clock: int = 0  # optimiser steps into the pass under way
    lead: int = 0  # of them before the first coordinate is fixed
    length: int = 0  # of them after which all are
    num_free: int = 0  # coordinates that were free when the pass began
    reach: float = _REACH  # how far they move in a step, see above
    passes: int = 0  # on this grid
    best: Candidate | None = None  # on this grid
    held: Candidate | None = None  # good enough; a coarser grid is being tried
    deadline: int = 0  # optimiser step at which this grid has had its chances

    @classmethod
    def start(
        cls, shape: tuple[int, int], surprisal_bits: Tensor, goal: GridGoal, device: torch.device
    ) -> Rounding:
        """Nothing is fixed; the tokens that the model expects least are given up. shape: K and D.
        surprisal_bits: [L]."""
        given_up = least_expected(surprisal_bits, goal.limit)
        fixed = torch.zeros(shape, dtype=torch.bool, device=device)
        return cls(given_up=given_up, limit=goal.limit, wanted=goal.wanted, fixed=fixed)

    @property
    def is_due(self) -> bool:
        """Whether vectors with every coordinate fixed have been measured."""
        return self.steps is not None and self.clock > self.length

    def leave(self) -> Candidate:
        """What leaves when there is nothing more to be done."""
        winner = self.held or self.best
        assert winner is not None
        self.steps = winner.steps
        return winner

    def num_wrong(self, found: Candidate) -> int:
        """Tokens whose margin is short of what is wanted."""
        return int((found.margins < self.wanted).sum())

    def may_begin(self, margins: Tensor, step: int, plan: GridPlan) -> bool:
        """Whether the free vectors are good enough to be fixed. margins: [L]."""
        kept = margins[~self.given_up]
        few = int((kept < self.wanted).sum()) <= _FREE_ENOUGH * len(kept)
        return few or step >= plan.free_steps

    def begin(self, mem: Tensor, step: int, plan: GridPlan) -> None:
        """Choose the first grid and start to fix coordinates. mem: [K, D]."""
        steps = plan.first_steps(mem)
        if step >= plan.free_steps:  # hard to force even without a grid
            steps = next_steps(steps, -1)
        self.free_mem = mem.clone()
        self._try_grid(steps, step, plan)

    def take(self, found: Candidate) -> None:
        """Keep the better of what was best and what was found, and give up what is worst in it."""
        self.passes += 1
        if self.best is not None and self._score(found) >= self._score(self.best):
            return
        self.best = found
        worst = found.margins.argsort()[: self.limit]
        self.given_up = torch.zeros_like(self.given_up)
        self.given_up[worst[found.margins[worst] < self.wanted]] = True

    def go_on(self, step: int, plan: GridPlan) -> bool:
        """Start the next pass; False: there is no more to be done."""
        best = self.best
        assert best is not None
        excess = self.num_wrong(best) - self.limit
        is_near = excess <= _NEAR_SHARE * len(best.margins)
        late = min(self.deadline + is_near * plan.fixing_steps, plan.last_step)
        is_hopeless = excess > _FAR_SHARE * len(best.margins) or step >= late
        if excess <= 0:
            self.held = best
            if step + plan.fixing_steps > plan.total_steps:
                return False
            self._try_grid(next_steps(best.steps, 1), step, plan)
        elif not is_hopeless:
            self._set_free_again(best)
        elif self.held is not None or step >= plan.last_step:
            return False
        else:
            self._try_grid(next_steps(best.steps, -1 if is_near else -2), step, plan)
        return True

    def refuse(self, step: int, plan: GridPlan) -> None:
        """The winner failed where it is decoded: ask for wider margins, and go on from it."""
        best = self.leave()
        self.held, self.best = None, best
        self.wanted += WIDER
        self.deadline = step + plan.fixing_steps
        self._set_free_again(best)

    def _score(self, found: Candidate) -> float:
        """How far the kept tokens are from the margins they should have; lower is better."""
        short = (self.wanted + _GOAL_BEYOND - found.margins).clamp(0.0, _SCORE_CAP)
        return float(short[~self.given_up].sum())

    def _try_grid(self, steps: Tensor, step: int, plan: GridPlan) -> None:
        """Start over on another grid, from the vectors as they were before the first one."""
        self.steps, self.best, self.passes = steps, None, 0
        self.deadline = max(plan.total_steps, step + 2 * plan.fixing_steps)
        nothing = torch.zeros_like(self.fixed)
        self._start_pass(nothing, lead=0, length=plan.fixing_steps, reach=_REACH)

    def _start_pass(self, fixed: Tensor, *, lead: int, length: int, reach: float) -> None:
        self.fixed, self.clock, self.lead, self.length, self.reach = fixed, 0, lead, length, reach
        self.num_free = int((~fixed).sum())

    def starting_point(self) -> tuple[Tensor, Curvature]:
        """Where the pass begins: vectors [K, D], what is known of their path."""
        assert self.steps is not None and self.free_mem is not None
        curvature = Curvature.empty(self.fixed.numel(), self.fixed.device)
        onward = self.best
        if onward is None:
            return self.free_mem.clone(), curvature
        # The gradient there is known: the first move needs no measuring.
        longest = self.reach * float(self.steps.mean())
        share_free = self.num_free / self.fixed.numel()
        move = curvature.step(
            onward.mem.view(1, -1),
            onward.gradient.masked_fill(self.fixed, 0.0).view(1, -1),
            step_size=longest / 2,
            longest_step=longest * math.sqrt(share_free),
        )
        self.clock += 1
        moved = torch.where(self.fixed, onward.mem, onward.mem + move.view_as(onward.mem))
        return moved, curvature

    def _set_free_again(self, best: Candidate) -> None:
        """Free the coordinates that the loss pulls hardest, with some chance among them."""
        pull = best.gradient.abs().flatten()
        chance = torch.rand(pull.shape, generator=torch.Generator().manual_seed(self.passes))
        pull = pull * (0.5 + chance).to(pull.device)
        fixed = torch.ones_like(self.fixed).flatten()
        fixed[pull.topk(max(1, int(_AGAIN_SHARE * len(pull)))).indices] = False
        fixed, length = fixed.view_as(self.fixed), _AGAIN_LEAD + _AGAIN_STEPS
        self._start_pass(fixed, lead=_AGAIN_LEAD, length=length, reach=_REACH_AGAIN)
