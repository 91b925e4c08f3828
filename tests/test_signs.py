"""Sign vectors: the schedule, what is kept, what leaves; on a perceptron and on a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from llmzip.api.compress import compress_bytes
from llmzip.api.decompress import decompress_bytes
from llmzip.codecs.context import QUIET
from llmzip.codecs.cram.presets import EFFORTS, chunk_budget_bits, signs_of
from llmzip.codecs.cram.signs import SignPlan, Signs, round_steps, sign_plan
from llmzip.config import CompressSettings, DecompressSettings
from llmzip.store.container import read_container
from llmzip.store.cram_payload import CramPayload
from llmzip.store.vectors import GridMem
from tests.tiny_models import SHORT_TEXT

PLAN = SignPlan(soft_steps=10, total_steps=40)
SIZE = 192


def start(seed: int, *, spared: int = 0, size: int = SIZE) -> Signs:
    generator = torch.Generator().manual_seed(seed)
    return Signs.start(torch.randn(size, generator=generator), spared=spared)


class Perceptron:
    """Patterns of which each must have a sum with the signs that is above 0."""

    def __init__(self, rows: int, patterns: int) -> None:
        generator = torch.Generator().manual_seed(5)
        self.patterns = torch.randn(rows, patterns, SIZE, generator=generator) / SIZE**0.5

    def measure(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """seen: [B, P] -> wrong patterns [B], gradient [B, P]."""
        margins = torch.einsum("bmp,bp->bm", self.patterns, seen)
        pull = torch.sigmoid(-margins / 0.3) * (margins < 1.0)
        return (margins <= 0).sum(dim=1), -torch.einsum("bm,bmp->bp", pull, self.patterns)

    def run(self, signs: Signs, steps: int) -> None:
        for _ in range(steps):
            wrong, gradient = self.measure(signs.seen(PLAN))
            signs.note(wrong, PLAN)
            moving = ~signs.may_leave(wrong, PLAN)
            signs.move(gradient, moving, PLAN)


def test_signs_learn_what_a_perceptron_can() -> None:
    """A load of a third of a pattern for each sign: far above chance, far below what there is."""
    problem = Perceptron(3, 64)
    signs = Signs.stack([start(seed) for seed in range(3)])
    by_chance, _ = problem.measure(signs.best)
    assert (by_chance > 20).all()
    problem.run(signs, PLAN.total_steps + 1)
    found, _ = problem.measure(signs.best)
    assert torch.equal(found, signs.best_wrong)  # what is kept is what was measured
    assert (found <= 2).all()


def test_what_the_model_sees() -> None:
    signs = start(0)
    undecided = []
    for step in range(PLAN.soft_steps + 3):
        seen = signs.seen(PLAN)
        assert seen.square().mean() == pytest.approx(1.0, abs=1e-5)
        assert torch.equal(seen < 0, signs.hidden < 0)
        is_hard = step >= PLAN.soft_steps
        assert bool(signs.is_hard(PLAN)) == is_hard
        assert (seen.abs() == 1).all() == is_hard
        slope = 1 - torch.tanh(signs._slope(PLAN) * signs.hidden).square()
        undecided.append(float(slope.mean()))
        signs.move(torch.randn(1, SIZE), torch.tensor([True]), PLAN)
    assert undecided[0] == pytest.approx(0.6, abs=1e-3)
    assert undecided[PLAN.soft_steps - 1] == pytest.approx(0.225, abs=1e-3)
    assert undecided[: PLAN.soft_steps] == sorted(undecided[: PLAN.soft_steps], reverse=True)


def test_each_hard_step_turns_as_many_signs_as_are_due() -> None:
    signs = start(1)
    signs.clock = torch.tensor([PLAN.soft_steps])
    turned = []
    for _ in range(PLAN.total_steps - PLAN.soft_steps):
        before = signs.hidden < 0
        signs.move(torch.randn(1, SIZE), torch.tensor([True]), PLAN)
        turned.append(int((before != (signs.hidden < 0)).sum()))
    assert turned[0] == round(SIZE * 20 / 576)
    assert turned[-1] == round(SIZE * 2 / 576)
    assert turned == sorted(turned, reverse=True)


def test_without_a_gradient_nothing_turns() -> None:
    signs = start(2)
    signs.clock = torch.tensor([PLAN.soft_steps + 1])
    before = signs.hidden
    signs.move(torch.zeros(1, SIZE), torch.tensor([True]), PLAN)
    assert torch.equal(signs.hidden, before)
    assert int(signs.clock) == PLAN.soft_steps + 2


def test_rows_do_not_depend_on_each_other() -> None:
    problem = Perceptron(2, 64)
    together = Signs.stack([start(0), start(1)])
    together.clock = torch.tensor([0, PLAN.soft_steps - 2])  # at different places of the schedule
    problem.run(together, 20)
    for row in range(2):
        alone = Perceptron(2, 64)
        alone.patterns = problem.patterns[row : row + 1]
        own = start(row)
        own.clock = torch.tensor([[0, PLAN.soft_steps - 2][row]])
        alone.run(own, 20)
        assert torch.equal(own.best, together.row(row).best)
        torch.testing.assert_close(own.hidden, together.row(row).hidden)


def test_a_row_that_does_not_move_stays() -> None:
    signs = Signs.stack([start(0), start(1)])
    before = signs.row(0), signs.row(1)
    signs.move(torch.randn(2, SIZE), torch.tensor([False, True]), PLAN)
    assert torch.equal(signs.row(0).hidden, before[0].hidden)
    assert signs.clock.tolist() == [0, 1]
    assert not torch.equal(signs.row(1).hidden, before[1].hidden)


@pytest.mark.parametrize(
    ("clock", "best", "wrong_kept", "leaves"),
    [
        (PLAN.soft_steps - 1, 1 << 30, 0, False),  # right, but not with signs
        (PLAN.soft_steps, 2, 0, True),  # every token that is kept is right
        (PLAN.soft_steps, 2, 1, False),
        (PLAN.soft_steps, 3, 0, False),  # but others are not, too many of them
        (PLAN.total_steps - 1, 2, 1, False),
        (PLAN.total_steps, 3, 1, True),  # it is due, however many are wrong
    ],
)
def test_when_a_chunk_leaves(clock: int, best: int, wrong_kept: int, leaves: bool) -> None:
    signs = start(0, spared=2)
    signs.clock, signs.best_wrong = torch.tensor([clock]), torch.tensor([best])
    assert bool(signs.may_leave(torch.tensor([wrong_kept]), PLAN)) == leaves


def test_the_loss_sharpens() -> None:
    signs, found = start(0), []
    for clock in (0, PLAN.soft_steps - 1, PLAN.soft_steps, PLAN.total_steps):
        signs.clock = torch.tensor([clock])
        goal, temperature = signs.loss_settings(PLAN)
        found.append((round(float(goal), 4), round(float(temperature), 4)))
    assert found == [(4.0, 1.0), (2.0, 0.6), (1.0, 0.3), (1.0, 0.3)]


def test_plans() -> None:
    for preset, effort in EFFORTS.items():
        plan = signs_of(preset, None, None)
        assert plan == signs_of(preset, 1, None) == sign_plan(effort.sign_steps)
        assert plan is not None and plan.bits == 1
        assert plan.soft_steps < plan.total_steps == effort.sign_steps
        assert chunk_budget_bits(preset, plan, 100.0) == pytest.approx(100 * effort.sign_load)
        assert signs_of(preset, 16, None) is None
        budgets = [chunk_budget_bits(preset, sign_plan(9, bits=bits), 1.0) for bits in range(1, 9)]
        assert budgets == sorted(budgets)
    few = signs_of("balanced", 1, 1)
    assert few == SignPlan(soft_steps=1, total_steps=1)
    steps = [effort.sign_steps for effort in EFFORTS.values()]
    assert steps == sorted(steps)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_a_coordinate_of_several_bits_is_a_sum_of_signs(bits: int) -> None:
    plan = SignPlan(bits=bits, soft_steps=3, total_steps=20)
    signs = start(3, size=bits * SIZE)
    odd = signs.symbols(plan)
    assert odd.shape == (1, SIZE)
    assert set(odd.abs().unique().tolist()) <= set(range(1, 2**bits, 2))
    first = (signs.hidden[:, :SIZE] < 0).float() * -2 + 1
    assert torch.equal(odd.sign(), first)  # the greatest decides
    signs.clock = torch.tensor([plan.soft_steps])
    torch.testing.assert_close(signs.seen(plan) * plan.spread, odd)
    assert signs.seen(plan).square().mean() == pytest.approx(1.0, abs=0.2)
    signs.clock = torch.tensor([0])
    assert signs.seen(plan).square().mean() == pytest.approx(1.0, abs=1e-4)


def test_a_step_that_the_container_can_hold() -> None:
    steps = round_steps(torch.tensor([1.0, 1.3, 63.0, 0.11]))
    assert steps.tolist() == [1.0, 1.25, 64.0, 0.109375]


@pytest.mark.parametrize("num_mem", [1, 3])
def test_a_file_of_signs(tiny_model: Callable[..., Path], num_mem: int) -> None:
    """Every coordinate is one size or its negative, and takes a bit."""
    settings = CompressSettings(
        model=str(tiny_model("llama")), bits=1, num_mem=num_mem, preset="fast"
    )
    packed = compress_bytes(SHORT_TEXT, settings, QUIET)
    assert decompress_bytes(packed, DecompressSettings(model=settings.model), QUIET) == SHORT_TEXT
    payload = read_container(packed).payload
    assert isinstance(payload, CramPayload)
    mems = [chunk.mem for chunk in payload.chunks if isinstance(chunk.mem, GridMem)]
    assert mems
    symbols = np.stack([mem.symbols for mem in mems])
    assert set(np.unique(symbols)) == {-1, 1}
    assert len({step for mem in mems for step in mem.steps.tolist()}) == 1
    assert abs(symbols.mean()) < 0.3  # both signs, about as often
