"""Models that stay loaded from one call to the next.

Owns what is kept: the model used last, in the roles it was needed in. Knows nothing of texts.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from llmzip.config import ComputeSettings
from llmzip.lm.loaded import LoadedModel, load_for_compression
from llmzip.lm.model import FrozenLM, load_model
from llmzip.lm.tokens import Tokens
from llmzip.lm.zoo import ModelFiles
from llmzip.progress import check_cancelled

_LOOK_SECONDS = 0.1  # between looks at whether a caller that waits still wants its turn


class Models:
    """Loads what is asked for, and keeps the last. One caller at a time works with them."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._key: tuple[object, ...] = ()
        self._tokens: Tokens | None = None
        self._loaded: tuple[str, LoadedModel] | None = None  # and the numerics asked for
        self._decoder: tuple[torch.device, FrozenLM] | None = None

    @contextmanager
    def turn(self, cancel: threading.Event | None = None) -> Iterator[None]:
        """This caller's time with them, for which it waits. Raises Interrupted."""
        while not self._lock.acquire(timeout=-1 if cancel is None else _LOOK_SECONDS):
            check_cancelled(cancel)
        try:
            yield
        finally:
            self._lock.release()

    def has(self, files: ModelFiles) -> bool:
        """Whether the model is loaded."""
        return self._key[:1] == (files.digest,) and bool(self._loaded or self._decoder)

    def tokens(self, files: ModelFiles) -> Tokens:
        """The vocabulary."""
        self._turn_to(files)
        if self._tokens is None:
            self._tokens = Tokens.load(files.path)
        return self._tokens

    def loaded(
        self, files: ModelFiles, compute: ComputeSettings, numerics: str = ""
    ) -> LoadedModel:
        """To compress with; see `load_for_compression`."""
        self._turn_to(files, compute)
        if self._loaded is None or self._loaded[0] != numerics:
            self._loaded = self._decoder = None  # before another one is loaded
            loaded = load_for_compression(files, self.tokens(files), compute, numerics=numerics)
            self._loaded = numerics, loaded
        return self._loaded[1]

    def decoder(
        self, files: ModelFiles, compute: ComputeSettings, device: torch.device
    ) -> FrozenLM:
        """To decode with, in fp32."""
        self._turn_to(files, compute)
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
        """Let go of everything; it is loaded again if it is asked for."""
        with self._lock:
            self._key, self._tokens, self._loaded, self._decoder = (), None, None, None

    def _turn_to(self, files: ModelFiles, compute: ComputeSettings | None = None) -> None:
        """Drop what is of another model, or computes in another way."""
        if self._key[:1] != (files.digest,):
            self.close()
            self._key = (files.digest,)
        if compute is None:
            return
        key = files.digest, compute.device, compute.attention
        if len(self._key) > 1 and self._key != key:
            self._loaded = self._decoder = None
        self._key = key
