"""A token read in each row of a batch, in place: the step of the decoders, on fixed buffers.

Owns the buffers and the state that a model sees through them. One graph serves all tokens of a
batch, and later batches of about its size: where the next one goes is a number in a buffer, and
attention looks at every slot that there is room for, of which a mask leaves out those not written.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from llmzip.lm.graphs import CaptureFailed, Replay, uses_graphs
from llmzip.lm.state import Memory, Room, State

Extend: TypeAlias = Callable[..., tuple[Tensor, Any]]  # of a backend
Embed: TypeAlias = Callable[[Tensor], Tensor]

_MOST_KEPT = 6  # graphs, with the memory of their rows
_SLOTS = 256  # rows have room for a multiple of so many


@dataclass(frozen=True, kw_only=True)
class SlotState:
    """What a model sees of the buffers while it reads one token in each row."""

    memory: Memory  # a tuple for each layer, each tensor [B, H, P, *]
    live: Tensor  # [B, P] bool, of all slots; includes the new one
    slot: Tensor  # [1] int64, the new one
    num_forgotten: Tensor  # [1] int64
    room: None = None

    def positions(self, live_new: Tensor) -> Tensor:
        """Of the new slot, [B, 1]."""
        return self.num_forgotten + self.live.sum(dim=1, keepdim=True) - 1

    def bias(self, live_new: Tensor, dtype: torch.dtype) -> Tensor:
        """Additive mask [B, 1, 1, P]: 0 where a slot is live, the lowest float elsewhere."""
        bias = torch.zeros(self.live.shape, dtype=dtype, device=self.live.device)
        return bias.masked_fill(~self.live, torch.finfo(dtype).min)[:, None, None]

    def grown(self, index: int, new: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """A layer's memory, with the new slot written. new: [B, H, 1, *] each."""
        for whole, part in zip(self.memory[index], new, strict=True):
            whole.index_copy_(2, self.slot, part)
        return self.memory[index]

    def advanced(
        self, live_new: Tensor, memory: Sequence[tuple[Tensor, ...]], *, room: Room | None
    ) -> SlotState:
        """Itself: all is in place."""
        return self


class TokenGraph:
    """Reads tokens in rows of its own."""

    def __init__(
        self, extend: Extend, embed: Embed, like: Memory, num_rows: int, num_slots: int
    ) -> None:
        """like: a memory of the same model, [*, H, *, *] each. Raises CaptureFailed."""
        device = like[0][0].device
        self.num_rows, self.num_slots = num_rows, num_slots
        self._extend, self._embed = extend, embed
        self._ids = torch.zeros(num_rows, dtype=torch.int64, device=device)
        self._one = torch.ones(num_rows, 1, dtype=torch.bool, device=device)
        self._state = SlotState(
            # Attention gives slots that were not written no weight, but they must be finite.
            memory=tuple(
                tuple(t.new_zeros(num_rows, t.shape[1], num_slots, t.shape[3]) for t in layer)
                for layer in like
            ),
            live=torch.zeros(num_rows, num_slots, dtype=torch.bool, device=device),
            slot=torch.zeros(1, dtype=torch.int64, device=device),
            num_forgotten=torch.zeros(1, dtype=torch.int64, device=device),
        )
        self._hidden = self._forward()  # [B, Dh]
        self._replay = Replay(self._read, device)
        self._last: weakref.ref[State] | None = None  # what the buffers hold
        self._lease: weakref.ref[Room] | None = None  # of the states that lie in them

    @property
    def is_free(self) -> bool:
        """Whether no state lies in its rows any more."""
        return self._lease is None or self._lease() is None

    def holds(self, state: State) -> bool:
        """Whether the state lies in its rows."""
        return self._lease is not None and state.room is self._lease()

    def take(self, state: State) -> State:
        """The state, copied into its rows."""
        num_rows, num_slots = state.live.shape
        for layer, own in zip(state.memory, self._state.memory, strict=True):
            for part, whole in zip(layer, own, strict=True):
                whole[:num_rows, :, :num_slots] = part
        room = Room.around(self._state.memory)
        self._lease = weakref.ref(room)
        return self._seen(state.live, room, state.num_forgotten)

    def read(self, state: State, ids: Tensor) -> tuple[Tensor, State]:
        """Read a token in each row of a state that it holds. ids: [B] -> the hidden states [B, Dh],
        good until the next token, and the new state."""
        assert state.room is not None
        num_rows, slot = state.live.shape
        if self._last is None or self._last() is not state:  # rows or slots have moved since
            live = state.live.clone()  # it may be part of what is filled now
            self._state.live.zero_()
            self._state.live[:num_rows, :slot] = live
            self._state.num_forgotten.fill_(state.num_forgotten)
        self._ids[:num_rows] = ids
        self._state.slot.fill_(slot)
        self._replay.run()
        live = self._state.live[:num_rows, : slot + 1]
        found = self._seen(live, state.room, state.num_forgotten)
        self._last = weakref.ref(found)
        return self._hidden[:num_rows], found

    def _seen(self, live: Tensor, room: Room, num_forgotten: int) -> State:
        num_rows, num_slots = live.shape
        memory = tuple(
            tuple(whole[:num_rows, :, :num_slots] for whole in layer)
            for layer in self._state.memory
        )
        return State(live=live, memory=memory, room=room, num_forgotten=num_forgotten)

    def _read(self) -> None:
        self._state.live.index_fill_(1, self._state.slot, True)
        self._hidden.copy_(self._forward())

    @torch.no_grad()
    def _forward(self) -> Tensor:
        hidden, _ = self._extend(self._state, self._embed(self._ids)[:, None], self._one)
        return hidden[:, -1]


class TokenGraphs:
    """The graphs of a model, by the size of the batch."""

    def __init__(self, extend: Extend, embed: Embed, device: torch.device) -> None:
        self._extend, self._embed, self._device = extend, embed, device
        self._kept: list[TokenGraph] = []  # the one used last at the end

    def of(self, state: State) -> tuple[TokenGraph, State] | None:
        """A graph that reads on from a state, and the state where it lies in the graph's rows; None
        where the state has no room for another token, or the device no graphs."""
        room = state.room
        if room is None or not uses_graphs(self._device) or state.num_slots >= room.num_slots:
            return None
        rows, slots = row_bucket(state.num_rows), -(-room.num_slots // _SLOTS) * _SLOTS
        for graph in reversed(self._kept):
            if graph.holds(state) and graph.num_rows <= 2 * rows:
                return graph, state
        free = (graph for graph in self._kept if graph.is_free)
        fitting = [g for g in free if (g.num_rows, g.num_slots) == (rows, slots)]
        try:
            found = fitting[-1] if fitting else self._made(state, rows, slots)
        except CaptureFailed:
            return None
        self._kept = [graph for graph in self._kept if graph is not found] + [found]
        return found, found.take(state)

    def _made(self, state: State, num_rows: int, num_slots: int) -> TokenGraph:
        """Another one, in the place of the free one that was not used for longest. Raises
        CaptureFailed."""
        free = [graph for graph in self._kept if graph.is_free]
        if len(self._kept) >= _MOST_KEPT and free:
            self._kept.remove(free[0])
        return TokenGraph(self._extend, self._embed, state.memory, num_rows, num_slots)


def row_bucket(num_rows: int) -> int:
    """Rows of a graph for so many: powers of two, from 8 on also those times 1.5."""
    size = 1
    while size < num_rows:
        size = size * 3 // 2 if size >= 8 and size & (size - 1) == 0 else 1 << size.bit_length()
    return size
