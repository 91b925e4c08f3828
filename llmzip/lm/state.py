"""What a language model remembers of the positions it has read: one row per sequence of a batch.

Owns the bookkeeping of slots: rows of a batch have different lengths, so every row shares the
same number of slots and `live` says which of them hold a position. Knows nothing of models;
`native` and `foreign` fill `memory` with what they need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Room:
    """Memory reserved for the slots to come, so that reading one does not copy those before it.

    Written in place: states that share a room share its slots, and the one that is read on from
    overwrites what another wrote behind it. For decoding only; autograd needs copies.
    """

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._layers: list[tuple[Tensor, ...]] = []  # each tensor [B, H, num_slots, *]

    def reserve(self, num_rows: int, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Tensors of one more layer, not yet filled. like: [*, H, *, *] each."""
        layer = tuple(t.new_empty(num_rows, t.shape[1], self.num_slots, t.shape[3]) for t in like)
        self._layers.append(layer)
        return layer

    def write(self, index: int, first: int, new: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Put a layer's new slots at `first`. new: [B, H, T, *] each -> [B, H, first + T, *]."""
        assert not torch.is_grad_enabled()
        num_rows, last = new[0].shape[0], first + new[0].shape[2]
        if index == len(self._layers):
            self.reserve(num_rows, new)
        for whole, part in zip(self._layers[index], new, strict=True):
            whole[:num_rows, :, first:last] = part
        return tuple(whole[:num_rows, :, :last] for whole in self._layers[index])


@dataclass(frozen=True, kw_only=True)
class State:
    """Positions read so far. P slots a row; a slot that is not live is padding that nothing
    attends to."""

    live: Tensor  # [B, P] bool
    memory: tuple[tuple[Tensor, ...], ...] = ()  # a tuple a layer, each tensor [B, H, P, *]
    running: Any = None  # a recurrent backend's last step; lost when slots are cut or rows stacked
    room: Room | None = None  # where memory lies, if it was reserved; a backend need not use it
    num_forgotten: int = 0  # positions that were read and then forgotten, in every row

    @property
    def num_rows(self) -> int:
        return self.live.shape[0]

    @property
    def num_slots(self) -> int:
        return self.live.shape[1]

    def grown(self, index: int, new: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """A layer's memory with new slots behind it. new: [B, H, T, *] each -> [B, H, P + T, *]."""
        if self.room is not None:
            return self.room.write(index, self.num_slots, new)
        if not self.memory:
            return new
        return tuple(torch.cat(pair, dim=2) for pair in zip(self.memory[index], new, strict=True))

    def advanced(
        self,
        live_new: Tensor,
        memory: Sequence[tuple[Tensor, ...]],
        running: Any = None,
        room: Room | None = None,
    ) -> State:
        """The state after reading new slots. live_new: [B, T] bool; room: the state's own, where
        `memory` came from `grown`."""
        live = torch.cat([self.live, live_new], dim=1)  # [B, P + T]
        return State(
            live=live,
            memory=tuple(memory),
            running=running,
            room=room,
            num_forgotten=self.num_forgotten,
        )

    def first(self, num_slots: int) -> State:
        """The state as it was after the first `num_slots` slots."""
        memory = tuple(tuple(t[:, :, :num_slots] for t in layer) for layer in self.memory)
        return replace(self, live=self.live[:, :num_slots], memory=memory, running=None)

    def without(self, first: int, last: int) -> State:
        """The state that has forgotten the slots from `first` up to `last`, live in every row.

        In a room the slots behind them move down: this state is spent. Attention alone can forget.
        """
        if first == last:
            return self
        behind = self.num_slots - last
        memory = []
        for layer in self.memory:
            kept = []
            for t in layer:
                if self.room is None:
                    kept.append(torch.cat([t[:, :, :first], t[:, :, last:]], dim=2))
                    continue
                for slot in range(first, first + behind, last - first):  # no slot is read too late
                    size = min(last - first, first + behind - slot)
                    t[:, :, slot : slot + size] = t[:, :, slot + last - first :][:, :, :size]
                kept.append(t[:, :, : first + behind])
            memory.append(tuple(kept))
        return State(
            live=torch.cat([self.live[:, :first], self.live[:, last:]], dim=1),
            memory=tuple(memory),
            room=self.room,
            num_forgotten=self.num_forgotten + last - first,
        )

    def rows(self, index: Sequence[int]) -> State:
        """The state of some rows, copied."""
        picked = torch.tensor(list(index), dtype=torch.int64, device=self.live.device)
        memory = tuple(tuple(t[picked] for t in layer) for layer in self.memory)
        return State(live=self.live[picked], memory=memory, num_forgotten=self.num_forgotten)

    def row(self, index: int) -> State:
        """The state of one row, copied, without the slots that are not live."""
        slots = self.live[index].nonzero()[:, 0]
        memory = tuple(
            tuple(t[index : index + 1].index_select(2, slots) for t in layer)
            for layer in self.memory
        )
        live = self.live[index : index + 1, slots]
        return State(live=live, memory=memory, num_forgotten=self.num_forgotten)

    def keep(self, rows: Sequence[int]) -> tuple[State, list[int]]:
        """The state without the other rows, and which row each of its rows was.

        In a room, rows of the end move into the gaps: this state is spent.
        """
        kept = set(rows)
        from_end = [row for row in sorted(kept) if row >= len(kept)]
        order = [row if row in kept else from_end.pop() for row in range(len(kept))]
        if self.room is None:
            return self.rows(order), order
        moves = [(to, row) for to, row in enumerate(order) if to != row]
        for layer in self.memory:
            for t in layer:
                for to, row in moves:
                    t[to] = t[row]
        memory = tuple(tuple(t[: len(order)] for t in layer) for layer in self.memory)
        return replace(self, live=self.live[order], memory=memory, running=None), order


def empty_state(num_rows: int, device: torch.device) -> State:
    return State(live=torch.zeros(num_rows, 0, dtype=torch.bool, device=device))


def stack_states(states: Sequence[State], *, room_slots: int | None = None) -> State:
    """Rows of several states as one batch; short ones are padded with slots that are not live.

    room_slots: reserve this many slots a row, for decoding.
    """
    assert not any(state.num_forgotten for state in states), "rows must agree on what they forgot"
    num_slots = max(state.num_slots for state in states)
    live = torch.cat([F.pad(s.live, (0, num_slots - s.num_slots)) for s in states])
    room = None if room_slots is None else Room(room_slots)
    filled = next((state for state in states if state.memory), None)
    if filled is None:
        return State(live=live, room=room)
    filler = room or Room(num_slots)
    memory = []
    for index, like in enumerate(filled.memory):
        layer = filler.reserve(live.shape[0], like)
        for which, whole in enumerate(layer):
            begin = 0
            for state in states:
                rows = whole[begin : begin + state.num_rows, :, :num_slots]
                if state.memory:
                    rows[:, :, : state.num_slots] = state.memory[index][which]
                rows[:, :, state.num_slots :] = 0  # what nothing attends to must still be finite
                begin += state.num_rows
        memory.append(tuple(whole[:, :, :num_slots] for whole in layer))
    return State(live=live, memory=tuple(memory), room=room)


def new_positions(state: State, live_new: Tensor) -> Tensor:
    """Position of each new slot, [B, T]; a padding slot gets the position of the live slot before
    it."""
    steps = live_new.long().cumsum(dim=1) - 1
    num_read = state.num_forgotten + state.live.sum(dim=1, keepdim=True)
    return (num_read + steps).clamp(min=0)


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
