"""Models in memory: one loaded for compressing, and the cache that keeps the last one.

Owns which dtype optimises and which decodes, and when a model is loaded again. Knows nothing of
texts and containers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from llmzip.config import ComputeSettings
from llmzip.lm.devices import Numerics, fast_dtype, pick_device, trim_heap
from llmzip.lm.model import FrozenLM, load_model, start_token
from llmzip.lm.tokens import Tokens
from llmzip.lm.zoo import ModelFiles
from llmzip.progress import check_cancelled

_POLL_SECONDS = 0.1  # between checks of whether a waiting caller was cancelled


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model that is loaded for compressing, where `lm` and `decode_lm` are often the same."""

    files: ModelFiles
    tokens: Tokens
    start_id: int | None  # of the token before every segment
    decode_lm: FrozenLM  # decodes, in fp32
    lm: FrozenLM  # optimises, in the faster dtype

    @property
    def numerics(self) -> Numerics:
        """What `lm` optimises with, so that another machine can do the same."""
        return Numerics.of(self.lm.device, self.lm.dtype)


def optimiser_numerics(compute: ComputeSettings) -> Numerics:
    """What this machine optimises fastest with. It is measured, so two calls may differ."""
    device = pick_device(compute.device)
    return Numerics.of(device, fast_dtype(device))


def load_for_compression(
    files: ModelFiles, tokens: Tokens, compute: ComputeSettings, *, numerics: Numerics | None = None
) -> LoadedModel:
    """Load the model in fp32 to decode, and in the dtype that optimises fastest here.

    numerics: the result of an earlier `optimiser_numerics`, used instead of measuring again where
    the kind of device is the same.
    """
    device = pick_device(compute.device)
    known = {Numerics.of(device, dtype): dtype for dtype in (torch.float32, torch.bfloat16)}
    dtype = known[numerics] if numerics in known else fast_dtype(device)
    decode_lm = lm = load_model(
        files, device=device, dtype=torch.float32, attention=compute.attention,
        decode_only=dtype != torch.float32,
    )  # fmt: skip
    if dtype != torch.float32:
        lm = load_model(files, device=device, dtype=dtype, attention=compute.attention)
        decode_lm.borrow_embedding(lm)
    trim_heap(device)  # what conversion took
    return LoadedModel(
        files=files, tokens=tokens, start_id=start_token(files, tokens), decode_lm=decode_lm, lm=lm
    )


class ModelCache:
    """Loads models on demand and keeps the last one. One thread at a time may use it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._key: tuple[object, ...] = ()
        self._tokens: Tokens | None = None
        # Each with what it was loaded for.
        self._loaded: tuple[Numerics | None, LoadedModel] | None = None
        self._decoder: tuple[torch.device, FrozenLM] | None = None

    @contextmanager
    def locked(self, cancel: threading.Event | None = None) -> Iterator[None]:
        """Hold the lock, after waiting for other threads. Raises Interrupted when cancelled."""
        while not self._lock.acquire(timeout=-1 if cancel is None else _POLL_SECONDS):
            check_cancelled(cancel)
        try:
            yield
        finally:
            self._lock.release()

    def has(self, files: ModelFiles) -> bool:
        """Whether the model is loaded."""
        return self._key[:1] == (files.digest,) and bool(self._loaded or self._decoder)

    def tokens(self, files: ModelFiles) -> Tokens:
        """The vocabulary of the model."""
        self._select(files)
        if self._tokens is None:
            self._tokens = Tokens.load(files.path)
        return self._tokens

    def loaded(
        self, files: ModelFiles, compute: ComputeSettings, numerics: Numerics | None = None
    ) -> LoadedModel:
        """The model for compressing. The arguments are those of `load_for_compression`."""
        self._select(files, compute)
        if self._loaded is None or self._loaded[0] != numerics:
            self._loaded = self._decoder = None  # freed before the next one is loaded
            loaded = load_for_compression(files, self.tokens(files), compute, numerics=numerics)
            self._loaded = numerics, loaded
        return self._loaded[1]

    def decoder(
        self, files: ModelFiles, compute: ComputeSettings, device: torch.device
    ) -> FrozenLM:
        """The model for decoding, in fp32."""
        self._select(files, compute)
        if self._loaded is not None and self._loaded[1].decode_lm.device.type == device.type:
            return self._loaded[1].decode_lm
        if self._decoder is None or self._decoder[0] != device:
            self._decoder = None
            lm = load_model(
                files, device=device, dtype=torch.float32, attention=compute.attention,
                decode_only=True,
            )  # fmt: skip
            self._decoder = device, lm
        return self._decoder[1]

    def close(self) -> None:
        """Free everything. What is asked for afterwards is loaded again."""
        with self._lock:
            self._key, self._tokens, self._loaded, self._decoder = (), None, None, None

    def _select(self, files: ModelFiles, compute: ComputeSettings | None = None) -> None:
        """Free what belongs to another model or was loaded with other settings."""
        if self._key[:1] != (files.digest,):
            self.close()
            self._key = (files.digest,)
        if compute is None:
            return
        key = files.digest, compute.device, compute.attention
        if len(self._key) > 1 and self._key != key:
            self._loaded = self._decoder = None
        self._key = key
