"""Causal language models that `native` does not cover, run by transformers.

Owns every use of transformers: loading from a local directory, the two kinds of memory (keys and
values, or the state of a recurrence), and the check that an architecture which our tests do not
cover computes the same through `extend` as through its own forward pass. Imports transformers only
inside functions, because that takes seconds. Knows nothing of mem vectors, tokens or containers.
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
from llmzip.lm.hub import no_progress_bars
from llmzip.lm.state import State, attention_bias, empty_state, new_positions

TESTED = frozenset({"llama", "gpt_neox", "opt", "olmo", "mamba"})
_RECURRENT = frozenset({"mamba", "falcon_mamba"})
# The largest relative error of logits that the check accepts. In half precision, logits differ by
# their rounding where both sides run the same kernels, and by more where slots are read in parts.
_TOLERANCE = 1e-3
_TOLERANCE_HALF, _TOLERANCE_HALF_PARTS = 1e-2, 1e-1
# `_quiet` changes settings of the process. Only one thread at a time may do so, so that each saves
# and restores the original ones.
_quiet_lock = threading.RLock()
_HINT = "choose another model, or a newer transformers 5.x if the model needs one"


class ForeignLM:
    """A frozen causal LM of transformers. Its weights need no gradient; dropout is off."""

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
        """Read new slots without changing `state`; differentiable in `embeds`.

        embeds: [B, T, D], live_new: [B, T] bool -> final hidden states [B, T, Dh], of which those
        of slots that are not live have no meaning, and the new state.
        """
        if self._is_recurrent:
            return self._extend_recurrence(state, embeds, live_new)
        return self._extend_attention(state, embeds, live_new)

    def _extend_attention(
        self, state: State, embeds: Tensor, live_new: Tensor
    ) -> tuple[Tensor, State]:
        from transformers import DynamicCache

        # Made without the config, so that layers with a sliding window keep all slots, too.
        cache = DynamicCache()
        for index, (keys, values) in enumerate(state.memory):
            cache.update(keys, values, index)  # concatenates, so the state is not changed
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
        """Read all slots again, because a recurrence cannot go on with several slots at a time.

        Its memory is the input embeddings of all slots, [B, 1, P, D]. Only for a single new slot,
        it goes on from `running`.
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
        # Early 5.x need a position, and one that is not within the convolution's first window.
        position = torch.tensor([self._base.config.conv_kernel], device=embeds.device)
        outputs = self._base(
            inputs_embeds=embeds, cache_params=running, use_cache=True, cache_position=position
        )
        return outputs.last_hidden_state, running

    def _scan(self, embeds: Tensor, live: Tensor, *, keep_running: bool) -> tuple[Tensor, Any]:
        """Read all slots. embeds: [B, P, D], live: [B, P] -> hidden [B, P, D], running.

        Live slots are moved to the right end, so that all rows end with their last one. The mask
        sets the padding before them to zero, and zero input leaves a zero state unchanged.
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
    """Load the model in `path`, whose config.json holds `config`. `attention`: "sdpa" or "eager".

    Reads only safetensors, runs no code of the model's directory and never uses the network.
    Raises `ModelUnavailable` for every error, and for architectures that are not supported.
    """
    model_type = str(config.get("model_type", ""))
    _refuse_unsupported(path, config, model_type)
    try:
        with _quiet():
            model, missing = _read(path, dtype, attention)
            if missing:  # transformers has filled them with random numbers
                raise ModelUnavailable(
                    f"the model in {path} is not complete: {len(missing)} tensors are missing, "
                    f"{missing[0]} among them",
                    hint="fetch the model again or name another directory",
                )
            model.to(device)
            lm = ForeignLM(model)
    except ModelUnavailable:
        raise
    except Exception as cause:
        reason = " ".join(str(cause).split())[:200] or type(cause).__name__
        raise ModelUnavailable(f"the model in {path} cannot be loaded: {reason}") from cause
    # Recurrences are always checked: their first run logs advice on kernels, which is hidden here.
    if model_type not in TESTED or model_type in _RECURRENT:
        with _quiet():
            _check(model, lm, model_type)
    return lm


def _read(path: Path, dtype: torch.dtype, attention: str) -> tuple[Any, list[str]]:
    """The model, and the names of the tensors that its files lack."""
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
        return _read(path, dtype, "eager")  # some architectures have no other attention
    return model, sorted(notes["missing_keys"])


def _refuse_unsupported(path: Path, config: Mapping[str, Any], model_type: str) -> None:
    reason = ""
    if config.get("quantization_config"):
        reason = "quantised checkpoints are not supported, because their kernels differ by machine"
    elif (path / "adapter_config.json").exists():
        reason = "it is an adapter for another model; merge it into that model first"
    elif model_type in _RECURRENT and config.get("use_bias", False):
        reason = "recurrences with projection biases (use_bias) are not supported"
    if reason:
        raise ModelUnavailable(f"the model in {path} cannot be used: {reason}", hint=_HINT)


def _check(model: Any, lm: ForeignLM, model_type: str) -> None:
    """Compare the logits of 8 fixed ids with the model's own, and raise where they differ.

    Finds scaled embeddings, capped or scaled logits, positions that are computed from a mask, and
    memory that is not keys and values. Does not find sliding windows longer than 8 tokens.
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
    """A description of what differs, or an empty string."""
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
    if _error(lm, torch.cat(parts), expected) > (_TOLERANCE_HALF_PARTS if is_half else _TOLERANCE):
        return "its logits change when the input is read in several parts"
    return ""


def _error(lm: ForeignLM, hidden: Tensor, expected: Tensor) -> float:
    logits = F.linear(hidden.to(lm.head.dtype), lm.head, lm.head_bias).float()
    error = (logits - expected.float()).norm() / expected.float().norm()
    return float(error) if bool(error.isfinite()) else float("inf")


@contextmanager
def _quiet() -> Iterator[None]:
    """No logging, warnings and progress bars of transformers; its settings are restored."""
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.utils import logging as theirs

        with no_progress_bars():  # transformers turns those of the hub on and off with its own
            verbosity, had_bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
            theirs.set_verbosity(logging.CRITICAL)
            theirs.disable_progress_bar()
            try:
                yield
            finally:
                theirs.set_verbosity(verbosity)
                if had_bars:
                    theirs.enable_progress_bar()
