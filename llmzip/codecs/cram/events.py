"""Progress events of cramming.

Owns how what happens to chunks becomes events. Knows nothing of where chunks are crammed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from llmzip.codecs.context import Context
from llmzip.codecs.cram.checkpoint import SlotView, UnderWay
from llmzip.codecs.cram.payload import stored_bytes
from llmzip.codecs.cram.plan import Plan
from llmzip.codecs.cram.tasks import Crammed, Task
from llmzip.lm.tokens import Tokens
from llmzip.progress import ChunkEvent, ChunkMode, ChunkView, Progress


class CramEvents:
    """How far the chunks of a plan are."""

    def __init__(self, plan: Plan, tokens: Tokens, context: Context) -> None:
        self._tokens, self._context = tokens, context
        self._finished_tokens = self._right_tokens = 0
        self._has_stepped = False
        self._progress = Progress(
            stage="cram",
            chunks_total=sum(len(segment.spans) for segment in plan.segments),
            tokens_total=sum(len(segment.ids) for segment in plan.segments),
            bytes_total=sum(len(part.data) for part, found in plan.parts if found),
        )

    def resume(self, kept: Sequence[Crammed]) -> None:
        """Chunks that an earlier run has finished."""
        for chunk in kept:
            self._count(chunk)
        if kept:
            done = self._progress
            self._progress = replace(done, bytes_kept=done.bytes_done)
            self.say(f"resumed: {len(kept)} of {done.chunks_total} chunks were finished before")

    def say(self, message: str) -> None:
        """Words for people."""
        self._report(message=message)

    def step(self, now: UnderWay) -> None:
        """The optimiser has moved."""
        self._right_tokens = self._finished_tokens + now.num_right
        done = self._finished_tokens + now.tokens_worth
        work = min(1.0, done / max(1, self._progress.tokens_total))
        if not self._has_stepped:  # all until now was done by an earlier run
            self._has_stepped = True
            self._progress = replace(self._progress, work_kept=work)
        self._progress = replace(self._progress, work_done=work)
        self._report(view=lambda: self._view(now.view()))

    def task(self, what: Literal["started", "refused", "split"], task: Task, steps: int) -> None:
        """Something has happened to a chunk that is not finished."""
        place, size = task.place, task.num_tokens
        self._report(chunk=ChunkEvent(what=what, first_token=place, num_tokens=size, steps=steps))

    def accept(self, chunk: Crammed) -> None:
        """A chunk is finished."""
        stored = self._count(chunk)
        mode: ChunkMode = "patched" if chunk.patches else "crammed"
        event = ChunkEvent(
            what="accepted",
            first_token=chunk.task.place,
            num_tokens=chunk.task.num_tokens,
            steps=chunk.steps,
            mode="literal" if chunk.mem is None else mode,
            num_patches=len(chunk.patches),
            stored_bytes=stored,
            min_margin=chunk.min_margin,
        )
        self._report(chunk=event)

    def _report(self, **news: Any) -> None:
        right = max(self._right_tokens, self._finished_tokens)
        self._context.report(replace(self._progress, tokens_right=right, **news))

    def _count(self, chunk: Crammed) -> int:
        """Take note of a finished chunk. Returns the bytes that it will take."""
        before, stored = self._progress, stored_bytes(chunk)
        self._finished_tokens += chunk.task.num_tokens
        self._progress = replace(
            before,
            chunks_done=before.chunks_done + 1,
            chunks_total=max(before.chunks_total, before.chunks_done + 1),
            bytes_done=before.bytes_done + len(self._tokens.bytes_of(chunk.task.ids)),
            output_bytes=before.output_bytes + stored,
            min_margin=min(filter(None, (before.min_margin, chunk.min_margin)), default=None),
        )
        return stored

    def _view(self, found: SlotView) -> ChunkView:
        slot = found.slot
        return ChunkView(
            first_token=slot.task.place,
            step=slot.step,
            pieces=tuple(self._tokens.bytes_of([token]) for token in slot.task.ids),
            margins=tuple(found.margins.tolist()),
            wanted=found.wanted,
            sees_signs=slot.grid_steps is not None,
        )
