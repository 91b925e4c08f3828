"""The optimiser: moves mem vectors until the model's own choices give back the chunk.

Owns the recipe (start, step, loss) and one batch of chunks laid out as rows. Knows nothing of
queues, acceptance or files. Called by `cram.engine` and `cram.capacity`.

The objective is Kuratov et al. 2025's (cross-entropy of the chunk given its vectors, frozen
model); the recipe is our own: a large start with a step in proportion, left context before mem,
loss only where the margin is short. Figures: docs/LOG.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from llmzip.cram.chunking import Segment
from llmzip.cram.contexts import Contexts
from llmzip.cram.tasks import Task
from llmzip.lm.layout import mem_and_chunk, pad_ids, predicting_rows
from llmzip.lm.model import FrozenLM
from llmzip.lm.state import stack_states

# The model sees mem through its norm layers, so only its direction and its size against the
# layers' updates count: a start at several hundred times the embeddings' rms (64 on the default
# model) needs a third of the steps of a start at 1 times.
INIT_RMS_OF_EMBEDDINGS = 470.0
STEP_OF_INIT_RMS = 0.25
BETAS = (0.6, 0.9)
MARGIN_GOAL = 1.0  # logits; tokens this safe ask for no more gradient


@dataclass(kw_only=True)
class Slot:
    """A chunk under way."""

    task: Task
    mem: Tensor  # [K, D] fp32, what the optimiser moves
    adam: torch.optim.Optimizer
    step: int = 0
    num_right: int = 0


def start_slot(lm: FrozenLM, task: Task, num_mem: int, seed: int) -> Slot:
    """A slot for the task: its vectors at a random start, or where an earlier attempt left them."""
    init_rms = INIT_RMS_OF_EMBEDDINGS * embedding_rms(lm)
    if task.warm_mem is not None:
        mem = task.warm_mem.clone()
    else:
        # Seeded by place, so that batch size and order of work do not change a chunk's start.
        place = f"{seed} {task.segment.index} {task.place} {task.num_tokens}"
        place_seed = int.from_bytes(blake2b(place.encode(), digest_size=7).digest(), "little")
        generator = torch.Generator().manual_seed(place_seed)
        mem = torch.randn(num_mem, lm.dim, generator=generator)
        mem = mem * (init_rms / mem.square().mean(dim=1, keepdim=True).sqrt())
        mem = mem.to(lm.device)
    mem.requires_grad_(True)
    adam = torch.optim.Adam([mem], lr=STEP_OF_INIT_RMS * init_rms, betas=BETAS)
    return Slot(task=task, mem=mem, adam=adam, step=task.steps_so_far)


class Rows:
    """One batch: the slots' chunks laid out as rows, measured and moved together."""

    def __init__(self, lm: FrozenLM, contexts: Contexts, slots: Sequence[Slot]) -> None:
        self._lm, self._slots = lm, slots
        self._context = stack_states([contexts.before(s.task.segment, s.task.start) for s in slots])
        self._ids, self._live = pad_ids([slot.task.ids for slot in slots], lm.device)  # [B, L]
        self._chunk_embeds = lm.embed(self._ids)  # [B, L, D]

    def _forward(self) -> tuple[Tensor, Tensor]:
        """The vectors as stored, [B, K, D], and the rows that predict the chunks, [B, L, Dh]."""
        stored = torch.stack([as_stored(slot.mem.detach()) for slot in self._slots])
        leaf = stored.to(self._lm.dtype).requires_grad_(True)
        embeds, live = mem_and_chunk(leaf, self._chunk_embeds, self._live)
        hidden, _ = self._lm.extend(self._context, embeds, live)
        return leaf, predicting_rows(hidden, leaf.shape[1])

    def measure(self, safe_margin: float) -> list[int]:
        """Tokens of each chunk that greedy decoding gets right by at least `safe_margin`."""
        self._leaf, self._rows = self._forward()
        live = self._live
        self._found = self._lm.predict(
            self._rows.detach()[live], self._ids[live], margin_goal=MARGIN_GOAL
        )
        right = torch.zeros_like(live)
        right[live] = self._found.margins >= safe_margin
        return [int(n) for n in right.sum(dim=1).tolist()]

    def step(self) -> None:
        """Move the vectors that were measured last, once."""
        gradient = torch.zeros_like(self._rows)
        gradient[self._live] = self._found.gradient
        self._rows.backward(gradient)
        assert self._leaf.grad is not None
        for slot, grad in zip(self._slots, self._leaf.grad.float(), strict=True):
            slot.mem.grad = grad  # straight through the rounding to stored precision
            slot.adam.step()
            slot.step += 1

    def surprisal_bits(self) -> float:
        """Cross-entropy of all chunks given their vectors, in bits."""
        with torch.no_grad():
            _, rows = self._forward()
            return float(self._lm.surprisal_bits(rows[self._live], self._ids[self._live]).sum())


def probe_gain_bits(lm: FrozenLM, segment: Segment, *, steps: int) -> float:
    """Bits by which one vector lowers the cross-entropy of a segment's first chunk."""
    first = segment.spans[0]
    slot = start_slot(lm, Task(segment=segment, start=first.start, end=first.end), 1, 0)
    rows = Rows(lm, Contexts(lm), [slot])
    for _ in range(steps):
        rows.measure(MARGIN_GOAL)
        rows.step()
    return first.surprisal_bits - rows.surprisal_bits()


def as_stored(mem: Tensor) -> Tensor:
    """What the container gives back for these vectors: [.., K, D] fp32 holding bf16 values."""
    return mem.to(torch.bfloat16).float()


def embedding_rms(lm: FrozenLM) -> float:
    """Root mean square of the input embeddings, the scale that mem vectors are measured against."""
    ids = torch.arange(lm.vocab_size, device=lm.device)[:: max(1, lm.vocab_size // 1024)]
    return float(lm.embed(ids).float().square().mean().sqrt())
