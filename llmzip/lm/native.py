"""The forward pass of the Llama family, from input embeddings to hidden states, on frozen weights.

Owns the arithmetic of Llama decoders (RMSNorm, rotary positions, grouped-query attention, SwiGLU;
Touvron et al. 2023). With it, the default model needs no transformers, whose import takes seconds,
and no weight needs a gradient. Knows nothing of mem vectors, tokens or files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from llmzip.lm.products import Matrix, whole_rows
from llmzip.lm.state import ReadState, State
from llmzip.lm.weights import Weights


@dataclass(frozen=True, kw_only=True)
class LlamaShape:
    """The settings of a Llama config that the forward pass needs."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    rope_theta: float

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LlamaShape | None:
        """The shape, or None where the config needs something that this module does not have."""
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        plain = (
            config.get("model_type") == "llama"
            and not config.get("quantization_config")
            and config.get("hidden_act", "silu") == "silu"
            and not config.get("attention_bias", False)
            and not config.get("mlp_bias", False)
            and rope.get("rope_type", rope.get("type", "default")) == "default"
            and float(rope.get("partial_rotary_factor", 1.0)) == 1.0
        )
        if not plain:
            return None
        num_heads = int(config["num_attention_heads"])
        return cls(
            num_layers=int(config["num_hidden_layers"]),
            num_heads=num_heads,
            num_kv_heads=int(config.get("num_key_value_heads") or num_heads),
            head_dim=int(config.get("head_dim") or config["hidden_size"] // num_heads),
            norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
        )


_MOST_KEPT = 1 << 22  # attention weights of a layer that are kept for the backward pass


class FrozenRMSNorm(torch.autograd.Function):
    """RMSNorm in fp32, with a backward pass of its own: autograd would store four copies of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        inverse_rms = torch.rsqrt(size.square_().div_(x.shape[-1]).add_(eps))
        unit = (x.float() * inverse_rms).to(x.dtype)
        ctx.save_for_backward(unit, inverse_rms.to(x.dtype))
        ctx.weight = weight
        return unit * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        unit, inverse_rms = ctx.saved_tensors
        grad_unit = grad * ctx.weight
        along = (grad_unit * unit).mean(-1, keepdim=True)  # summed in fp32
        return grad_unit.addcmul_(unit, along, value=-1).mul_(inverse_rms), None, None


class FrozenRotation(torch.autograd.Function):
    """Rotary positions (Su et al. 2021), in the layout with two halves: autograd's backward pass
    would fill and add whole tensors of zeros."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.cos, ctx.sin = cos, sin
        return _turned(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _turned(grad, ctx.cos, ctx.sin, -1), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, way: int) -> Tensor:
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    out = x * cos
    out[..., :half].addcmul_(second, sin[..., :half], value=-way)
    out[..., half:].addcmul_(first, sin[..., half:], value=way)
    return out


class FrozenAttention(torch.autograd.Function):
    """Attention without gradients for earlier slots. Its own backward pass takes a third of the
    time of torch's on CPUs (docs/LOG.md). The weights of long rows are calculated again there: of
    1,100 slots those of all layers would take 600 MB."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, new_k: Tensor, new_v: Tensor, k: Tensor, v: Tensor, bias: Tensor
    ) -> Tensor:
        q = q * q.shape[-1] ** -0.5
        weights = _attention_weights(q, k, bias)
        ctx.save_for_backward(q, k, v, weights if weights.numel() <= _MOST_KEPT else None)
        ctx.bias, ctx.num_new = bias, new_k.shape[2]
        return weights @ v

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors
        if weights is None:
            weights = _attention_weights(q, k, ctx.bias)
        new = slice(k.shape[2] - ctx.num_new, None)
        grad_v = weights[..., new].transpose(2, 3) @ grad
        grad_scores = torch._softmax_backward_data(grad @ v.transpose(2, 3), weights, -1, q.dtype)
        grad_k = grad_scores[..., new].transpose(2, 3) @ q
        grad_q = (grad_scores @ k).mul_(q.shape[-1] ** -0.5)
        return grad_q, grad_k, grad_v, None, None, None


def _attention_weights(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """q: [B, H, T, Dh], scaled; k: [B, H, P, Dh] -> [B, H, T, P]."""
    scores = q @ k.transpose(2, 3)
    scores[..., k.shape[2] - bias.shape[3] :].add_(bias)
    return torch.softmax(scores, dim=-1)  # computed in fp32 for every dtype


class FrozenSwiGLU(torch.autograd.Function):
    """silu(gate) * up, with a backward pass of its own: autograd would store three tensors."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        out = torch.empty_like(gate_up)
        grad_gate, grad_up = out.chunk(2, dim=-1)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        torch.mul(F.silu(gate), grad, out=grad_up)
        return out


def _swiglu(gate_up: Tensor) -> Tensor:
    """gate_up: [..., 2 F], gates first -> [..., F]."""
    if not torch.is_grad_enabled():
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)
    return cast(Tensor, FrozenSwiGLU.apply(gate_up))  # type: ignore[no-untyped-call]


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    if not torch.is_grad_enabled():
        return F.rms_norm(x, (x.shape[-1],), weight, eps)
    return cast(Tensor, FrozenRMSNorm.apply(x, weight, eps))  # type: ignore[no-untyped-call]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn by positions. x: [B, H, T, Dh], cos and sin: [B, 1, T, Dh]."""
    if not torch.is_grad_enabled():
        return _turned(x, cos, sin, 1)
    return cast(Tensor, FrozenRotation.apply(x, cos, sin))  # type: ignore[no-untyped-call]


@dataclass(frozen=True, kw_only=True)
class _Layer:
    norm_before: Tensor  # [D]
    qkv: Matrix  # [(H + 2 Hkv) Dh, D]
    out: Matrix  # [D, H Dh]
    norm_between: Tensor  # [D]
    gate_up: Matrix  # [2 F, D]
    down: Matrix  # [D, F]


class NativeLlama:
    """A frozen Llama model."""

    def __init__(self, shape: LlamaShape, weights: Weights, *, attention: str) -> None:
        self.shape = shape
        self.attention = attention
        embedding = weights.table("model.embed_tokens")
        assert embedding is not None
        head = weights.table("lm_head")
        self.embedding = embedding  # [V, D]
        self.head = embedding if head is None else head
        self._final_norm = weights.vector("model.norm")
        self._layers = []
        for index in range(shape.num_layers):
            block = f"model.layers.{index}"
            self._layers.append(
                _Layer(
                    norm_before=weights.vector(f"{block}.input_layernorm"),
                    qkv=weights.matrix(index, "qkv", [f"self_attn.{x}_proj" for x in "qkv"]),
                    out=weights.matrix(index, "out", ["self_attn.o_proj"]),
                    norm_between=weights.vector(f"{block}.post_attention_layernorm"),
                    gate_up=weights.matrix(index, "gate_up", ["mlp.gate_proj", "mlp.up_proj"]),
                    down=weights.matrix(index, "down", ["mlp.down_proj"]),
                )
            )
        exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
        self._frequencies = (1.0 / shape.rope_theta**exponents).to(weights.device)
        self._last_selection: tuple[Tensor, _SlotSelection] | None = None

    @property
    def needs_no_copy(self) -> bool:
        """Whether new slots get their gradients also where earlier ones lie in a room."""
        return self.embedding.device.type == "cpu"

    def extend(self, state: ReadState, embeds: Tensor, live_new: Tensor) -> tuple[Tensor, Any]:
        """Read new slots. embeds: [B, T, D], live_new: [B, T] bool -> final hidden states
        [B, T, D] and the new state."""
        shape, dtype = self.shape, embeds.dtype
        batch, num_new, _ = embeds.shape
        selected = self._select_slots(live_new)
        cos, sin = self._rotation(state.positions(live_new), dtype)
        bias = state.bias(live_new, dtype)
        groups = shape.num_heads // shape.num_kv_heads
        # The queries that share a key/value head become rows of one product, so that keys and
        # values need not be repeated.
        bias = bias.expand(-1, groups, -1, -1).reshape(batch, 1, groups * num_new, -1)
        wants_grad = torch.is_grad_enabled()
        in_place = wants_grad and self.needs_no_copy
        assert in_place or state.room is None or not wants_grad
        if in_place and isinstance(state, State):  # nothing is masked in the first slots
            bias = bias[..., state.num_first_live :].contiguous()
        memory = []
        x = selected.gather(embeds)  # [N, D], or [B, T, D] where nothing is left out
        for index, layer in enumerate(self._layers):
            h = _norm(x, layer.norm_before, shape.norm_eps)
            qkv = selected.scatter(layer.qkv.times(h))  # [B, T, (H + 2 Hkv) Dh]
            qkv = qkv.view(batch, num_new, -1, shape.head_dim).transpose(1, 2)
            qk, v = qkv.split([shape.num_heads + shape.num_kv_heads, shape.num_kv_heads], dim=1)
            q, k = _rotate(qk, cos, sin).split([shape.num_heads, shape.num_kv_heads], dim=1)
            memory.append(state.grown(index, (k, v)))  # [B, Hkv, P + T, Dh]
            q = q.reshape(batch, shape.num_kv_heads, groups * num_new, shape.head_dim)
            if in_place:
                attended = _attend_in_place(q, (k, v), memory[-1], bias)
            else:
                attended = _attend(q, memory[-1], bias, self.attention)
            attended = attended.reshape(batch, shape.num_heads, num_new, shape.head_dim)
            attended = selected.gather(attended.transpose(1, 2).reshape(batch, num_new, -1))
            x = x + layer.out.times(attended)
            h = _norm(x, layer.norm_between, shape.norm_eps)
            x = x + layer.down.times(_swiglu(layer.gate_up.times(h)))
        hidden = selected.scatter(_norm(x, self._final_norm, shape.norm_eps))
        return hidden, state.advanced(live_new, memory, room=state.room)

    def _select_slots(self, live_new: Tensor) -> _SlotSelection:
        """Computed once for the same tensor, which an optimiser passes at every step, because the
        host waits for the device."""
        if self._last_selection is None or self._last_selection[0] is not live_new:
            self._last_selection = (live_new, _SlotSelection(live_new))
        return self._last_selection[1]

    def _rotation(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines for `_rotate`. positions: [B, T] -> [B, 1, T, Dh] each."""
        angles = positions[..., None].float() * self._frequencies  # [B, T, Dh / 2]
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        return angles.cos().to(dtype), angles.sin().to(dtype)


class _SlotSelection:
    """The new slots that a forward pass computes: the live ones of all rows, one after another,
    and few others. Only attention needs them in rows."""

    def __init__(self, live_new: Tensor) -> None:
        self._shape = live_new.shape
        self._indices: Tensor | None = None  # [N] int64, indices of the slots; None for all slots
        # Elsewhere the host would have to wait for the device to know which they are.
        if live_new.shape[1] == 1 or live_new.device.type != "cpu":
            return
        live = live_new.flatten()
        indices = live.nonzero()[:, 0]
        num_rows = whole_rows(len(indices))
        if num_rows < len(live):  # other slots make up a whole number of rows
            others = (~live).nonzero()[: num_rows - len(indices), 0]
            self._indices = torch.cat([indices, others]).sort().values

    def gather(self, x: Tensor) -> Tensor:
        """[B, T, *] -> [N, *]."""
        return x if self._indices is None else x.flatten(0, 1).index_select(0, self._indices)

    def scatter(self, x: Tensor) -> Tensor:
        """[N, *] -> [B, T, *], zero where a slot is not live."""
        if self._indices is None:
            return x
        spread = x.new_zeros(self._shape.numel(), x.shape[1])
        return spread.index_copy_(0, self._indices, x).view(*self._shape, -1)


def _attend_in_place(
    q: Tensor, new: tuple[Tensor, Tensor], whole: tuple[Tensor, ...], bias: Tensor
) -> Tensor:
    """`_attend` with gradients for q and the new slots alone. new: their keys and values. bias: of
    the last slots."""
    k, v = whole
    out = FrozenAttention.apply(q, *new, k.detach(), v.detach(), bias)  # type: ignore[no-untyped-call]
    return cast(Tensor, out)


def _attend(q: Tensor, whole: tuple[Tensor, ...], bias: Tensor, attention: str) -> Tensor:
    """q: [B, Hkv, G T, Dh] -> [B, Hkv, G T, Dh]. whole: keys and values of all slots."""
    k, v = whole
    if attention == "sdpa":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5 + bias
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype) @ v
