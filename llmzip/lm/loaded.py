"""A model ready to work, in the two roles that compressing needs.

Owns which dtype optimises and which decodes. Knows nothing of containers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llmzip.config import ComputeSettings
from llmzip.lm.devices import fast_dtype, pick_device
from llmzip.lm.model import FrozenLM, load_model, start_token
from llmzip.lm.tokens import Tokens
from llmzip.lm.zoo import ModelFiles


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model ready to work: `decode_lm` decodes (fp32), `lm` optimises (the faster dtype; often
    the same model)."""

    files: ModelFiles
    tokens: Tokens
    start_id: int | None  # stands before every segment
    decode_lm: FrozenLM
    lm: FrozenLM

    @property
    def numerics(self) -> str:
        """In what it optimises, for another machine to do the same; as `optimiser_numerics`."""
        return _numerics(self.lm.device, self.lm.dtype)


def optimiser_numerics(compute: ComputeSettings) -> str:
    """The kind of device and the dtype that this machine optimises fastest in. A measurement:
    another time it may give another one."""
    device = pick_device(compute.device)
    return _numerics(device, fast_dtype(device))


def _numerics(device: torch.device, dtype: torch.dtype) -> str:
    return f"{device.type} {dtype}"


def load_for_compression(
    files: ModelFiles, tokens: Tokens, compute: ComputeSettings, *, numerics: str = ""
) -> LoadedModel:
    """Load the model in the decoder's numerics, and in the dtype that this machine optimises
    fastest in. numerics: of `optimiser_numerics` at another time, which count on the same kind of
    device."""
    device = pick_device(compute.device)
    known = {_numerics(device, dtype): dtype for dtype in (torch.float32, torch.bfloat16)}
    dtype = known.get(numerics) or fast_dtype(device)
    decode_lm = lm = load_model(
        files, device=device, dtype=torch.float32, attention=compute.attention,
        decode_only=dtype != torch.float32,
    )  # fmt: skip
    if dtype != torch.float32:
        lm = load_model(files, device=device, dtype=dtype, attention=compute.attention)
        decode_lm.borrow_embedding(lm)
    return LoadedModel(
        files=files, tokens=tokens, start_id=start_token(files, tokens), decode_lm=decode_lm, lm=lm
    )
