"""What becomes of chunks that have had their steps: they are accepted, cut short, made longer, sent
back, split or stored token by token.

Owns these decisions. Nothing is accepted before `greedy.decode_chunks` reproduced it from the
vectors as they will be stored. Knows nothing of batches or files.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from llmzip.codecs.context import Context
from llmzip.codecs.cram.checkpoint import OnTask
from llmzip.codecs.cram.greedy import decode_chunks
from llmzip.codecs.cram.presets import most_patched
from llmzip.codecs.cram.rounding import GridPlan
from llmzip.codecs.cram.sequences import Ledger, next_of_sequence, shorter
from llmzip.codecs.cram.signs import SignPlan
from llmzip.codecs.cram.slots import Decoded, Slot, as_stored
from llmzip.codecs.cram.tasks import Contexts, Crammed, EngineSettings, Task, split
from llmzip.lm.layout import mem_and_chunk, pad_ids, predicting_rows
from llmzip.lm.model import FrozenLM

LITERAL_TOKENS = 8  # a stubborn chunk this short is stored token by token


class Judge:
    """Decodes finished chunks with `lm`, whose numerics are the decoder's."""

    def __init__(
        self,
        lm: FrozenLM,
        contexts: Contexts,
        settings: EngineSettings,
        *,
        on_task: OnTask,
        context: Context,
    ) -> None:
        self._lm, self._contexts, self._settings = lm, contexts, settings
        self._on_task, self._context = on_task, context

    def decide(
        self, slots: Sequence[Slot], ledger: Ledger, *, is_last_try: bool = False
    ) -> tuple[list[Slot], list[Task | Slot]]:
        """Chunks of signs that have settled: those to be decoded, cut where they end, and what goes
        on: the next chunks of their sequences, and chunks with more steps or of another length."""
        ready: list[Slot] = []
        onward: list[Task | Slot] = []
        grown = [None if is_last_try else self._grown(slot, ledger) for slot in slots]
        onward.extend(slot for slot in grown if slot is not None)
        slots = [slot for slot, more in zip(slots, grown, strict=True) if more is None]
        found = self._weak_at_once(slots) if slots else []
        # Those with the fewest wrong tokens first: what they leave, others may need.
        order = sorted(
            range(len(slots)), key=lambda row: len(found[row]) / slots[row].task.num_tokens
        )
        for row in order:
            held, others = self._held(slots[row], found[row], ledger, is_last_try=is_last_try)
            ready.extend(held)
            onward.extend(others)
        return ready, onward

    @torch.no_grad()
    def outcomes(self, slots: Sequence[Slot], ledger: Ledger) -> Iterator[Crammed | Task | Slot]:
        """Decode finished chunks as the decompressor will. Wrong and unsafe tokens become
        patches."""
        stored = [as_stored(slot.mem) for slot in slots]
        guard = self._settings.min_margin
        decoded, _ = decode_chunks(
            self._lm, self._contexts.before([slot.task for slot in slots]),
            [[] for _ in slots], torch.stack(stored),
            [(slot.task.num_tokens, dict(enumerate(slot.task.ids))) for slot in slots],
            rank_below=None if self._settings.grid is None else guard, context=self._context,
        )  # fmt: skip
        for row, slot in enumerate(slots):
            margins = decoded.margins[row, : slot.task.num_tokens].tolist()
            found = Decoded(
                mem=stored[row], margins=margins, weak=self._weak(margins),
                ranked=decoded.ranked[row],
            )  # fmt: skip
            judge = self._verdict if slot.signs is None else self._verdict_of_signs
            yield from judge(slot, found, ledger)

    def next(self, task: Task, start: int, ledger: Ledger) -> Task | None:
        """The chunk of the task's sequence that begins at a token; None: there is none."""
        if self._settings.sequences is None or task.sequence_end is None:
            return None
        return next_of_sequence(task, start, self._settings.sequences, ledger)

    def _weak(self, margins: Sequence[float]) -> list[int]:
        """Positions of the tokens that are not safe."""
        wanted = self._settings.min_margin
        return [position for position, margin in enumerate(margins) if not margin >= wanted]

    @torch.no_grad()
    def _weak_at_once(self, slots: Sequence[Slot]) -> list[list[int]]:
        """Positions of the tokens that are not safe, where each chunk is read at once: nearly what
        decoding token by token gives, in a fraction of its time."""
        ids, live = pad_ids([slot.task.ids for slot in slots], self._lm.device)
        mem = torch.stack([as_stored(slot.mem) for slot in slots]).to(self._lm.dtype)
        embeds, new = mem_and_chunk(mem, self._lm.embed(ids), live)
        state = self._contexts.before([slot.task for slot in slots])
        hidden, _ = self._lm.extend(state, embeds, new)
        rows = predicting_rows(hidden, mem.shape[1])
        read = self._lm.predict(rows[live], ids[live], margin_goal=-torch.inf)
        sizes = [slot.task.num_tokens for slot in slots]
        return [self._weak(part.tolist()) for part in read.margins.cpu().split(sizes)]

    def _held(
        self, slot: Slot, weak: Sequence[int], ledger: Ledger, *, is_last_try: bool
    ) -> tuple[list[Slot], list[Task | Slot]]:
        """As `decide`, for one chunk. weak: positions of its wrong tokens."""
        task, plan, share = slot.task, self._settings.grid, self._settings.max_patches
        assert slot.signs is not None and isinstance(plan, SignPlan)
        is_last_try |= slot.step >= plan.last_step
        if int(slot.signs.due) == plan.total_steps:  # the first try
            ledger.follow(len(weak), task.num_tokens, share)
        if task.sequence_end is None:
            held = task.num_tokens * ledger.holds_all(len(weak), task.num_tokens, share)
        else:
            held = ledger.num_held(weak, task.num_tokens, share, is_last_try=is_last_try)
        if not held and not is_last_try:
            self._on_task("refused", task, slot.step)
            slot.signs.refuse(len(weak), plan)
            return [], [self._resized(slot, shorter(task))]
        if not held and task.num_tokens > LITERAL_TOKENS:
            self._on_task("split", task, slot.step)
            return [], list(split(task, context_tokens=self._settings.context_tokens))
        slot.num_booked = bisect_left(weak, held) if held else task.num_tokens
        if held:
            ledger.accept(slot.num_booked, held, share)
        end = task.start + (held or task.num_tokens)
        slot.task = replace(task, end=end, sequence_end=None)
        following = self.next(task, end, ledger)
        return [slot], [] if following is None else [following]

    def _verdict_of_signs(
        self, slot: Slot, found: Decoded, ledger: Ledger
    ) -> Iterator[Crammed | Task | Slot]:
        """Of a chunk that `decide` has found to be good."""
        task, plan, num_tokens = slot.task, self._settings.grid, slot.task.num_tokens
        assert slot.signs is not None and isinstance(plan, SignPlan)
        share, num_weak = self._settings.max_patches, len(found.weak)
        if slot.num_booked == num_tokens:
            yield self._literal(slot)
            return
        ledger.take_back(slot.num_booked, num_tokens, share)
        if num_weak <= slot.num_booked or ledger.holds_all(num_weak, num_tokens, share):
            ledger.accept(num_weak, num_tokens, share)
            yield found.crammed(slot)
        elif slot.step < plan.last_step:  # read at once, it was a little better
            self._on_task("refused", task, slot.step)
            slot.signs.refuse(num_weak, plan)
            yield self._resized(slot, task)
        else:
            yield from self._given_up(slot)

    def _verdict(
        self, slot: Slot, found: Decoded, ledger: Ledger
    ) -> Iterator[Crammed | Task | Slot]:
        task, grid = slot.task, self._settings.grid
        last_step = self._settings.max_steps if grid is None else grid.last_step
        if len(found.weak) <= most_patched(task.num_tokens, self._settings.max_patches):
            yield found.crammed(slot)
        elif slot.step < last_step:
            self._on_task("refused", task, slot.step)
            yield self._once_more(slot)
        else:
            yield from self._given_up(slot)

    def _given_up(self, slot: Slot) -> Iterator[Crammed | Task]:
        """A chunk that has had all of its steps and does not fit."""
        if slot.task.num_tokens > LITERAL_TOKENS:
            self._on_task("split", slot.task, slot.step)
            yield from split(slot.task, context_tokens=self._settings.context_tokens)
        else:
            yield self._literal(slot)

    def _literal(self, slot: Slot) -> Crammed:
        """Every token of a chunk by itself, without vectors."""
        patches = tuple(enumerate(slot.task.ids))
        return Crammed(task=slot.task, mem=None, patches=patches, min_margin=None, steps=slot.step)

    def _grown(self, slot: Slot, ledger: Ledger) -> Slot | None:
        """A chunk that is right long before it is due, with more tokens; None: it is done."""
        plan = self._settings.grid
        rule = self._settings.sequences
        if slot.signs is None or not isinstance(plan, SignPlan) or rule is None:
            return None
        left = (int(slot.signs.due) - slot.step) / plan.total_steps
        task = ledger.longer(slot.task, left, max_tokens=rule.cut.max_chunk_tokens)
        return None if task is None else self._resized(slot, task)

    def _resized(self, slot: Slot, task: Task) -> Slot:
        """The slot with other tokens of its sequence, under way again."""
        if task.end != slot.task.end:
            assert slot.signs is not None
            slot.task = task
            slot.signs.restart(most_patched(task.num_tokens, self._settings.max_patches))
        slot.is_settled = False
        return slot

    def _once_more(self, slot: Slot) -> Task | Slot:
        """What a chunk does next that the decoder has refused."""
        task, grid = slot.task, self._settings.grid
        if not isinstance(grid, GridPlan) or slot.rounding is None:
            return replace(task, warm_mem=slot.mem, steps_so_far=slot.step)
        slot.rounding.refuse(slot.step, grid)
        slot.mem, slot.curvature = slot.rounding.starting_point()
        slot.is_settled = False
        return slot
