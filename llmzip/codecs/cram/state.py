"""What is under way in the cram engine.

Owns the state that one run can leave and another go on from. Knows nothing of how it moves on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from torch import Tensor

from llmzip.codecs.cram.optimizer import Slot
from llmzip.codecs.cram.tasks import Crammed, Task


@dataclass(kw_only=True)
class EngineState:
    """All that the engine holds between two steps: with it, another run goes on to the same bits.

    On an accelerator nearly so: there the batch follows the memory that is free.
    """

    group: int = 0  # whose tasks they are: the index of its first segment
    taken: int = 0  # tasks that were taken from the queue
    again: list[Task | Slot] = field(default_factory=list)  # sent back, split or put off; first
    slots: list[Slot] = field(default_factory=list)
    finished: list[Slot] = field(default_factory=list)  # wait for certification


# Takes the chunks just accepted, and what is under way then.
OnSave: TypeAlias = Callable[[Sequence[Crammed], EngineState], None]


@dataclass(frozen=True, kw_only=True)
class SlotView:
    """A chunk under way as it was measured last."""

    slot: Slot
    margins: Tensor  # [L] on the CPU; minus infinity: not yet taken up
    wanted: float  # logits by which a token must lead


# Takes the tokens right among the chunks under way, and what shows one of them.
OnStep: TypeAlias = Callable[[int, Callable[[], SlotView]], None]
# Takes what has happened to a task, and its steps so far.
OnTask: TypeAlias = Callable[[Literal["started", "refused", "split"], Task, int], None]


def num_right(slot: Slot) -> int:
    """Tokens of a chunk that greedy decoding would get right now."""
    return slot.task.num_tokens - slot.num_wrong
