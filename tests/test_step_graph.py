"""Steps of the optimiser on fixed buffers, as graphs run them: the same as without. Here the
kernels are called instead of captured; a CUDA device captures the same function (`test_cuda`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

import llmzip
from llmzip.codecs.cram import step_graph
from llmzip.codecs.cram.chunking import CutRule, Segment, plan_segments
from llmzip.codecs.cram.presets import stop_rule
from llmzip.codecs.cram.signs import SignPlan, sign_plan
from llmzip.codecs.cram.slots import Slot, start_slot
from llmzip.codecs.cram.step_graph import Batches
from llmzip.codecs.cram.tasks import Contexts, tasks_of
from llmzip.lm.graphs import CaptureFailed, graphs, uses_graphs
from llmzip.lm.model import FrozenLM
from tests.tiny_models import TEXT

SIGNS = sign_plan(30)
PLANS = pytest.mark.parametrize("plan", [SIGNS, None], ids=["signs", "16 bits"])


@pytest.fixture(scope="module")
def segments(lm: FrozenLM, ids: tuple[int, ...]) -> list[Segment]:
    rule = CutRule(context_tokens=20, budget_bits=40.0)
    return list(plan_segments(lm, ids, rule, start_id=1))


def slots_of(lm: FrozenLM, segments: Sequence[Segment], plan: SignPlan | None) -> list[Slot]:
    return [start_slot(lm, task, 1, 0, plan=plan) for task in tasks_of(segments)]


def batches(lm: FrozenLM, plan: SignPlan | None) -> Batches:
    may_stop = None if plan else stop_rule(step_price_bits=1.0, max_steps=25)
    return Batches(lm, Contexts(lm), min_margin=0.05, plan=plan, may_stop=may_stop)


def advanced(lm: FrozenLM, own: Batches, slots: list[Slot], steps: int) -> list[Slot]:
    batch = own.of(slots)
    for _ in range(steps):
        batch.advance()
        batch.look()
    return slots


def same(left: Slot, right: Slot) -> bool:
    pairs = [(left.mem, right.mem)]
    if left.signs is not None and right.signs is not None:
        pairs += [
            (left.signs.hidden, right.signs.hidden),
            (left.signs.squares, right.signs.squares),
        ]
        assert torch.equal(left.signs.clock, right.signs.clock)
    return (left.step, left.num_wrong) == (right.step, right.num_wrong) and all(
        torch.allclose(a, b, rtol=1e-2, atol=1e-2) for a, b in pairs
    )


@PLANS
def test_steps_are_the_same(lm: FrozenLM, segments: list[Segment], plan: SignPlan | None) -> None:
    """Rows of other lengths, behind other contexts, in a batch that is filled up."""
    plain = advanced(lm, batches(lm, plan), slots_of(lm, segments, plan), 6)
    assert len({slot.task.num_tokens for slot in plain}) > 1
    assert len({slot.task.start for slot in plain}) > 1 and len(plain) > 2
    with graphs(without_capture=True):
        own = batches(lm, plan)
        found = advanced(lm, own, slots_of(lm, segments, plan), 6)
    (shape,) = own._kept
    assert shape.num_rows >= len(plain) and shape.context_slots == 256
    for left, right in zip(plain, found, strict=True):
        assert same(left, right)


@PLANS
def test_one_batch_takes_the_place_of_another(
    lm: FrozenLM, segments: list[Segment], plan: SignPlan | None
) -> None:
    with graphs(without_capture=True):
        first, *others = slots_of(lm, segments, plan)
        own = batches(lm, plan)
        advanced(lm, own, others[:2], 5)
        (batch,) = own._kept.values()
        again = advanced(lm, own, [first, others[-1]], 5)
        assert list(own._kept.values()) == [batch]
        alone = advanced(lm, batches(lm, plan), slots_of(lm, segments, plan)[:1], 5)
        assert same(again[0], alone[0])
        # And back: what went on elsewhere goes on from where it was.
        advanced(lm, own, others[:2], 2)
        whole = advanced(lm, batches(lm, plan), slots_of(lm, segments, plan)[1:3], 7)
        assert all(map(same, others[:2], whole))
        batch = own.of([first])
        batch.advance()
        margins = batch.margins(0)
        assert margins.shape == (first.task.num_tokens,) and margins.isfinite().any()


def test_few_graphs_are_kept(lm: FrozenLM, segments: list[Segment]) -> None:
    slots = slots_of(lm, segments, SIGNS)
    with graphs(without_capture=True):
        own = batches(lm, SIGNS)
        for count in (1, 2, 3, 5, 1):
            own.of((slots * 2)[:count])
        assert [shape.num_rows for shape in own._kept] == [4, 8, 1]


def test_where_capture_fails_steps_are_made_without(
    lm: FrozenLM, segments: list[Segment], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object) -> None:
        raise CaptureFailed("no")

    monkeypatch.setattr(step_graph, "Replay", fails)
    plain = advanced(lm, batches(lm, SIGNS), slots_of(lm, segments, SIGNS), 3)
    with graphs(without_capture=True):
        found = advanced(lm, batches(lm, SIGNS), slots_of(lm, segments, SIGNS), 3)
    assert all(map(same, plain, found))


@pytest.mark.parametrize("options", [{}, {"bits": 16, "num_mem": 2}, {"shared_mem": 1}])
def test_files_made_on_fixed_buffers(
    tiny_model: Callable[..., Path], options: dict[str, int]
) -> None:
    """Crammed and decoded there, and decoded without."""
    model, data = str(tiny_model("llama")), TEXT.encode()[:160]
    with graphs(without_capture=True):
        assert uses_graphs(torch.device("cpu"))
        packed = llmzip.compress(
            data, model=model, budget_bits=40.0, context_tokens=40, max_steps=60, **options
        )
        assert llmzip.decompress(packed, model=model) == data
    assert llmzip.info(packed).num_vectors > 1
    assert llmzip.decompress(packed, model=model) == data
