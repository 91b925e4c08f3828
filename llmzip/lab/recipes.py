"""How vectors are optimised in the lab: llmzip's own way, or that of the paper.

Owns the start, the loss and the step of each recipe. Knows nothing of texts or results.

Sources: the paper's recipe (AdamW, rate 0.01, betas 0.9 and 0.9, decay 0.01, a start as large as
the embeddings spread, up to 5,000 steps) is that of Kuratov et al. 2025; Progressive Cramming
(Tarasov et al. 2026) found that small models want a rate of 0.1 to 1. Our own: `cram.optimizer`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    init_rms,
    random_start,
    seeded,
)
from llmzip.errors import SettingsError
from llmzip.lm.model import FrozenLM

if TYPE_CHECKING:
    from typing import Self

RecipeName: TypeAlias = Literal["llmzip", "paper"]

_LITTLE_LEFT = 4.0  # logits by which a token leads that has little surprisal left


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long and in what way one run optimises."""

    name: RecipeName = "llmzip"
    max_steps: int = 200
    patience: int = 60  # steps without a token more right after which a run is over
    gives_up: bool = False  # a run is over, too, once its pace will not make all tokens right
    until: float = 1.0  # share of the tokens, teacher-forced, with which a run is over
    min_margin: float = 0.05  # logits by which each of them must lead
    slack: bool = True  # whether an optimiser of other numerics than the decoder's goes beyond that
    temperature: float = TEMPERATURE  # of the softmax in the loss
    learning_rate: float = 0.01  # of the paper's recipe

    def __post_init__(self) -> None:
        numbers = (self.until, self.min_margin, self.temperature, self.learning_rate)
        if not (
            min(self.max_steps, self.patience) >= 1
            and all(map(math.isfinite, numbers))
            and 0 < self.until <= 1
            and self.min_margin >= 0
            and min(self.temperature, self.learning_rate) > 0
        ):
            raise SettingsError(f"no such recipe: {self}")

    @property
    def margin_goal(self) -> float:
        """Margin from which on a token asks for no more."""
        return self.min_margin + MARGIN_GOAL if self.name == "llmzip" else math.inf

    def for_entropy(self) -> Recipe:
        """The same with plain cross-entropy for its loss, and on until little of it is left: for
        what is said of bits. Ours is sharpened, and lets go of tokens that are just right: more of
        them are right, while much cross-entropy stays."""
        if self.name == "paper":
            return self
        return replace(self, temperature=1.0, min_margin=max(self.min_margin, _LITTLE_LEFT))

    def start(self, lm: FrozenLM, num_mem: int, seed: str) -> Tensor:
        """Random vectors to begin with: [K, D] fp32 on the CPU, the same on every device."""
        if self.name == "paper":
            return torch.randn(num_mem, lm.dim, generator=seeded(seed)) * lm.embedding_rms
        return random_start(lm, num_mem, seed)

    def mover(self, lm: FrozenLM, num_coordinates: int) -> Mover:
        """What moves one run's vectors."""
        if self.name == "paper":
            return AdamW.empty(num_coordinates, lm.device, rate=self.learning_rate)
        return Quasi(
            step_size=STEP_OF_INIT_RMS * init_rms(lm),
            longest_step=LONGEST_STEP_OF_INIT_RMS * init_rms(lm),
            curvature=Curvature.empty(num_coordinates, lm.device),
        )


def paper_recipe(**changes: float) -> Recipe:
    """The published one, exactly."""
    settings = {"max_steps": 5000, "patience": 2000, "min_margin": 0.0, "temperature": 1.0}
    return Recipe(name="paper", **{**settings, **changes})  # type: ignore[arg-type]


class Mover(Protocol):
    """The memory of the paths of some runs, and their next moves."""

    def move(self, point: Tensor, gradient: Tensor) -> Tensor:
        """point, gradient: [B, P] -> the next points."""
        ...

    def with_others(self, others: Sequence[Self]) -> Self:
        """The runs of this one and of others, to be moved together."""
        ...

    def row(self, index: int) -> Self:
        """One of the runs."""
        ...


@dataclass(kw_only=True)
class Quasi:
    """Quasi-Newton, see `cram.curvature`."""

    step_size: float
    longest_step: float
    curvature: Curvature

    def move(self, point: Tensor, gradient: Tensor) -> Tensor:
        return point + self.curvature.step(
            point, gradient, step_size=self.step_size, longest_step=self.longest_step
        )

    def with_others(self, others: Sequence[Quasi]) -> Quasi:
        rows = [self.curvature, *(other.curvature for other in others)]
        return replace(self, curvature=Curvature.stack(rows))

    def row(self, index: int) -> Quasi:
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
        return replace(
            self,
            num_steps=torch.cat([row.num_steps for row in rows]),
            mean=torch.cat([row.mean for row in rows]),
            squares=torch.cat([row.squares for row in rows]),
        )

    def row(self, index: int) -> AdamW:
        own = slice(index, index + 1)
        return replace(
            self,
            num_steps=self.num_steps[own],
            mean=self.mean[own],
            squares=self.squares[own],
        )
