"""The cram engine: many chunks under way at once, each until it is exact.

Owns the queue, which chunks share a batch, and when one has had enough steps. A finished chunk
leaves at once and the next takes its place; what becomes of it, `verdict` says. Knows nothing of
files.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from llmzip.codecs.context import Context
from llmzip.codecs.cram.checkpoint import (
    EngineState,
    OnSave,
    OnStep,
    OnTask,
    SlotView,
    UnderWay,
    num_right,
)
from llmzip.codecs.cram.decoding_time import decode_seconds, token_seconds
from llmzip.codecs.cram.presets import most_patched, stop_rule
from llmzip.codecs.cram.slots import Slot, start_slot
from llmzip.codecs.cram.step_graph import Batch, Batches
from llmzip.codecs.cram.tasks import Contexts, Crammed, EngineSettings, Task, step_tokens
from llmzip.codecs.cram.verdict import Judge
from llmzip.codecs.token_odds import TokenOdds
from llmzip.errors import Interrupted
from llmzip.lm.devices import (
    MemoryGauge,
    first_step_tokens,
    out_of_memory_error,
    steps_per_check,
    too_little_memory,
    trim_heap,
)
from llmzip.lm.graphs import uses_graphs
from llmzip.lm.model import FrozenLM

_HURRIED_STEP_TOKENS = 128
_MOST_IN_A_HURRY = 2  # times the share of tokens that may be patched: worth decoding
OPTIMISER_SLACK = 0.2  # logits by which the numerics of the optimiser may differ from the decoder's
_SETTLED_IN_PLACE = 8  # of so many rows, one may have settled
_SAVE_SECONDS = 20.0  # between two times that what is under way is saved, if no chunk is accepted


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What the engine calls while it works, and what may end it. on_save: called with chunks just
    accepted and what is under way then; now and then and when the run is cancelled, with no
    chunks."""

    on_step: OnStep = lambda now: None
    on_task: OnTask = lambda what, task, steps: None
    on_save: OnSave | None = None
    cancel: threading.Event | None = None
    deadline: float | None = None  # of `time.monotonic`


class Engine:
    """Crams chunks from a queue. `lm` optimises, `decode_lm` (the decoder's numerics, fp32)
    certifies; often they are one model."""

    def __init__(
        self,
        lm: FrozenLM,
        decode_lm: FrozenLM,
        settings: EngineSettings,
        *,
        token_odds: TokenOdds | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        """token_odds: of the model, where it codes patched tokens."""
        hooks = hooks or Hooks()
        self._lm, self._decode_lm, self._settings = lm, decode_lm, settings
        self._on_step, self._on_task, self._on_save = hooks.on_step, hooks.on_task, hooks.on_save
        self._context = Context(cancel=hooks.cancel)
        self._saved_at = time.monotonic()
        self._contexts = Contexts(lm)
        self._judge = Judge(
            decode_lm,
            self._contexts if decode_lm is lm else Contexts(decode_lm),
            settings,
            on_task=self._on_task,
            context=self._context,
            token_odds=token_odds,
        )
        self._held: Sequence[Crammed] = ()  # chunks that the allowance holds
        # What is accepted has to be read back by the deadline.
        self._token_seconds = 0.0 if settings.deadline is None else token_seconds(decode_lm)
        self._num_accepted = 0  # tokens
        self._segments: set[int] = set()  # of these
        self.chunk_steps = 0  # steps so far, of every chunk and all attempts
        self.token_steps = 0  # tokens computed in optimiser steps so far, of all attempts
        self._may_stop = stop_rule(
            step_price_bits=settings.step_price_bits,
            max_steps=settings.max_steps,
            patches=settings.patches,
            max_patches=settings.max_patches,
        )
        # The optimiser's own numerics are off by so much now and then.
        slack = OPTIMISER_SLACK if settings.signs is not None and decode_lm is not lm else 0.0
        self._wanted = settings.min_margin + slack
        self._batches = Batches(
            lm, self._contexts, min_margin=self._wanted, plan=settings.signs,
            may_stop=self._may_stop if settings.signs is None else None,
        )  # fmt: skip
        self._gauge = MemoryGauge(lm.device) if settings.batch_tokens is None else None
        self._batch_tokens = settings.batch_tokens or first_step_tokens(lm.device)
        if settings.deadline is not None and lm.device.type == "cpu":
            # Fewer chunks under way at a time: fewer that are not finished when time is up.
            self._batch_tokens = min(self._batch_tokens, _HURRIED_STEP_TOKENS)

    def run(self, tasks: Iterator[Task], state: EngineState | None = None) -> Iterator[Crammed]:
        """Cram every task, yielding chunks as they are accepted, in no fixed order.

        A task may come back as several chunks (split) or as a literal one; its tokens are always
        covered, unless the deadline passes first. state: of an earlier run on the same tasks, to go
        on from; it is used up.
        """
        state = state or EngineState()
        queue = islice(tasks, state.taken, None)
        exhausted = False
        while True:
            try:
                accepted = self._take_stock(state)
                is_late, is_idle = self._is_late(), not (state.slots or state.again)
                if is_late or (exhausted and is_idle):
                    accepted += self._settle(state, is_late=is_late)
                self._held = tuple(state.allowance.held)
                self._num_accepted += sum(chunk.task.num_tokens for chunk in accepted)
                self._segments |= {chunk.task.segment.index for chunk in accepted}
                if accepted or self._is_save_due():
                    self._save(accepted, state)
                yield from accepted
                is_idle = not (state.slots or state.again)
                if is_late or (exhausted and is_idle and not state.allowance.held):
                    return
                exhausted = self._fill(state, queue)
                if state.slots and not self._is_late():
                    self._advance(state)
                if self._is_late():  # what is nearly right may still do, with more patches
                    hurried = [slot for slot in state.slots if self._may_do(slot)]
                    state.slots = []
                    state.finished += hurried
            except Interrupted:
                self._save([], state)
                raise

    def _take_stock(self, state: EngineState) -> list[Crammed]:
        """Certify finished chunks."""
        outcomes = list(self._judge.outcomes(state.finished, state.allowance))
        state.again.extend(each for each in outcomes if not isinstance(each, Crammed))
        state.finished = []
        return [each for each in outcomes if isinstance(each, Crammed)]

    def _settle(self, state: EngineState, *, is_late: bool) -> list[Crammed]:
        """Of the chunks that are held, those that are accepted; the others are split. When time is
        up, all are accepted."""
        if is_late:
            return state.allowance.release()
        outcomes = list(self._judge.settle(state.allowance))
        state.again.extend(each for each in outcomes if isinstance(each, Task))
        return [each for each in outcomes if isinstance(each, Crammed)]

    def _save(self, accepted: Sequence[Crammed], state: EngineState) -> None:
        if self._on_save is not None:
            self._on_save(accepted, state)
        self._saved_at = time.monotonic()

    def _is_save_due(self) -> bool:
        return self._on_save is not None and time.monotonic() > self._saved_at + _SAVE_SECONDS

    def _fill(self, state: EngineState, queue: Iterator[Task]) -> bool:
        """Start tasks while there is room; says whether the queue is empty."""
        while not self._is_late():
            if not state.again:
                task = next(queue, None)
                if task is None:
                    return True
                state.again.append(task)
                state.taken += 1
            if state.slots and not self._fits(state.slots, state.again[0]):
                return False
            new = state.again.pop(0)
            state.slots.append(new if isinstance(new, Slot) else self._start(new))
        return False

    def _is_late(self) -> bool:
        """Whether the deadline is so near that what is crammed can just be read back."""
        deadline = self._settings.deadline
        if deadline is None:
            return False
        reading = decode_seconds(
            self._token_seconds, num_tokens=self._num_accepted, num_segments=len(self._segments)
        )
        return time.monotonic() + reading > deadline

    def _start(self, task: Task) -> Slot:
        if not task.steps_so_far:
            self._on_task("started", task, 0)
        return start_slot(
            self._lm, task, self._settings.num_mem, self._settings.seed,
            plan=self._settings.signs,
        )  # fmt: skip

    def _fits(self, slots: Sequence[Slot], new: Task | Slot) -> bool:
        together = [each.task if isinstance(each, Slot) else each for each in (new, *slots)]
        return step_tokens(together, self._settings.num_mem) <= self._batch_tokens

    def _advance(self, state: EngineState) -> None:
        """Step until some slot is settled, it is time to save, or time is up. For lack of memory,
        half of the slots are put off."""
        slots = state.slots
        error = out_of_memory_error(lambda: self._steps(slots), self._lm.device)
        trim_heap(self._lm.device)
        if error is not None:
            if len(slots) == 1:
                raise too_little_memory("one chunk", hint="or a smaller --budget-bits") from error
            self._gauge = None  # the device has said what fits
            self._batch_tokens //= 2
            kept = len(slots) // 2
            state.again.extend(slots[kept:])
            del slots[kept:]
        elif self._gauge is not None:
            self._batch_tokens = self._gauge.step_tokens(self._batch_tokens)
        settled = [slot for slot in slots if slot.is_settled]
        state.slots = [slot for slot in slots if not slot.is_settled]
        state.finished += settled

    def _steps(self, slots: Sequence[Slot]) -> None:
        rows = self._batches.of(slots)
        between_looks = steps_per_check(self._lm.device)
        # Those that are done stay for a while where a new batch costs more than their rows.
        most_settled = len(slots) // _SETTLED_IN_PLACE if uses_graphs(self._lm.device) else 0
        while True:
            num_tokens = rows.num_tokens
            for _ in range(between_looks):
                self._context.check()
                rows.advance()
            rows.look()
            self.chunk_steps += between_looks * len(slots)
            self.token_steps += between_looks * num_tokens
            self._on_step(self._under_way(slots, rows))
            num_settled = sum(slot.is_settled for slot in slots)
            if num_settled > most_settled or self._is_save_due() or self._is_late():
                return

    def _under_way(self, slots: Sequence[Slot], rows: Batch) -> UnderWay:
        """Right after a look."""
        plan = self._settings.signs
        # Some of those held are tried again.
        again = {slot.task.key for slot in slots}
        held = [chunk for chunk in self._held if chunk.task.key not in again]
        worth = float(sum(chunk.task.num_tokens for chunk in held))
        if plan is not None:
            steps = [slot.step - slot.task.steps_so_far for slot in slots]
            shares = [min(1.0, each / plan.total_steps) for each in steps]
            worth += sum(s.task.num_tokens * each for s, each in zip(slots, shares, strict=True))
        right = sum(chunk.task.num_tokens - len(chunk.patches) for chunk in held)
        return UnderWay(
            num_right=right + sum(num_right(slot) for slot in slots),
            tokens_worth=worth,
            # Of the oldest chunk.
            view=lambda: SlotView(slot=slots[0], margins=rows.margins(0), wanted=self._wanted),
        )

    def _may_do(self, slot: Slot) -> bool:
        """Whether a chunk that has not settled has few enough wrong tokens to be worth a trial."""
        if slot.signs is not None:
            most = _MOST_IN_A_HURRY * self._settings.max_patches * slot.task.num_tokens
            return int(slot.signs.best_wrong) <= most
        most = most_patched(slot.task.num_tokens, self._settings.max_patches)
        return 0 <= slot.num_wrong <= most
