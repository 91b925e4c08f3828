"""A chunk under way, and where its vectors begin.

Owns what must survive of a chunk when the batch around it changes, the random start, and the
precision that vectors are stored in. Knows nothing of batches or steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

import torch
from torch import Tensor

from llmzip.codecs.cram.curvature import Curvature
from llmzip.codecs.cram.signs import SignPlan, Signs
from llmzip.codecs.cram.tasks import Crammed, Task
from llmzip.lm.model import FrozenLM

# The model sees mem through its norm layers, so only its direction and its size against the
# layers' updates count: a start at several hundred times the embeddings' rms (64 on the default
# model) needs a third of the steps of a start at 1 times.
INIT_RMS_OF_EMBEDDINGS = 470.0


@dataclass(kw_only=True)
class Slot:
    """A chunk under way: what must survive when the batch around it changes."""

    task: Task
    mem: Tensor  # [K, D] fp32, what the optimiser moves
    curvature: Curvature  # of its path, one row
    step: int = 0
    num_wrong: int = -1  # at the last look; -1: never measured
    falling: float = field(default=float("nan"))  # wrong tokens fewer a step, running mean
    is_settled: bool = False
    signs: Signs | None = None  # where the vectors are to end as signs, one row
    grid_steps: Tensor | None = None  # [K], the step of each vector's grid; None: none, or not yet


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What came of decoding a slot's vectors as the decompressor will."""

    mem: Tensor  # [K, D] as stored
    margins: list[float]
    weak: list[int]  # positions of the tokens that have to be patched
    odds: Mapping[int, Tensor]  # of tokens to be patched, see `patch_tokens`; or nothing

    def crammed(self, slot: Slot) -> Crammed:
        """The slot as a finished chunk."""
        task, steps = slot.task, slot.grid_steps
        kept = set(range(task.num_tokens)) - set(self.weak)
        odds = [self.odds[position] for position in self.weak if self.odds]
        return Crammed(
            task=task,
            mem=self.mem.to("cpu", torch.bfloat16),
            patches=tuple((position, task.ids[position]) for position in self.weak),
            patch_odds=torch.stack(odds) if odds else None,
            min_margin=min((self.margins[position] for position in kept), default=None),
            steps=slot.step,
            grid_steps=None if steps is None else steps.cpu(),
        )


def start_slot(
    lm: FrozenLM,
    task: Task,
    num_mem: int,
    seed: int,
    *,
    plan: SignPlan | None = None,
) -> Slot:
    """A slot for the task: its vectors at a random start, or where an earlier attempt left them.
    plan: of the way to signs; None: vectors stay as they are."""
    # Seeded by place, so that batch size and order of work do not change a chunk's start.
    place = f"{seed} {task.segment.index} {task.place} {task.num_tokens}"
    if task.failures:
        place += f" {task.failures}"
    start = random_start(lm, num_mem * (1 if plan is None else plan.bits), place).to(lm.device)
    mem = start[:num_mem] if task.warm_mem is None else task.warm_mem.clone()
    curvature = Curvature.empty(mem.numel(), lm.device)
    slot = Slot(task=task, mem=mem, curvature=curvature, step=task.steps_so_far)
    if plan is not None:
        hidden = start.flatten() / start.square().mean().sqrt()
        slot.signs = Signs.start(hidden, spared=task.num_spared)
    return slot


def random_start(lm: FrozenLM, num_mem: int, seed: str) -> Tensor:
    """Vectors to begin with, the same on every device: [K, D] fp32 on the CPU."""
    mem = torch.randn(num_mem, lm.dim, generator=seeded(seed))
    start: Tensor = mem * (init_rms(lm) / mem.square().mean(dim=1, keepdim=True).sqrt())
    return start


def seeded(text: str) -> torch.Generator:
    """A generator of random numbers for whatever a text names."""
    number = int.from_bytes(blake2b(text.encode(), digest_size=7).digest(), "little")
    return torch.Generator().manual_seed(number)


def as_stored(mem: Tensor) -> Tensor:
    """What the container gives back for these vectors: [.., K, D] fp32 holding bf16 values."""
    return mem.to(torch.bfloat16).float()


def init_rms(lm: FrozenLM) -> float:
    """Root mean square of a starting vector's coordinates, in proportion to the embeddings'."""
    return INIT_RMS_OF_EMBEDDINGS * lm.embedding_rms
