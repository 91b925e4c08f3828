"""A model ready to work, in the two roles that compressing needs.

Owns which dtype optimises, which decodes, and what is known of the model before any text is seen:
how much a vector holds and how large the decoder's noise is. Knows nothing of containers. Called
by `codec`, `planning`, `encoding` and `estimate`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llmzip.config import ComputeSettings
from llmzip.cram.calibration import Calibration, probe_text, remembered_calibration
from llmzip.lm.devices import fast_dtype, pick_device
from llmzip.lm.model import FrozenLM, load_model, start_token
from llmzip.lm.tokens import Tokens
from llmzip.lm.zoo import MODELS, ModelFiles, cache_dir


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """A model ready to work: `judge` decodes (fp32), `lm` optimises (the faster dtype; often the
    same model)."""

    files: ModelFiles
    tokens: Tokens
    start_id: int | None  # stands before every segment
    judge: FrozenLM
    lm: FrozenLM

    @property
    def numerics(self) -> str:
        """In what it optimises, for another machine to do the same; as `optimiser_numerics`."""
        return _numerics(self.lm.device, self.lm.dtype)

    def calibration(self) -> Calibration:
        """What is known of the model; measured at first use of a model that is not pinned."""
        pinned = MODELS.get(self.files.model_id)
        if pinned is not None and pinned.digest == self.files.digest and pinned.gain_bits:
            return Calibration(gain_bits=pinned.gain_bits, noise=pinned.noise)
        ids = self.tokens.ids_of(probe_text())
        cache = cache_dir() / "calibration" / f"{self.files.digest.hex()}.json"
        return remembered_calibration(self.lm, self.judge, ids, start_id=self.start_id, cache=cache)


def optimiser_numerics(compute: ComputeSettings) -> str:
    """The kind of device and the dtype that this machine optimises fastest in. A measurement:
    another time it may give another one."""
    device = pick_device(compute.device)
    return _numerics(device, fast_dtype(device))


def _numerics(device: torch.device, dtype: torch.dtype) -> str:
    return f"{device.type} {dtype}"


def open_workshop(
    files: ModelFiles, tokens: Tokens, compute: ComputeSettings, *, numerics: str = ""
) -> Workshop:
    """Load the model in the decoder's numerics, and in the dtype that this machine optimises
    fastest in. numerics: of `optimiser_numerics` at another time, which count on the same kind of
    device."""
    device = pick_device(compute.device)
    known = {_numerics(device, dtype): dtype for dtype in (torch.float32, torch.bfloat16)}
    dtype = known.get(numerics) or fast_dtype(device)
    judge = lm = load_model(
        files, device=device, dtype=torch.float32, attention=compute.attention,
        decode_only=dtype != torch.float32,
    )  # fmt: skip
    if dtype != torch.float32:
        lm = load_model(files, device=device, dtype=dtype, attention=compute.attention)
        judge.borrow_embedding(lm)
    return Workshop(
        files=files, tokens=tokens, start_id=start_token(files, tokens), judge=judge, lm=lm
    )
