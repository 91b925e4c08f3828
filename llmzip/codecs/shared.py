"""What stands before the first token of a segment: [start token | shared vectors].

Owns that order, and shared vectors as a file holds them. Does not know how they are found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmzip.lm.layout import segment_start
from llmzip.lm.model import FrozenLM
from llmzip.store.payload import Payload
from llmzip.store.vectors import GridMem, mem_bits


@dataclass(frozen=True, kw_only=True)
class SharedMem:
    """Vectors before whole segments: a prompt tuned to their text (Lester et al. 2021)."""

    grid: GridMem

    @property
    def mem(self) -> Tensor:
        """[K, D] fp32, holding bf16 values."""
        return torch.from_numpy(mem_bits(self.grid)).view(torch.bfloat16).float()

    @property
    def num_mem(self) -> int:
        return len(self.grid.steps)

    def __hash__(self) -> int:
        return hash((self.grid.symbols.tobytes(), self.grid.steps.tobytes()))


def openings(lm: FrozenLM, payload: Payload) -> list[Tensor]:
    """What stands before each segment of a file: [1, H, D] each."""
    start_ids = segment_start(payload.model.start_id)
    return [
        opening_embeds(lm, start_ids, None if grid is None else SharedMem(grid=grid).mem)
        for grid in payload.shared_mems
    ]


def opening_embeds(lm: FrozenLM, start_ids: Sequence[int], mem: Tensor | None) -> Tensor:
    """What stands before a segment. mem: [K, D] -> [1, H, D]; H may be 0."""
    parts = [lm.embed(torch.tensor(list(start_ids), dtype=torch.int64, device=lm.device))]
    if mem is not None:
        parts.append(mem.to(lm.device, lm.dtype))
    return torch.cat(parts)[None]
