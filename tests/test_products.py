"""Products with frozen matrices: one result in every layout, a gradient for the input alone."""

from __future__ import annotations

import pytest
import torch

from llmzip.lm import products
from llmzip.lm.products import Matrix

GENERATOR = torch.Generator().manual_seed(0)
WEIGHT = torch.randn(48, 32, generator=GENERATOR)


@pytest.mark.parametrize("num_rows", [1, 2, 9, 300])
@pytest.mark.parametrize("packed", [False, True])
def test_every_layout_gives_the_product(num_rows: int, packed: bool) -> None:
    x = torch.randn(num_rows, 3, 32, generator=GENERATOR)
    got = Matrix(WEIGHT, packed=packed).product(x)
    assert got.shape == (num_rows, 3, 48)
    assert torch.allclose(got, x @ WEIGHT.t(), atol=1e-4)


def test_gradient_reaches_the_input_and_nothing_else() -> None:
    x = torch.randn(5, 32, generator=GENERATOR, requires_grad=True)
    grad = torch.randn(5, 48, generator=GENERATOR)
    matrix = Matrix(WEIGHT)
    matrix.times(x).backward(grad)
    assert x.grad is not None
    assert torch.allclose(x.grad, grad @ WEIGHT, atol=1e-4)
    assert torch.allclose(matrix.product_back(grad), x.grad, atol=1e-5)
    assert WEIGHT.grad is None and not WEIGHT.requires_grad


@pytest.mark.parametrize("available", [True, False])
def test_a_packed_matrix_keeps_nothing_of_the_weight(
    monkeypatch: pytest.MonkeyPatch, available: bool
) -> None:
    if not available:
        monkeypatch.setattr(products, "_pack", lambda weight: None)
    weight = WEIGHT.clone()
    x = torch.randn(4, 32, generator=GENERATOR)
    expected = x @ weight.t()
    matrix = Matrix(weight, packed=True)
    weight.zero_()  # a loader reuses the memory for the next matrix
    assert torch.allclose(matrix.product(x), expected, atol=1e-4)


def test_half_precision_is_never_packed() -> None:
    matrix = Matrix(WEIGHT.bfloat16(), packed=True)
    x = torch.randn(4, 32, generator=GENERATOR).bfloat16()
    assert matrix.product(x).dtype == torch.bfloat16
