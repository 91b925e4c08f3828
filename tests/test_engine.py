"""The engine's decisions on tiny models: when a chunk stops, what a full device and a passed
deadline lead to, which vectors leave."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llmzip.api.compress import compress_bytes
from llmzip.api.decompress import decompress_bytes
from llmzip.cli.main import main
from llmzip.codecs.context import QUIET, Context
from llmzip.codecs.cram import engine as engine_module
from llmzip.codecs.cram.calibration import BF16_SAFE_MARGIN
from llmzip.codecs.cram.checkpoint import EngineState
from llmzip.codecs.cram.chunking import CutRule, Segment, plan_segments
from llmzip.codecs.cram.engine import Engine
from llmzip.codecs.cram.greedy import decode_chunks
from llmzip.codecs.cram.optimizer import Rows
from llmzip.codecs.cram.presets import most_patches, stop_rule
from llmzip.codecs.cram.signs import SignPlan
from llmzip.codecs.cram.slots import Slot, start_slot
from llmzip.codecs.cram.tasks import Contexts, Crammed, EngineSettings, Task
from llmzip.config import CompressSettings, DecompressSettings
from llmzip.errors import LimitExceeded
from llmzip.lm.devices import MemoryGauge
from llmzip.lm.layout import pad_ids
from llmzip.lm.model import FrozenLM
from llmzip.progress import Progress
from llmzip.store.container import read_container
from llmzip.store.cram_payload import CramPayload
from llmzip.store.payload import StoredRun, TextRun
from tests.tiny_models import SHORT_TEXT as TEXT

CPU = torch.device("cpu")
SETTINGS = EngineSettings(
    num_mem=2, max_steps=80, seed=0, context_tokens=1000, min_margin=0.05, step_price_bits=0.2
)


@pytest.fixture(scope="module")
def segments(lm: FrozenLM, ids: tuple[int, ...]) -> list[Segment]:
    return list(plan_segments(lm, ids, CutRule(context_tokens=20, budget_bits=40.0), start_id=1))


def tasks_of(segments: list[Segment]) -> Iterator[Task]:
    for segment in segments:
        for span in segment.spans:
            yield Task(segment=segment, start=span.start, end=span.end)


def cram(lm: FrozenLM, segments: list[Segment], **settings: object) -> list[Crammed]:
    engine = Engine(lm, lm, replace(SETTINGS, **settings))  # type: ignore[arg-type]
    found = list(engine.run(tasks_of(segments)))
    return sorted(found, key=lambda chunk: chunk.task.place)


def ids_of(chunks: list[Crammed]) -> tuple[int, ...]:
    return tuple(i for chunk in chunks for i in chunk.task.ids)


def certified_margins(lm: FrozenLM, chunk: Crammed) -> list[float]:
    """Margins of the unpatched tokens of a chunk, decoded on its own."""
    assert chunk.mem is not None
    task = chunk.task
    before = [*task.segment.start_ids, *task.segment.ids[: task.start]]
    decoded, _ = decode_chunks(
        lm, lm.empty(1), [before], chunk.mem.float()[None], [(task.num_tokens, dict(chunk.patches))]
    )
    assert decoded.ids[0].tolist() == list(task.ids)
    patched = dict(chunk.patches)
    return [float(m) for p, m in enumerate(decoded.margins[0]) if p not in patched]


class _HostReads(TorchDispatchMode):
    """Notes every operation for whose result the host would wait for an accelerator."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(  # type: ignore[no-untyped-def]
        self, func, types, args=(), kwargs=None
    ):
        if func._overloadpacket._qualified_op_name in (
            "aten::_local_scalar_dense",
            "aten::nonzero",
            "aten::masked_select",
        ):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


class TestStopRule:
    def stops(
        self, wrong: int, falling: float, *, tokens: int = 40, steps: int = 10, **rule: object
    ) -> bool:
        plain: dict[str, object] = {"step_price_bits": 0.2, "max_steps": 80}
        may_stop = stop_rule(**(plain | rule))  # type: ignore[arg-type]
        found = may_stop(
            torch.tensor([wrong]), torch.tensor([falling]), torch.tensor([tokens]),
            torch.tensor([steps]),
        )  # fmt: skip
        return bool(found[0])

    def test_an_exact_chunk_stops_at_once(self) -> None:
        assert self.stops(0, float("nan"))
        assert self.stops(0, 9.0, step_price_bits=0.0)

    def test_never_more_than_one_patch_in_eight(self) -> None:
        assert self.stops(5, 0.0)
        assert not self.stops(6, 0.0)
        lengths = torch.tensor([1, 2, 7, 8, 15, 16, 80])
        assert most_patches(lengths).tolist() == [0, 1, 1, 1, 1, 2, 10]

    def test_patches_wait_while_wrong_tokens_vanish(self) -> None:
        assert not self.stops(2, 1.0)
        assert self.stops(2, 0.1)
        assert not self.stops(2, float("nan"))  # measured once: nothing is known of its fall

    def test_the_price_of_a_step_decides(self) -> None:
        assert not self.stops(2, 0.0, step_price_bits=0.0)
        assert self.stops(2, 1.0, step_price_bits=1e6)

    def test_max_steps_end_it(self) -> None:
        assert not self.stops(40, 3.0, steps=79)
        assert self.stops(40, 3.0, steps=80)

    def test_a_fixed_number_of_patches_is_not_weighed(self) -> None:
        assert self.stops(3, 5.0, patches=3)
        assert not self.stops(4, 0.0, patches=3)
        assert not self.stops(1, 0.0, patches=0)


class TestRows:
    def slots(self, lm: FrozenLM, segments: list[Segment]) -> list[Slot]:
        return [start_slot(lm, task, 2, seed=0) for task in tasks_of(segments)]

    def test_frozen_rows_leave_as_they_were_measured(
        self, lm: FrozenLM, segments: list[Segment]
    ) -> None:
        slots = self.slots(lm, segments)
        rows = Rows(lm, Contexts(lm), slots, min_margin=0.05)
        rows.measure()
        rows.step()
        rows.look()
        before = [slot.mem.clone() for slot in slots]
        first = torch.arange(len(slots)) == 0
        rows.measure()
        rows.settle(lambda wrong, falling, tokens, steps: first)
        for _ in range(3):
            rows.step()
            rows.measure()
        rows.look()
        assert [slot.is_settled for slot in slots] == first.tolist()
        assert torch.equal(slots[0].mem, before[0])
        assert (slots[0].step, slots[1].step) == (1, 4)
        assert not torch.equal(slots[1].mem, before[1])

    def test_a_new_batch_goes_on_where_the_old_one_was(
        self, lm: FrozenLM, segments: list[Segment]
    ) -> None:
        whole, parted = self.slots(lm, segments), self.slots(lm, segments)
        contexts = Contexts(lm)
        for slots, lengths in ((whole, [4]), (parted, [1, 3])):
            for length in lengths:
                rows = Rows(lm, contexts, slots)
                for _ in range(length):
                    rows.measure()
                    rows.step()
                rows.look()
        for one, other in zip(whole, parted, strict=True):
            assert torch.equal(one.mem, other.mem)
            assert (one.step, one.num_wrong) == (other.step, other.num_wrong)

    def test_accelerators_compute_the_same_gradient(
        self, lm: FrozenLM, ids: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        block, live = pad_ids([ids], CPU)
        with torch.no_grad():
            hidden, _ = lm.extend(lm.empty(1), lm.embed(block), live)
        rows, targets = hidden[0, :-1], block[0, 1:]
        margins = lm.predict(rows, targets, margin_goal=0.0).margins
        for goal in (-1e9, float(margins.median()), 1e9):  # none, some, all ask for a gradient
            found = {}
            for picks in (True, False):
                monkeypatch.setattr(lm, "_picks_rows", picks)
                found[picks] = lm.predict(rows, targets, margin_goal=goal, temperature=0.5)
            assert torch.equal(found[True].margins, found[False].margins)
            torch.testing.assert_close(
                found[True].gradient, found[False].gradient, atol=1e-5, rtol=1e-5
            )
            asks = found[False].gradient.abs().sum(dim=1) > 0
            assert asks.tolist() == (margins < goal).tolist()

    def test_a_sharp_loss_has_no_subnormal_gradient(self, lm: FrozenLM) -> None:
        """Products with subnormal numbers take many times as long."""
        logits = -torch.arange(64.0)[None].repeat(3, 1)
        targets, temperature = torch.tensor([0, 5, 63]), torch.tensor([0.3, 1.0, 0.3])
        sharp = torch.softmax(logits / 0.3, dim=1)
        assert sharp[sharp > 0].min() < 1e-30  # subnormal once it is multiplied
        error = torch.full((3, 64), torch.nan)
        short = torch.tensor([True, False, True])
        lm._write_error(error, logits.clone(), targets, temperature, short)
        expected = torch.softmax(logits / temperature[:, None], dim=1)
        expected[torch.arange(3), targets] -= 1
        expected[1] = 0
        torch.testing.assert_close(error, expected, atol=2e-9, rtol=0.0)
        sizes = error.abs()
        assert ((sizes == 0) | (sizes > 1e-10)).all()

    def test_each_token_has_its_own_goal_and_temperature(
        self, lm: FrozenLM, ids: tuple[int, ...]
    ) -> None:
        block, live = pad_ids([ids], CPU)
        with torch.no_grad():
            hidden, _ = lm.extend(lm.empty(1), lm.embed(block), live)
        rows, targets = hidden[0, :-1], block[0, 1:]
        middle = float(lm.predict(rows, targets, margin_goal=0.0).margins.median())
        first = torch.arange(len(rows)) % 3 == 0
        goals = torch.where(first, torch.tensor(1e9), torch.tensor(middle))
        warmth = torch.where(first, torch.tensor(0.3), torch.tensor(2.0))
        mixed = lm.predict(rows, targets, margin_goal=goals, temperature=warmth).gradient
        one = lm.predict(rows, targets, margin_goal=1e9, temperature=0.3).gradient
        other = lm.predict(rows, targets, margin_goal=middle, temperature=2.0).gradient
        expected = torch.where(first[:, None], one, other)
        torch.testing.assert_close(mixed, expected, atol=1e-5, rtol=1e-5)

    def test_steps_to_signs_never_wait_for_an_accelerator(
        self, lm: FrozenLM, segments: list[Segment], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lm, "_picks_rows", False)
        plan = SignPlan(soft_steps=2, total_steps=6)
        slots = [start_slot(lm, task, 2, 0, plan=plan) for task in tasks_of(segments)]
        rows = Rows(lm, Contexts(lm), slots, min_margin=0.05, plan=plan)
        rows.measure()
        with _HostReads() as reads:
            for _ in range(4):
                rows.step()
                rows.measure()
        assert reads.found == []

    def test_steps_never_wait_for_an_accelerator(
        self, lm: FrozenLM, segments: list[Segment], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lm, "_picks_rows", False)
        slots = [start_slot(lm, task, 2, 0) for task in tasks_of(segments)]
        rows = Rows(lm, Contexts(lm), slots, min_margin=0.05)
        rule = stop_rule(step_price_bits=1.0, max_steps=80)
        rows.measure()  # finds once where the live slots are
        with _HostReads() as reads:
            for _ in range(3):
                rows.step()
                rows.measure()
                rows.settle(rule)
        assert reads.found == []
        with _HostReads() as reads:  # it would have noticed
            bool(torch.ones(2).any())
        assert reads.found

    def test_a_chunk_is_taken_up_from_its_front(self, lm: FrozenLM, ids: tuple[int, ...]) -> None:
        (whole,) = plan_segments(
            lm, ids * 2, CutRule(context_tokens=0, budget_bits=1e9), start_id=1
        )
        slot = start_slot(lm, next(tasks_of([whole])), 1, 0)
        rows = Rows(lm, Contexts(lm), [slot])
        first = rows.num_tokens
        assert 16 <= first < slot.task.num_tokens
        rows.measure()
        rows.step()
        rows.look()
        assert first < rows.num_tokens < slot.task.num_tokens
        assert slot.num_wrong >= slot.task.num_tokens - first  # what is not taken up is not right
        slot.step = 1000
        assert Rows(lm, Contexts(lm), [slot]).num_tokens == slot.task.num_tokens

    def test_a_segment_is_read_once_however_many_share_a_batch(
        self, lm: FrozenLM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids = tuple(range(10, 20))
        bits = (1.0,) * len(ids)
        segments = [
            Segment(index=i, offset=10 * i, start_ids=(1,), ids=ids, surprisal_bits=bits, spans=())
            for i in range(40)
        ]
        reads = []
        real = lm.extend
        monkeypatch.setattr(lm, "extend", lambda *args: reads.append(1) or real(*args))
        contexts = Contexts(lm)
        for start, num_reads in ((0, 1), (0, 1), (5, 41), (7, 41)):
            state = contexts.before([Task(segment=s, start=start, end=10) for s in segments])
            assert (state.num_rows, state.num_slots) == (40, 1 + start)
            assert len(reads) == num_reads


class TestQueue:
    def test_looking_seldom_changes_nothing_that_counts(
        self, lm: FrozenLM, ids: tuple[int, ...], segments: list[Segment],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        for steps in (1, 4):
            monkeypatch.setattr(engine_module, "steps_per_check", lambda device, steps=steps: steps)
            chunks = cram(lm, segments)
            assert ids_of(chunks) == ids
            crammed = [chunk for chunk in chunks if chunk.mem is not None]
            assert len(crammed) > len(chunks) / 2
            for chunk in crammed:
                assert min(certified_margins(lm, chunk)) >= SETTINGS.min_margin - 1e-3
                assert chunk.steps <= SETTINGS.max_steps + 4

    def test_a_chunk_may_be_done_with_patches_left(
        self, lm: FrozenLM, ids: tuple[int, ...], segments: list[Segment]
    ) -> None:
        exact = cram(lm, segments, patches=0, max_steps=200)
        loose = cram(lm, segments, patches=1, max_steps=200)
        assert ids_of(exact) == ids_of(loose) == ids
        assert sum(chunk.steps for chunk in loose) < sum(chunk.steps for chunk in exact)
        done = [c for c in loose if c.mem is not None and c.steps < 200]
        assert done and all(len(chunk.patches) <= 1 for chunk in done)

    def test_every_margin_is_as_asked(self, lm: FrozenLM, segments: list[Segment]) -> None:
        for min_margin in (0.05, 1.5):
            for chunk in cram(lm, segments, min_margin=min_margin):
                if chunk.mem is not None:
                    assert chunk.min_margin is not None and chunk.min_margin >= min_margin

    def test_a_full_device_makes_the_batch_smaller(
        self, lm: FrozenLM, ids: tuple[int, ...], segments: list[Segment],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        sizes: list[int] = []
        real = Rows.measure

        def measure(rows: Rows) -> None:
            sizes.append(len(rows._slots))
            if len(rows._slots) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB")
            real(rows)

        monkeypatch.setattr(Rows, "measure", measure)
        chunks = cram(lm, segments)
        assert ids_of(chunks) == ids
        assert any(chunk.mem is not None for chunk in chunks)
        refused = [index for index, size in enumerate(sizes) if size > 2]
        assert sizes[0] > 2 and len(refused) < 10
        assert max(sizes[refused[-1] + 1 :]) <= 2

    def test_a_chunk_too_large_for_the_device_is_a_limit(
        self, lm: FrozenLM, segments: list[Segment], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def measure(rows: Rows) -> None:
            raise torch.OutOfMemoryError("MPS backend out of memory")

        monkeypatch.setattr(Rows, "measure", measure)
        with pytest.raises(LimitExceeded) as caught:
            cram(lm, segments)
        assert caught.value.exit_code == 7 and "--device cpu" in caught.value.hint

    def test_other_failures_of_a_step_are_not_taken_for_it(
        self, lm: FrozenLM, segments: list[Segment], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def measure(rows: Rows) -> None:
            raise RuntimeError("shapes do not match")

        monkeypatch.setattr(Rows, "measure", measure)
        with pytest.raises(RuntimeError, match="shapes"):
            cram(lm, segments)

    def test_on_a_cpu_the_batch_keeps_its_size(self) -> None:
        gauge = MemoryGauge(CPU)
        assert [gauge.step_tokens(tokens) for tokens in (1, 384)] == [1, 384]

    def test_nothing_starts_after_the_deadline(self, lm: FrozenLM, segments: list[Segment]) -> None:
        assert cram(lm, segments, deadline=time.monotonic() - 1) == []

    def test_what_is_done_by_the_deadline_is_certified(
        self, lm: FrozenLM, ids: tuple[int, ...], segments: list[Segment],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        now = 0.0
        real = Rows.step

        def step(rows: Rows) -> None:
            nonlocal now
            now += 1.0
            real(rows)

        whole = cram(lm, segments, batch_tokens=24)
        monkeypatch.setattr(Rows, "step", step)
        monkeypatch.setattr(engine_module, "time", SimpleNamespace(monotonic=lambda: now))
        chunks = cram(lm, segments, batch_tokens=24, deadline=30.0)
        assert 0 < len(chunks) < len(whole)
        assert 30 <= now <= 32
        for chunk in chunks:
            if chunk.mem is not None:
                assert min(certified_margins(lm, chunk)) >= SETTINGS.min_margin - 1e-3


class TestTimeBudget:
    def compress(
        self, model: Path, told: list[Progress] | None = None, **settings: object
    ) -> bytes:
        plain: dict[str, object] = {"budget_bits": 40.0, "context_tokens": 24, "num_mem": 2}
        return compress_bytes(
            TEXT,
            CompressSettings(model=str(model), **(plain | settings)),
            QUIET if told is None else Context(on_progress=told.append),
        )

    def decompress(self, packed: bytes, model: Path) -> bytes:
        return decompress_bytes(packed, DecompressSettings(model=str(model)))

    def test_no_time_at_all_stores_everything_and_says_so(
        self, tiny_model: Callable[..., Path]
    ) -> None:
        told: list[Progress] = []
        packed = self.compress(tiny_model("llama"), told, time_budget_s=1e-6)
        container = read_container(packed)
        assert not container.needs_model and container.payload is None
        assert [type(run) for run in container.runs] == [StoredRun]
        assert self.decompress(packed, tiny_model("llama")) == TEXT
        say = f"time budget: {len(TEXT)} of {len(TEXT)} bytes are stored, not crammed"
        assert say in [event.message for event in told]

    def test_the_command_says_so_too(
        self, tiny_model: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        file = tmp_path / "mill.txt"
        file.write_bytes(TEXT)
        command = ["compress", str(file), "--model", str(tiny_model("llama"))]
        command += ["--time-budget", "0.001", "--bits", "2"]
        assert main(command) == 0
        say = f"time budget: {len(TEXT)} of {len(TEXT)} bytes are stored, not crammed\n"
        assert say in capfd.readouterr().err
        assert main([*command, "-f", "-q"]) == 0
        assert capfd.readouterr().err == ""

    def test_time_enough_stores_nothing_and_says_nothing(
        self, tiny_model: Callable[..., Path]
    ) -> None:
        told: list[Progress] = []
        packed = self.compress(tiny_model("llama"), told, time_budget_s=3600)
        assert [type(run) for run in read_container(packed).runs] == [TextRun]
        assert not any("time budget" in event.message for event in told)

    def test_a_part_of_every_segment_is_held_and_the_rest_stored(
        self, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Any subset of the chunks may be there at the deadline: segments hold their beginnings."""
        model = tiny_model("llama")
        real = Engine.run
        for lost in ((0,), (1,), (2, 3)):

            def run(
                engine: Engine,
                tasks: Iterator[Task],
                state: EngineState | None = None,
                lost: tuple[int, ...] = lost,
            ) -> Iterator[Crammed]:
                every = sorted(real(engine, tasks), key=lambda chunk: chunk.task.place)
                yield from (chunk for i, chunk in enumerate(every) if i not in lost)

            monkeypatch.setattr(Engine, "run", run)
            told: list[Progress] = []
            packed = self.compress(model, told, time_budget_s=3600)
            container = read_container(packed)
            assert {type(run) for run in container.runs} == {TextRun, StoredRun}
            stored = sum(len(run.data) for run in container.runs if isinstance(run, StoredRun))
            held = sum(chunk.num_bytes for chunk in container.payload.chunks)
            assert stored > 0 and held > 0 and stored + held == len(TEXT)
            say = f"time budget: {stored} of {len(TEXT)} bytes are stored, not crammed"
            assert say in [event.message for event in told]
            assert self.decompress(packed, model) == TEXT


def test_bf16_safe_files_keep_their_promise(tiny_model: Callable[..., Path]) -> None:
    model = tiny_model("llama")
    packed = compress_bytes(
        TEXT,
        CompressSettings(
            model=str(model), budget_bits=20.0, context_tokens=0, num_mem=4, bf16_safe=True
        ),
    )
    payload = read_container(packed).payload
    assert isinstance(payload, CramPayload)
    assert any(chunk.mem is not None for chunk in payload.chunks)
    assert payload.bf16_safe
    assert payload.min_margin is not None and payload.min_margin >= 0.99 * BF16_SAFE_MARGIN
    assert decompress_bytes(packed, DecompressSettings(model=str(model))) == TEXT
