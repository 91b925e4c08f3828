"""Causal LMs that `native` does not cover, run by transformers behind the same interface.

Owns every use of transformers: loading from a local directory, the two kinds of memory (keys and
values; a recurrence), and the check that an architecture unknown to our tests computes the same
through `extend` as through its own front door. The only module that imports transformers, and only
inside functions, because that takes seconds. Knows nothing of mem vectors, tokens or files of ours.
"""

from __future__ import annotations

import copy
import logging
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llmzip.errors import ModelUnavailable
from llmzip.lm.state import State, attention_bias, empty_state, new_positions

TESTED = frozenset({"llama", "gpt_neox", "opt", "olmo", "mamba"})
_RECURRENT = frozenset({"mamba", "falcon_mamba"})
# Relative error of logits that the self-check lets pass. Where both sides run the same kernels,
# half precision leaves only the rounding of the logits; in pieces it leaves the kernels' noise.
_TOLERANCE = 1e-3
_TOLERANCE_HALF, _TOLERANCE_HALF_PIECES = 1e-2, 1e-1
# What `_quiet` changes belongs to the process: one load at a time, so that each finds, and puts
# back, what there was before any.
_quieting = threading.RLock()
_HINT = "choose another model, or a newer transformers 5.x if the model needs one"


class ForeignLM:
    """A frozen causal LM of transformers. Weights never ask for a gradient; dropout is off."""

    def __init__(self, model: Any) -> None:
        model.requires_grad_(False).eval()
        self._base = model.base_model
        self._is_recurrent = model.config.model_type in _RECURRENT
        head = model.get_output_embeddings()
        self.embedding: Tensor = model.get_input_embeddings().weight.detach()  # [V, D]
        self.head: Tensor = head.weight.detach()  # [V, Dh]
        bias = getattr(head, "bias", None)
        self.head_bias: Tensor | None = None if bias is None else bias.detach()  # [V]

    def extend(self, state: State, embeds: Tensor, live_new: Tensor) -> tuple[Tensor, State]:
        """Read new slots, leaving `state` as it was; differentiable in `embeds`.

        embeds: [B, T, D], live_new: [B, T] bool -> final hidden states [B, T, Dh], which `head`
        multiplies, and the state after them. Hidden states of slots that are not live mean nothing.
        """
        if self._is_recurrent:
            return self._extend_recurrence(state, embeds, live_new)
        return self._extend_attention(state, embeds, live_new)

    def _extend_attention(
        self, state: State, embeds: Tensor, live_new: Tensor
    ) -> tuple[Tensor, State]:
        from transformers import DynamicCache

        # Made without the config: every layer then keeps all slots, sliding windows included.
        cache = DynamicCache()
        for index, (keys, values) in enumerate(state.memory):
            cache.update(keys, values, index)  # concatenates; the state's own tensors stay as is
        hidden = self._base(
            inputs_embeds=embeds,
            attention_mask=attention_bias(state, live_new, embeds.dtype),
            position_ids=new_positions(state, live_new),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state  # [B, T, Dh]
        memory = [(layer.keys, layer.values) for layer in cache.layers]  # each [B, H, P + T, *]
        return hidden.to(self.head.dtype), state.advanced(live_new, memory)

    def _extend_recurrence(
        self, state: State, embeds: Tensor, live_new: Tensor
    ) -> tuple[Tensor, State]:
        """A recurrence cannot take several new slots from where it stood: it reads all anew.

        Its memory is the input embeddings of all slots, [B, 1, P, D]; `running` serves single
        steps.
        """
        num_new = embeds.shape[1]
        seen = embeds[:, None]  # [B, 1, T, D]
        if state.memory:
            seen = torch.cat([state.memory[0][0], seen], dim=2)  # [B, 1, P + T, D]
        wants_grad = torch.is_grad_enabled() and seen.requires_grad
        can_step = num_new == 1 and state.running is not None and not wants_grad
        if can_step and bool(live_new.all()):
            hidden, running = self._step(state.running, embeds)
        else:
            live = torch.cat([state.live, live_new], dim=1)  # [B, P + T]
            hidden, running = self._scan(seen[:, 0], live, keep_running=not wants_grad)
            hidden = hidden[:, -num_new:]
        return hidden.to(self.head.dtype), state.advanced(live_new, ((seen,),), running)

    def _step(self, running: Any, embeds: Tensor) -> tuple[Tensor, Any]:
        """One live slot a row. embeds: [B, 1, D]. `running` is copied: a step writes into it."""
        running = copy.deepcopy(running)
        # Early 5.x ask where in the sequence this is, and want it beyond the convolution's width.
        position = torch.tensor([self._base.config.conv_kernel], device=embeds.device)
        outputs = self._base(
            inputs_embeds=embeds, cache_params=running, use_cache=True, cache_position=position
        )
        return outputs.last_hidden_state, running

    def _scan(self, embeds: Tensor, live: Tensor, *, keep_running: bool) -> tuple[Tensor, Any]:
        """All slots from the start. embeds: [B, P, D], live: [B, P] -> hidden [B, P, D], running.

        Live slots are moved to the right end, so that all rows stop at their last one. The mask
        zeroes the padding before them, and a zero state stays zero under zero input.
        """
        num_live = live.sum(dim=1, keepdim=True)  # [B, 1]
        width = max(1, int(num_live.max()))
        rows, slots = live.nonzero(as_tuple=True)
        columns = (live.long().cumsum(dim=1) - 1 + width - num_live)[rows, slots]
        packed = embeds.new_zeros(embeds.shape[0], width, embeds.shape[2])
        packed = packed.index_put((rows, columns), embeds[rows, slots])
        mask = torch.arange(width, device=live.device) >= width - num_live  # [B, W]
        outputs = self._base(
            inputs_embeds=packed,
            attention_mask=None if bool(mask.all()) else mask.long(),
            use_cache=keep_running,
        )
        hidden = outputs.last_hidden_state  # [B, W, D]
        spread = hidden.new_zeros(*live.shape, hidden.shape[2])
        spread = spread.index_put((rows, slots), hidden[rows, columns])  # [B, P, D]
        return spread, outputs.cache_params if keep_running else None


def load_foreign(
    path: Path,
    config: Mapping[str, Any],
    *,
    dtype: torch.dtype,
    device: torch.device,
    attention: str,
) -> ForeignLM:
    """Load the model in `path` with transformers. `attention`: "sdpa" or "eager".

    `config`: what its config.json holds.
    Reads safetensors only, runs no code of the model's directory and never touches the network.
    Raises `ModelUnavailable` for whatever goes wrong, and for architectures that do not fit.
    """
    model_type = str(config.get("model_type", ""))
    _refuse_unfit(path, config, model_type)
    try:
        with _quiet():
            model, notes = _read(path, dtype, attention)
            _refuse_missing(path, notes)
            model.to(device)
            lm = ForeignLM(model)
    except ModelUnavailable:
        raise
    except Exception as cause:
        reason = " ".join(str(cause).split())[:200] or type(cause).__name__
        raise ModelUnavailable(f"the model in {path} cannot be loaded: {reason}") from cause
    # Recurrences always: it also uses up, unseen, the advice on kernels that they log once.
    if model_type not in TESTED or model_type in _RECURRENT:
        with _quiet():
            _check(model, lm, model_type)
    return lm


def _read(path: Path, dtype: torch.dtype, attention: str) -> tuple[Any, Mapping[str, Any]]:
    from transformers import AutoModelForCausalLM

    try:
        model, notes = AutoModelForCausalLM.from_pretrained(
            path,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
        )
    except ValueError:
        if attention == "eager":
            raise
        return _read(path, dtype, "eager")  # some architectures know nothing else
    return model, notes


def _refuse_unfit(path: Path, config: Mapping[str, Any], model_type: str) -> None:
    reason = ""
    if config.get("quantization_config"):
        reason = "quantised checkpoints are not supported, because their kernels differ by machine"
    elif (path / "adapter_config.json").exists():
        reason = "it is an adapter for another model; merge it into that model first"
    elif model_type in _RECURRENT and config.get("use_bias", False):
        reason = "recurrences with projection biases (use_bias) are not supported"
    if reason:
        raise ModelUnavailable(f"the model in {path} cannot be used: {reason}", hint=_HINT)


def _refuse_missing(path: Path, notes: Mapping[str, Any]) -> None:
    """transformers fills tensors that the files lack with random numbers."""
    missing = sorted(notes["missing_keys"])
    if missing:
        raise ModelUnavailable(
            f"the model in {path} is not complete: {len(missing)} tensors are missing, "
            f"{missing[0]} among them",
            hint="fetch the model again or name another directory",
        )


def _check(model: Any, lm: ForeignLM, model_type: str) -> None:
    """Compare logits of 8 fixed ids with the model's own; refuse architectures that differ.

    Finds scaled embeddings, capped or scaled logits, positions that are counted from a mask, and
    memories that are not keys and values. Windows longer than 8 tokens do not show.
    """
    cause = None
    try:
        reason = _difference(model, lm)
    except Exception as error:
        reason, cause = " ".join(str(error).split())[:200] or type(error).__name__, error
    if reason:
        raise ModelUnavailable(
            f"architecture {model_type!r} is not supported: {reason}", hint=_HINT
        ) from cause


@torch.no_grad()
def _difference(model: Any, lm: ForeignLM) -> str:
    """What differs, or an empty string."""
    device, is_half = lm.embedding.device, lm.embedding.dtype != torch.float32
    ids = ((torch.arange(8) * 7 + 3) % lm.embedding.shape[0]).to(device)
    expected = model(input_ids=ids[None], use_cache=False).logits[0]  # [8, V]
    embeds = lm.embedding[ids][None]  # [1, 8, D]
    whole = lm._base(inputs_embeds=embeds, use_cache=False).last_hidden_state[0]
    if _error(lm, whole, expected) > (_TOLERANCE_HALF if is_half else _TOLERANCE):
        return "its logits are not the output head times the last hidden state"
    state, parts = empty_state(1, device), []
    padding = embeds.new_zeros(1, 2, embeds.shape[2])
    for begin, end in ((0, 4), (4, 7), (7, 8)):
        piece, num_padding = embeds[:, begin:end], 2 if begin == 0 else 0
        live = torch.arange(end - begin + num_padding, device=device)[None] < end - begin
        piece = torch.cat([piece, padding[:, :num_padding]], dim=1)
        hidden, state = lm.extend(state, piece, live)
        parts.append(hidden[0, : end - begin])
    if _error(lm, torch.cat(parts), expected) > (_TOLERANCE_HALF_PIECES if is_half else _TOLERANCE):
        return "read in pieces it does not give the logits that it gives in one"
    return ""


def _error(lm: ForeignLM, hidden: Tensor, expected: Tensor) -> float:
    logits = F.linear(hidden.to(lm.head.dtype), lm.head, lm.head_bias).float()
    error = (logits - expected.float()).norm() / expected.float().norm()
    return float(error) if bool(error.isfinite()) else float("inf")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from logging, warning and drawing bars, then put its settings back."""
    with _quieting, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
        from transformers.utils import logging as theirs

        verbosity, had_bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
        hub_had_bars = not are_progress_bars_disabled()
        theirs.set_verbosity(logging.CRITICAL)
        theirs.disable_progress_bar()  # the hub's bars too
        try:
            yield
        finally:
            theirs.set_verbosity(verbosity)
            if had_bars:
                theirs.enable_progress_bar()
            if not hub_had_bars:
                disable_progress_bars()
