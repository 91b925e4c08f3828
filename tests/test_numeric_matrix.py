"""Decoded bytes never depend on how they are computed: one file, every way to decode it.

The same containers go through fp32 and (where the file says so) bf16, batches, threads, attention
kernels, and logits with ten times the noise that was measured between those ways.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llmzip.api.compress import compress_bytes
from llmzip.api.decompress import decompress_bytes
from llmzip.codecs.base import DecodingModel, Request
from llmzip.codecs.context import QUIET
from llmzip.codecs.cram.calibration import BF16_SAFE_MARGIN
from llmzip.codecs.cram.decoder import decode_chunks_of
from llmzip.config import CompressSettings, ComputeSettings, DecompressSettings
from llmzip.errors import IntegrityError
from llmzip.lm.model import FrozenLM, load_model
from llmzip.lm.tokens import Tokens
from llmzip.lm.zoo import DEFAULT_MODEL, MODELS, ModelFiles, resolve
from llmzip.store.container import read_container
from llmzip.store.cram_payload import CramPayload
from llmzip.store.pieces import restore

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
NOISE_OF_MEASURED = 10.0
WAYS = list(itertools.product((1, 2, 7), (1, 2), ("sdpa", "eager")))
TINY_TEXT = b"the mill stands by the river and the water turns its wheel all day and night"
TEXT = (
    b"The lighthouse keeper wrote two letters a year, one to his sister and one to the ministry, "
    b"and neither had ever been answered.\r\nHe kept the copies in a tin. "
    + "Sehr geehrte Herren, it began, \u6f22\u5b57 \U0001f680".encode()
    + b" <|endoftext|> \xff end"
)


class Noisy:
    """A model whose logits carry noise."""

    def __init__(self, lm: FrozenLM, size: float, seed: int) -> None:
        self._lm, self._size = lm, size
        self._generator = torch.Generator().manual_seed(seed)

    def __getattr__(self, name: str) -> object:
        return getattr(self._lm, name)

    def logits(self, hidden: Tensor) -> Tensor:
        exact = self._lm.logits(hidden)
        spread = 2 * torch.rand(exact.shape, generator=self._generator) - 1
        return exact + self._size * spread


class Files:
    """A text, compressed with fp32 margins and with bf16 margins, and its model."""

    def __init__(self, text: bytes, model: str, **settings: object) -> None:
        self.text = text
        self.model: ModelFiles = resolve(model)
        common = CompressSettings(model=model, **settings)  # type: ignore[arg-type]
        self.plain = compress_bytes(text, common)
        safe = CompressSettings(model=model, bf16_safe=True, **settings)  # type: ignore[arg-type]
        self.bf16_safe = compress_bytes(text, safe)

    def decode(self, packed: bytes, lm: object, *, batch: int = 7) -> bytes:
        tokens = Tokens.load(self.model.path)
        found = read_container(packed)
        assert isinstance(found.payload, CramPayload)
        model = DecodingModel(lm=lm, tokens=tokens)  # type: ignore[arg-type]
        request = Request(wanted=range(len(found.payload.chunks)), batch=batch)
        return restore(found, decode_chunks_of(found.payload, model, request, QUIET))


def check_plain(files: Files) -> None:
    for batch, threads, attention in WAYS:
        compute = ComputeSettings(batch=batch, threads=threads, attention=attention)  # type: ignore[arg-type]
        settings = DecompressSettings(model=str(files.model.path), compute=compute)
        assert decompress_bytes(files.plain, settings) == files.text, compute


def check_bf16(files: Files) -> None:
    payload = read_container(files.bf16_safe).payload
    assert isinstance(payload, CramPayload)
    assert payload.bf16_safe
    assert payload.min_margin is not None
    assert payload.min_margin >= BF16_SAFE_MARGIN - 0.01
    for attention in ("sdpa", "eager"):
        for dtype, batches in ((torch.bfloat16, (1, 2, 7)), (torch.float32, (7,))):
            lm = load_model(files.model, device=CPU, dtype=dtype, attention=attention)
            for batch in batches:
                assert files.decode(files.bf16_safe, lm, batch=batch) == files.text


def check_noise(files: Files, noise: float) -> None:
    assert noise > 0
    lm = load_model(files.model, device=CPU, dtype=torch.float32, attention="sdpa")
    for seed in range(3):
        noisy = Noisy(lm, NOISE_OF_MEASURED * noise, seed)
        assert files.decode(files.plain, noisy) == files.text


@pytest.fixture(scope="module", params=[16, 8, 6, 5, 4, 3, 2])
def tiny(request: pytest.FixtureRequest, tiny_model: Callable[..., Path]) -> Files:
    model = str(tiny_model("llama"))
    return Files(
        TINY_TEXT, model, bits=request.param, num_mem=2, budget_bits=30.0, max_steps=120,
        context_tokens=24,
    )  # fmt: skip


@pytest.fixture(scope="module")
def default() -> Files:
    return Files(TEXT, DEFAULT_MODEL, context_tokens=24, bits=2)


class TestTinyModel:
    def test_batches_threads_and_kernels(self, tiny: Files) -> None:
        assert any(chunk.mem is not None for chunk in read_container(tiny.plain).payload.chunks)
        check_plain(tiny)

    def test_bf16_where_the_file_is_safe(self, tiny: Files) -> None:
        check_bf16(tiny)

    def test_ten_times_the_noise(self, tiny: Files) -> None:
        check_noise(tiny, 1e-4)

    def test_noise_beyond_the_margin_is_noticed(self, tiny: Files) -> None:
        lm = load_model(tiny.model, device=CPU, dtype=torch.float32, attention="sdpa")
        with pytest.raises(IntegrityError, match="chunk"):
            tiny.decode(tiny.plain, Noisy(lm, 1e4, 0))


@pytest.mark.real_model
class TestDefaultModel:
    def test_batches_threads_and_kernels(self, default: Files) -> None:
        chunks = read_container(default.plain).payload.chunks
        assert chunks and all(chunk.mem is not None for chunk in chunks)
        check_plain(default)

    def test_bf16_where_the_file_is_safe(self, default: Files) -> None:
        chunks = read_container(default.bf16_safe).payload.chunks
        assert any(chunk.mem is not None for chunk in chunks)
        check_bf16(default)

    def test_ten_times_the_noise(self, default: Files) -> None:
        check_noise(default, MODELS[DEFAULT_MODEL].noise)
