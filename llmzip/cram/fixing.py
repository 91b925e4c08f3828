"""The coordinates of a batch on their way to the grid, as tensors.

Owns how many coordinates of a row are fixed at each step, which, and how the others move. What a
pass is for, `cram.rounding` knows. Nothing here reads a result back from the device. Called by
`cram.optimizer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from llmzip.cram.curvature import Curvature
from llmzip.cram.rounding import FIXING_STEP, Rounding

_POWER = 3.0  # many coordinates early, the last ones one at a time


class Fixing:
    """The roundings of a batch's chunks. P = K x D coordinates a row."""

    def __init__(self, roundings: Sequence[Rounding], whole: Tensor) -> None:
        """whole: [B, L] bool, the tokens that there are."""
        self._roundings = roundings
        device, num_rows = whole.device, len(roundings)
        num_coordinates = roundings[0].fixed.numel()
        self.kept = torch.zeros_like(whole)  # [B, L] tokens that may ask for a gradient
        self.fixed = torch.zeros(num_rows, num_coordinates, dtype=torch.bool, device=device)
        self._grid = torch.zeros(num_rows, num_coordinates, device=device)  # step; 0: no grid yet
        self._clock, self._lead, self._length, self._num_free = (
            torch.zeros(num_rows, device=device) for _ in range(4)
        )
        self.load(range(num_rows))

    def load(self, rows: Iterable[int]) -> None:
        """Take over what the host has decided on some rows."""
        for row in rows:
            rounding = self._roundings[row]
            given_up = rounding.given_up.to(self.kept.device)
            self.kept[row, : len(given_up)] = ~given_up
            self.fixed[row] = rounding.fixed.flatten()
            if rounding.steps is not None:
                per_vector = rounding.fixed.shape[1]
                self._grid[row] = rounding.steps.repeat_interleave(per_vector)
            self._clock[row], self._lead[row] = rounding.clock, rounding.lead
            self._length[row], self._num_free[row] = rounding.length, rounding.num_free

    def hand_back(self) -> None:
        """Tell the host objects how far their rows are; waits for the device."""
        for row, (rounding, clock) in enumerate(
            zip(self._roundings, self._clock.tolist(), strict=True)
        ):
            rounding.clock = int(clock)
            rounding.fixed = self.fixed[row].view_as(rounding.fixed)

    def move(
        self,
        mem: Tensor,
        gradient: Tensor,
        curvature: Curvature,
        *,
        step_size: float,
        longest_step: float,
    ) -> Tensor:
        """One step: move what is free, then fix what is due. mem, gradient: [B, P] -> mem."""
        curvature.forget(self.fixed, mem)
        has_grid = self._grid[:, :1] > 0  # [B, 1]
        factor = torch.where(has_grid, FIXING_STEP, 1.0)
        move = curvature.step(
            mem,
            gradient.masked_fill(self.fixed, 0.0),
            step_size=step_size * factor,
            longest_step=longest_step * factor,
        )
        mem = torch.where(self.fixed, mem, mem + move)
        self._clock = self._clock + has_grid[:, 0]
        share = fixed_share(self._clock, self._lead, self._length)
        mem, self.fixed = fix_some(mem, self.fixed, self._grid, self._num_free, share)
        return mem


def fix_some(
    mem: Tensor, fixed: Tensor, grid: Tensor, num_free: Tensor, share: Tensor
) -> tuple[Tensor, Tensor]:
    """Fix coordinates until `share` of the pass's free ones are, those nearest to the grid first.

    mem, fixed: [B, P], grid: [B, P] the step of each coordinate (0: no grid yet), num_free, share:
    [B] -> mem, fixed.
    """
    has_grid = grid > 0
    on_grid = torch.where(has_grid, torch.round(mem / grid.clamp(min=1e-30)) * grid, mem)
    distance = (mem - on_grid).abs() / grid.clamp(min=1e-30)
    distance = torch.where(fixed | ~has_grid, torch.inf, distance)
    rank = distance.argsort(dim=1).argsort(dim=1)  # [B, P]
    wanted = mem.shape[1] - num_free + torch.round(num_free * share)
    new = (rank < (wanted - fixed.sum(dim=1))[:, None]) & ~fixed & has_grid
    return torch.where(new, on_grid, mem), fixed | new


def fixed_share(clock: Tensor, lead: Tensor, length: Tensor) -> Tensor:
    """Share of a pass's coordinates that are fixed after so many of its steps; all [B]."""
    done = ((clock - lead) / (length - lead).clamp(min=1)).clamp(0, 1)
    return 1 - (1 - done) ** _POWER
