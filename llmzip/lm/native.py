"""The Llama family's forward pass, on frozen weights, from input embeddings.

Owns the arithmetic of Llama-shaped decoders (RMSNorm, rotary positions, grouped-query attention,
SwiGLU), so that the default model starts without importing transformers (seconds) and no weight
ever asks for a gradient. Knows nothing of mem vectors, tokens or files. Architecture: Touvron et
al. 2023; weights are read under their Hugging Face names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from llmzip.lm.products import Matrix, whole_rows
from llmzip.lm.state import State, attention_bias, new_positions


@dataclass(frozen=True, kw_only=True)
class LlamaShape:
    """The figures of a Llama-shaped config that the forward pass needs."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    rope_theta: float

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LlamaShape | None:
        """The shape, or None where the config asks for something this module does not do."""
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


class FrozenRMSNorm(torch.autograd.Function):
    """RMSNorm computed in fp32, written out because autograd would keep four copies of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x32 = x.float()
        inverse_rms = torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, inverse_rms)
        ctx.weight = weight
        return weight * (x32 * inverse_rms).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, inverse_rms = ctx.saved_tensors
        unit = x.float() * inverse_rms
        grad_unit = (grad * ctx.weight).float()
        along = (grad_unit * unit).mean(-1, keepdim=True)
        return ((grad_unit - unit * along) * inverse_rms).to(x.dtype), None, None


class FrozenAttention(torch.autograd.Function):
    """Attention that asks for no gradient of the slots read before, written out because on CPUs
    the backward pass of torch's own takes three times as long (docs/LOG.md)."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, new_k: Tensor, new_v: Tensor, k: Tensor, v: Tensor, bias: Tensor
    ) -> Tensor:
        scores = (q @ k.transpose(2, 3)).mul_(q.shape[-1] ** -0.5).add_(bias)
        weights = torch.softmax(scores, dim=-1)  # in fp32 inside, whatever the dtype
        ctx.save_for_backward(q, k, v, weights)
        ctx.num_new = new_k.shape[2]
        return weights @ v

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors
        new = slice(k.shape[2] - ctx.num_new, None)
        grad_v = weights[..., new].transpose(2, 3) @ grad
        grad_scores = torch._softmax_backward_data(grad @ v.transpose(2, 3), weights, -1, q.dtype)
        grad_scores.mul_(q.shape[-1] ** -0.5)
        grad_k = grad_scores[..., new].transpose(2, 3) @ q
        return grad_scores @ k, grad_k, grad_v, None, None, None


class FrozenSwiGLU(torch.autograd.Function):
    """silu(gate) * up, written out because autograd would keep three tensors where one does."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        lit = torch.sigmoid(gate)
        silu = gate * lit
        # d silu / d gate = lit + silu (1 - lit)
        return torch.cat([grad * up * (lit + silu * (1 - lit)), grad * silu], dim=-1)


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
    """Rotary positions (Su et al. 2021), half-split layout. x: [B, H, T, Dh], cos and sin: [B, 1,
    T, Dh]."""
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return x * cos + turned * sin


@dataclass(frozen=True, kw_only=True)
class _Layer:
    norm_before: Tensor  # [D]
    qkv: Matrix  # [(H + 2 Hkv) Dh, D]
    out: Matrix  # [D, H Dh]
    norm_between: Tensor  # [D]
    gate_up: Matrix  # [2 F, D]
    down: Matrix  # [D, F]


class NativeLlama:
    """A frozen Llama. `weights` are Hugging Face names -> tensors, in any dtype."""

    def __init__(
        self,
        shape: LlamaShape,
        weights: Mapping[str, Tensor],
        *,
        dtype: torch.dtype,
        device: torch.device,
        attention: str,
        decode_only: bool = False,
    ) -> None:
        # Only for decoding: a matrix is converted here and copied into its packed layout, so that
        # the memory of the conversion is touched once and not anew for every matrix.
        scratch = torch.empty(0, dtype=dtype, device=device)

        def take(*names: str) -> Tensor:
            # Joined as stored and converted once: half the memory traffic of converting first.
            parts = [weights[f"{name}.weight"] for name in names]
            if len(parts) == 1:
                return _owned(parts[0], device, dtype)
            return torch.cat(parts).to(device=device, dtype=dtype)

        def matrix(*names: str) -> Matrix:
            nonlocal scratch
            if not decode_only:
                return Matrix(take(*names))
            parts = [weights[f"{name}.weight"] for name in names]
            size = sum(part.numel() for part in parts)
            if scratch.numel() < size:
                scratch = torch.empty(size, dtype=dtype, device=device)
            whole = scratch[:size].view(-1, parts[0].shape[1])
            first = 0
            for part in parts:
                whole[first : first + part.shape[0]].copy_(part)
                first += part.shape[0]
            return Matrix(whole, packed=True)

        self.shape = shape
        self.attention = attention
        # Only for decoding: the head will be packed, and the table is for looking up alone, so both
        # stay as stored.
        kept = weights["model.embed_tokens.weight"].dtype if decode_only else dtype
        self.embedding = _owned(weights["model.embed_tokens.weight"], device, kept)
        self.head = self.embedding  # [V, D]
        if "lm_head.weight" in weights:
            self.head = _owned(weights["lm_head.weight"], device, kept)
        self._final_norm = take("model.norm")
        self._layers = []
        for index in range(shape.num_layers):
            block = f"model.layers.{index}"
            self._layers.append(
                _Layer(
                    norm_before=take(f"{block}.input_layernorm"),
                    qkv=matrix(*(f"{block}.self_attn.{x}_proj" for x in "qkv")),
                    out=matrix(f"{block}.self_attn.o_proj"),
                    norm_between=take(f"{block}.post_attention_layernorm"),
                    gate_up=matrix(*(f"{block}.mlp.{x}_proj" for x in ("gate", "up"))),
                    down=matrix(f"{block}.mlp.down_proj"),
                )
            )
        exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
        self._frequencies = (1.0 / shape.rope_theta**exponents).to(device)
        self._last_places: tuple[Tensor, _Places] | None = None

    def extend(self, state: State, embeds: Tensor, live_new: Tensor) -> tuple[Tensor, State]:
        """Read new slots. embeds: [B, T, D], live_new: [B, T] -> final hidden states [B, T, D]
        and the state after them."""
        shape, dtype = self.shape, embeds.dtype
        batch, num_new, _ = embeds.shape
        places = self._places_of(live_new)
        cos, sin = self._rotation(new_positions(state, live_new), dtype)
        bias = attention_bias(state, live_new, dtype)
        groups = shape.num_heads // shape.num_kv_heads
        # Queries of one key/value head are laid side by side, so keys and values are never
        # repeated.
        bias = bias.expand(-1, groups, -1, -1).reshape(batch, 1, groups * num_new, -1)
        memory = []
        x = places.gather(embeds)  # [N, D], or [B, T, D] where nothing is left out
        for index, layer in enumerate(self._layers):
            h = _norm(x, layer.norm_before, shape.norm_eps)
            qkv = places.scatter(layer.qkv.times(h))  # [B, T, (H + 2 Hkv) Dh]
            qkv = qkv.view(batch, num_new, -1, shape.head_dim).transpose(1, 2)
            qk, v = qkv.split([shape.num_heads + shape.num_kv_heads, shape.num_kv_heads], dim=1)
            q, k = _rotate(qk, cos, sin).split([shape.num_heads, shape.num_kv_heads], dim=1)
            memory.append(state.grown(index, (k, v)))  # [B, Hkv, P + T, Dh]
            q = q.reshape(batch, shape.num_kv_heads, groups * num_new, shape.head_dim)
            attended = _attend(q, (k, v), memory[-1], bias, self.attention)
            attended = attended.reshape(batch, shape.num_heads, num_new, shape.head_dim)
            attended = places.gather(attended.transpose(1, 2).reshape(batch, num_new, -1))
            x = x + layer.out.times(attended)
            h = _norm(x, layer.norm_between, shape.norm_eps)
            x = x + layer.down.times(_swiglu(layer.gate_up.times(h)))
        hidden = places.scatter(_norm(x, self._final_norm, shape.norm_eps))
        return hidden, state.advanced(live_new, memory, room=state.room)

    def _places_of(self, live_new: Tensor) -> _Places:
        """Found once for the tensor that an optimiser passes at every step: to find them, the host
        waits for the device."""
        if self._last_places is None or self._last_places[0] is not live_new:
            self._last_places = (live_new, _Places(live_new))
        return self._last_places[1]

    def _rotation(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines for `_rotate`. positions: [B, T] -> [B, 1, T, Dh] each."""
        angles = positions[..., None].float() * self._frequencies  # [B, T, Dh / 2]
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        return angles.cos().to(dtype), angles.sin().to(dtype)


def _owned(weight: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A copy of its own: one tensor that is still a view of the mapped file keeps all of it in
    memory."""
    return weight.to(device=device, dtype=dtype, copy=True)


class _Places:
    """Which new slots a forward pass computes: hardly more than the live ones, which then lie in
    one line. Attention alone needs them in rows."""

    def __init__(self, live_new: Tensor) -> None:
        self._shape = live_new.shape
        self._live: Tensor | None = None  # [N] int64, places of the slots computed
        if live_new.shape[1] == 1:
            return
        live = live_new.flatten()
        places = live.nonzero()[:, 0]
        num_places = whole_rows(len(places))
        if num_places < len(live):  # some dead slots fill up the last rows
            dead = (~live).nonzero()[: num_places - len(places), 0]
            self._live = torch.cat([places, dead]).sort().values

    def gather(self, x: Tensor) -> Tensor:
        """[B, T, *] -> [N, *]."""
        return x if self._live is None else x.flatten(0, 1).index_select(0, self._live)

    def scatter(self, x: Tensor) -> Tensor:
        """[N, *] -> [B, T, *], zero where a slot is not live."""
        if self._live is None:
            return x
        spread = x.new_zeros(self._shape.numel(), x.shape[1])
        return spread.index_copy_(0, self._live, x).view(*self._shape, -1)


def _attend(
    q: Tensor,
    new: tuple[Tensor, Tensor],
    whole: tuple[Tensor, ...],
    bias: Tensor,
    attention: str,
) -> Tensor:
    """q: [B, Hkv, G T, Dh], keys and values of the new slots and of all -> [B, Hkv, G T, Dh]."""
    k, v = whole
    if torch.is_grad_enabled() and q.device.type == "cpu":
        out = FrozenAttention.apply(q, *new, k.detach(), v.detach(), bias)  # type: ignore[no-untyped-call]
        return cast(Tensor, out)
    if attention == "sdpa":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5 + bias
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype) @ v
