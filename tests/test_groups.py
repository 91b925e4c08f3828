"""Groups of chunks: what falls into one, and that it does not matter where one is crammed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llmzip.api.compress import compress_bytes
from llmzip.cluster.worker import Worker
from llmzip.codecs.context import QUIET, Context
from llmzip.codecs.cram import groups
from llmzip.codecs.cram.checkpoint import unpack_crammed
from llmzip.codecs.cram.chunking import Segment, Span
from llmzip.codecs.cram.executor import Job, LocalExecutor, WorkerSettings
from llmzip.codecs.cram.groups import Group, groups_of, unfinished
from llmzip.codecs.cram.plan import Plan, make_plan
from llmzip.codecs.cram.tasks import Crammed, Task
from llmzip.codecs.input import Part, split_stretches, tokenised_parts
from llmzip.config import CompressSettings, ComputeSettings
from llmzip.errors import Interrupted, SettingsError
from llmzip.lm.devices import Numerics
from llmzip.lm.loaded import load_for_compression
from llmzip.lm.tokens import Tokens
from llmzip.lm.zoo import resolve
from llmzip.progress import ChunkEvent, Forecast, Progress
from llmzip.store.container import read_container
from llmzip.store.journal import Journal
from tests.tiny_models import SHORT_TEXT, TEXT

OPTIONS = {"budget_bits": 40.0, "max_steps": 40, "preset": "fast", "context_tokens": 16}


def segment(index: int, num_tokens: int) -> Segment:
    half = num_tokens // 2
    spans = (Span(start=0, end=half, surprisal_bits=1.0),
             Span(start=half, end=num_tokens, surprisal_bits=1.0))  # fmt: skip
    return Segment(
        index=index, offset=0, start_ids=(), ids=tuple(range(num_tokens)),
        surprisal_bits=(1.0,) * num_tokens, spans=spans,
    )  # fmt: skip


def plan_of(*sizes: int) -> Plan:
    found = [segment(index, size) for index, size in enumerate(sizes)]
    part = Part(data=b"x", ids=(1,))
    return Plan(parts=[(part, found[:2]), (part, found[2:])], context_tokens=7, signs=None)


def crammed(task: Task) -> Crammed:
    return Crammed(task=task, mem=None, patches=(), min_margin=None, steps=1)


def test_groups_hold_every_segment_once_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(groups._GROUP_TOKENS, "cpu", 20)
    plan = plan_of(8, 12, 30, 4, 4, 4, 9)
    found = groups_of(plan, "cpu")
    assert [[len(each.ids) for each in group.segments] for group in found] == [
        [8, 12], [30], [4, 4, 4, 9],
    ]  # fmt: skip
    assert [group.index for group in found] == [0, 2, 3]
    assert [group.num_tokens for group in found] == [20, 30, 21]
    assert [task for group in found for task in group.tasks] == list(plan.tasks)
    assert {group.context_tokens for group in found} == {7}
    assert len(groups_of(plan, "cuda")) == 1


def test_a_group_is_finished_once_all_its_tokens_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(groups._GROUP_TOKENS, "cpu", 20)
    found = groups_of(plan_of(8, 12, 30), "cpu")
    tasks = [crammed(task) for task in found[0].tasks]
    assert unfinished(found, []) == found
    assert unfinished(found, tasks[:-1]) == found
    assert unfinished(found, tasks) == found[1:]
    # One that was split in two, the second of which begins anew.
    last = tasks[-1].task
    whole = last.segment
    parts = [
        Task(segment=whole, start=last.start, end=last.start + 2),
        Task(segment=whole.from_token(last.start + 2), start=0, end=last.num_tokens - 2),
    ]
    assert unfinished(found, [*tasks[:-1], *map(crammed, parts)]) == found[1:]
    own = [{segment.index for segment in group.segments} for group in found]
    assert all(chunk.task.segment.index in own[0] for chunk in tasks)
    assert not any(chunk.task.segment.index in own[1] for chunk in tasks)


def test_no_segment_goes_beyond_its_block(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmzip.codecs.cram.plan._BLOCK_TOKENS", 50)
    own = settings(tiny_model("llama"))
    files = resolve(str(own.model))
    tokens = Tokens.load(files.path)
    loaded = load_for_compression(files, tokens, own.compute)
    parts = tokenised_parts(split_stretches(TEXT[:800].encode()), tokens)
    here = LocalExecutor(loaded=loaded, settings=own, context=QUIET)
    plan = make_plan(parts, loaded, own, QUIET, here.read)
    ((part, segments),) = plan.parts
    assert part.ids is not None
    assert sum((segment.ids for segment in segments), ()) == part.ids
    assert [segment.index for segment in segments] == list(range(len(segments)))
    begins = [segment.offset for segment in segments]
    ends = [segment.offset + len(segment.ids) for segment in segments]
    assert begins == [0, *ends[:-1]]
    count = round(len(part.ids) / 50)
    borders = [len(part.ids) * number // count for number in range(1, count + 1)]
    assert count > 3 and set(borders) <= set(ends)


class InProcess:
    """Workers of which there is one, in this process; it does the last task first."""

    def __init__(self) -> None:
        self.worker = Worker(threads=1)
        self.given: dict[str, list[Any]] = {"read": [], "cram": [], "decode": []}

    @property
    def jobs(self) -> list[Job]:
        return self.given["cram"]

    def run(
        self,
        shared: WorkerSettings,
        name: str,
        tasks: Sequence[Any],
        *,
        common: Sequence[Any] = (),
        say: Callable[[str], None],
        cancel: threading.Event | None,
    ) -> Iterator[tuple[int, Any]]:
        more = {} if name == "read" else {"cancel": cancel}
        if name == "cram":
            say("working")
        for number in reversed(range(len(tasks))):
            self.given[name].append(tasks[number])
            yield number, getattr(self.worker, name)(shared, *common, tasks[number], **more)


class OneGroup(InProcess):
    """Ends the run once a group is crammed."""

    def run(self, shared: WorkerSettings, name: str, *args: Any, **more: Any) -> Iterator[Any]:
        found = super().run(shared, name, *args, **more)
        if name != "cram":
            yield from found
            return
        yield next(found)
        raise Interrupted("enough")


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(groups._GROUP_TOKENS, "cpu", 8)
    monkeypatch.setattr("llmzip.codecs.cram.executor._SEGMENTS_A_JOB", 2)
    monkeypatch.setattr("llmzip.codecs.cram.plan._BLOCK_TOKENS", 30)


def settings(model: Path, **more: object) -> CompressSettings:
    return CompressSettings(model=str(model), **(OPTIONS | more))  # type: ignore[arg-type]


def test_workers_give_the_bytes_of_a_run_here(
    tiny_model: Callable[..., Path], small_groups: None
) -> None:
    own = settings(tiny_model("llama"), seed=4)
    workers, said = InProcess(), list[str]()
    here = compress_bytes(SHORT_TEXT, own)
    there = compress_bytes(
        SHORT_TEXT,
        own,
        context=Context(workers=workers, on_progress=lambda event: said.append(event.message)),
    )
    assert here == there
    assert len(workers.jobs) > 2 and len(workers.given["decode"]) > 1 and "working" in said
    assert len(workers.given["read"]) > 1
    assert compress_bytes(SHORT_TEXT, replace(own, seed=5)) != here


def test_the_size_of_the_batch_is_all_that_groups_change(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for vectors of signs, whose groups share an allowance of patches."""
    model = tiny_model("llama")
    whole = compress_bytes(SHORT_TEXT, settings(model, bits=16))
    monkeypatch.setitem(groups._GROUP_TOKENS, "cpu", 8)
    parts = compress_bytes(SHORT_TEXT, settings(model, bits=16))
    shapes = [
        [(chunk.num_tokens, chunk.starts_segment) for chunk in read_container(each).payload.chunks]
        for each in (whole, parts)
    ]
    assert shapes[0] == shapes[1]


def test_work_moves_between_here_and_workers(
    tiny_model: Callable[..., Path], tmp_path: Path, small_groups: None
) -> None:
    own = settings(tiny_model("llama"))
    expected = compress_bytes(SHORT_TEXT, own)
    cancel = threading.Event()

    def stop_within_a_group(event: Progress) -> None:
        if event.chunks_done == 3:
            cancel.set()

    path = str(tmp_path / "x.part")
    journal = Journal.open(path)
    with pytest.raises(Interrupted):
        compress_bytes(
            SHORT_TEXT,
            own,
            context=Context(journal=journal, on_progress=stop_within_a_group, cancel=cancel),
        )
    journal.close()

    journal = Journal.open(path)
    tired = OneGroup()
    with pytest.raises(Interrupted):
        compress_bytes(SHORT_TEXT, own, context=Context(journal=journal, workers=tired))
    journal.close()
    journal = Journal.open(path)
    rested = InProcess()
    assert (
        compress_bytes(SHORT_TEXT, own, context=Context(journal=journal, workers=rested))
        == expected
    )
    journal.remove()
    assert len(tired.jobs) == 1 and len(rested.jobs) >= 1
    assert sum(bool(job.state) for job in rested.jobs) == 1  # what was under way is gone on with
    done = {job.group.index for job in tired.jobs}
    assert done.isdisjoint(job.group.index for job in rested.jobs)


def test_a_run_of_workers_is_gone_on_with_here(
    tiny_model: Callable[..., Path], tmp_path: Path, small_groups: None
) -> None:
    own = settings(tiny_model("llama"))
    expected = compress_bytes(SHORT_TEXT, own)

    journal = Journal.open(str(tmp_path / "x.part"))
    with pytest.raises(Interrupted):
        compress_bytes(SHORT_TEXT, own, context=Context(journal=journal, workers=OneGroup()))
    seen: list[Progress] = []
    assert (
        compress_bytes(SHORT_TEXT, own, context=Context(journal=journal, on_progress=seen.append))
        == expected
    )
    journal.remove()
    assert any(event.message.startswith("resumed: ") for event in seen)


def test_a_worker_takes_the_margin_of_the_run(tiny_model: Callable[..., Path]) -> None:
    own = settings(tiny_model("llama"), bits=16)

    class Strict(InProcess):
        def run(self, shared: WorkerSettings, *args: Any, **more: Any) -> Iterator[Any]:
            return super().run(replace(shared, min_margin=0.9), *args, **more)

    workers = Strict()
    compress_bytes(SHORT_TEXT, own, context=Context(workers=workers))
    (job, *_) = workers.jobs
    shared = WorkerSettings(
        model=str(own.model), files=resolve(str(own.model)),
        numerics=Numerics("cpu", "torch.float32"), min_margin=0.9, settings=own,
    )  # fmt: skip
    by_index = {each.index: each for each in job.group.segments}
    margins = [
        chunk.min_margin
        for chunk in unpack_crammed(workers.worker.cram(shared, job), by_index)
        if chunk.min_margin is not None
    ]
    assert margins and min(margins) >= 0.9


@pytest.mark.parametrize("more", [{"time_budget_s": 5.0}, {"codec": "arith"}])
def test_what_workers_are_not_for(tiny_model: Callable[..., Path], more: dict[str, object]) -> None:
    own = CompressSettings(model=str(tiny_model("llama")), **more)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="--ray is for cramming"):
        compress_bytes(SHORT_TEXT, own, context=Context(workers=InProcess()))


# What is told meanwhile


def test_every_chunk_is_started_and_accepted(tiny_model: Callable[..., Path]) -> None:
    seen: list[ChunkEvent] = []

    def note(event: Progress) -> None:
        if event.chunk is not None:
            assert event.stage == "cram"
            seen.append(event.chunk)

    own = settings(tiny_model("llama"), budget_bits=400.0, max_steps=2, bits=16)
    packed = compress_bytes(TEXT[:60].encode(), own, context=Context(on_progress=note))
    chunks = read_container(packed).payload.chunks
    accepted = [each for each in seen if each.what == "accepted"]
    started = {(each.first_token, each.num_tokens) for each in seen if each.what == "started"}
    split = {(each.first_token, each.num_tokens) for each in seen if each.what == "split"}
    assert split  # two steps are too few
    ends = {(each.first_token, each.num_tokens) for each in accepted}
    assert ends | split == started and not ends & split
    in_order = sorted(accepted, key=lambda each: each.first_token)
    assert [each.num_tokens for each in in_order] == [chunk.num_tokens for chunk in chunks]
    assert [each.num_patches for each in in_order] == [len(chunk.patches) for chunk in chunks]
    for event, chunk in zip(in_order, chunks, strict=True):
        kind = "literal" if chunk.mem is None else "patched" if chunk.patches else "crammed"
        assert event.mode == kind and (event.min_margin is None) == (kind == "literal")
        assert event.stored_bytes > 0


def test_a_chunk_under_way_can_be_looked_at(tiny_model: Callable[..., Path]) -> None:
    views = []

    def look(event: Progress) -> None:
        if event.view is not None:
            views.append(event.view())

    own = settings(tiny_model("llama"))
    compress_bytes(SHORT_TEXT, own, context=Context(on_progress=look))
    assert len(views) > 5
    for view in views:
        assert len(view.pieces) == len(view.margins)
        assert b"".join(view.pieces) in SHORT_TEXT
        assert view.shortfall >= 0
    assert [view.step for view in views[:4]] == [1, 2, 3, 4]
    assert {view.sees_signs for view in views} == {True, False}
    # Nearer to the end of the first chunk, fewer logits are missing.
    first = [view.shortfall for view in views if view.first_token == 0]
    assert min(first[-3:]) < first[0]


def test_time_is_told_before_the_optimiser_begins(tiny_model: Callable[..., Path]) -> None:
    told: list[Forecast] = []
    stages: list[str] = []

    def decline(outlook: Forecast) -> None:
        told.append(outlook)
        if outlook.seconds is not None:
            raise Interrupted("rather not")

    with pytest.raises(Interrupted, match="rather not"):
        compress_bytes(
            SHORT_TEXT,
            settings(tiny_model("llama")),
            Context(on_forecast=decline, on_progress=lambda event: stages.append(event.stage)),
        )
    assert told[-1].seconds is not None and 0 < told[-1].seconds < 600
    assert "cram" not in stages


def test_threads_of_a_worker_are_given_back(tiny_model: Callable[..., Path]) -> None:
    own = CompressSettings(
        model=str(tiny_model("llama")), compute=ComputeSettings(threads=2), **OPTIONS
    )  # type: ignore[arg-type]
    before = torch.get_num_threads()
    compress_bytes(SHORT_TEXT, own, context=Context(workers=InProcess()))
    assert torch.get_num_threads() == before


def test_a_group_is_data(monkeypatch: pytest.MonkeyPatch) -> None:
    (group,) = groups_of(plan_of(8), "cpu")
    assert replace(group) == group and isinstance(group, Group)
