"""Vectors before all segments of a stretch of text: they take from its surprisal what many chunks
would have to hold.

Owns how they are found, and their grid. Knows nothing of chunks or files.

Method: the damped L-BFGS of 16-bit vectors on the cross-entropy of the tokens that vectors have to
hold, from a start as large as theirs; then, step by step, the coordinates nearest to a point of the
grid stay there. Such vectors remember their text, they do not describe its kind, so that they are
worth as much for each 2,000 tokens (docs/LOG.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llmzip.codecs.cram.curvature import Curvature
from llmzip.codecs.cram.optimizer import LONGEST_STEP_OF_INIT_RMS, STEP_OF_INIT_RMS
from llmzip.codecs.cram.slots import as_stored, init_rms, random_start
from llmzip.codecs.shared import SharedMem, opening_embeds
from llmzip.lm.devices import trim_heap
from llmzip.lm.layout import segment_start
from llmzip.lm.model import FrozenLM
from llmzip.store.vectors import GridMem, quantise_step, step_value

STRETCH_TOKENS = 2048  # about so many, in whole segments
_WINDOW_TOKENS = 1100  # read at once, at most: a step holds all of it in memory
_STEP_OF_RMS = 1.5  # a grid's step: some 1.8 bits a dimension
# While coordinates stay on the grid one after another, the others move in steps of the grid's.
_GRID_STEP_SIZE, _LONGEST_GRID_STEP = 0.2, 0.25

OnStep = Callable[[int, int], None]  # steps done, and of how many; may raise


@dataclass(frozen=True, kw_only=True)
class SharingPlan:
    """How vectors for a stretch are found."""

    num_mem: int
    spared: float  # share of the tokens that no vector has to hold: the least expected
    seed: int
    free_steps: int = 22
    grid_steps: int = 8  # until all coordinates are on the grid

    @property
    def total_steps(self) -> int:
        return self.free_steps + self.grid_steps


def learn_shared(
    lm: FrozenLM,
    ids: Sequence[int],
    plan: SharingPlan,
    *,
    start_id: int | None,
    on_step: OnStep = lambda done, total: None,
) -> SharedMem:
    """Vectors for a stretch of tokens."""
    learner = _Learner(lm, ids, plan, start_ids=segment_start(start_id))
    for done in range(plan.total_steps):
        learner.step()
        on_step(done + 1, plan.total_steps)
    trim_heap(lm.device)  # chunks take memory in other sizes
    return SharedMem(grid=learner.grid())


class _Learner:
    """Vectors on their way."""

    def __init__(
        self, lm: FrozenLM, ids: Sequence[int], plan: SharingPlan, *, start_ids: Sequence[int]
    ) -> None:
        self._lm, self._plan, self._start_ids = lm, plan, start_ids
        whole = torch.tensor(list(ids), dtype=torch.int64, device=lm.device)
        self._windows = whole.tensor_split(-(-len(ids) // _WINDOW_TOKENS))
        start = random_start(lm, plan.num_mem, f"{plan.seed} shared").to(lm.device)
        self._mem = start  # [K, D]
        self._curvature = Curvature.empty(start.numel(), lm.device)
        self._fixed = torch.zeros_like(start, dtype=torch.bool)
        self._steps: list[int] = []  # of the grid, one a vector, once there is one
        self._done = 0
        self._asked = [self._kept(self._plain_bits(window)) for window in self._windows]

    def step(self) -> None:
        """Move the vectors once, and fix as many coordinates as are due."""
        if self._done == self._plan.free_steps:
            rms = self._mem.square().mean(dim=1).sqrt()
            self._steps = [quantise_step(_STEP_OF_RMS * value) for value in rms.tolist()]
        if self._steps:
            self._fix_nearest()
        self._done += 1
        if not self._fixed.all():
            self._move()

    def _move(self) -> None:
        gradient = self._gradient().masked_fill(self._fixed, 0.0)
        size, shares = init_rms(self._lm), (STEP_OF_INIT_RMS, LONGEST_STEP_OF_INIT_RMS)
        if self._steps:
            size, shares = float(self._grid_steps().min()), (_GRID_STEP_SIZE, _LONGEST_GRID_STEP)
        move = self._curvature.step(
            self._mem.view(1, -1),
            gradient.view(1, -1),
            step_size=shares[0] * size,
            longest_step=shares[1] * size,
        )
        self._mem = self._mem + move.view_as(self._mem).masked_fill(self._fixed, 0.0)

    def _fix_nearest(self) -> None:
        """Put the coordinates nearest to the grid on it, so many that all are in the last step."""
        scaled = self._mem / self._grid_steps()
        done = self._done + 1 - self._plan.free_steps
        count = self._mem.numel() * done // self._plan.grid_steps
        distance = (scaled - scaled.round()).abs().masked_fill(self._fixed, -1.0).flatten()
        fixed = torch.zeros_like(distance, dtype=torch.bool)
        fixed[distance.argsort(stable=True)[:count]] = True
        self._fixed = fixed.view_as(self._fixed)
        self._mem = torch.where(self._fixed, scaled.round() * self._grid_steps(), self._mem)
        self._curvature.forget(self._fixed.view(1, -1), self._mem.view(1, -1))

    def grid(self) -> GridMem:
        """The vectors on their grid."""
        symbols = (self._mem / self._grid_steps()).round().clamp(-1023, 1023)
        return GridMem(
            symbols=symbols.to("cpu", torch.int16).numpy(),
            steps=torch.tensor(self._steps, dtype=torch.int32).numpy().astype("uint16"),
        )

    def _kept(self, bits: Tensor) -> Tensor:
        """Which tokens are not spared: [L] bool."""
        kept = torch.ones_like(bits, dtype=torch.bool)
        kept[bits.topk(int(self._plan.spared * len(bits))).indices] = False
        return kept

    def _grid_steps(self) -> Tensor:
        """Of each vector, [K, 1]."""
        values = [step_value(step) for step in self._steps]
        return torch.tensor(values, device=self._mem.device)[:, None]

    def _gradient(self) -> Tensor:
        """Of the cross-entropy of all windows, [K, D]."""
        total = torch.zeros_like(self._mem)
        for window, asked in zip(self._windows, self._asked, strict=True):
            leaf = as_stored(self._mem).requires_grad_(True)
            hidden = self._hidden(leaf, window)
            found = self._lm.predict(hidden.detach(), window, margin_goal=float("inf"), asked=asked)
            hidden.backward(found.gradient)
            assert leaf.grad is not None
            total += leaf.grad
        return total

    @torch.no_grad()
    def _plain_bits(self, window: Tensor) -> Tensor:
        """Surprisal of each token without the vectors, [L]; where nothing stands before the first,
        any of the vocabulary, equally."""
        hidden = self._hidden(None, window)
        missing = len(window) - len(hidden)
        bits = self._lm.surprisal_bits(hidden, window[missing:])
        return F.pad(bits, (missing, 0), value=math.log2(self._lm.vocab_size))

    def _hidden(self, mem: Tensor | None, window: Tensor) -> Tensor:
        """The rows that predict a window: [L, Dh], or [L - 1, Dh] where nothing stands before."""
        lm = self._lm
        opening = opening_embeds(lm, self._start_ids, mem)  # [1, H, D]
        embeds = torch.cat([opening, lm.embed(window)[None, :-1]], dim=1)
        live = torch.ones(embeds.shape[:2], dtype=torch.bool, device=lm.device)
        hidden, _ = lm.extend(lm.empty(1), embeds, live)
        return hidden[0, max(opening.shape[1] - 1, 0) :]
