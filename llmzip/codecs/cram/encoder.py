"""Tokens and a model -> a container, and how it is decoded again.

Owns the steps of compressing a text: cram the groups of a plan, assemble the container. Knows
nothing of how models are found or chunks are cut.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from llmzip.codecs.cram.checkpoint import (
    pack_crammed,
    pack_state,
    unpack_crammed,
    unpack_segments,
    unpack_state,
)
from llmzip.codecs.cram.chunking import Segment
from llmzip.codecs.cram.decoder import decode_chunks_of
from llmzip.codecs.cram.events import CramEvents
from llmzip.codecs.cram.executor import Executor, Hands, Job, WorkerSettings
from llmzip.codecs.cram.groups import Group, groups_of, make_engine, unfinished, wanted_margin
from llmzip.codecs.cram.payload import assemble
from llmzip.codecs.cram.plan import Cut, Part, Plan, plan_parts
from llmzip.codecs.cram.state import EngineState
from llmzip.codecs.cram.tasks import Crammed
from llmzip.codecs.cram.timing import cram_seconds
from llmzip.codecs.cram.worth import is_worth_cramming, smaller_draft
from llmzip.config import CompressSettings
from llmzip.lm.devices import trim_heap
from llmzip.lm.loaded import LoadedModel
from llmzip.lm.zoo import DEFAULT_MODEL, MODELS
from llmzip.progress import Forecast, OnForecast, OnProgress, Progress
from llmzip.store.container import Container, StoredRun
from llmzip.store.journal import Journal
from llmzip.store.pieces import Texts, segments_of
from llmzip.store.stored import Draft, stored_draft

_KEPT = "chunks"  # in the journal
_SEGMENTS_A_JOB = 8  # decoded together, where others do it


def cram_parts(
    data: bytes,
    parts: Sequence[Part],
    loaded: LoadedModel,
    settings: CompressSettings,
    *,
    deadline: float | None = None,
    journal: Journal | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress,
    on_forecast: OnForecast | None = None,
    cancel: threading.Event | None,
) -> Draft:
    """The container of `data`, whose parts are `parts`; of all of it stored, where the vectors that
    nobody chose would take more than the text (`llmzip.codecs.cram.worth`).

    deadline: of `time.monotonic`; what is not crammed by then is stored. journal: where finished
    chunks are kept, and those of an earlier run are found. executor: crams and decodes instead of
    this process.
    """
    hands = (
        None
        if executor is None
        else Hands(executor=executor, shared=_worker_settings(loaded, settings))
    )
    read = None if hands is None else partial(_read_elsewhere, hands, on_progress, cancel)
    plan = plan_parts(
        parts, loaded, settings, journal=journal, read=read, on_progress=on_progress, cancel=cancel
    )
    if not is_worth_cramming(data, plan, settings, mem_dim=loaded.decode_lm.dim):
        return stored_draft(data)
    crammed = list(
        cram_plan(
            plan, loaded, settings, deadline=deadline, journal=journal, hands=hands,
            on_progress=on_progress, on_forecast=on_forecast, cancel=cancel,
        )
    )  # fmt: skip
    container = assemble(data, plan, crammed, loaded, settings)
    stored = sum(len(run.data) for run in container.runs if isinstance(run, StoredRun))
    unwanted = stored - sum(len(part.data) for part in parts if part.ids is None)
    if unwanted:
        say = f"time budget: {unwanted:,} of {len(data):,} bytes are stored, not crammed"
        on_progress(Progress(stage="cram", message=say))

    def decode(packed: bytes, found: Container) -> Texts:
        if not found.needs_model:  # nothing was crammed in time
            return []
        trim_heap(loaded.decode_lm.device)
        return _decoded(packed, found, loaded, settings, hands, on_progress, cancel)

    return smaller_draft(Draft(container=container, decode=decode), data, settings)


def _read_elsewhere(
    hands: Hands,
    on_progress: OnProgress,
    cancel: threading.Event | None,
    cut: Cut,
    blocks: Sequence[tuple[int, ...]],
) -> Iterator[tuple[int, Sequence[Segment]]]:
    """The segments of each block of tokens, as an executor gives them."""
    progress = Progress(stage="measure", tokens_total=sum(map(len, blocks)))

    def say(message: str) -> None:
        on_progress(replace(progress, message=message))

    for number, packed in hands.executor.read(hands.shared, cut, blocks, say=say, cancel=cancel):
        (found,) = unpack_segments(packed, [blocks[number]])
        progress = replace(progress, tokens_right=progress.tokens_right + len(blocks[number]))
        on_progress(progress)
        yield number, found


def _decoded(
    packed: bytes,
    container: Container,
    loaded: LoadedModel,
    settings: CompressSettings,
    hands: Hands | None,
    on_progress: OnProgress,
    cancel: threading.Event | None,
) -> list[bytes | None]:
    """The texts of a container's chunks."""
    if hands is None:
        return decode_chunks_of(
            container, loaded.decode_lm, loaded.tokens,
            batch=settings.compute.batch, stage="verify", on_progress=on_progress, cancel=cancel,
        )  # fmt: skip
    chunks = container.chunks
    segments = segments_of(chunks)
    wanted = [
        range(segment.start, segments[index : index + _SEGMENTS_A_JOB][-1].stop)
        for index, segment in list(enumerate(segments))[::_SEGMENTS_A_JOB]
    ]
    progress = Progress(stage="verify", chunks_total=len(chunks), bytes_total=sum(
        chunk.num_bytes for chunk in chunks
    ))  # fmt: skip
    texts: list[bytes | None] = [None] * len(chunks)

    def say(message: str) -> None:
        on_progress(replace(progress, message=message))

    on_progress(progress)
    for where, found in hands.executor.decode(hands.shared, packed, wanted, say=say, cancel=cancel):
        texts[where.start : where.stop] = found
        progress = replace(
            progress,
            chunks_done=progress.chunks_done + len(where),
            bytes_done=progress.bytes_done + sum(chunks[index].num_bytes for index in where),
        )
        on_progress(progress)
    return texts


def _worker_settings(loaded: LoadedModel, settings: CompressSettings) -> WorkerSettings:
    model = settings.model or DEFAULT_MODEL
    if model not in MODELS and Path(model).is_dir():
        model = str(Path(model).resolve())
    return WorkerSettings(
        model=model,
        files=loaded.files,
        numerics=loaded.numerics,
        min_margin=wanted_margin(loaded, settings),
        settings=settings,
    )


def cram_plan(
    plan: Plan,
    loaded: LoadedModel,
    settings: CompressSettings,
    *,
    deadline: float | None = None,
    journal: Journal | None = None,
    hands: Hands | None = None,
    on_progress: OnProgress = lambda event: None,
    on_forecast: OnForecast | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[Crammed]:
    """Finished chunks, in no fixed order; first those that the journal has."""
    events, by_index = CramEvents(plan, loaded.tokens, on_progress), plan.by_index
    kept, state = _work_so_far(by_index, loaded, journal)
    events.resume(kept)
    yield from kept
    groups = unfinished(groups_of(plan, loaded.lm.device.type), kept)
    if hands is not None:
        jobs = _jobs(groups, state)
        for data in hands.executor.cram(hands.shared, jobs, say=events.say, cancel=cancel):
            if journal is not None:
                journal.keep(_KEPT, data)
            for chunk in unpack_crammed(data, by_index):
                events.accept(chunk)
                yield chunk
        return
    if on_forecast is not None and groups:
        on_forecast(Forecast(seconds=cram_seconds(groups, loaded, settings)))

    def save(accepted: Sequence[Crammed], state: EngineState) -> None:
        if journal is not None:
            journal.keep(_KEPT, pack_crammed(accepted) if accepted else b"", pack_state(state))

    engine = make_engine(
        plan, loaded, settings, deadline=deadline, on_step=events.step, on_task=events.task,
        on_save=save if journal else None, cancel=cancel,
    )  # fmt: skip
    for group in groups:
        is_begun = state is not None and state.group == group.index
        for chunk in engine.run(group.tasks, state if is_begun else EngineState(group=group.index)):
            events.accept(chunk)
            yield chunk


def _jobs(groups: Sequence[Group], state: EngineState | None) -> list[Job]:
    """The group that was under way is gone on with; nobody's state is that of another one."""
    return [
        Job(group=group, state=pack_state(state))
        if state is not None and state.group == group.index
        else Job(group=group)
        for group in groups
    ]


def _work_so_far(
    by_index: Mapping[int, Segment], loaded: LoadedModel, journal: Journal | None
) -> tuple[list[Crammed], EngineState | None]:
    """Chunks that an earlier run finished, and what it had under way."""
    if journal is None:
        return [], None
    kept = [chunk for data in journal.kept(_KEPT) for chunk in unpack_crammed(data, by_index)]
    packed = journal.state(_KEPT)
    return kept, unpack_state(packed, by_index, loaded.lm.device) if packed else None
