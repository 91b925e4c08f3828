"""The optimiser's step on functions whose minimum is known, and the attention it goes through."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llmzip.codecs.cram.curvature import NUM_PAIRS, Curvature
from llmzip.lm.layout import pad_ids
from llmzip.lm.model import FrozenLM
from llmzip.lm.native import FrozenAttention, NativeLlama
from llmzip.lm.state import State, stack_states

CPU = torch.device("cpu")


def minimise(curvature: Curvature, hessian: torch.Tensor, start: torch.Tensor, steps: int) -> float:
    """Value of x' H x / 2 after some steps."""
    point = start.clone()
    for _ in range(steps):
        gradient = torch.einsum("bij,bj->bi", hessian, point)
        point = point + curvature.step(point, gradient, step_size=0.1, longest_step=1.0)
    return float(torch.einsum("bi,bij,bj->b", point, hessian, point).sum() / 2)


def quadratic(rows: int, size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(rows, size, size, generator=generator)).Q
    scales = torch.logspace(-1, 1, size).diag()
    return basis @ scales @ basis.mT, torch.randn(rows, size, generator=generator)


def test_it_learns_the_curvature_of_a_quadratic() -> None:
    hessian, start = quadratic(3, 12)
    before = float(torch.einsum("bi,bij,bj->b", start, hessian, start).sum() / 2)
    after = minimise(Curvature.stack([Curvature.empty(12, CPU)] * 3), hessian, start, 60)
    assert after < 1e-3 * before


def test_rows_do_not_see_each_other() -> None:
    hessian, start = quadratic(2, 8)
    both = Curvature.stack([Curvature.empty(8, CPU), Curvature.empty(8, CPU)])
    alone = Curvature.empty(8, CPU)
    point = start.clone()
    for _ in range(NUM_PAIRS + 5):
        gradient = torch.einsum("bij,bj->bi", hessian, point)
        move = both.step(point, gradient, step_size=0.1, longest_step=1.0)
        single = alone.step(point[1:], gradient[1:], step_size=0.1, longest_step=1.0)
        assert torch.allclose(move[1:], single, atol=1e-5)
        assert torch.equal(both.row(1).moves, both.moves[1:])
        point = point + move


def test_no_step_is_longer_than_its_bound_and_no_gradient_moves_nothing() -> None:
    curvature = Curvature.empty(16, CPU)
    generator = torch.Generator().manual_seed(0)
    point = torch.zeros(1, 16)
    for scale in (1.0, 1e6, 1e-6, 1e3):
        gradient = scale * torch.randn(1, 16, generator=generator)
        move = curvature.step(point, gradient, step_size=3.0, longest_step=0.5)
        assert torch.isfinite(move).all()
        assert float(move.square().mean().sqrt()) <= 0.5 * 1.0001
        point = point + move
    still = Curvature.empty(4, CPU).step(
        torch.zeros(1, 4), torch.zeros(1, 4), step_size=1.0, longest_step=1.0
    )
    assert torch.equal(still, torch.zeros(1, 4))


def test_the_attention_of_the_optimiser_has_torchs_values_and_gradients() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, new_k, new_v = draw(2, 3, 12, 8), draw(2, 3, 4, 8), draw(2, 3, 4, 8)
    for tensor in (q, new_k, new_v):
        tensor.requires_grad_(True)
    k = torch.cat([draw(2, 3, 5, 8), new_k], dim=2)
    v = torch.cat([draw(2, 3, 5, 8), new_v], dim=2)
    bias, weights = draw(2, 1, 12, 9), draw(2, 3, 12, 8)
    ours = FrozenAttention.apply(q, new_k, new_v, k.detach(), v.detach(), bias)
    theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    assert torch.allclose(ours, theirs)
    inputs = (q, new_k, new_v)
    got = torch.autograd.grad((ours * weights).sum(), inputs)
    expected = torch.autograd.grad((theirs * weights).sum(), inputs)
    assert all(torch.allclose(a, b) for a, b in zip(got, expected, strict=True))


def test_new_slots_have_the_same_gradients_in_a_room(lm: FrozenLM) -> None:
    """Behind rows of other lengths, whose slots are in part not live."""
    ids, live = pad_ids([[1, 2, 3, 4, 5], [6, 7]], CPU)
    then, then_live = pad_ids([[9, 8], [4, 5, 6]], CPU)
    with torch.no_grad():
        _, context = lm.extend(lm.empty(2), lm.embed(ids), live)
    assert context.num_first_live == 2 and lm.needs_no_copy

    def gradient(state: State) -> torch.Tensor:
        embeds = lm.embed(then).requires_grad_()
        hidden, _ = lm.extend(state, embeds, then_live)
        (found,) = torch.autograd.grad(hidden[then_live].sin().sum(), embeds)
        return found

    in_room = gradient(stack_states([context], room_slots=8))
    assert torch.equal(in_room, gradient(context)) and in_room.abs().max() > 0


def test_a_room_has_no_gradients_where_they_need_copies(
    lm: FrozenLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NativeLlama, "needs_no_copy", False)
    ids, live = pad_ids([[1, 2]], CPU)
    with pytest.raises(AssertionError), torch.enable_grad():
        lm.extend(stack_states([lm.empty(1)], room_slots=4), lm.embed(ids), live)
