"""Sign vectors: every coordinate is -1 or +1 times one size, so that it takes one bit; or a sum of
several signs, each of half the size of the one before, so that it takes a few.

Owns the recipe for a batch of chunks: the schedule, the optimiser of the hidden numbers whose signs
are stored, and what was best. Knows nothing of the model, the loss or the batch around it. Nothing
here reads a result back from the device.

Method: each coordinate has a hidden number. First the model sees the tanh of it, ever steeper (the
share of coordinates that are still undecided falls), until the tokens are right. Then it sees the
sign alone, and each step turns a given number of signs, those whose hidden number is nearest to
being turned by the gradient: the number falls, and signs that were turned in vain turn back.
Related: straight-through estimators of binary networks (Courbariaux et al. 2015) with momentum and
scaling of Adam (Kingma and Ba 2015).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from llmzip.codecs.cram.row_state import RowState

# Of the coordinates, how many are undecided, as the sum of 1 - tanh^2: at the first step, and at
# the last of those that see the tanh.
_UNDECIDED_FIRST, _UNDECIDED_LAST = 0.6, 0.225
_HIDDEN_SPREAD = 0.5  # standard deviation of the hidden numbers at the start
_HIDDEN_STEP = 0.4  # of a hidden number, while the model sees the tanh
_MOMENTUM, _SQUARES_MEMORY = 0.6, 0.9
_SLOPE_RANGE, _SLOPE_HALVINGS = (-6.0, 9.0), 24  # natural logarithm of the tanh's slope
_EPSILON = 1e-12
_STEPS_AN_OCTAVE = 4  # the container keeps two bits of a step's mantissa
_NEVER = 1 << 30  # wrong tokens of signs that were not measured yet


@dataclass(frozen=True, kw_only=True)
class SignPlan:
    """How the vectors of a run become signs."""

    bits: int = 1  # signs of which a coordinate is the sum
    soft_steps: int  # in which the model sees the tanh
    total_steps: int  # when a chunk leaves at the latest
    # Margin that a token may ask for and temperature of the loss: first and last soft step, then
    # all hard ones.
    margin_goals: tuple[float, float, float] = (4.0, 2.0, 1.0)
    temperatures: tuple[float, float, float] = (1.0, 0.6, 0.3)
    # Signs turned at the first and the last hard step, as a share of the coordinates.
    turned: tuple[float, float] = (20 / 576, 2 / 576)

    def weights(self, device: torch.device) -> Tensor:
        """What each sign of a coordinate is times, in steps of the grid: [bits, 1]."""
        return 2.0 ** torch.arange(self.bits - 1, -1, -1, device=device)[:, None]

    @property
    def spread(self) -> float:
        """Root mean square of the coordinates, in steps of the grid."""
        return math.sqrt((4**self.bits - 1) / 3)


@dataclass(kw_only=True)
class Signs(RowState):
    """The hidden numbers of B rows with P coordinates and H = bits x P signs each, and how far they
    are. The signs of the greatest weight come first."""

    hidden: Tensor  # [B, H] fp32
    mean: Tensor  # [B, H] running mean of gradients
    squares: Tensor  # [B, H] running mean of squared gradients
    clock: Tensor  # [B] int64, steps taken
    best: Tensor  # [B, H] -1 or +1
    best_wrong: Tensor  # [B] int64, wrong tokens of `best`
    spared: Tensor  # [B] int64, tokens that ask for no gradient

    @classmethod
    def start(cls, start: Tensor, *, spared: int) -> Signs:
        """One row at its start. start: [H], normally distributed."""
        own, device = _HIDDEN_SPREAD * start[None], start.device
        return cls(
            hidden=own,
            mean=torch.zeros_like(own),
            squares=torch.zeros_like(own),
            clock=torch.zeros(1, dtype=torch.int64, device=device),
            best=_signs_of(own),
            best_wrong=torch.full((1,), _NEVER, device=device),
            spared=torch.tensor([spared], device=device),
        )

    def is_hard(self, plan: SignPlan) -> Tensor:
        """Rows whose signs the model sees, [B] bool."""
        return self.clock >= plan.soft_steps

    def seen(self, plan: SignPlan) -> Tensor:
        """What the model is to see: [B, P] with a root mean square of about 1 in each row."""
        soft = _sums(torch.tanh(self._slope(plan) * self.hidden), plan)
        soft = soft / soft.square().mean(dim=1, keepdim=True).sqrt()
        hard = _sums(_signs_of(self.hidden), plan) / plan.spread
        return torch.where(self.is_hard(plan)[:, None], hard, soft)

    def symbols(self, plan: SignPlan) -> Tensor:
        """The best coordinates found, in steps of the grid: [B, P] odd numbers."""
        return _sums(self.best, plan)

    def loss_settings(self, plan: SignPlan) -> tuple[Tensor, Tensor]:
        """Logits beyond the margin wanted that tokens may ask for, and temperatures: [B] each."""
        hard, share = self.is_hard(plan), self._soft_share(plan)
        goal, temperature = (
            torch.where(hard, last, first * (middle / first) ** share)
            for first, middle, last in (plan.margin_goals, plan.temperatures)
        )
        return goal, temperature

    def note(self, wrong: Tensor, plan: SignPlan) -> None:
        """Keep the signs that were measured, where they are better. wrong: [B]."""
        better = self.is_hard(plan) & (wrong < self.best_wrong)
        self.best = torch.where(better[:, None], _signs_of(self.hidden), self.best)
        self.best_wrong = torch.where(better, wrong, self.best_wrong)

    def may_leave(self, wrong_kept: Tensor, plan: SignPlan) -> Tensor:
        """Rows that are done, [B] bool. wrong_kept: [B], wrong ones among the tokens that ask for a
        gradient."""
        is_right = self.is_hard(plan) & (wrong_kept == 0)
        return (is_right & (self.best_wrong <= self.spared)) | (self.clock >= plan.total_steps)

    def move(self, gradient: Tensor, moving: Tensor, plan: SignPlan) -> None:
        """One step of the rows that are moving. gradient: [B, P] of what the model saw; moving: [B]
        bool."""
        hard = self.is_hard(plan)[:, None]
        begins = self.clock == plan.soft_steps
        hidden, mean, squares = self.hidden, self.mean, self.squares
        # The hard steps begin with hidden numbers of size 1 and without memory.
        size = hidden.abs().mean(dim=1, keepdim=True) + _EPSILON
        hidden = torch.where(begins[:, None], hidden / size, hidden)
        mean, squares = (torch.where(begins[:, None], 0.0, each) for each in (mean, squares))

        gradient = (gradient[:, None] * plan.weights(gradient.device)).flatten(1)
        slope = 1 - torch.tanh(self._slope(plan) * hidden).square()
        gradient = torch.where(hard, gradient, gradient * slope)
        norm = gradient.square().mean(dim=1, keepdim=True).sqrt()
        gradient = gradient / (norm + _EPSILON)
        mean = torch.lerp(gradient, mean, _MOMENTUM)
        squares = torch.lerp(gradient.square(), squares, _SQUARES_MEMORY)
        count = 1 + torch.where(hard[:, 0], self.clock - plan.soft_steps, self.clock)[:, None]
        unbiased = (squares / (1 - _SQUARES_MEMORY**count)).sqrt()
        direction = mean / (1 - _MOMENTUM**count) / (unbiased + 1e-8)
        step = torch.where(hard, self._turning_step(hidden, direction, plan), _HIDDEN_STEP)
        hidden = hidden - step * direction

        for name, new in (("hidden", hidden), ("mean", mean), ("squares", squares)):
            setattr(self, name, torch.where(moving[:, None], new, getattr(self, name)))
        self.clock = self.clock + moving

    def _soft_share(self, plan: SignPlan) -> Tensor:
        """How far the soft steps are, 0 to 1: [B]."""
        return (self.clock / max(1, plan.soft_steps - 1)).clamp(max=1.0)

    def _slope(self, plan: SignPlan) -> Tensor:
        """The slope of the tanh at which as many coordinates are undecided as there should be:
        [B, 1]."""
        share = self._soft_share(plan)
        wanted = _UNDECIDED_FIRST * (_UNDECIDED_LAST / _UNDECIDED_FIRST) ** share[:, None]
        low, high = (torch.full_like(wanted, end) for end in _SLOPE_RANGE)
        for _ in range(_SLOPE_HALVINGS):
            middle = (low + high) / 2
            undecided = 1 - torch.tanh(middle.exp() * self.hidden).square()
            is_flat = undecided.mean(dim=1, keepdim=True) > wanted
            low, high = torch.where(is_flat, middle, low), torch.where(is_flat, high, middle)
        return ((low + high) / 2).exp()

    def _turning_step(self, hidden: Tensor, direction: Tensor, plan: SignPlan) -> Tensor:
        """The step length that turns as many signs as are due: [B, 1]."""
        length = max(1, plan.total_steps - plan.soft_steps - 1)
        share = ((self.clock - plan.soft_steps) / length).clamp(0.0, 1.0)
        first, last = plan.turned
        due = (hidden.shape[1] * first * (last / first) ** share).round().clamp(min=1).long()
        # A number with the direction's sign crosses 0 after a step of their ratio.
        crossing = torch.where(hidden * direction > 0, hidden / direction, torch.inf)
        step = crossing.sort(dim=1).values.gather(1, due[:, None] - 1)
        return torch.where(step.isfinite(), step * (1 + 1e-4), 0.0)


def sign_plan(steps: int, *, bits: int = 1) -> SignPlan:
    """A plan of so many steps, of which a third sees the tanh."""
    return SignPlan(bits=bits, soft_steps=max(1, math.ceil(steps / 3)), total_steps=steps)


def round_steps(steps: Tensor) -> Tensor:
    """The nearest steps that the container can hold: bf16 with two bits of mantissa."""
    octave = torch.floor(torch.log2(steps))
    fine = torch.round(torch.exp2(torch.log2(steps) - octave) * _STEPS_AN_OCTAVE)
    rounded: Tensor = torch.exp2(octave) * fine / _STEPS_AN_OCTAVE
    return rounded


def _sums(signs: Tensor, plan: SignPlan) -> Tensor:
    """Coordinates [B, P] of signs or what stands for them [B, H]."""
    planes = signs.unflatten(1, (plan.bits, -1))
    total: Tensor = (planes * plan.weights(signs.device)).sum(dim=1)
    return total


def _signs_of(hidden: Tensor) -> Tensor:
    """-1 or +1; +1 for 0."""
    return torch.where(hidden < 0, -1.0, 1.0)
