"""What a model remembers of the slots it has read: forgetting some, with and without a room."""

from __future__ import annotations

import pytest
import torch

from llmzip.lm.state import State, empty_state, new_positions, stack_states

CPU = torch.device("cpu")
NUM_ROWS, NUM_SLOTS = 3, 12
RANGES = [(0, 4), (2, 4), (2, 9), (0, 12), (5, 12), (11, 12), (1, 2)]


def numbered(num_slots: int = NUM_SLOTS, *, room_slots: int | None = None) -> State:
    """Slots that hold their own number, and the row's: [B, H, P, *] a tensor, two tensors a layer,
    two layers."""
    slots = torch.arange(num_slots).view(1, 1, -1, 1) + 100 * torch.arange(NUM_ROWS).view(
        -1, 1, 1, 1
    )
    memory = tuple(
        (slots.expand(-1, 2, -1, 4) + 1000.0 * layer, slots.expand(-1, 1, -1, 3) + 0.5)
        for layer in range(2)
    )
    state = State(live=torch.ones(NUM_ROWS, num_slots, dtype=torch.bool), memory=memory)
    if room_slots is None:
        return state
    return stack_states([state], room_slots=room_slots)


def slots_of(state: State) -> list[list[list[int]]]:
    """For each tensor the slot numbers in each row."""
    return [
        [[int(x) % 100 for x in row] for row in t[:, -1, :, -1].tolist()]
        for layer in state.memory
        for t in layer
    ]


def same_memory(one: State, other: State) -> bool:
    return all(
        torch.equal(a, b)
        for layer, other_layer in zip(one.memory, other.memory, strict=True)
        for a, b in zip(layer, other_layer, strict=True)
    )


@torch.no_grad()
def grow(state: State, num_new: int) -> State:
    """Read some new slots, which hold 50 and up."""
    live_new = torch.ones(state.num_rows, num_new, dtype=torch.bool)
    memory = []
    for index in range(2):
        new = []
        for num_heads, width in ((2, 4), (1, 3)):
            slots = torch.arange(50.0, 50.0 + num_new).view(1, 1, -1, 1)
            new.append(slots.expand(state.num_rows, num_heads, -1, width))
        memory.append(state.grown(index, tuple(new)))
    return state.advanced(live_new, memory, room=state.room)


@pytest.mark.parametrize("room_slots", [None, NUM_SLOTS, 20])
@pytest.mark.parametrize("first, last", RANGES)
def test_without_some_slots(first: int, last: int, room_slots: int | None) -> None:
    state = numbered(room_slots=room_slots).without(first, last)
    left = [slot for slot in range(NUM_SLOTS) if not first <= slot < last]
    assert slots_of(state) == [[left] * NUM_ROWS] * 4
    assert same_memory(state, numbered().without(first, last))  # row and layer are theirs, too
    assert state.live.tolist() == [[True] * len(left)] * NUM_ROWS
    assert state.num_slots == len(left)
    assert state.num_forgotten == last - first


@pytest.mark.parametrize("room_slots", [None, 20])
@pytest.mark.parametrize("first, last", RANGES)
def test_positions_go_on_as_if_nothing_were_forgotten(
    first: int, last: int, room_slots: int | None
) -> None:
    live_new = torch.ones(NUM_ROWS, 3, dtype=torch.bool)
    state = numbered(room_slots=room_slots)
    before = new_positions(state, live_new)
    assert before.tolist() == [[12, 13, 14]] * NUM_ROWS
    assert torch.equal(new_positions(state.without(first, last), live_new), before)


def test_a_room_has_space_for_what_takes_the_place_of_the_forgotten() -> None:
    """Blocks read, then forgotten, for longer than the room is."""
    plain, roomy = numbered(), numbered(room_slots=NUM_SLOTS + 4)
    for _ in range(6):
        plain, roomy = grow(plain, 4), grow(roomy, 4)
        assert same_memory(plain, roomy)
        plain, roomy = plain.without(2, 6), roomy.without(2, 6)
        assert same_memory(plain, roomy)
    assert slots_of(roomy)[0][0] == [0, 1] + ([50, 51, 52, 53] * 6)[-10:]
    assert roomy.num_forgotten == plain.num_forgotten == 24
    assert new_positions(roomy, torch.ones(NUM_ROWS, 1, dtype=torch.bool)).tolist() == [[36]] * 3


def test_rows_of_other_lengths_forget_alike() -> None:
    """Padding behind a short row stays padding, and is no position."""
    state = stack_states([numbered(6), numbered(9)], room_slots=9).without(1, 4)
    assert state.live.tolist() == [[True] * 3 + [False] * 3] * 3 + [[True] * 6] * 3
    live_new = torch.ones(6, 1, dtype=torch.bool)
    assert new_positions(state, live_new)[:, 0].tolist() == [6] * 3 + [9] * 3


@pytest.mark.parametrize("room_slots", [None, 20])
def test_what_was_forgotten_is_counted_in_what_comes_of_a_state(room_slots: int | None) -> None:
    state = numbered(room_slots=room_slots).without(2, 5)
    assert state.num_forgotten == 3
    derived = {
        "advanced": grow(state, 2),
        "without": state.without(2, 3),
        "rows": state.rows([2, 0]),
        "row": state.row(1),
        "first": state.first(6),
        "keep": state.keep([0, 2])[0],  # in a room the state is spent
    }
    assert {name: one.num_forgotten for name, one in derived.items()} == {
        "advanced": 3, "without": 4, "rows": 3, "row": 3, "first": 3, "keep": 3,
    }  # fmt: skip
    assert empty_state(2, CPU).num_forgotten == 0


def test_a_forgotten_slot_takes_the_recurrence_with_it() -> None:
    state = State(
        live=torch.ones(1, 4, dtype=torch.bool),
        memory=((torch.zeros(1, 1, 4, 1),),),
        running="the last step",
    )
    assert state.without(1, 2).running is None
