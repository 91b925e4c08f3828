"""The coordinates of a batch on their way to the grid, as tensors.

Owns how many coordinates of a row are fixed at each step, which, and how the others move. What a
pass is for, `cram.rounding` knows. Nothing here reads a result back from the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from llmzip.codecs.cram.curvature import Curvature
from llmzip.codecs.cram.rounding import Rounding

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
        self._clock, self._lead, self._length, self._num_free, self._reach = (
            torch.zeros(num_rows, device=device) for _ in range(5)
        )
        self.load(range(num_rows))

    def load(self, rows: Iterable[int]) -> None:
        """Take over what the host has decided on some rows."""
        for row in rows:
            state = self._roundings[row]
            given_up = state.given_up.to(self.kept.device)
            self.kept[row, : len(given_up)] = ~given_up
            self.fixed[row] = state.fixed.flatten()
            if state.steps is not None:
                self._grid[row] = state.steps.repeat_interleave(state.fixed.shape[1])
            self._clock[row], self._lead[row] = state.clock, state.lead
            self._length[row], self._num_free[row] = state.length, state.num_free
            self._reach[row] = state.reach

    def hand_back(self) -> None:
        """Tell the host objects how far their rows are; waits for the device."""
        for row, (state, clock) in enumerate(
            zip(self._roundings, self._clock.tolist(), strict=True)
        ):
            state.clock = int(clock)
            state.fixed = self.fixed[row].view_as(state.fixed)

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
        reach = (self._reach * self._grid.mean(dim=1))[:, None]  # [B, 1]
        has_grid = reach > 0
        # The bound is on the root mean square over all coordinates: few can move far.
        share_free = (~self.fixed).float().mean(dim=1, keepdim=True)
        move = curvature.step(
            mem,
            gradient.masked_fill(self.fixed, 0.0),
            step_size=torch.where(has_grid, reach / 2, step_size),
            longest_step=torch.where(has_grid, reach * share_free.sqrt(), longest_step),
        )
        mem = torch.where(self.fixed, mem, mem + move)
        self._clock = self._clock + has_grid[:, 0].float()
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
