"""The cram engine: many chunks under way at once, each until it is exact.

Owns the queue and the decisions: which chunks share a batch, when one has had enough steps, what
is accepted, split or stored token by token. A finished chunk leaves at once and the next takes
its place. Nothing is accepted before `decode.decode_chunks` reproduced it from the vectors as
they will be stored. Knows nothing of files. Called by `encoding`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmzip.cram.contexts import Contexts
from llmzip.cram.decode import decode_chunks
from llmzip.cram.optimizer import Rows, Slot, as_stored, start_slot
from llmzip.cram.tasks import Crammed, Task, split
from llmzip.lm.model import FrozenLM
from llmzip.lm.state import stack_states
from llmzip.progress import check_cancelled

MIN_MARGIN = 0.05  # logits; certified in fp32, whose noise between kernels and batch shapes is 1e-4
PATCHES_PER_TOKEN = 1 / 8  # never more patches than this share of a chunk's tokens
# Wrong tokens that are patched rather than waited for: few at first, more as steps go by. A patch
# costs about 3 bytes, and the last one or two tokens of a chunk can take hundreds of steps.
PATIENCE = ((0, 1 / 32), (40, 1 / 16), (60, PATCHES_PER_TOKEN))  # (from step, share of tokens)
LITERAL_TOKENS = 8  # a stubborn chunk this short is stored token by token
CERTIFY_ROWS = 8  # chunks certified together: one costs nearly what eight cost


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How the engine spends its time. Nothing here changes what is exact."""

    num_mem: int
    max_steps: int
    seed: int
    context_tokens: int  # left context that no chunk exceeds, not even the second half of one
    batch_tokens: int  # rows x (K + L) of one step; bounds memory


class Engine:
    """Crams chunks from a queue.

    `lm` optimises, `judge` (the decoder's numerics, fp32) certifies; often they are one model.
    """

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
        self._num_right_waiting = 0  # tokens of chunks that wait for certification

    def run(self, tasks: Iterator[Task]) -> Iterator[Crammed]:
        """Cram every task, yielding chunks as they are accepted, in no fixed order.

        A task may come back as several chunks (split) or as a literal one; its tokens are always
        covered.
        """
        again: deque[Task] = deque()  # split or sent back, served before new tasks
        slots: list[Slot] = []
        finished: list[Slot] = []
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
                slots.append(
                    start_slot(self._lm, task, self._settings.num_mem, self._settings.seed)
                )
            if slots:
                for slot in self._steps(slots):
                    slots.remove(slot)
                    finished.append(slot)
            self._num_right_waiting = sum(slot.num_right for slot in finished)
            if len(finished) >= CERTIFY_ROWS or (finished and not slots):
                for outcome in self._certify(finished):
                    if isinstance(outcome, Crammed):
                        yield outcome
                    else:
                        again.append(outcome)
                finished = []
                self._num_right_waiting = 0
            if not slots and not again and exhausted:
                return

    def _fits(self, slots: Sequence[Slot], task: Task) -> bool:
        longest = max(task.num_tokens, *(slot.task.num_tokens for slot in slots))
        rows = len(slots) + 1
        return rows * (self._settings.num_mem + longest) <= self._settings.batch_tokens

    def _steps(self, slots: list[Slot]) -> list[Slot]:
        """Measure, decide, step, until at least one slot is done; returns the done ones."""
        rows = Rows(self._lm, self._contexts, slots)
        # bf16 is too coarse to measure small margins in; fp32 margins move by 1e-4 when decoded.
        safe = 2 * MIN_MARGIN if self._lm.dtype == torch.float32 else 0.5
        while True:
            check_cancelled(self._cancel)
            done = []
            for slot, num_right in zip(slots, rows.measure(safe), strict=True):
                slot.num_right = num_right
                if self._is_done(slot, slot.task.num_tokens - num_right):
                    done.append(slot)
            self._on_step(self._num_right_waiting + sum(slot.num_right for slot in slots))
            if done:
                return done  # the vectors that leave are the ones measured
            rows.step()

    def _is_done(self, slot: Slot, num_wrong: int) -> bool:
        tokens = slot.task.num_tokens
        if num_wrong <= min(tokens - 1, acceptable_patches(tokens, slot.step)):
            # Sent back once already: a few steps on before it is tried again.
            return slot.step >= slot.task.steps_so_far + (
                4 if slot.task.warm_mem is not None else 0
            )
        return slot.step >= self._settings.max_steps

    @torch.no_grad()
    def _certify(self, slots: Sequence[Slot]) -> Iterator[Crammed | Task]:
        """Decode finished chunks as the decompressor will.

        Wrong and unsafe tokens become patches.
        """
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
        self, slot: Slot, stored: Tensor, margins: list[float]
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
            yield from split(task, context_tokens=self._settings.context_tokens)


def acceptable_patches(num_tokens: int, step: int) -> int:
    """Tokens of a chunk that may be left wrong after so many steps."""
    share = max(share for since, share in PATIENCE if step >= since)
    return max(1, int(num_tokens * share))
