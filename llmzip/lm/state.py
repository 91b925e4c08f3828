"""What a language model has read so far: one row for each sequence of a batch.

Owns the bookkeeping of slots. The rows of a batch have different lengths, but the same number of
slots, and `live` says which slots of a row hold a position. Knows nothing of models, which fill
`memory` with what they need.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Memory = tuple[tuple[Tensor, ...], ...]  # a tuple for each layer, each tensor [B, H, P, *]


class Room:
    """Memory reserved for later slots, so that reading one does not copy the slots before it.

    It is written in place. States that share a room share its slots: reading on from one of them
    overwrites the later slots of the others. No gradient goes through what is written.
    """

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._layers: list[tuple[Tensor, ...]] = []  # each tensor [B, H, num_slots, *]

    @classmethod
    def around(cls, layers: Memory) -> Room:
        """One that lies in these tensors, [B, H, P, *] each."""
        room = cls(layers[0][0].shape[2])
        room._layers = list(layers)
        return room

    def reserve(self, num_rows: int, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Uninitialised tensors for one more layer. like: [*, H, *, *] each."""
        layer = tuple(t.new_empty(num_rows, t.shape[1], self.num_slots, t.shape[3]) for t in like)
        self._layers.append(layer)
        return layer

    def write(self, index: int, first: int, new: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Write a layer's new slots at `first`. new: [B, H, T, *] each -> [B, H, first + T, *]."""
        num_rows, last = new[0].shape[0], first + new[0].shape[2]
        if index == len(self._layers):
            self.reserve(num_rows, new)
        for whole, part in zip(self._layers[index], new, strict=True):
            whole[:num_rows, :, first:last] = part.detach()
        return tuple(whole[:num_rows, :, :last] for whole in self._layers[index])


class ReadState(Protocol):
    """What a forward pass asks of the positions before the new ones."""

    @property
    def room(self) -> Room | None: ...

    def positions(self, live_new: Tensor) -> Tensor: ...

    def bias(self, live_new: Tensor, dtype: torch.dtype) -> Tensor: ...

    def grown(self, index: int, new: tuple[Tensor, ...]) -> tuple[Tensor, ...]: ...

    def advanced(
        self, live_new: Tensor, memory: Sequence[tuple[Tensor, ...]], *, room: Room | None
    ) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class State:
    """The positions read so far, in P slots for each row. A slot that is not live is padding, to
    which nothing attends."""

    live: Tensor  # [B, P] bool
    memory: Memory = ()
    running: Any = None  # the last step of a recurrence; lost when slots are cut or rows stacked
    room: Room | None = None  # where `memory` lies, if it was reserved; not every model uses it
    num_forgotten: int = 0  # positions of every row that were read and then removed

    @property
    def num_rows(self) -> int:
        return self.live.shape[0]

    @property
    def num_slots(self) -> int:
        return self.live.shape[1]

    @cached_property
    def num_first_live(self) -> int:
        """How many slots in front are live in all rows; the host waits for the device once."""
        return int(self.live.all(dim=0).long().cumprod(dim=0).sum())

    def positions(self, live_new: Tensor) -> Tensor:
        """See `new_positions`."""
        return new_positions(self, live_new)

    def bias(self, live_new: Tensor, dtype: torch.dtype) -> Tensor:
        """See `attention_bias`."""
        return attention_bias(self, live_new, dtype)

    def grown(self, index: int, new: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The memory of a layer followed by new slots. new: [B, H, T, *] -> [B, H, P + T, *]."""
        if self.room is not None:
            return self.room.write(index, self.num_slots, new)
        if not self.memory:  # views of larger tensors, which they would keep in memory
            return tuple(part.clone(memory_format=torch.contiguous_format) for part in new)
        return tuple(torch.cat(pair, dim=2) for pair in zip(self.memory[index], new, strict=True))

    def advanced(
        self,
        live_new: Tensor,
        memory: Sequence[tuple[Tensor, ...]],
        running: Any = None,
        room: Room | None = None,
    ) -> State:
        """The state after reading new slots. live_new: [B, T] bool; room: the state's own, where
        `memory` comes from `grown`."""
        live = torch.cat([self.live, live_new], dim=1)  # [B, P + T]
        return replace(self, live=live, memory=tuple(memory), running=running, room=room)

    def first(self, num_slots: int) -> State:
        """The state as it was after the first `num_slots` slots."""
        memory = self._each(lambda t: t[:, :, :num_slots])
        return replace(self, live=self.live[:, :num_slots], memory=memory, running=None)

    def without(self, first: int, last: int) -> State:
        """The state after forgetting the slots from `first` to `last`, which are live in all rows.

        Only for attention, not for recurrences. In a room, the slots behind them move down, so this
        state must not be used any more.
        """
        if first == last:
            return self
        behind = self.num_slots - last

        def forget(t: Tensor) -> Tensor:
            if self.room is None:
                return torch.cat([t[:, :, :first], t[:, :, last:]], dim=2)
            # In steps so small that no slot is overwritten before it is read.
            for slot in range(first, first + behind, last - first):
                size = min(last - first, first + behind - slot)
                t[:, :, slot : slot + size] = t[:, :, slot + last - first :][:, :, :size]
            return t[:, :, : first + behind]

        return State(
            live=torch.cat([self.live[:, :first], self.live[:, last:]], dim=1),
            memory=self._each(forget),
            room=self.room,
            num_forgotten=self.num_forgotten + last - first,
        )

    def padded(self, num_slots: int) -> State:
        """The state with more slots, none of them live, in front."""
        fill = num_slots - self.num_slots
        memory = self._each(lambda t: F.pad(t, (0, 0, fill, 0)))
        return replace(self, live=F.pad(self.live, (fill, 0)), memory=memory, running=None)

    def rows(self, index: Sequence[int]) -> State:
        """A copy of some rows."""
        picked = torch.tensor(list(index), dtype=torch.int64, device=self.live.device)
        memory = self._each(lambda t: t[picked])
        return replace(self, live=self.live[picked], memory=memory, running=None, room=None)

    def row(self, index: int) -> State:
        """A copy of one row, without the slots that are not live."""
        slots, here = self.live[index].nonzero()[:, 0], slice(index, index + 1)
        memory = self._each(lambda t: t[here].index_select(2, slots))
        return replace(self, live=self.live[here, slots], memory=memory, running=None, room=None)

    def keep(self, rows: Sequence[int]) -> tuple[State, list[int]]:
        """The state of `rows` alone, and the earlier index of each of its rows. In a room, the last
        rows move into the gaps, so this state must not be used any more."""
        kept = set(rows)
        from_end = [row for row in sorted(kept) if row >= len(kept)]
        order = [row if row in kept else from_end.pop() for row in range(len(kept))]
        if self.room is None:
            return self.rows(order), order

        def move(t: Tensor) -> Tensor:
            for to, row in enumerate(order):
                if to != row:
                    t[to] = t[row]
            return t[: len(order)]

        return replace(self, live=self.live[order], memory=self._each(move), running=None), order

    def _each(self, change: Callable[[Tensor], Tensor]) -> Memory:
        """The memory with every tensor changed."""
        return tuple(tuple(change(t) for t in layer) for layer in self.memory)


def empty_state(num_rows: int, device: torch.device) -> State:
    """The state before anything is read."""
    return State(live=torch.zeros(num_rows, 0, dtype=torch.bool, device=device))


def stack_states(states: Sequence[State], *, room_slots: int | None = None) -> State:
    """The rows of several states as one batch; short ones are padded with slots that are not live.
    room_slots: reserve this many slots for each row, for decoding."""
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
                rows[:, :, state.num_slots :] = 0  # must be finite, although nothing attends to it
                begin += state.num_rows
        memory.append(tuple(whole[:, :, :num_slots] for whole in layer))
    return State(live=live, memory=tuple(memory), room=room)


def new_positions(state: State, live_new: Tensor) -> Tensor:
    """The position of each new slot, [B, T]; padding gets that of the live slot before it."""
    steps = live_new.long().cumsum(dim=1) - 1
    num_read = state.num_forgotten + state.live.sum(dim=1, keepdim=True)
    return (num_read + steps).clamp(min=0)


def attention_bias(state: State, live_new: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask [B, 1, T, P + T]: 0 where a new slot attends, the lowest float elsewhere.

    Every slot attends to itself, so that no row of the softmax is empty. No live slot attends to
    padding.
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
