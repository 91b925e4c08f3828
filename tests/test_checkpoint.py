"""Work left and gone on from: what is written of it comes back bit for bit, so does the result."""

from __future__ import annotations

import json
import random
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import fields, is_dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save as save_tensors

from llmzip.api.compress import compress_bytes
from llmzip.codecs.arith import encoder as arith_encoding
from llmzip.codecs.arith.resume import ResumeCache
from llmzip.codecs.context import Context
from llmzip.codecs.cram import engine as engine_module
from llmzip.codecs.cram import groups
from llmzip.codecs.cram import plan as planning
from llmzip.codecs.cram.allowance import Allowance
from llmzip.codecs.cram.checkpoint import (
    EngineState,
    UnderWay,
    pack_crammed,
    pack_segments,
    pack_state,
    unpack_crammed,
    unpack_segments,
    unpack_state,
)
from llmzip.codecs.cram.chunking import CutRule, Segment, plan_segments
from llmzip.codecs.cram.curvature import Curvature
from llmzip.codecs.cram.engine import Engine, Hooks
from llmzip.codecs.cram.presets import signs_of
from llmzip.codecs.cram.signs import Signs
from llmzip.codecs.cram.slots import Slot
from llmzip.codecs.cram.tasks import Crammed, EngineSettings, Task, split
from llmzip.codecs.shared import SharedMem
from llmzip.config import CompressSettings
from llmzip.errors import Corrupt, Interrupted, ResumeRefused
from llmzip.lm.model import FrozenLM
from llmzip.progress import Progress
from llmzip.store.arith_payload import ArithPayload
from llmzip.store.container import read_container
from llmzip.store.journal import Journal
from llmzip.store.vectors import GridMem
from tests.tiny_models import SHORT_TEXT, TEXT

CPU = torch.device("cpu")
SETTINGS = EngineSettings(
    num_mem=1, max_steps=60, seed=0, context_tokens=24, min_margin=0.05, step_price_bits=0.2
)
KINDS = {
    "bf16": SETTINGS,
    "four bits": replace(SETTINGS, signs=signs_of("fast", 4, 60)),
    "signs": replace(SETTINGS, signs=signs_of("fast", 1, 60)),
    "few steps": replace(SETTINGS, max_steps=3),  # all of it is split, to the end
}


def plain(value: object) -> object:
    """Something to compare by its bits: NaN is NaN, and -0 is not 0."""
    if isinstance(value, torch.Tensor):
        raw = value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return ("tensor", value.dtype, tuple(value.shape), raw)
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if is_dataclass(value):
        own = [(field.name, plain(getattr(value, field.name))) for field in fields(value)]
        return (type(value).__name__, own)
    return value


def by_index(segments: Sequence[Segment]) -> dict[int, Segment]:
    return {segment.index: segment for segment in segments}


def tasks_of(segments: Sequence[Segment]) -> Iterator[Task]:
    for segment in segments:
        for span in segment.spans:
            yield Task(segment=segment, start=span.start, end=span.end)


@pytest.fixture(scope="module")
def segments(lm: FrozenLM, ids: tuple[int, ...]) -> list[Segment]:
    return list(plan_segments(lm, ids, CutRule(context_tokens=24, budget_bits=40.0), start_id=1))


# Segments


def test_segments(segments: list[Segment], ids: tuple[int, ...]) -> None:
    moved = [replace(segment, index=segment.index + 10) for segment in segments]
    for parts in ([segments], [[], segments, [], moved], []):
        own = [ids if part else None for part in parts]
        found = unpack_segments(pack_segments(parts), own)
        assert plain(found) == plain(parts)


def test_a_plan_that_was_cut_short(segments: list[Segment], ids: tuple[int, ...]) -> None:
    """Within a time budget, the last tokens of a part are in no segment."""
    found = unpack_segments(pack_segments([segments[:-1]]), [ids])
    assert found == [segments[:-1]]


# Chunks


def task_of(segment: Segment, **changes: Any) -> Task:
    span = segment.spans[0]
    return replace(Task(segment=segment, start=span.start, end=span.end), **changes)


def test_finished_chunks(segments: list[Segment]) -> None:
    task = task_of(segments[0])
    mem = torch.randn(2, 5).to(torch.bfloat16)
    first, second = split(task_of(segments[1]), context_tokens=0)
    assert second.segment.offset != segments[1].offset
    chunks = [
        Crammed(task=task, mem=mem, patches=(), min_margin=0.1, steps=9),
        Crammed(
            task=second,
            mem=mem,
            patches=((1, 7), (3, 8)),
            min_margin=None,
            steps=1,
            grid_steps=torch.tensor([0.5, 1.75]),
            patch_odds=torch.randn(2, 5),
        ),
        Crammed(task=first, mem=None, patches=((0, 5), (1, 6)), min_margin=None, steps=60),
        Crammed(
            task=task_of(segments[1], warm_mem=torch.randn(1, 5), steps_so_far=31, failures=2),
            mem=-torch.zeros(1, 5, dtype=torch.bfloat16),
            patches=(),
            min_margin=1e-300,
            steps=31,
        ),
    ]
    found = unpack_crammed(pack_crammed(chunks), by_index(segments))
    assert plain(found) == plain(chunks)
    assert [type(chunk.patches) for chunk in found] == [tuple] * 4
    assert [type(patch) for patch in found[1].patches] == [tuple] * 2
    assert unpack_crammed(pack_crammed([]), by_index(segments)) == []


# What is under way


def a_slot(task: Task, *, step: int = 3, dim: int = 6, seed: int = 0) -> Slot:
    generator = torch.Generator().manual_seed(seed)
    mem = torch.randn(1, dim, generator=generator)
    curvature = Curvature.empty(dim, CPU)
    for _ in range(3):
        curvature.step(
            mem.view(1, -1),
            torch.randn(1, dim, generator=generator),
            step_size=1.0,
            longest_step=1.0,
        )
    return Slot(task=task, mem=mem, curvature=curvature, step=step, num_wrong=2)


def test_a_state_with_one_of_everything(segments: list[Segment]) -> None:
    task = task_of(segments[0])
    _, second = split(task_of(segments[1]), context_tokens=0)
    warm = task_of(segments[1], warm_mem=torch.randn(1, 6), steps_so_far=12)
    signs = Signs.start(torch.randn(6), spared=1)
    held = Crammed(task=task, mem=None, patches=((0, 5),), min_margin=0.25, steps=60)
    odd = a_slot(second, seed=1)
    odd.mem = torch.tensor([[0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-45]])
    odd.falling, odd.is_settled = -0.0, True
    state = EngineState(
        taken=7,
        again=[warm, a_slot(warm), second],
        slots=[a_slot(task), odd, replace(a_slot(task), signs=signs)],
        finished=[replace(a_slot(task, seed=2), is_settled=True)],
        allowance=Allowance(spare=1.25, held=[held]),
    )
    assert state.slots[0].falling != state.slots[0].falling  # NaN: never measured
    found = unpack_state(pack_state(state), by_index(segments), CPU)
    path = Curvature.empty(6, CPU)  # of a chunk that has settled, nobody asks for it again
    expected = replace(state, finished=[replace(state.finished[0], curvature=path)])
    assert plain(found) == plain(expected)
    assert type(found.again) is type(found.slots) is type(found.finished) is list
    assert plain(unpack_state(pack_state(found), by_index(segments), CPU)) == plain(found)


def test_an_empty_state(segments: list[Segment]) -> None:
    found = unpack_state(pack_state(EngineState()), by_index(segments), CPU)
    assert found == EngineState()


def test_a_view_of_a_batch_is_not_written_down_whole(segments: list[Segment]) -> None:
    batch = torch.randn(1000, 1, 6)
    slot = replace(a_slot(task_of(segments[0])), mem=batch[3])
    data = pack_state(EngineState(slots=[slot]))
    assert len(data) < 10_000
    assert torch.equal(unpack_state(data, by_index(segments), CPU).slots[0].mem, batch[3])


# The engine


class Run:
    """An engine's run on all tasks, saving at every step, and what it was told to save."""

    def __init__(
        self, lm: FrozenLM, segments: Sequence[Segment], kind: str, *, saves: bool = True
    ) -> None:
        self.saved: list[tuple[list[Crammed], bytes]] = []  # accepted so far, and what is under way
        self.chunks: list[Crammed] = []
        self._lm, self._segments, self._settings = lm, segments, KINDS[kind]
        self._saves = saves

    def go(self, state: EngineState | None = None) -> Run:
        hooks = Hooks(on_save=self._save if self._saves else None)
        self.engine = Engine(self._lm, self._lm, self._settings, hooks=hooks)
        self.chunks += self.engine.run(tasks_of(self._segments), state)
        return self

    def _save(self, accepted: Sequence[Crammed], state: EngineState) -> None:
        before = self.saved[-1][0] if self.saved else []
        self.saved.append(([*before, *accepted], pack_state(state)))

    def by_place(self) -> list[object]:
        return sorted_plain(self.chunks)


def sorted_plain(chunks: Sequence[Crammed]) -> list[object]:
    return [plain(chunk) for chunk in sorted(chunks, key=lambda chunk: chunk.task.place)]


@pytest.fixture
def saves_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_SAVE_SECONDS", -1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_engine_goes_on_to_the_same_bits(
    lm: FrozenLM, segments: list[Segment], kind: str, saves_always: None
) -> None:
    undisturbed = Run(lm, segments, kind, saves=False).go()
    expected = undisturbed.by_place()
    assert len(expected) > 3
    saving = Run(lm, segments, kind).go()
    assert saving.by_place() == expected  # saving alone changes nothing
    assert saving.saved[-1][0] == saving.chunks  # every chunk was saved before it was given away
    places = sorted(random.Random(1).sample(range(len(saving.saved)), 4))
    for accepted, packed in [saving.saved[place] for place in places]:
        state = unpack_state(packed, by_index(segments), CPU)
        later = Run(lm, segments, kind, saves=False).go(state)
        kept = unpack_crammed(pack_crammed(accepted), by_index(segments))
        assert sorted_plain([*kept, *later.chunks]) == expected
        assert later.engine.chunk_steps <= undisturbed.engine.chunk_steps
    assert later.engine.chunk_steps < undisturbed.engine.chunk_steps


def test_what_was_saved_last_holds_nothing_under_way(
    lm: FrozenLM, segments: list[Segment], saves_always: None
) -> None:
    saving = Run(lm, segments, "bf16").go()
    state = unpack_state(saving.saved[-1][1], by_index(segments), CPU)
    assert not (state.again or state.slots or state.finished)
    assert Run(lm, segments, "bf16", saves=False).go(state).chunks == []


def test_a_run_that_is_cancelled_saves_first(lm: FrozenLM, segments: list[Segment]) -> None:
    cancel = threading.Event()
    saved: list[EngineState] = []
    steps = 0

    def on_step(now: UnderWay) -> None:
        nonlocal steps
        steps += 1
        if steps == 4:
            cancel.set()

    hooks = Hooks(
        on_step=on_step, on_save=lambda accepted, state: saved.append(state), cancel=cancel
    )
    engine = Engine(lm, lm, SETTINGS, hooks=hooks)
    with pytest.raises(Interrupted):
        list(engine.run(tasks_of(segments)))
    assert len(saved) == 1 and [slot.step for slot in saved[0].slots] == [4] * len(saved[0].slots)


# Bytes that nobody wrote


@cache
def sound(kind: str) -> tuple[bytes, dict[int, Segment]]:
    """Something sound of a kind, in a segment made by hand."""
    segment = Segment(
        index=0, offset=4, start_ids=(1,), ids=tuple(range(8)), surprisal_bits=(1.5,) * 8, spans=()
    )
    task = Task(segment=segment, start=0, end=8)
    if kind == "segments":
        return pack_segments([[segment]]), {0: segment}
    if kind == "state":
        slot = replace(a_slot(task), signs=Signs.start(torch.ones(6), spared=1))
        return pack_state(EngineState(taken=1, again=[task], slots=[slot])), {0: segment}
    chunk = Crammed(
        task=task,
        mem=torch.zeros(1, 6, dtype=torch.bfloat16),
        patches=((0, 5), (3, 6)),
        patch_odds=torch.ones(2, 4),
        min_margin=0.5,
        steps=4,
    )
    return pack_crammed([chunk]), {0: segment}


def decode_lm(kind: str, data: bytes) -> None:
    """Corrupt is the only error, and what is read is of the right kind."""
    _, by_number = sound(kind)
    try:
        if kind == "segments":
            found: Any = unpack_segments(data, [tuple(range(12))])
            assert all(isinstance(each, Segment) for own in found for each in own)
        elif kind == "state":
            found = unpack_state(data, by_number, CPU)
            assert isinstance(found, EngineState)
        else:
            found = unpack_crammed(data, by_number)
            assert all(isinstance(chunk, Crammed) for chunk in found)
    except Corrupt as error:
        assert "--restart" in error.hint


def test_the_sound_ones_are_read() -> None:
    for kind in ("segments", "state", "chunks"):
        data, by_number = sound(kind)
        decode_lm(kind, data)
        with pytest.raises(Corrupt):
            unpack_state(data[:-1], by_number, CPU)


@pytest.mark.parametrize("kind", ["segments", "state", "chunks"])
@settings(max_examples=150, derandomize=True, database=None, deadline=None)
@given(data=st.data())
def test_foul_bytes(kind: str, data: st.DataObject) -> None:
    whole = bytearray(sound(kind)[0])
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    decode_lm(kind, bytes(whole[: data.draw(st.integers(0, len(whole)) | st.just(len(whole)))]))


KEYS = ["kind", "task", "rank", "tensor", "slots", "again", "taken", "index", "offset", "tokens"]
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.integers()
    | st.floats()
    | st.sampled_from(["EngineState", "Slot", "Crammed", "Allowance", "Signs", "Curvature", "x"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=12,
)


@pytest.mark.parametrize("kind", ["segments", "state", "chunks"])
@settings(max_examples=150, derandomize=True, database=None, deadline=None)
@given(value=anything)
def test_foul_json(kind: str, value: object) -> None:
    decode_lm(kind, signed(json.dumps(value).encode()))


def signed(text: bytes) -> bytes:
    """What holds this JSON, and tensors."""
    named = {"plain": torch.frombuffer(bytearray(text or b" "), dtype=torch.uint8)}
    return save_tensors(named | {str(index): torch.zeros(1, 6) for index in range(4)})


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[" * 100_000,
        b'{"kind": "EngineState", "old": 0, "again": [], "slots": [], "finished": []}',
        b'{"kind": "Slot"}',
        b'{"kind": "Crammed"}',
        b'{"kind": ["EngineState"]}',
        b'{"rank": [1, 2, 3]}',
        b'{"tensor": -1}',
        b'{"tensor": 1e9}',
        b'{"task": [0, 4, 0, 8, null, 0, null]}',
        b'[{"kind": "Crammed", "task": 5, "mem": null, "patches": [], "min_margin": null,'
        b' "steps": 4, "grid_steps": null}]',
        b"5",
    ],
)
def test_json_of_another_kind(text: bytes) -> None:
    for kind in ("segments", "state", "chunks"):
        decode_lm(kind, signed(text))


def test_foul_arrays(tmp_path: Path) -> None:
    """Of the arith codec, which keeps them as numpy writes them."""
    causes = [np.arange(3)]
    with closing(Journal.open(str(tmp_path / "x.part"))) as journal:
        keeper = ResumeCache(journal)
        made = keeper._arrays("odds", causes, lambda: [np.arange(6.0)])
        assert np.array_equal(keeper._arrays("odds", causes, list), made)
        (name,) = (name for name in journal._contents.kept if name.startswith("odds"))
        whole = journal.kept(name)[0]
        for position in range(0, len(whole), 7):
            for byte in (0, 39, 40, 57, 255):
                foul = bytearray(whole)
                foul[position] = byte
                journal.keep(name, bytes(foul))
                try:
                    keeper._arrays("odds", causes, list)
                except Corrupt as error:
                    assert "--restart" in error.hint


def test_foul_shared_vectors(tmp_path: Path) -> None:
    """Whole arrays that are no vectors of this model."""
    symbols, steps = np.ones((1, 8), np.int16), np.full(1, 0x3F80, np.uint16)
    foul: list[list[np.ndarray]] = [
        [symbols],
        [symbols, steps, steps],
        [symbols.astype(np.int32), steps],
        [symbols[:, :7], steps],
        [symbols[0], steps],
        [np.array(1, np.int16), steps],
        [symbols[:0], steps[:0]],
        [np.ones((65, 8), np.int16), np.full(65, 0x3F80, np.uint16)],
        [2000 * symbols, steps],
        [symbols, steps + np.uint16(1)],
    ]
    with closing(Journal.open(str(tmp_path / "x.part"))) as journal:
        keeper = ResumeCache(journal)
        given = SharedMem(grid=GridMem(symbols=symbols, steps=steps))
        for _ in range(2):  # made, then found
            assert keeper.shared([], 1, 0, lambda: given, mem_dim=8) == given
        (name,) = (name for name in journal._contents.kept if name.startswith("shared"))
        for arrays in foul:
            out = BytesIO()
            for array in (np.array(len(arrays)), *arrays):
                np.save(out, array)
            journal.keep(name, out.getvalue())
            with pytest.raises(Corrupt, match="is invalid"):
                keeper.shared([], 1, 0, lambda: None, mem_dim=8)


def test_arrays_are_found_by_what_they_depend_on(tmp_path: Path) -> None:
    with closing(Journal.open(str(tmp_path / "x.part"))) as journal:
        keeper = ResumeCache(journal)

        def make(*causes: np.ndarray, kind: str = "odds", value: float = 0.0) -> float:
            (found,) = keeper._arrays(kind, causes, lambda: [np.array(value)])
            return float(found)

        first = np.arange(3)
        assert make(first, value=1.0) == 1.0
        assert make(np.arange(3), value=2.0) == 1.0
        others = [
            (np.array([0, 1, 3]),),  # other values
            (first.astype(np.int32),),
            (first[:, None],),
            (first, first),
        ]
        for number, causes in enumerate(others, start=3):
            assert make(*causes, value=number) == make(*causes) == number
        assert make(first, kind="shared", value=9.0) == 9.0


# The codec

LONG = TEXT[:420].encode()
SHORT = SHORT_TEXT


class Stopwatch:
    """Counts progress events, and stops a run at one of them."""

    def __init__(self, at: int | None) -> None:
        self.cancel = threading.Event()
        self.count = 0
        self.messages: list[str] = []
        self.events: list[Progress] = []
        self._at = at

    def __call__(self, event: Progress) -> None:
        if event.chunk is None or event.chunk.what == "accepted":
            self.count += 1
        self.events.append(event)
        if event.message:
            self.messages.append(event.message)
        if self.count == self._at:
            self.cancel.set()


def compress(data: bytes, model: Path, path: Path | None, watch: Stopwatch, **more: Any) -> bytes:
    own = CompressSettings(model=str(model), **more)
    if path is None:
        return compress_bytes(data, own, context=Context(on_progress=watch, cancel=watch.cancel))
    journal = Journal.open(str(path))
    try:
        return compress_bytes(
            data, own, context=Context(journal=journal, on_progress=watch, cancel=watch.cancel)
        )
    finally:
        journal.close()


CRAM = {"budget_bits": 40.0, "max_steps": 40}


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    """Every engine that the codec makes."""
    made: list[Engine] = []

    class Noted(Engine):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            made.append(self)

    monkeypatch.setattr(groups, "Engine", Noted)
    return made


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Every chunk whose cramming begins: its place, its tokens, the steps before."""
    begun: list[tuple[int, int, int]] = []
    real = engine_module.start_slot

    def start(lm: FrozenLM, task: Task, *args: Any, **more: Any) -> Slot:
        begun.append((task.place, task.num_tokens, task.steps_so_far))
        return real(lm, task, *args, **more)

    monkeypatch.setattr(engine_module, "start_slot", start)
    return begun


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bf16", {"bits": 16, "context_tokens": 24}),
        ("three bits", {"preset": "fast", "bits": 3, "context_tokens": 24}),
        ("two vectors, no context", {"bits": 16, "num_mem": 2, "context_tokens": 0}),
        ("groups", {"preset": "fast", "bits": 3, "context_tokens": 0}),
        ("signs", {"preset": "fast", "bits": 1, "context_tokens": 24}),
        ("signs, the preset's budget", {"preset": "fast", "bits": 1, "budget_bits": None}),
    ],
)
def test_cramming_goes_on_to_the_same_bytes(
    tiny_model: Callable[..., Path],
    tmp_path: Path,
    engines: list[Engine],
    starts: list[tuple[int, int, int]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: dict[str, Any],
) -> None:
    if name == "groups":
        monkeypatch.setitem(groups._GROUP_TOKENS, "cpu", 20)
    model, path, own = tiny_model("llama"), tmp_path / "x.part", {**CRAM, **options}
    whole = Stopwatch(None)
    expected = compress(SHORT, model, None, whole, **own)
    all_steps, all_starts = engines[0].chunk_steps, sorted(starts)
    assert len(set(all_starts)) == len(all_starts) > 3
    engines.clear()
    starts.clear()
    stops = 0
    found = b""
    while not found:
        watch = Stopwatch(6 + whole.count // 8)
        try:
            found = compress(SHORT, model, path, watch, **own)
        except Interrupted:
            stops += 1
            assert path.exists() and stops < 20
    assert found == expected and stops >= 2
    assert sum(engine.chunk_steps for engine in engines) == all_steps  # no step is made twice
    assert sorted(starts) == all_starts  # no chunk is begun twice
    assert watch.messages[-1].startswith("resumed: ")


def test_progress_goes_on_where_it_was(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    model, path = tiny_model("llama"), tmp_path / "x.part"
    watch = Stopwatch(None)

    def stop_after_a_chunk(event: Progress) -> None:
        watch(event)
        if event.chunks_done > 1:
            watch.cancel.set()

    journal = Journal.open(str(path))
    own = CompressSettings(model=str(model), bits=16, context_tokens=0, **CRAM)
    with pytest.raises(Interrupted):
        compress_bytes(
            SHORT,
            own,
            context=Context(journal=journal, on_progress=stop_after_a_chunk, cancel=watch.cancel),
        )
    journal.close()
    last = [event for event in watch.events if event.stage == "cram"][-1]
    again = Stopwatch(None)
    compress(SHORT, model, path, again, bits=16, context_tokens=0, **CRAM)
    first = next(event for event in again.events if event.stage == "cram")
    assert first.message == f"resumed: {first.chunks_done} of {first.chunks_total} chunks were " + (
        "finished before"
    )
    assert first.chunks_done >= last.chunks_done > 1
    assert first.bytes_done == first.bytes_kept > 0
    assert first.output_bytes > 0 and first.tokens_right > 0
    later = [event for event in again.events if event.stage == "cram"]
    assert {event.bytes_kept for event in later} == {first.bytes_kept}


def test_finished_work_is_only_put_together(
    tiny_model: Callable[..., Path],
    tmp_path: Path,
    engines: list[Engine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped while its result was verified: nothing is read, cut or crammed again."""
    cut = Calls(monkeypatch, planning, "plan_segments")
    model, path = tiny_model("llama"), tmp_path / "x.part"
    watch = Stopwatch(None)

    def stop_at_verify(event: Progress) -> None:
        watch(event)
        if event.stage == "verify":
            watch.cancel.set()

    own = CompressSettings(model=str(model), bits=16, context_tokens=24, **CRAM)
    for _ in range(2):
        journal = Journal.open(str(path))
        watch.cancel.clear()
        with pytest.raises(Interrupted):
            compress_bytes(
                SHORT,
                own,
                context=Context(journal=journal, on_progress=stop_at_verify, cancel=watch.cancel),
            )
        journal.close()
    assert compress(SHORT, model, path, Stopwatch(None), bits=16, context_tokens=24, **CRAM)
    assert engines[0].chunk_steps > 0
    assert [engine.chunk_steps for engine in engines[1:]] == [0, 0]
    assert cut.count == 1


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model predicts worse than zstd: keep its containers all the same, in several
    segments."""
    monkeypatch.setattr(arith_encoding, "pack_stored", lambda data: bytes(1 << 20))
    monkeypatch.setattr("llmzip.codecs.arith.segments._TOKENS_OF_ONE_LANE", 100)
    monkeypatch.setattr("llmzip.codecs.arith.segments._SEGMENT_BYTES", 150)


class Calls:
    """Counts the calls of a function."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.count = 0
        real = getattr(owner, name)

        def call(*args: Any, **more: Any) -> Any:
            found = real(*args, **more)
            self.count += 1  # of those that were not interrupted
            return found

        monkeypatch.setattr(owner, name, call)


def test_arith_goes_on_to_the_same_bytes(
    tiny_model: Callable[..., Path],
    tmp_path: Path,
    small_segments: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, path = tiny_model("llama"), tmp_path / "x.part"
    options = {"codec": "arith", "shared_mem": 1}
    encoded = Calls(monkeypatch, arith_encoding, "encode_segment")
    learned = Calls(monkeypatch, arith_encoding, "learn_shared")
    read = Calls(monkeypatch, arith_encoding.Reader, "known_odds")
    counts = (encoded, learned, read)
    whole = Stopwatch(None)
    expected = compress(LONG, model, None, whole, **options)
    payload = read_container(expected).payload
    assert isinstance(payload, ArithPayload) and len(payload.segments) > 2
    once = [calls.count for calls in counts]
    stops = 0
    for stop in [*range(3, whole.count, max(1, whole.count // 5)), None]:
        watch = Stopwatch(stop)
        try:
            found = compress(LONG, model, path, watch, **options)
        except Interrupted:
            stops += 1
    assert found == expected and stops > 3
    assert [calls.count for calls in counts] == [2 * number for number in once]


def test_odds_that_the_decoder_is_far_from_are_read_again(
    tiny_model: Callable[..., Path],
    tmp_path: Path,
    small_segments: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once a run read odds 460 times as far from the decoder's as usual (docs/LOG.md): its file
    took nearly twice the bytes and may not have decoded."""
    model, path = tiny_model("llama"), tmp_path / "x.part"
    expected = compress(LONG, model, None, Stopwatch(None), codec="arith")
    real, num_calls = arith_encoding.Reader.known_odds, 0

    def known_odds(*args: Any, **more: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        return real(*args, **more) + (0.005 if num_calls == 1 else 0.0)

    monkeypatch.setattr(arith_encoding.Reader, "known_odds", known_odds)
    watch = Stopwatch(None)
    assert compress(LONG, model, path, watch, codec="arith") == expected
    num_segments = num_calls // 2
    assert num_calls == 2 * num_segments > 4


def test_the_smaller_of_two_codecs_goes_on_with_both(
    tiny_model: Callable[..., Path], tmp_path: Path, small_segments: None, engines: list[Engine]
) -> None:
    model, path = tiny_model("llama"), tmp_path / "x.part"
    options = {"codec": "auto", "try_cram": True, "bits": 16, "context_tokens": 0, **CRAM}
    whole = Stopwatch(None)
    expected = compress(SHORT, model, None, whole, **options)
    (alone,) = engines
    for part in (0.2, 0.4, 0.6):
        with pytest.raises(Interrupted):
            compress(SHORT, model, path, Stopwatch(int(part * whole.count)), **options)
        assert path.exists()
    assert compress(SHORT, model, path, Stopwatch(None), **options) == expected
    assert sum(engine.chunk_steps for engine in engines[1:]) == alone.chunk_steps


def test_work_for_another_input_model_or_setting_is_refused(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    model, path = tiny_model("llama"), tmp_path / "x.part"
    options = {"bits": 16, "context_tokens": 0, **CRAM}
    with pytest.raises(Interrupted):
        compress(SHORT, model, path, Stopwatch(9), **options)
    kept = path.read_bytes()
    for data, other, changes, words in (
        (SHORT + b".", model, {}, "another input"),
        (SHORT + b".", tmp_path / "no model is looked for then", {}, "another input"),
        (SHORT, model, {"seed": 1}, "seed was 0, is 1"),
        (SHORT, model, {"max_steps": 41}, "max_steps was 40, is 41"),
        (SHORT, tiny_model("llama", seed=1), {}, "the model is different"),
    ):
        with pytest.raises(ResumeRefused, match=words):
            compress(data, other, path, Stopwatch(None), **{**options, **changes})
        assert path.read_bytes() == kept
    copy = tmp_path / "copy"
    copy.symlink_to(model)  # under another name it is the same model
    assert compress(SHORT, copy, path, Stopwatch(None), **options)


def test_work_that_is_invalid_is_corrupt(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """Records with right checksums, as another version of the code could have left them."""
    model, path = tiny_model("llama"), tmp_path / "x.part"
    options = {"bits": 16, "context_tokens": 0, **CRAM}
    with pytest.raises(Interrupted):
        compress(SHORT, model, path, Stopwatch(9), **options)
    kept = path.read_bytes()
    for name, state in (("plan 0", b""), ("chunks", b""), ("chunks", signed(b"5"))):
        path.write_bytes(kept)
        journal = Journal.open(str(path))
        journal.keep(name, signed(b"5"), state)
        journal.close()
        with pytest.raises(Corrupt, match="is invalid") as caught:
            compress(SHORT, model, path, Stopwatch(None), **options)
        assert "--restart" in caught.value.hint
