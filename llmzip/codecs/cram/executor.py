"""Who crams a file's chunks: this process, or workers elsewhere, to the same bits.

Owns the interface behind which both stand, and what workers are given and give back. Knows nothing
of how they are reached.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from llmzip.codecs.base import DecodingModel, Request
from llmzip.codecs.context import Context, Workers
from llmzip.codecs.cram.checkpoint import (
    EngineState,
    pack_crammed,
    pack_state,
    unpack_crammed,
    unpack_segments,
)
from llmzip.codecs.cram.chunking import Segment
from llmzip.codecs.cram.decoder import decode_chunks_of
from llmzip.codecs.cram.engine import Hooks
from llmzip.codecs.cram.events import CramEvents
from llmzip.codecs.cram.groups import DECODING, Group, cram_seconds, make_engine, wanted_margin
from llmzip.codecs.cram.plan import Blocks, BlocksRead, Cut, Plan
from llmzip.codecs.cram.presets import signs_of
from llmzip.codecs.cram.tasks import Crammed
from llmzip.config import CompressSettings
from llmzip.lm.devices import Numerics, trim_heap
from llmzip.lm.loaded import LoadedModel
from llmzip.lm.zoo import DEFAULT_MODEL, MODELS, ModelFiles
from llmzip.progress import Forecast, Progress
from llmzip.store.cram_payload import CramPayload

KEPT = "chunks"  # in the journal
_PLANNING_SHARE = 0.1  # of a time budget: reading takes a twentieth of the time of cramming
_SEGMENTS_A_JOB = 8  # decoded together, where workers do it


class Executor(Protocol):
    """Does the three parts of cramming that take long."""

    def read(self, cut: Cut, blocks: Blocks) -> BlocksRead:
        """The number of each block of tokens and its segments, as they are read."""

    def cram(
        self, plan: Plan, groups: Sequence[Group], state: EngineState | None, events: CramEvents
    ) -> Iterator[Crammed]:
        """The finished chunks of groups, which are kept in the journal. state: what an earlier run
        had under way of one of them."""

    def decode(self, packed: bytes, payload: CramPayload) -> list[bytes | None]:
        """The texts of the chunks of a finished file; None for one whose check fails."""


@dataclass(frozen=True, kw_only=True)
class LocalExecutor:
    """This process."""

    loaded: LoadedModel
    settings: CompressSettings
    context: Context
    _stepped: list[float] = field(default_factory=list)  # when shared vectors made their steps

    def read(self, cut: Cut, blocks: Blocks) -> BlocksRead:
        """As `Executor.read`; of as many blocks as a tenth of the time budget leaves room for.
        Where vectors are found first, which takes long, their steps tell how long all will take."""
        budget = self.settings.time_budget_s
        late = float("inf") if budget is None else time.monotonic() + _PLANNING_SHARE * budget
        for number, ids in enumerate(blocks):
            found: list[Segment] = []
            on_step = partial(self._on_step, number, blocks)
            for segment in cut(self.loaded.lm, ids, on_step):
                self.context.check()
                found.append(segment)
                if time.monotonic() >= late:
                    break
            yield number, found
            if time.monotonic() >= late:
                return

    def _on_step(self, block: int, blocks: Blocks, done: int, total: int) -> None:
        """Tell how far shared vectors are. Raises Interrupted."""
        self.context.check()
        steps, all_steps = block * total + done, len(blocks) * total
        self.context.report(Progress(stage="share", tokens_right=steps, tokens_total=all_steps))
        self._stepped.append(time.monotonic())
        if len(self._stepped) == 2:  # the first step prepares the others
            settings = self.settings
            signs = signs_of(settings.preset, settings.bits, settings.max_steps)
            assert signs is not None, "vectors of 16 bits share none"
            a_token = (self._stepped[1] - self._stepped[0]) / len(blocks[block])
            tokens = sum(map(len, blocks))
            seconds = DECODING * a_token * tokens * (total + signs.total_steps)
            self.context.forecast(Forecast(seconds=seconds))

    def cram(
        self, plan: Plan, groups: Sequence[Group], state: EngineState | None, events: CramEvents
    ) -> Iterator[Crammed]:
        """As `Executor.cram`. What is under way is kept, too."""
        journal = self.context.journal
        is_told = len(self._stepped) >= 2
        if self.context.on_forecast is not None and groups and not is_told:
            seconds = cram_seconds(groups, self.loaded, self.settings)
            self.context.forecast(Forecast(seconds=seconds))

        def save(accepted: Sequence[Crammed], now: EngineState) -> None:
            if journal is not None:
                journal.keep(KEPT, pack_crammed(accepted) if accepted else b"", pack_state(now))

        hooks = Hooks(
            on_step=events.step,
            on_task=events.task,
            on_save=save if journal else None,
            cancel=self.context.cancel,
            deadline=self.context.deadline,
        )
        engine = make_engine(plan, self.loaded, self.settings, hooks=hooks)
        begun = {} if state is None else {state.group: state}
        for group in groups:
            now = begun.get(group.index, EngineState(group=group.index))
            for chunk in engine.run(group.tasks, now):
                events.accept(chunk)
                yield chunk

    def decode(self, packed: bytes, payload: CramPayload) -> list[bytes | None]:
        """As `Executor.decode`."""
        trim_heap(self.loaded.decode_lm.device)
        model = DecodingModel.of(self.loaded)
        wanted, batch = range(len(payload.chunks)), self.settings.compute.batch
        request = Request(wanted=wanted, batch=batch, stage="verify")
        return decode_chunks_of(payload, model, request, self.context)


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What all jobs of a file have in common, so that any worker crams a group to the same bits."""

    model: str  # what names it on another machine that shares this one's files, or the hub
    files: ModelFiles
    numerics: Numerics  # of the optimiser, see `lm.loaded.optimiser_numerics`
    min_margin: float  # logits
    settings: CompressSettings


@dataclass(frozen=True, kw_only=True)
class Job:
    """A group to be crammed. state: what an earlier run had under way of it, else empty."""

    group: Group
    state: bytes = b""


@dataclass(frozen=True, kw_only=True)
class RemoteExecutor:
    """Workers elsewhere."""

    workers: Workers
    shared: WorkerSettings
    context: Context

    def read(self, cut: Cut, blocks: Blocks) -> BlocksRead:
        """As `Executor.read`."""
        progress = Progress(stage="measure", tokens_total=sum(map(len, blocks)))
        read = self._run("read", blocks, lambda words: self.context.say(words, progress), cut)
        for number, packed in read:
            (found,) = unpack_segments(packed, [blocks[number]])
            progress = replace(progress, tokens_right=progress.tokens_right + len(blocks[number]))
            self.context.report(progress)
            yield number, found

    def cram(
        self, plan: Plan, groups: Sequence[Group], state: EngineState | None, events: CramEvents
    ) -> Iterator[Crammed]:
        """As `Executor.cram`. What is under way is lost where the run ends early."""
        journal, by_index = self.context.journal, plan.by_index
        begun = {} if state is None else {state.group: pack_state(state)}
        jobs = [Job(group=group, state=begun.get(group.index, b"")) for group in groups]
        for _, data in self._run("cram", jobs, events.say):
            if journal is not None:
                journal.keep(KEPT, data)
            for chunk in unpack_crammed(data, by_index):
                events.accept(chunk)
                yield chunk

    def decode(self, packed: bytes, payload: CramPayload) -> list[bytes | None]:
        """As `Executor.decode`."""
        chunks, segments = payload.chunks, payload.segment_ranges
        wanted = [
            range(segment.start, segments[index : index + _SEGMENTS_A_JOB][-1].stop)
            for index, segment in list(enumerate(segments))[::_SEGMENTS_A_JOB]
        ]
        total = sum(chunk.num_bytes for chunk in chunks)
        progress = Progress(stage="verify", chunks_total=len(chunks), bytes_total=total)
        texts: list[bytes | None] = [None] * len(chunks)
        self.context.report(progress)
        say = self.context.say
        decoded = self._run("decode", wanted, lambda words: say(words, progress), packed)
        for number, found in decoded:
            where = wanted[number]
            texts[where.start : where.stop] = found
            progress = replace(
                progress,
                chunks_done=progress.chunks_done + len(where),
                bytes_done=progress.bytes_done + sum(chunks[index].num_bytes for index in where),
            )
            self.context.report(progress)
        return texts

    def _run(
        self, name: str, tasks: Sequence[Any], say: Callable[[str], None], *common: Any
    ) -> Iterator[tuple[int, Any]]:
        cancel = self.context.cancel
        return self.workers.run(self.shared, name, tasks, common=common, say=say, cancel=cancel)


def executor_of(loaded: LoadedModel, settings: CompressSettings, context: Context) -> Executor:
    """The workers of a run, or this process where it has none."""
    if context.workers is None:
        return LocalExecutor(loaded=loaded, settings=settings, context=context)
    model = settings.model or DEFAULT_MODEL
    if model not in MODELS and Path(model).is_dir():
        model = str(Path(model).resolve())
    shared = WorkerSettings(
        model=model,
        files=loaded.files,
        numerics=loaded.numerics,
        min_margin=wanted_margin(loaded, settings),
        settings=settings,
    )
    return RemoteExecutor(workers=context.workers, shared=shared, context=context)
