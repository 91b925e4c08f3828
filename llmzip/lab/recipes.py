"""How vectors are optimised in the lab: llmzip's own way, or that of the paper.

Owns the start, the loss and the step of each recipe. Knows nothing of texts or results.

Sources: the paper's recipe (AdamW, rate 0.01, betas 0.9 and 0.9, decay 0.01, a start with the rms
of the embeddings, up to 5,000 steps) is that of Kuratov et al. 2025; Progressive Cramming
(Tarasov et al. 2026) found that small models need a rate of 0.1 to 1. Our own recipe:
`codecs.cram.optimizer`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from llmzip.codecs.cram.curvature import Curvature
from llmzip.codecs.cram.optimizer import (
    LONGEST_STEP_OF_INIT_RMS,
    MARGIN_GOAL,
    STEP_OF_INIT_RMS,
    TEMPERATURE,
)
from llmzip.codecs.cram.slots import init_rms, random_start, seeded
from llmzip.errors import SettingsError
from llmzip.lm.model import FrozenLM

if TYPE_CHECKING:
    from typing import Self

RecipeName: TypeAlias = Literal["llmzip", "paper"]

_ENTROPY_MARGIN = 4.0  # logits: a token that leads by so many has little surprisal left


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one run optimises, and when it ends."""

    name: RecipeName = "llmzip"
    max_steps: int = 200
    sign_steps: int | None = None  # most steps of sign vectors; None: as many as the preset has
    patience: int = 60  # a run ends after so many steps without one more token right
    gives_up: bool = False  # whether a run also ends when its pace is too slow for its last step
    until: float = 1.0  # a run ends when this share of the tokens is right, teacher-forced
    min_margin: float = 0.05  # logits by which each of them must lead
    slack: bool = True  # whether more is asked for where the decoder has other numerics
    temperature: float = TEMPERATURE  # of the softmax in the loss
    learning_rate: float = 0.01  # of the paper's recipe

    def __post_init__(self) -> None:
        numbers = (self.until, self.min_margin, self.temperature, self.learning_rate)
        if not (
            min(self.max_steps, self.patience, self.sign_steps or 1) >= 1
            and all(map(math.isfinite, numbers))
            and 0 < self.until <= 1
            and self.min_margin >= 0
            and min(self.temperature, self.learning_rate) > 0
        ):
            raise SettingsError(f"no such recipe: {self}")

    @property
    def margin_goal(self) -> float:
        """Margin from which on a token adds nothing to the gradient."""
        return self.min_margin + MARGIN_GOAL if self.name == "llmzip" else math.inf

    def for_entropy(self) -> Recipe:
        """The same recipe with plain cross-entropy as its loss, and runs that go on until little of
        it is left. For measurements in bits: our own loss is sharpened and ignores tokens that are
        just right, so that more tokens are right while much cross-entropy is left."""
        if self.name == "paper":
            return self
        return replace(self, temperature=1.0, min_margin=max(self.min_margin, _ENTROPY_MARGIN))

    def start(self, lm: FrozenLM, num_mem: int, seed: str) -> Tensor:
        """Random vectors to begin with: [K, D] fp32 on the CPU, the same on every device."""
        if self.name == "paper":
            return torch.randn(num_mem, lm.dim, generator=seeded(seed)) * lm.embedding_rms
        return random_start(lm, num_mem, seed)

    def optimiser(self, lm: FrozenLM, num_coordinates: int) -> Optimiser:
        """The optimiser of one run, before its first step."""
        if self.name == "paper":
            return AdamW.empty(num_coordinates, lm.device, rate=self.learning_rate)
        return QuasiNewton(
            step_size=STEP_OF_INIT_RMS * init_rms(lm),
            longest_step=LONGEST_STEP_OF_INIT_RMS * init_rms(lm),
            curvature=Curvature.empty(num_coordinates, lm.device),
        )


def paper_recipe(**changes: float) -> Recipe:
    """The published recipe, exactly."""
    settings = {"max_steps": 5000, "patience": 2000, "min_margin": 0.0, "temperature": 1.0}
    return Recipe(name="paper", **{**settings, **changes})  # type: ignore[arg-type]


class Optimiser(Protocol):
    """The optimiser's state for B runs, and their next steps."""

    def move(self, point: Tensor, gradient: Tensor) -> Tensor:
        """point, gradient: [B, P] -> the next points, [B, P]."""
        ...

    def with_others(self, others: Sequence[Self]) -> Self:
        """The state of these runs and of others, to be moved together."""
        ...

    def row(self, index: int) -> Self:
        """The state of one of the runs."""
        ...


@dataclass(kw_only=True)
class QuasiNewton:
    """llmzip's own, see `codecs.cram.curvature`."""

    step_size: float
    longest_step: float
    curvature: Curvature

    def move(self, point: Tensor, gradient: Tensor) -> Tensor:
        return point + self.curvature.step(
            point, gradient, step_size=self.step_size, longest_step=self.longest_step
        )

    def with_others(self, others: Sequence[QuasiNewton]) -> QuasiNewton:
        rows = [self.curvature, *(other.curvature for other in others)]
        return replace(self, curvature=Curvature.stack(rows))

    def row(self, index: int) -> QuasiNewton:
        return replace(self, curvature=self.curvature.row(index))


@dataclass(kw_only=True)
class AdamW:
    """Loshchilov and Hutter 2019, as the paper sets it."""

    rate: float
    num_steps: Tensor  # [B] int64
    mean: Tensor  # [B, P] of the gradients
    squares: Tensor  # [B, P] mean of their squares
    beta: float = 0.9  # of both
    decay: float = 0.01

    @classmethod
    def empty(cls, num_coordinates: int, device: torch.device, *, rate: float) -> AdamW:
        zeros = torch.zeros(1, num_coordinates, device=device)
        num_steps = torch.zeros(1, dtype=torch.int64, device=device)
        return cls(rate=rate, num_steps=num_steps, mean=zeros, squares=zeros.clone())

    def move(self, point: Tensor, gradient: Tensor) -> Tensor:
        self.num_steps = self.num_steps + 1
        self.mean = torch.lerp(gradient, self.mean, self.beta)
        self.squares = torch.lerp(gradient.square(), self.squares, self.beta)
        unbiased = (1 - self.beta**self.num_steps)[:, None]
        step = (self.mean / unbiased) / ((self.squares / unbiased).sqrt() + 1e-8)
        return point * (1 - self.rate * self.decay) - self.rate * step

    def with_others(self, others: Sequence[AdamW]) -> AdamW:
        rows = [self, *others]
        return self._with_state(lambda name: torch.cat([getattr(row, name) for row in rows]))

    def row(self, index: int) -> AdamW:
        return self._with_state(lambda name: getattr(self, name)[index : index + 1])

    def _with_state(self, tensor_of: Callable[[str], Tensor]) -> AdamW:
        state = {name: tensor_of(name) for name in ("num_steps", "mean", "squares")}
        return replace(self, **state)  # type: ignore[arg-type]
