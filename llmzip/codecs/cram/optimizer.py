"""The optimiser: moves mem vectors until the model's own choices give back the chunk.

Owns the recipe (loss, step) and one batch of chunks laid out as rows. Only `look` reads a
result back from the device: a row that has had enough is frozen where it was measured, and the
engine looks when it likes. Knows nothing of queues, acceptance or files.

The objective is Kuratov et al. 2025's (cross-entropy of the chunk given its vectors, frozen
model); the recipe is our own: a large start with a step in proportion, left context before mem,
sharpened loss only where the margin is short, and vectors of few bits as `cram.signs` says.
Figures: docs/LOG.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from llmzip.codecs.cram.chunking import Segment
from llmzip.codecs.cram.curvature import Curvature
from llmzip.codecs.cram.signs import SignPlan, Signs, round_steps
from llmzip.codecs.cram.slots import Slot, as_stored, init_rms, start_slot
from llmzip.codecs.cram.tasks import Contexts, Task
from llmzip.lm.layout import mem_and_chunk, pad_ids, predicting_rows
from llmzip.lm.model import FrozenLM

STEP_OF_INIT_RMS = 0.35  # of a coordinate, until the path has told something of the curvature
LONGEST_STEP_OF_INIT_RMS = 0.5
MARGIN_GOAL = 1.0  # logits beyond the margin asked for; tokens this safe ask for no more gradient
# A chunk is taken up from its front: so many tokens at first, then so many more a step
# for each vector.
FIRST_TOKENS, FIRST_SHARE, TOKENS_A_STEP = 16, 1 / 3, 2.75
TEMPERATURE = 0.3  # of the softmax in the loss: tokens nearly right pull less, far ones as hard
_STEPS_BETWEEN_TRIALS = 4
_LENGTH_STEP = 16  # rows are this much longer or shorter: CPU libraries keep code for every length
_OF_ROWS = ("_wrong", "_falling", "_settled")  # how far each row is
_MEMORY = 0.8  # of the running mean of how fast wrong tokens vanish

# wrong tokens [B], how many fewer a step [B], tokens [B], steps [B] -> rows that may stop, [B] bool
StopRule: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class BatchShape:
    """Sizes of a batch that is filled up to them."""

    num_rows: int
    num_tokens: int  # of the longest chunk
    context_slots: int


class Rows:
    """One batch: the slots' chunks laid out as rows, measured and moved together."""

    def __init__(
        self,
        lm: FrozenLM,
        contexts: Contexts,
        slots: Sequence[Slot],
        *,
        min_margin: float = 0.0,
        plan: SignPlan | None = None,
        shape: BatchShape | None = None,
    ) -> None:
        """plan: where the slots have `signs`. shape: fill up to it, and let no shape of a tensor
        depend on what is in it, so that a step may be captured."""
        self._lm, self._slots, self._min_margin, self._plan = lm, slots, min_margin, plan
        self._shape = shape
        device, num_slots = lm.device, len(slots)
        if shape is not None:  # rows that are settled from the start
            slots = [*slots, *[slots[0]] * (shape.num_rows - num_slots)]
        tasks = [slot.task for slot in slots]
        self._ids, self._whole = pad_ids([task.ids for task in tasks], device)  # [B, L]
        self._mem = torch.stack([slot.mem for slot in slots])  # [B, K, D]
        if shape is None:
            num_new = self._mem.shape[1] + self._ids.shape[1] - 1
            self._context = contexts.before(tasks, num_new=num_new)
        else:
            self._context = contexts.before(tasks).padded(shape.context_slots)
            fill = (0, shape.num_tokens - self._ids.shape[1])
            self._ids, self._whole = F.pad(self._ids, fill), F.pad(self._whole, fill)
        self._chunk_embeds = lm.embed(self._ids)  # [B, L, D]
        self._tokens = self._whole.sum(dim=1)  # [B]
        self._curvature = Curvature.stack([slot.curvature for slot in slots])
        self._steps = torch.tensor([slot.step for slot in slots], device=device)
        self._begun = torch.tensor([slot.task.steps_so_far for slot in slots], device=device)
        self._wrong = torch.tensor([slot.num_wrong for slot in slots], device=device)
        self._falling = torch.tensor([slot.falling for slot in slots], device=device)
        self._settled = torch.arange(len(slots), device=device) >= num_slots
        self._margin_goal = min_margin + MARGIN_GOAL
        self._step_size = STEP_OF_INIT_RMS * init_rms(lm)
        self._longest_step = LONGEST_STEP_OF_INIT_RMS * init_rms(lm)
        self._signs: Signs | None = None
        self._asked: Tensor | None = None  # [B, L] tokens that may ask for a gradient; None: all
        if plan is not None:
            self._signs = Signs.stack([slot.signs for slot in slots if slot.signs is not None])
            self._grid_step = round_steps(torch.tensor(init_rms(lm) / plan.spread)).to(device)
            self._asked = self._whole.clone()
            for row, slot in enumerate(slots):
                bits = torch.tensor(slot.task.surprisal_bits, device=device)
                self._asked[row, bits.topk(slot.task.num_spared).indices] = False
        if shape is None:
            self._attend_to([slot.step for slot in slots])
        else:
            self._places = torch.arange(self._ids.numel(), device=device)
            self._targets, self._is_whole = self._ids.flatten(), True

    @property
    def num_tokens(self) -> int:
        """Tokens that a step computes now."""
        return len(self._places)

    def _attend_to(self, steps: Sequence[int]) -> None:
        """Take up as many tokens of each chunk as its steps allow: the first ones are easier to
        force, and while the last ones wait, steps are cheaper."""
        taken = self._taken(self._tokens.cpu(), torch.tensor(steps))
        length = -(-int(taken.max()) // _LENGTH_STEP) * _LENGTH_STEP
        length = min(self._whole.shape[1], length)
        reached = torch.arange(length) < taken[:, None]
        self._live = self._whole[:, :length] & reached.to(self._whole.device)  # [B, L']
        self._places = self._live.flatten().nonzero()[:, 0]  # [N] live positions, row by row
        self._targets = self._ids[:, :length].flatten()[self._places]  # [N]
        # The same tensor at every step: the model looks only once which slots are live.
        _, self._live_new = mem_and_chunk(
            self._mem.to(self._lm.dtype), self._chunk_embeds[:, :length], self._live
        )  # [B, K + L' - 1]
        self._is_whole = length == self._whole.shape[1] and bool((self._live == self._whole).all())

    def _taken(self, tokens: Tensor, steps: Tensor) -> Tensor:
        """Tokens of each chunk that are taken up after so many steps: [B]."""
        first = (FIRST_SHARE * tokens).clamp(min=float(FIRST_TOKENS))
        return first + TOKENS_A_STEP * self._mem.shape[1] * steps

    def _take_up(self) -> None:
        """`_attend_to`, in a shape that stays."""
        places = torch.arange(self._whole.shape[1], device=self._whole.device)
        self._live = self._whole & (places < self._taken(self._tokens, self._steps)[:, None])
        _, self._live_new = mem_and_chunk(
            self._mem.to(self._lm.dtype), self._chunk_embeds, self._live
        )

    def advance(self, may_stop: StopRule | None) -> None:
        """Measure, and move once. may_stop: of rows without signs, see `settle`."""
        self.measure()
        if may_stop is not None:
            self.settle(may_stop)
        self.step()

    def measure(self) -> None:
        """Run the model on the vectors as they would be stored, and find the wrong tokens."""
        if self._shape is not None:
            self._take_up()
        self._leaf, self._rows = self._forward()
        self._measured = self._live, self._places
        hidden = self._picked(self._rows.detach().flatten(0, 1))
        length, asked = self._live.shape[1], self._asked
        goal: float | Tensor = self._margin_goal
        temperature: float | Tensor = TEMPERATURE
        if self._signs is not None and self._plan is not None:
            row = self._places // length  # [N] of each token
            goals, temperatures = self._signs.loss_settings(self._plan)
            goal, temperature = self._min_margin + goals[row], temperatures[row]
        if asked is not None:
            asked = self._picked(asked[:, :length].flatten())
        if self._shape is not None:
            live = self._live.flatten()
            asked = live if asked is None else live & asked
        self._found = self._lm.predict(
            hidden, self._targets, margin_goal=goal, temperature=temperature, asked=asked
        )
        is_right = self._live & self._spread(self._found.margins >= self._min_margin)  # [B, L']
        wrong = self._tokens - is_right.sum(dim=1)
        if self._signs is not None and self._plan is not None:
            assert self._asked is not None
            wrong_asked = (self._asked.sum(dim=1)) - (self._asked[:, :length] & is_right).sum(dim=1)
            self._signs.note(wrong, self._plan)
            self._settled |= self._signs.may_leave(wrong_asked, self._plan)
            wrong = torch.minimum(wrong, self._signs.best_wrong)
        fewer = (self._wrong - wrong).float()
        # The first difference there is starts the mean.
        mean = torch.where(
            self._falling.isnan(), fewer, _MEMORY * self._falling + (1 - _MEMORY) * fewer
        )
        self._falling = torch.where(self._wrong < 0, self._falling, mean)
        self._wrong = torch.where(self._settled, self._wrong, wrong)

    def settle(self, may_stop: StopRule) -> None:
        """Freeze the rows that were measured good enough: what leaves is what was measured."""
        enough = may_stop(self._wrong, self._falling, self._tokens, self._steps)
        # Sent back once already: a few steps on before it is tried again.
        tried = (self._begun > 0) & (self._steps - self._begun < _STEPS_BETWEEN_TRIALS)
        self._settled |= enough & ~tried

    def step(self) -> None:
        """Move the vectors that were measured last, once; frozen rows stay."""
        self._rows.backward(self._spread(self._found.gradient))
        assert self._leaf.grad is not None
        grad = self._leaf.grad.float()  # straight through the rounding to stored precision
        point, moving = self._mem.flatten(1), ~self._settled
        self._steps = self._steps + moving
        if self._signs is not None and self._plan is not None:
            self._signs.move(grad.flatten(1), moving, self._plan)
            return
        moved = point + self._curvature.step(
            point, grad.flatten(1), step_size=self._step_size, longest_step=self._longest_step
        )
        self._mem = torch.where(moving[:, None, None], moved.view_as(self._mem), self._mem)

    def _picked(self, values: Tensor) -> Tensor:
        """Those of live positions. values: [B x L', ...] -> [N, ...]."""
        return values if self._shape is not None else values[self._places]

    def _spread(self, values: Tensor) -> Tensor:
        """The inverse, 0 elsewhere: [N, ...] -> [B, L', ...]."""
        shape = (*self._live.shape, *values.shape[1:])
        if self._shape is not None:
            return values.view(shape)
        out = values.new_zeros(self._live.numel(), *values.shape[1:])
        out[self._places] = values
        return out.view(shape)

    def look(self) -> None:
        """Write the state of every row into its slot; waits for the device."""
        settled, wrong, steps = self._settled.tolist(), self._wrong.tolist(), self._steps.tolist()
        falling = self._falling.tolist()
        mem, curvature, signs = self._mem, self._curvature, self._signs
        if self._shape is not None:  # others take the rows' place there
            mem, curvature = mem.clone(), curvature.clone()
            signs = None if signs is None else signs.clone()
        if signs is not None and self._plan is not None:  # what leaves is the best measured
            mem = signs.symbols(self._plan).view_as(mem) * self._grid_step
        for row, slot in enumerate(self._slots):
            slot.mem = mem[row]
            slot.curvature = curvature.row(row)
            slot.step, slot.num_wrong, slot.falling = steps[row], wrong[row], falling[row]
            slot.is_settled = settled[row]
            if signs is not None and self._plan is not None:
                slot.signs = signs.row(row)
                if steps[row] >= self._plan.soft_steps:
                    slot.grid_steps = self._grid_step.repeat(mem.shape[1])
        if not self._is_whole:
            self._attend_to(steps)

    def margins(self, row: int) -> Tensor:
        """Margins of a row's tokens as measured last, [L] on the CPU; of those not yet taken up,
        minus infinity."""
        live, places = self._measured
        margins = torch.full_like(live, -torch.inf, dtype=torch.float32).flatten()
        margins[places] = self._found.margins
        margins = torch.where(live.flatten(), margins, -torch.inf)
        whole = torch.full((self._slots[row].task.num_tokens,), -torch.inf)
        found = margins.view_as(live)[row, : len(whole)]
        whole[: len(found)] = found.cpu()
        return whole

    def surprisal_bits(self) -> float:
        """Cross-entropy of all chunks given their vectors, in bits."""
        with torch.no_grad():
            self._attend_to([len(slot.task.ids) for slot in self._slots])
            _, rows = self._forward()
            return float(self._lm.surprisal_bits(rows[self._live], self._targets).sum())

    @property
    def device(self) -> torch.device:
        return self._lm.device

    def tensors(self, *, moving: bool) -> dict[str, Tensor]:
        """What a step reads, by name: what it changes (moving), or all else."""
        if not moving:
            names = ("_ids", "_whole", "_chunk_embeds", "_tokens", "_begun", "_asked", "_targets")
            found = {name: getattr(self, name) for name in names}
            found |= {"live": self._context.live}
            for number, layer in enumerate(self._context.memory):
                found |= {f"{number} {place}": part for place, part in enumerate(layer)}
            return {name: value for name, value in found.items() if value is not None}
        found = {name: getattr(self, name) for name in ("_mem", "_steps", *_OF_ROWS)}
        for name in ("_curvature", "_signs"):
            state = getattr(self, name)
            for each in () if state is None else fields(state):
                found[f"{name}.{each.name}"] = getattr(state, each.name)
        return found

    def put(self, tensors: Mapping[str, Tensor]) -> None:
        """Take these for what a step changes."""
        for name, value in tensors.items():
            owner, _, own = name.rpartition(".")
            setattr(getattr(self, owner) if owner else self, own, value)

    def serve(self, slots: Sequence[Slot]) -> None:
        """Whose rows they are from now on."""
        self._slots = slots

    def _forward(self) -> tuple[Tensor, Tensor]:
        """The vectors as stored, [B, K, D], and the rows that predict the chunks, [B, L, Dh]."""
        mem = self._mem
        if self._signs is not None and self._plan is not None:
            size = self._grid_step * self._plan.spread
            mem = self._signs.seen(self._plan).view_as(mem) * size
        leaf = as_stored(mem).to(self._lm.dtype).requires_grad_(True)
        embeds, _ = mem_and_chunk(leaf, self._chunk_embeds[:, : self._live.shape[1]], self._live)
        hidden, _ = self._lm.extend(self._context, embeds, self._live_new)
        return leaf, predicting_rows(hidden, leaf.shape[1])


def probe_gain_bits(lm: FrozenLM, segment: Segment, *, steps: int) -> float:
    """Bits by which one vector lowers the cross-entropy of a segment's first chunk."""
    first = segment.spans[0]
    slot = start_slot(lm, Task(segment=segment, start=first.start, end=first.end), 1, 0)
    rows = Rows(lm, Contexts(lm), [slot])
    for _ in range(steps):
        rows.measure()
        rows.step()
    return first.surprisal_bits - rows.surprisal_bits()
