"""What a language model remembers of the positions it has read: one row per sequence of a batch.

Owns the bookkeeping of slots: rows of a batch have different lengths, so every row shares the
same number of slots and `live` says which of them hold a position. Knows nothing of models;
`native` and `foreign` fill `memory` with what they need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class State:
    """Positions read so far. P slots a row; a slot that is not live is padding that nothing
    attends to."""

    live: Tensor  # [B, P] bool
    memory: tuple[tuple[Tensor, ...], ...] = ()  # a tuple a layer, each tensor [B, H, P, *]
    running: Any = None  # a recurrent backend's last step; lost when slots are cut or rows stacked

    @property
    def num_rows(self) -> int:
        return self.live.shape[0]

    @property
    def num_slots(self) -> int:
        return self.live.shape[1]

    def advanced(
        self, live_new: Tensor, memory: Sequence[tuple[Tensor, ...]], running: Any = None
    ) -> State:
        """The state after reading new slots. live_new: [B, T] bool."""
        live = torch.cat([self.live, live_new], dim=1)  # [B, P + T]
        return State(live=live, memory=tuple(memory), running=running)

    def first(self, num_slots: int) -> State:
        """The state as it was after the first `num_slots` slots."""
        memory = tuple(tuple(t[:, :, :num_slots] for t in layer) for layer in self.memory)
        return State(live=self.live[:, :num_slots], memory=memory)

    def rows(self, index: Sequence[int]) -> State:
        """The state of some rows."""
        picked = torch.tensor(list(index), dtype=torch.int64, device=self.live.device)
        memory = tuple(tuple(t[picked] for t in layer) for layer in self.memory)
        return State(live=self.live[picked], memory=memory)


def empty_state(num_rows: int, device: torch.device) -> State:
    return State(live=torch.zeros(num_rows, 0, dtype=torch.bool, device=device))


def stack_states(states: Sequence[State]) -> State:
    """Rows of several states as one batch; short ones are padded with slots that are not live."""
    num_slots = max(state.num_slots for state in states)
    padding = [num_slots - state.num_slots for state in states]
    live = torch.cat([F.pad(s.live, (0, p)) for s, p in zip(states, padding, strict=True)])
    filled = next((state for state in states if state.memory), None)
    if filled is None:
        return State(live=live)
    memory = []
    for index, layer in enumerate(filled.memory):
        tensors = []
        for which, like in enumerate(layer):
            parts = []
            for state, pad in zip(states, padding, strict=True):
                if state.memory:
                    parts.append(F.pad(state.memory[index][which], (0, 0, 0, pad)))
                else:
                    parts.append(
                        like.new_zeros(state.num_rows, like.shape[1], num_slots, like.shape[3])
                    )
            tensors.append(torch.cat(parts))
        memory.append(tuple(tensors))
    return State(live=live, memory=tuple(memory))


def new_positions(state: State, live_new: Tensor) -> Tensor:
    """Position of each new slot, [B, T]; a padding slot gets the position of the live slot before
    it."""
    steps = live_new.long().cumsum(dim=1) - 1
    return (state.live.sum(dim=1, keepdim=True) + steps).clamp(min=0)


def attention_bias(state: State, live_new: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask [B, 1, T, P + T]: 0 where a new slot may look, the lowest float where not.

    Every slot may look at itself, so that no row of the softmax is empty; padding never feeds a
    live slot.
    """
    num_new = live_new.shape[1]
    device = live_new.device
    causal = torch.ones(num_new, num_new, dtype=torch.bool, device=device).tril()
    itself = torch.eye(num_new, dtype=torch.bool, device=device)
    among_new = (causal & live_new[:, None, :]) | itself  # [B, T, T]
    past = state.live[:, None, :].expand(-1, num_new, -1)  # [B, T, P]
    allowed = torch.cat([past, among_new], dim=2)  # [B, T, P + T]
    bias = torch.zeros(allowed.shape, dtype=dtype, device=device)
    return bias.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]
