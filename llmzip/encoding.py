"""Tokens and a model -> a container, and how it is decoded again.

Owns the steps of compressing a text: cram the groups of a plan, assemble the container. Knows
nothing of how models are found or chunks are cut. Called by `codec`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from llmzip.assembly import Draft, stored_draft
from llmzip.config import CompressSettings
from llmzip.cram.checkpoint import (
    pack_crammed,
    pack_state,
    unpack_crammed,
    unpack_segments,
    unpack_state,
)
from llmzip.cram.chunking import Segment
from llmzip.cram.tasks import Crammed
from llmzip.cram.underway import EngineState
from llmzip.crew import Crew, Hands, Job, Terms
from llmzip.decoding import decode_chunks_of
from llmzip.groups import Group, groups_of, make_engine, unfinished, wanted_margin
from llmzip.lm.devices import trim_heap
from llmzip.lm.zoo import DEFAULT_MODEL, MODELS
from llmzip.outlook import cram_seconds
from llmzip.packing import assemble
from llmzip.pieces import Texts, segments_of
from llmzip.planning import Cut, Part, Plan, plan_parts
from llmzip.progress import OnOutlook, OnProgress, Outlook, Progress
from llmzip.store.container import Container, StoredRun
from llmzip.store.journal import Journal
from llmzip.telling import Telling
from llmzip.workshop import Workshop
from llmzip.worth import is_worth_cramming, smaller_draft

_KEPT = "chunks"  # in the journal
_SEGMENTS_A_JOB = 8  # decoded together, where others do it


def cram_parts(
    data: bytes,
    parts: Sequence[Part],
    shop: Workshop,
    settings: CompressSettings,
    *,
    deadline: float | None = None,
    journal: Journal | None = None,
    crew: Crew | None = None,
    on_progress: OnProgress,
    on_outlook: OnOutlook | None = None,
    cancel: threading.Event | None,
) -> Draft:
    """The container of `data`, whose parts are `parts`; of all of it stored, where the vectors that
    nobody chose would take more than the text (`llmzip.worth`).

    deadline: of `time.monotonic`; what is not crammed by then is stored. journal: where finished
    chunks are kept, and those of an earlier run are found. crew: crams and decodes instead of this
    process.
    """
    hands = None if crew is None else Hands(crew=crew, terms=_terms(shop, settings))
    read = None if hands is None else partial(_read_elsewhere, hands, on_progress, cancel)
    plan = plan_parts(
        parts, shop, settings, journal=journal, read=read, on_progress=on_progress, cancel=cancel
    )
    if not is_worth_cramming(data, plan, settings, mem_dim=shop.judge.dim):
        return stored_draft(data)
    crammed = list(
        cram_plan(
            plan, shop, settings, deadline=deadline, journal=journal, hands=hands,
            on_progress=on_progress, on_outlook=on_outlook, cancel=cancel,
        )
    )  # fmt: skip
    container = assemble(data, plan, crammed, shop, settings)
    stored = sum(len(run.data) for run in container.runs if isinstance(run, StoredRun))
    unwanted = stored - sum(len(part.data) for part in parts if part.ids is None)
    if unwanted:
        say = f"time budget: {unwanted:,} of {len(data):,} bytes are stored, not crammed"
        on_progress(Progress(stage="cram", message=say))

    def decode(packed: bytes, found: Container) -> Texts:
        if not found.needs_model:  # nothing was crammed in time
            return []
        trim_heap(shop.judge.device)
        return _decoded(packed, found, shop, settings, hands, on_progress, cancel)

    return smaller_draft(Draft(container=container, decode=decode), data, settings)


def _read_elsewhere(
    hands: Hands,
    on_progress: OnProgress,
    cancel: threading.Event | None,
    cut: Cut,
    blocks: Sequence[tuple[int, ...]],
) -> Iterator[tuple[int, Sequence[Segment]]]:
    """The segments of each block of tokens, as a crew gives them."""
    progress = Progress(stage="measure", tokens_total=sum(map(len, blocks)))

    def say(message: str) -> None:
        on_progress(replace(progress, message=message))

    for number, packed in hands.crew.read(hands.terms, cut, blocks, say=say, cancel=cancel):
        (found,) = unpack_segments(packed, [blocks[number]])
        progress = replace(progress, tokens_right=progress.tokens_right + len(blocks[number]))
        on_progress(progress)
        yield number, found


def _decoded(
    packed: bytes,
    container: Container,
    shop: Workshop,
    settings: CompressSettings,
    hands: Hands | None,
    on_progress: OnProgress,
    cancel: threading.Event | None,
) -> list[bytes | None]:
    """The texts of a container's chunks."""
    if hands is None:
        return decode_chunks_of(
            container, shop.judge, shop.tokens,
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
    for where, found in hands.crew.decode(hands.terms, packed, wanted, say=say, cancel=cancel):
        texts[where.start : where.stop] = found
        progress = replace(
            progress,
            chunks_done=progress.chunks_done + len(where),
            bytes_done=progress.bytes_done + sum(chunks[index].num_bytes for index in where),
        )
        on_progress(progress)
    return texts


def _terms(shop: Workshop, settings: CompressSettings) -> Terms:
    model = settings.model or DEFAULT_MODEL
    if model not in MODELS and Path(model).is_dir():
        model = str(Path(model).resolve())
    return Terms(
        model=model,
        files=shop.files,
        numerics=shop.numerics,
        min_margin=wanted_margin(shop, settings),
        settings=settings,
    )


def cram_plan(
    plan: Plan,
    shop: Workshop,
    settings: CompressSettings,
    *,
    deadline: float | None = None,
    journal: Journal | None = None,
    hands: Hands | None = None,
    on_progress: OnProgress = lambda event: None,
    on_outlook: OnOutlook | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[Crammed]:
    """Finished chunks, in no fixed order; first those that the journal has."""
    told, by_index = Telling(plan, shop.tokens, on_progress), plan.by_index
    kept, state = _work_so_far(by_index, shop, journal)
    told.resume(kept)
    yield from kept
    groups = unfinished(groups_of(plan, shop.lm.device.type), kept)
    if hands is not None:
        jobs = _jobs(groups, state)
        for data in hands.crew.cram(hands.terms, jobs, say=told.say, cancel=cancel):
            if journal is not None:
                journal.keep(_KEPT, data)
            for chunk in unpack_crammed(data, by_index):
                told.accept(chunk)
                yield chunk
        return
    if on_outlook is not None and groups:
        on_outlook(Outlook(seconds=cram_seconds(groups, shop, settings)))

    def save(accepted: Sequence[Crammed], state: EngineState) -> None:
        if journal is not None:
            journal.keep(_KEPT, pack_crammed(accepted) if accepted else b"", pack_state(state))

    engine = make_engine(
        plan, shop, settings, deadline=deadline, on_step=told.step, on_task=told.task,
        on_save=save if journal else None, cancel=cancel,
    )  # fmt: skip
    for group in groups:
        is_begun = state is not None and state.group == group.index
        for chunk in engine.run(group.tasks, state if is_begun else EngineState(group=group.index)):
            told.accept(chunk)
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
    by_index: Mapping[int, Segment], shop: Workshop, journal: Journal | None
) -> tuple[list[Crammed], EngineState | None]:
    """Chunks that an earlier run finished, and what it had under way."""
    if journal is None:
        return [], None
    kept = [chunk for data in journal.kept(_KEPT) for chunk in unpack_crammed(data, by_index)]
    packed = journal.state(_KEPT)
    return kept, unpack_state(packed, by_index, shop.lm.device) if packed else None
