"""Damped limited-memory BFGS without line search, for many independent rows at once.

Owns the step: what the last gradients tell of each row's curvature, and the bounds that keep a step
safe without evaluating the loss again. Knows nothing of models or chunks.

Method: the two-loop recursion of Nocedal (1980) with Powell's damping (1978). Ours are the start of
the recursion, Adam's per-coordinate scaling, which fits the scales of a language model's input
where a multiple of the identity does not, and the damping against that same scaling.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from llmzip.codecs.cram.row_state import RowState

NUM_PAIRS = 12  # gradients remembered
_SCALE_MEMORY = 0.9  # of the running mean of squared gradients
_DAMPING = 0.2  # least curvature along a move, as a share of what the scaling alone assumes
_EPSILON = 1e-12


@dataclass(kw_only=True)
class Curvature(RowState):
    """What is remembered of each row's path. P coordinates a row, M pairs; empty pairs are zero."""

    num_steps: Tensor  # [B] int64
    squares: Tensor  # [B, P] running mean of squared gradients
    last_point: Tensor  # [B, P]
    last_gradient: Tensor  # [B, P]
    moves: Tensor  # [B, M, P], the newest last
    changes: Tensor  # [B, M, P] of the gradient over each move

    @classmethod
    def empty(cls, num_coordinates: int, device: torch.device) -> Curvature:
        """Of one row that has not moved."""
        flat = torch.zeros(1, num_coordinates, device=device)
        pairs = torch.zeros(1, NUM_PAIRS, num_coordinates, device=device)
        return cls(
            num_steps=torch.zeros(1, dtype=torch.int64, device=device),
            squares=flat,
            last_point=flat.clone(),
            last_gradient=flat.clone(),
            moves=pairs,
            changes=pairs.clone(),
        )

    def put(self, index: int, row: Curvature) -> None:
        """Replace one row of several."""
        for f in fields(self):
            getattr(self, f.name)[index] = getattr(row, f.name)[0]

    def forget(self, fixed: Tensor, point: Tensor) -> None:
        """Remember nothing of coordinates that do not move any more. fixed, point: [B, P]."""
        self.moves = self.moves.masked_fill(fixed[:, None], 0.0)
        self.changes = self.changes.masked_fill(fixed[:, None], 0.0)
        self.last_gradient = self.last_gradient.masked_fill(fixed, 0.0)
        self.last_point = torch.where(fixed, point, self.last_point)

    def step(
        self,
        point: Tensor,
        gradient: Tensor,
        *,
        step_size: float | Tensor,
        longest_step: float | Tensor,
    ) -> Tensor:
        """How far each row moves from here; remembers where it was. All [B, P].

        step_size: of one coordinate where nothing is known of the curvature. longest_step: bound on
        the root mean square of a step's coordinates. Both of all rows, or [B, 1].
        """
        self.num_steps = self.num_steps + 1
        self.squares = torch.lerp(gradient.square(), self.squares, _SCALE_MEMORY)
        unbiased = self.squares / (1 - _SCALE_MEMORY**self.num_steps)[:, None]
        scale = step_size / (unbiased.sqrt() + _EPSILON)  # [B, P] diagonal inverse curvature
        self._remember(point, gradient, scale)
        step = -self._product(gradient, scale)
        size = step.square().mean(dim=1, keepdim=True).sqrt()
        return step * (longest_step / torch.clamp(size, min=longest_step))

    def _remember(self, point: Tensor, gradient: Tensor, scale: Tensor) -> None:
        has_moved = (self.num_steps > 1)[:, None]  # [B, 1]
        move = torch.where(has_moved, point - self.last_point, 0.0)
        change = torch.where(has_moved, gradient - self.last_gradient, 0.0)
        assumed = move / scale  # [B, P] the change of gradient that the scaling alone expects
        expected = (move * assumed).sum(dim=1, keepdim=True)
        seen = (move * change).sum(dim=1, keepdim=True)
        mixed = (1 - _DAMPING) * expected / (expected - seen).clamp(min=_EPSILON)
        share = torch.where(seen < _DAMPING * expected, mixed, 1.0)
        change = share * change + (1 - share) * assumed
        self.moves = torch.cat([self.moves[:, 1:], move[:, None]], dim=1)
        self.changes = torch.cat([self.changes[:, 1:], change[:, None]], dim=1)
        self.last_point, self.last_gradient = point, gradient

    def _product(self, gradient: Tensor, scale: Tensor) -> Tensor:
        """The inverse curvature times the gradient."""
        along = (self.moves * self.changes).sum(dim=2)  # [B, M]
        inverse = torch.where(along > _EPSILON, 1 / along, 0.0)
        rest, shares = gradient, []
        for pair in reversed(range(self.moves.shape[1])):
            share = inverse[:, pair] * (self.moves[:, pair] * rest).sum(dim=1)
            rest = rest - share[:, None] * self.changes[:, pair]
            shares.append(share)
        step = scale * rest
        for pair, share in enumerate(reversed(shares)):
            back = inverse[:, pair] * (self.changes[:, pair] * step).sum(dim=1)
            step = step + (share - back)[:, None] * self.moves[:, pair]
        return step
