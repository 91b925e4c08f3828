"""The cram engine: optimises mem vectors until greedy decoding gives back the chunk.

Owns the optimisation (start, step, loss, when to stop) and the batch of chunks under way: each is
independent of the others, a finished
one leaves at once and the next takes its place. Nothing is accepted here before
`decode.decode_chunks` reproduced it from the vectors
as they will be stored. Knows nothing of files. Called by `codec`.

The objective is Kuratov et al. 2025's (cross-entropy of the chunk given its vectors, frozen
model); the recipe is our own: a large start
with a step in proportion, left context before mem, loss only where the margin is short. Figures:
docs/LOG.md.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import torch
from torch import Tensor

from llmzip.cram.chunking import Segment
from llmzip.cram.contexts import Contexts
from llmzip.cram.decode import decode_chunks
from llmzip.lm.layout import mem_and_chunk, pad_ids, predicting_rows
from llmzip.lm.model import FrozenLM
from llmzip.lm.state import stack_states
from llmzip.progress import check_cancelled

# The model sees mem through its norm layers, so only its direction and its size against the
# layers' updates count: a start
# at several hundred times the embeddings' rms (64 on the default model) needs a third of the steps
# of a start at 1 times.
INIT_RMS_OF_EMBEDDINGS = 470.0
STEP_OF_INIT_RMS = 0.25
BETAS = (0.6, 0.9)
MARGIN_GOAL = 1.0  # logits; tokens this safe ask for no more gradient

MIN_MARGIN = 0.05  # logits; certified in fp32, whose noise between kernels and batch shapes is 1e-4
PATCHES_PER_TOKEN = 1 / 8  # never more patches than this share of a chunk's tokens
# Wrong tokens that are patched rather than waited for: few at first, more as steps go by. A patch costs about 3 bytes,
# and the last one or two tokens of a chunk can take hundreds of steps.
PATIENCE = ((0, 1 / 32), (40, 1 / 16), (60, PATCHES_PER_TOKEN))  # (from step, share of tokens)
LITERAL_TOKENS = 8  # a stubborn chunk this short is stored token by token
CERTIFY_ROWS = 8  # chunks certified together: one costs nearly what eight cost


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How the engine spends its time. Nothing here changes what is exact."""

    num_mem: int
    max_steps: int
    seed: int
    independent: bool  # no chunk sees left context, not even the second half of a split one
    batch_tokens: int  # rows x (K + L) of one step; bounds memory


@dataclass(frozen=True, kw_only=True)
class Task:
    """Tokens [start, end) of a segment, to be crammed."""

    segment: Segment
    start: int
    end: int
    warm_mem: Tensor | None = None  # [K, D] to go on from
    steps_so_far: int = 0

    @property
    def ids(self) -> tuple[int, ...]:
        return self.segment.ids[self.start : self.end]

    @property
    def num_tokens(self) -> int:
        return self.end - self.start

    @property
    def place(self) -> int:
        """Position of the first token in the run of tokens that was cut."""
        return self.segment.offset + self.start


@dataclass(frozen=True, kw_only=True)
class Crammed:
    """A finished chunk, certified. mem is None where the tokens are stored one by one."""

    task: Task
    mem: Tensor | None  # [K, D] bf16 on the CPU
    patches: tuple[tuple[int, int], ...]  # (position, token id)
    min_margin: float | None  # weakest unpatched margin, in logits
    steps: int


@dataclass(kw_only=True)
class _Slot:
    """A chunk under way."""

    task: Task
    mem: Tensor  # [K, D] fp32, what the optimiser moves
    adam: torch.optim.Optimizer
    step: int = 0
    num_right: int = 0


class Engine:
    """Crams chunks from a queue. `lm` optimises, `judge` (the decoder's numerics, fp32)
    certifies."""

    def __init__(
        self,
        lm: FrozenLM,
        judge: FrozenLM,
        settings: EngineSettings,
        *,
        on_step: Callable[[int], None] = lambda num_right: None,
        cancel: threading.Event | None = None,
    ) -> None:
        self._lm, self._judge, self._settings = lm, judge, settings
        self._on_step, self._cancel = on_step, cancel
        self._contexts = Contexts(lm)
        self._judge_contexts = self._contexts if judge is lm else Contexts(judge)
        self._init_rms = INIT_RMS_OF_EMBEDDINGS * embedding_rms(lm)

    def run(self, tasks: Iterator[Task]) -> Iterator[Crammed]:
        """Cram every task, yielding chunks as they are accepted, in no fixed order.

        A task may come back as several chunks (split) or as a literal one; its tokens are always
        covered.
        """
        again: deque[Task] = deque()  # split or sent back, served before new tasks
        slots: list[_Slot] = []
        finished: list[_Slot] = []
        exhausted = False
        while True:
            while not exhausted or again:
                task = again.popleft() if again else next(tasks, None)
                if task is None:
                    exhausted = True
                    break
                if slots and not self._fits(slots, task):
                    again.appendleft(task)
                    break
                slots.append(self.start(task))
            if slots:
                for slot in self._steps(slots):
                    slots.remove(slot)
                    finished.append(slot)
            if len(finished) >= CERTIFY_ROWS or (finished and not slots):
                for outcome in self._certify(finished):
                    if isinstance(outcome, Crammed):
                        yield outcome
                    else:
                        again.append(outcome)
                finished = []
            if not slots and not again and exhausted:
                return

    def _fits(self, slots: Sequence[_Slot], task: Task) -> bool:
        longest = max(task.num_tokens, *(slot.task.num_tokens for slot in slots))
        rows = len(slots) + 1
        return rows * (self._settings.num_mem + longest) <= self._settings.batch_tokens

    def start(self, task: Task) -> _Slot:
        """A slot for the task: vectors at their start, or where an earlier attempt left them."""
        if task.warm_mem is not None:
            mem = task.warm_mem.clone()
        else:
            # Seeded by place, so that batch size and order of work do not change a chunk's start.
            place = f"{self._settings.seed} {task.segment.index} {task.place} {task.num_tokens}"
            seed = int.from_bytes(blake2b(place.encode(), digest_size=7).digest(), "little")
            generator = torch.Generator().manual_seed(seed)
            mem = torch.randn(self._settings.num_mem, self._lm.dim, generator=generator)
            mem = mem * (self._init_rms / mem.square().mean(dim=1, keepdim=True).sqrt())
            mem = mem.to(self._lm.device)
        mem.requires_grad_(True)
        adam = torch.optim.Adam([mem], lr=STEP_OF_INIT_RMS * self._init_rms, betas=BETAS)
        return _Slot(task=task, mem=mem, adam=adam, step=task.steps_so_far)

    def _steps(self, slots: list[_Slot]) -> list[_Slot]:
        """Measure, decide, step, until at least one slot is done; returns the done ones."""
        rows = _Rows(self._lm, self._contexts, slots)
        # bf16 is too coarse to measure small margins in; fp32 margins move by 1e-4 when decoded.
        safe = 2 * MIN_MARGIN if self._lm.dtype == torch.float32 else 0.5
        while True:
            check_cancelled(self._cancel)
            done = []
            for slot, num_right in zip(slots, rows.measure(safe), strict=True):
                slot.num_right = num_right
                if self._is_done(slot, slot.task.num_tokens - num_right):
                    done.append(slot)
            self._on_step(sum(slot.num_right for slot in slots))
            if done:
                return done  # the vectors that leave are the ones measured
            rows.step()

    def _is_done(self, slot: _Slot, num_wrong: int) -> bool:
        tokens = slot.task.num_tokens
        if num_wrong <= min(tokens - 1, acceptable_patches(tokens, slot.step)):
            # Sent back once already: a few steps on before it is tried again.
            return slot.step >= slot.task.steps_so_far + (
                4 if slot.task.warm_mem is not None else 0
            )
        return slot.step >= self._settings.max_steps

    @torch.no_grad()
    def _certify(self, slots: Sequence[_Slot]) -> Iterator[Crammed | Task]:
        """Decode finished chunks as the decompressor will; wrong and unsafe tokens become
        patches."""
        contexts = [self._judge_contexts.before(s.task.segment, s.task.start) for s in slots]
        stored = [as_stored(slot.mem.detach()) for slot in slots]
        truth = [dict(enumerate(slot.task.ids)) for slot in slots]
        decoded, _ = decode_chunks(
            self._judge, stack_states(contexts), [[] for _ in slots], torch.stack(stored),
            [slot.task.num_tokens for slot in slots], truth, cancel=self._cancel,
        )  # fmt: skip
        for row, slot in enumerate(slots):
            margins = decoded.margins[row, : slot.task.num_tokens].tolist()
            yield from self._verdict(slot, stored[row], margins)

    def _verdict(
        self, slot: _Slot, stored: Tensor, margins: list[float]
    ) -> Iterator[Crammed | Task]:
        task = slot.task
        weak = [position for position, margin in enumerate(margins) if not margin >= MIN_MARGIN]
        allowed = min(task.num_tokens - 1, max(1, int(task.num_tokens * PATCHES_PER_TOKEN)))
        if len(weak) <= allowed:
            kept = set(range(task.num_tokens)) - set(weak)
            yield Crammed(
                task=task,
                mem=stored.to("cpu", torch.bfloat16),
                patches=tuple((position, task.ids[position]) for position in weak),
                min_margin=min(margins[position] for position in kept),
                steps=slot.step,
            )
        elif slot.step < self._settings.max_steps:
            mem = slot.mem.detach()
            yield Task(
                segment=task.segment, start=task.start, end=task.end,
                warm_mem=mem, steps_so_far=slot.step,
            )  # fmt: skip
        elif task.num_tokens <= LITERAL_TOKENS:
            patches = tuple(enumerate(task.ids))
            yield Crammed(task=task, mem=None, patches=patches, min_margin=None, steps=slot.step)
        else:
            yield from split(task, independent=self._settings.independent)


class _Rows:
    """One batch: the slots' chunks laid out as rows, measured and moved together."""

    def __init__(self, lm: FrozenLM, contexts: Contexts, slots: Sequence[_Slot]) -> None:
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
    """Bits by which one vector lowers the cross-entropy of a segment's first chunk in `steps`
    steps."""
    settings = EngineSettings(num_mem=1, max_steps=steps, seed=0, independent=True, batch_tokens=1)
    engine = Engine(lm, lm, settings)
    first = segment.spans[0]
    slot = engine.start(Task(segment=segment, start=first.start, end=first.end))
    rows = _Rows(lm, Contexts(lm), [slot])
    for _ in range(steps):
        rows.measure(MARGIN_GOAL)
        rows.step()
    return first.surprisal_bits - rows.surprisal_bits()


def acceptable_patches(num_tokens: int, step: int) -> int:
    """Tokens of a chunk that may be left wrong after so many steps."""
    share = max(share for since, share in PATIENCE if step >= since)
    return max(1, int(num_tokens * share))


def split(task: Task, *, independent: bool) -> Iterator[Task]:
    """Two tasks of about equal surprisal, each at least one token.

    independent: the second half becomes a segment of its own, where chunks see no left context.
    """
    segment = task.segment
    bits = segment.surprisal_bits[task.start : task.end]
    half, so_far, middle = sum(bits) / 2, 0.0, task.start + 1
    for offset, token_bits in enumerate(bits[:-1]):
        so_far += token_bits
        middle = task.start + offset + 1
        if so_far >= half:
            break
    yield Task(segment=segment, start=task.start, end=middle)
    if independent:
        segment = replace(
            segment,
            offset=segment.offset + middle,
            ids=segment.ids[middle:],
            surprisal_bits=segment.surprisal_bits[middle:],
        )
        yield Task(segment=segment, start=0, end=task.end - middle)
    else:
        yield Task(segment=segment, start=middle, end=task.end)


def as_stored(mem: Tensor) -> Tensor:
    """What the container gives back for these vectors: [.., K, D] fp32 holding bf16 values."""
    return mem.to(torch.bfloat16).float()


def embedding_rms(lm: FrozenLM) -> float:
    """Root mean square of the input embeddings, the scale that mem vectors are measured against."""
    ids = torch.arange(lm.vocab_size, device=lm.device)[:: max(1, lm.vocab_size // 1024)]
    return float(lm.embed(ids).float().square().mean().sqrt())
