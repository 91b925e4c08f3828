"""Vectors before every segment of a file: a prompt tuned to the file (Lester et al. 2021), kept
where it saves more bits than it takes.

Owns its training, its grid and the sum that decides. Does not know the coder: what it saves is
calculated from the language model's own probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from llmzip.codecs.arith.segments import Segment
from llmzip.codecs.shared import SharedMem, opening_embeds
from llmzip.lm.layout import segment_start
from llmzip.lm.model import FrozenLM
from llmzip.store.grids import pack_grids
from llmzip.store.vectors import GridMem, quantise_step, step_value

MOST_TRIED = 1  # vectors that a large file tries without being asked to
_LARGE_TOKENS = 60_000  # where one may pay: it saves some 0.03 bits a token and takes 1,200
_STEPS, _GRID_STEPS = 24, 12  # of the optimiser: free, then on the grid
_WINDOW, _BATCH = 512, 2
_RATE, _BETAS = 0.05, (0.9, 0.95)
_STEP_OF_RMS = 0.9  # a grid's step: about 2 bits a dimension
_JUDGED_WINDOWS, _JUDGED_TOKENS = 6, 1024


def learn_shared(
    lm: FrozenLM,
    segments: Sequence[Segment],
    *,
    start_id: int | None,
    num_mem: int | None,
    seed: int,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> SharedMem | None:
    """Vectors for all segments. num_mem: how many; None: some on a large file, if they pay.
    on_step: gets how many steps are done, and of how many; may raise."""
    ids = [token for segment in segments for token in segment.ids]
    if num_mem == 0 or (num_mem is None and len(ids) < _LARGE_TOKENS):
        return None
    tuning = _Tuning(lm, ids, start_id=start_id, num_mem=num_mem or MOST_TRIED, seed=seed)
    total = _STEPS + _GRID_STEPS
    for step in range(total):
        tuning.step(total)
        on_step(step + 1, total)
    shared = tuning.result()
    if num_mem is None:
        saved = tuning.bits_a_token(None) - tuning.bits_a_token(shared.mem)
        if saved * len(ids) <= 8 * len(pack_grids([shared.grid])[1]):
            return None
    return shared


class _Tuning:
    """The vectors on their way: Adam, and in the end the grid's values in the forward pass."""

    def __init__(
        self, lm: FrozenLM, ids: Sequence[int], *, start_id: int | None, num_mem: int, seed: int
    ) -> None:
        self._lm, self._ids, self._start_ids = lm, torch.tensor(ids), segment_start(start_id)
        self._random = torch.Generator().manual_seed(seed)
        # They start as the text's first tokens do.
        first = lm.embed(self._ids[torch.arange(num_mem) % len(ids)].to(lm.device))
        self._mem = first.float().requires_grad_()
        self._adam = torch.optim.Adam([self._mem], lr=_RATE, betas=_BETAS)
        self._steps: list[int] | None = None  # of the grid, one a vector
        self._done = 0

    def step(self, total: int) -> None:
        """One step on windows drawn at random."""
        if self._done == _STEPS:
            rms = self._mem.detach().square().mean(dim=1).sqrt()
            self._steps = [quantise_step(_STEP_OF_RMS * value) for value in rms.tolist()]
        window = min(_WINDOW, len(self._ids))
        last = len(self._ids) - window
        starts = torch.randint(0, last + 1, (_BATCH,), generator=self._random).tolist()
        ids = torch.stack([self._ids[begin : begin + window] for begin in starts])
        mem = self._mem
        if self._steps is not None:
            scales = torch.tensor([step_value(step) for step in self._steps], device=mem.device)
            rounded = (torch.round(mem / scales[:, None]) * scales[:, None]).detach()
            mem = mem + (rounded - mem).detach()  # straight through
        flat = self._hidden(mem, ids).flatten(0, 1)  # [B L, Dh]
        targets = ids.flatten().to(self._lm.device)
        prediction = self._lm.predict(flat.detach(), targets, margin_goal=float("inf"))
        self._adam.param_groups[0]["lr"] = _RATE * min(1.0, 2.0 * (total - self._done) / total)
        self._adam.zero_grad()
        flat.backward(prediction.gradient / len(flat))
        self._adam.step()
        self._done += 1

    def result(self) -> SharedMem:
        """The vectors on their grid."""
        assert self._steps is not None
        mem = self._mem.detach().cpu().numpy()
        scales = np.array([step_value(step) for step in self._steps], dtype=np.float32)
        symbols = np.rint(mem / scales[:, None]).clip(-1023, 1023).astype(np.int16)
        return SharedMem(grid=GridMem(symbols=symbols, steps=np.array(self._steps, np.uint16)))

    @torch.no_grad()
    def bits_a_token(self, mem: Tensor | None) -> float:
        """The model's own cross-entropy over some of the text."""
        costs = []
        size = min(_JUDGED_TOKENS, len(self._ids))
        for number in range(_JUDGED_WINDOWS):
            begin = (len(self._ids) - size) * number // (_JUDGED_WINDOWS - 1)
            window = self._ids[begin : begin + size]
            hidden = self._hidden(mem, window[None])
            ids = window[-hidden.shape[1] :].to(self._lm.device)
            costs.append(float(self._lm.surprisal_bits(hidden[0], ids).mean()))
        return sum(costs) / len(costs)

    def _hidden(self, mem: Tensor | None, ids: Tensor) -> Tensor:
        """Rows that predict windows of text behind the vectors. ids: [B, L] -> [B, L, Dh], or
        [B, L - 1, Dh] where nothing stands before the text."""
        lm = self._lm
        opening = opening_embeds(lm, self._start_ids, mem).expand(len(ids), -1, -1)  # [B, H, D]
        embeds = torch.cat([opening, lm.embed(ids.to(lm.device))[:, :-1]], dim=1)
        live = torch.ones(embeds.shape[:2], dtype=torch.bool, device=lm.device)
        hidden, _ = lm.extend(lm.empty(len(ids)), embeds, live)
        return hidden[:, max(opening.shape[1] - 1, 0) :]
