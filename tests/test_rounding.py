"""The way to the grid: schedules, what is kept, what leaves; on tensors and on a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from llmzip.api.compress import compress_bytes
from llmzip.api.decompress import decompress_bytes
from llmzip.codecs.cram.chunking import Segment, plan_segments
from llmzip.codecs.cram.engine import Engine
from llmzip.codecs.cram.fixing import fix_some, fixed_share
from llmzip.codecs.cram.greedy import decode_chunks
from llmzip.codecs.cram.presets import EFFORTS, chunk_budget_bits, grid_plan
from llmzip.codecs.cram.rounding import (
    Candidate,
    GridGoal,
    GridPlan,
    Rounding,
    next_steps,
    round_steps,
)
from llmzip.codecs.cram.slots import as_stored
from llmzip.codecs.cram.tasks import Crammed, EngineSettings, Task
from llmzip.config import CompressSettings, DecompressSettings
from llmzip.lm.model import FrozenLM
from llmzip.store.container import read_container
from llmzip.store.cram_payload import CramPayload
from llmzip.store.vectors import GridMem, grid_values, quantise_step, step_value
from tests.tiny_models import SHORT_TEXT

PLAN = GridPlan(bits=2.0, free_steps=20, fixing_steps=10, total_steps=50, last_step=200)
CPU = torch.device("cpu")


def rounding(limit: int = 1, tokens: int = 20) -> Rounding:
    bits = torch.arange(float(tokens))
    return Rounding.start((1, 8), bits, GridGoal(limit=limit, wanted=0.1), CPU)


def candidate(margins: Tensor, step: float = 4.0) -> Candidate:
    generator = torch.Generator().manual_seed(0)
    symbols = torch.randint(-3, 4, (1, 8), generator=generator)
    return Candidate(
        mem=step * symbols, steps=torch.tensor([step]),
        gradient=torch.randn(1, 8, generator=generator), margins=margins,
    )  # fmt: skip


class TestSteps:
    def test_steps_are_what_the_container_can_hold(self) -> None:
        steps = torch.logspace(-3, 4, 300)
        rounded = round_steps(steps)
        assert ((rounded / steps).log2().abs() <= 0.17).all()
        for step in rounded.tolist():
            assert step_value(quantise_step(step)) == step
        assert torch.equal(round_steps(rounded), rounded)

    def test_neighbours_are_coarser_and_finer(self) -> None:
        step = torch.tensor([320.0])
        assert next_steps(step, 1) > step > next_steps(step, -1) > next_steps(step, -2)

    def test_a_bit_more_halves_the_step(self) -> None:
        mem = torch.randn(2, 576, generator=torch.Generator().manual_seed(0))
        coarse, fine = (
            GridPlan(bits=bits, free_steps=1, fixing_steps=1, total_steps=1, last_step=1)
            for bits in (2.0, 3.0)
        )
        assert torch.equal(coarse.first_steps(mem), 2 * fine.first_steps(mem))

    def test_the_optimiser_and_the_container_mean_the_same_numbers(self) -> None:
        symbols = torch.arange(-900, 901)[None]
        for step in (0.875, 3.5, 448.0):
            ours = as_stored(symbols * step).to(torch.bfloat16).view(torch.uint16).numpy()
            pattern = np.array([quantise_step(step)], dtype=np.uint16)
            assert np.array_equal(ours, grid_values(symbols.numpy().astype(np.int16), pattern))


class TestFixing:
    def test_the_nearest_coordinates_are_fixed_first(self) -> None:
        mem = torch.tensor([[0.9, 2.4, -3.05, 7.0]])
        fixed = torch.tensor([[False, False, False, True]])
        found, fixed = fix_some(
            mem, fixed, torch.ones(1, 4), torch.tensor([3.0]), torch.tensor([0.7])
        )
        assert fixed.tolist() == [[True, False, True, True]]
        assert torch.allclose(found, torch.tensor([[1.0, 2.4, -3.0, 7.0]]))

    def test_without_a_grid_nothing_is_fixed(self) -> None:
        mem = torch.randn(2, 5)
        grid = torch.tensor([[0.0] * 5, [1.0] * 5])
        none = torch.zeros(2, 5, dtype=torch.bool)
        found, fixed = fix_some(mem, none, grid, torch.tensor([0.0, 5.0]), torch.ones(2))
        assert torch.equal(found[0], mem[0]) and not fixed[0].any()
        assert torch.equal(found[1], mem[1].round()) and fixed[1].all()

    def test_the_share_rises_from_the_lead_to_all(self) -> None:
        clock = torch.arange(12.0)
        share = fixed_share(clock, torch.full((12,), 2.0), torch.full((12,), 10.0))
        assert share[:3].tolist() == [0.0] * 3
        assert (share.diff() >= 0).all() and share[2:10].diff().min() > 0
        assert share[10:].tolist() == [1.0, 1.0]


class TestRounding:
    def test_the_least_expected_tokens_are_given_up(self) -> None:
        assert rounding(limit=3).given_up.nonzero()[:, 0].tolist() == [17, 18, 19]

    def test_it_begins_when_few_are_wrong_or_time_is_up(self) -> None:
        state = rounding()
        bad, good = torch.full((20,), -1.0), torch.ones(20)
        good[19] = -1.0  # given up
        assert state.may_begin(good, 1, PLAN)
        assert not state.may_begin(bad, 1, PLAN)
        assert state.may_begin(bad, PLAN.free_steps, PLAN)

    def test_the_better_of_two_is_kept_and_its_worst_token_given_up(self) -> None:
        state = rounding()
        state.begin(torch.randn(1, 8), 5, PLAN)
        first = torch.ones(20)
        first[[3, 4, 5]] = torch.tensor([-5.0, -1.0, 0.0])
        state.take(candidate(first))
        assert state.given_up.nonzero()[:, 0].tolist() == [3]
        worse = first.clone()
        worse[6:9] = -1.0
        state.take(candidate(worse))
        assert state.best is not None and torch.equal(state.best.margins, first)
        better = torch.ones(20)
        better[7] = -2.0
        state.take(candidate(better))
        assert torch.equal(state.best.margins, better)
        assert state.given_up.nonzero()[:, 0].tolist() == [7]

    def test_what_fits_is_held_while_a_coarser_grid_is_tried(self) -> None:
        state = rounding()
        state.begin(torch.randn(1, 8), 5, PLAN)
        fits = candidate(torch.ones(20))
        state.take(fits)
        assert state.go_on(20, PLAN)
        assert state.steps is not None and (state.steps > fits.steps).all()
        assert not state.fixed.any()
        hopeless = candidate(torch.full((20,), -1.0), step=8.0)
        state.take(hopeless)
        assert not state.go_on(40, PLAN)
        assert state.leave() is fits
        assert torch.equal(state.steps, fits.steps)

    def test_what_fits_leaves_when_no_time_is_left_for_another_grid(self) -> None:
        state = rounding()
        state.begin(torch.randn(1, 8), 5, PLAN)
        state.take(candidate(torch.ones(20)))
        assert not state.go_on(45, PLAN)

    def test_what_nearly_fits_is_set_free_in_part(self) -> None:
        state = rounding()
        state.begin(torch.randn(1, 8), 5, PLAN)
        margins = torch.ones(20)
        margins[[2, 3]] = -1.0  # one too many
        state.take(candidate(margins))
        assert state.go_on(20, PLAN)
        assert 0 < state.num_free < 8
        start, _ = state.starting_point()
        assert state.best is not None
        assert torch.equal(start[state.fixed], state.best.mem[state.fixed])
        assert (start != state.best.mem)[~state.fixed].all()

    def test_what_does_not_fit_in_time_gets_a_finer_grid(self) -> None:
        state = rounding()
        state.begin(torch.randn(1, 8), 5, PLAN)
        margins = torch.ones(20)
        margins[[2, 3]] = -1.0
        state.take(candidate(margins))
        assert state.go_on(60, PLAN)
        assert state.steps is not None and float(state.steps[0]) < 4.0
        assert torch.equal(state.starting_point()[0], state.free_mem)
        state.take(candidate(margins))
        assert not state.go_on(PLAN.last_step, PLAN)  # to be split

    def test_a_refusal_asks_for_wider_margins(self) -> None:
        state = rounding()
        state.begin(torch.randn(1, 8), 5, PLAN)
        fits = candidate(torch.full((20,), 0.2))
        state.take(fits)
        state.go_on(45, PLAN)
        state.refuse(45, PLAN)
        assert state.wanted > 0.2 and state.held is None and state.best is fits
        assert 0 < state.num_free < 8 and state.deadline > 45


class TestPlans:
    def test_16_bits_have_no_grid(self) -> None:
        assert grid_plan("balanced", 16, None) is None

    def test_steps_named_by_the_user_are_the_last(self) -> None:
        plan = grid_plan("small", 3, 50)
        assert plan is not None
        assert (plan.bits, plan.total_steps, plan.last_step) == (3.0, 50, 50)
        assert plan.free_steps + plan.fixing_steps < 50

    def test_more_bits_and_better_presets_hold_more(self) -> None:
        budgets = [
            chunk_budget_bits("balanced", grid_plan("balanced", bits, None), 300.0)
            for bits in (1, 2, 3, 4, 8)
        ]
        assert budgets == sorted(budgets) and budgets[0] < 0.6 * budgets[-1]
        assert EFFORTS["fast"].total_steps < EFFORTS["balanced"].total_steps


@pytest.fixture(scope="module")
def segments(lm: FrozenLM, ids: tuple[int, ...]) -> list[Segment]:
    return list(
        plan_segments(lm, ids, start_id=1, context_tokens=20, budget_bits=40.0, spared=1 / 8)
    )


class TestEngine:
    def cram(self, lm: FrozenLM, segments: list[Segment], **settings: object) -> list[Crammed]:
        chosen: dict[str, object] = {
            "num_mem": 2, "max_steps": 80, "seed": 0, "context_tokens": 1000,
            "min_margin": 0.05, "step_price_bits": 0.2, "grid": PLAN,
        }  # fmt: skip
        engine = Engine(lm, lm, EngineSettings(**(chosen | settings)))  # type: ignore[arg-type]
        tasks = (
            Task(segment=segment, start=span.start, end=span.end)
            for segment in segments
            for span in segment.spans
        )
        return sorted(engine.run(tasks), key=lambda chunk: chunk.task.place)

    def test_every_chunk_is_on_its_grid_and_decodes(
        self, lm: FrozenLM, segments: list[Segment]
    ) -> None:
        found = self.cram(lm, segments)
        assert sum(chunk.task.num_tokens for chunk in found) == sum(len(s.ids) for s in segments)
        assert any(chunk.mem is not None for chunk in found)
        for chunk in found:
            if chunk.mem is None or chunk.grid_steps is None:
                continue
            task = chunk.task
            symbols = torch.round(chunk.mem.float() / chunk.grid_steps[:, None])
            assert torch.equal(as_stored(symbols * chunk.grid_steps[:, None]), chunk.mem.float())
            before = [*task.segment.start_ids, *task.segment.ids[: task.start]]
            decoded, _ = decode_chunks(
                lm, lm.empty(1), [before], chunk.mem.float()[None],
                [(task.num_tokens, dict(chunk.patches))],
            )  # fmt: skip
            assert decoded.ids[0].tolist() == list(task.ids)
            assert len(chunk.patches) <= max(1, task.num_tokens // 8)

    def test_same_seed_same_vectors(self, lm: FrozenLM, segments: list[Segment]) -> None:
        first, again = (self.cram(lm, segments[:1]) for _ in range(2))
        assert [c.patches for c in first] == [c.patches for c in again]
        for one, other in zip(first, again, strict=True):
            if one.mem is not None and other.mem is not None:
                assert torch.equal(one.mem, other.mem)

    def test_without_patches_every_token_is_the_vectors_own(
        self, lm: FrozenLM, segments: list[Segment]
    ) -> None:
        found = self.cram(lm, segments[:1], max_patches=0.0)
        assert all(not chunk.patches for chunk in found if chunk.mem is not None)


@pytest.mark.parametrize("bits", [8, 6, 5, 4, 3, 2, 1])
def test_bytes_come_back_at_every_precision(bits: int, tiny_model: Callable[..., Path]) -> None:
    model = str(tiny_model("llama"))
    packed = compress_bytes(
        SHORT_TEXT,
        CompressSettings(model=model, bits=bits, num_mem=2, budget_bits=40.0, context_tokens=20),
    )
    payload = read_container(packed).payload
    assert isinstance(payload, CramPayload) and payload.bits == bits
    assert all(isinstance(c.mem, GridMem) for c in payload.chunks if c.mem is not None)
    assert decompress_bytes(packed, DecompressSettings(model=model)) == SHORT_TEXT
