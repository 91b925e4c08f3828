"""Products with frozen matrices, in the memory layout that is fastest on this machine.

Owns the choice of layout and an autograd function whose gradient is that of the input only. Knows
nothing of models.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

# Up to this number of rows, fp32 BLAS is faster with the weight as its first operand: 1.3 to 2.2
# times at 4 to 64 rows. In bf16 it never is (docs/LOG.md).
_WEIGHT_FIRST_ROWS = 128
# The CPU's library compiles and keeps code for every size, so few sizes save time and memory.
_ROWS_STEP = 32


def whole_rows(num_rows: int) -> int:
    """`num_rows` rounded up to a size that products are computed in."""
    return -(-num_rows // _ROWS_STEP) * _ROWS_STEP


class Matrix:
    """A frozen weight [Out, In].

    packed: stored in oneDNN's own layout, which is up to twice as fast for the few rows of
    decoding, and has no gradient. Where this torch has no such layout, `weight` is copied.
    """

    def __init__(self, weight: Tensor, *, packed: bool = False) -> None:
        self.num_out, self.num_in = weight.shape
        self.dtype = weight.dtype
        self._packed = _pack(weight) if packed else None
        self._weight: Tensor | None = None
        if self._packed is None:
            self._weight = weight.clone() if packed else weight

    def times(self, x: Tensor) -> Tensor:
        """x @ weight.T, with a gradient for x unless packed. x: [..., In] -> [..., Out]."""
        if self._weight is None:
            return self.product(x)
        out = _FrozenProduct.apply(x, self._weight)  # type: ignore[no-untyped-call]
        return cast(Tensor, out)

    def product(self, x: Tensor) -> Tensor:
        """x @ weight.T without autograd."""
        if self._weight is not None:
            return _product(x, self._weight)
        flat = x.reshape(-1, self.num_in)
        out = torch.ops.mkldnn._linear_pointwise(flat, self._packed, None, "none", [], "")
        return cast(Tensor, out.view(*x.shape[:-1], self.num_out))

    def product_back(self, grad: Tensor) -> Tensor:
        """grad @ weight without autograd: the gradient of x. grad: [..., Out] -> [..., In]."""
        assert self._weight is not None, "a packed matrix is for decoding only"
        return _product(grad, self._weight.t())


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.weight = weight
        return _product(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _product(grad, ctx.weight.t()), None


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight.T. x: [..., In], weight: [Out, In] or a view of one -> [..., Out], contiguous."""
    flat = x.reshape(-1, x.shape[-1])
    is_cpu_fp32 = x.device.type == "cpu" and x.dtype == torch.float32
    if is_cpu_fp32 and 1 < len(flat) <= _WEIGHT_FIRST_ROWS:
        out = (weight @ flat.t()).t().contiguous()
    else:
        out = flat @ weight.t()
    return out.view(*x.shape[:-1], weight.shape[0])


def _pack(weight: Tensor) -> Tensor | None:
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return None
    if not torch.backends.mkldnn.is_available():
        return None
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        probe = torch.zeros(1, weight.shape[1])
        torch.ops.mkldnn._linear_pointwise(probe, packed, None, "none", [], "")
    except (AttributeError, RuntimeError, TypeError):  # these operators are not torch's public API
        return None
    return cast(Tensor, packed)
