"""Compress and decompress through the whole product, on tiny models of every architecture."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llmzip.api.compress import compress_bytes
from llmzip.api.decompress import decompress_bytes
from llmzip.codecs.context import Context
from llmzip.config import CompressSettings, ComputeSettings, DecompressSettings
from llmzip.errors import (
    Corrupt,
    FormatError,
    IntegrityError,
    Interrupted,
    ModelMismatch,
    ModelUnavailable,
)
from llmzip.store.container import read_container, write_container
from llmzip.store.cram_payload import CramPayload
from llmzip.store.payload import StoredRun
from llmzip.store.vectors import GridMem
from tests.tiny_models import ARCHITECTURES

TEXT = b"the old mill stands by the river, and the water turns its wheel"


def compress(data: bytes, model: Path, **settings: object) -> bytes:
    plain = {"budget_bits": 40.0, "max_steps": 80, "context_tokens": 0} | settings
    return compress_bytes(data, CompressSettings(model=str(model), **plain))  # type: ignore[arg-type]


def decompress(packed: bytes, model: Path, **compute: object) -> bytes:
    settings = DecompressSettings(model=str(model), compute=ComputeSettings(**compute))  # type: ignore[arg-type]
    return decompress_bytes(packed, settings)


@pytest.fixture(scope="module")
def llama(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def packed(llama: Path) -> bytes:
    return compress(TEXT, llama, context_tokens=24, num_mem=2)


@pytest.mark.parametrize("context", [0, 256])
@pytest.mark.parametrize("num_mem", [1, 2, 4])
@pytest.mark.parametrize(
    "arch",
    ["llama", *(pytest.param(arch, marks=pytest.mark.slow) for arch in ARCHITECTURES[1:])],
)
def test_every_architecture(
    tiny_model: Callable[..., Path], arch: str, num_mem: int, context: int
) -> None:
    model = tiny_model(arch)
    budget = 14.0 * min(3, num_mem)
    packed = compress(TEXT, model, num_mem=num_mem, context_tokens=context, budget_bits=budget)
    container = read_container(packed)
    chunks = container.payload.chunks
    assert decompress(packed, model) == TEXT
    assert container.payload.num_mem == num_mem
    assert sum(chunk.mem is not None for chunk in chunks) > len(chunks) / 2
    if context == 0:
        assert all(chunk.starts_segment for chunk in chunks)
    else:
        assert [chunk.starts_segment for chunk in chunks].count(True) == 1
    held = [chunk for chunk in chunks if chunk.mem is not None]
    short = sum(chunk.num_tokens < 8 for chunk in held)  # which may have a patch each
    num_patches = sum(len(chunk.patches) for chunk in held)
    # The vectors carry the text, not the patches.
    assert num_patches <= sum(chunk.num_tokens for chunk in held) / 8 + short
    assert all(len(chunk.patches) < chunk.num_tokens for chunk in held)


def test_a_start_token_stands_before_every_segment(tiny_model: Callable[..., Path]) -> None:
    model = tiny_model("llama", bos=True)
    packed = compress(TEXT[:40], model)
    assert read_container(packed).payload.model.start_id == 260
    assert decompress(packed, model) == TEXT[:40]


def test_same_bytes_whatever_the_batch_threads_and_attention(packed: bytes, llama: Path) -> None:
    for batch in (1, 7):
        for threads in (1, 2):
            for attention in ("sdpa", "eager"):
                got = decompress(packed, llama, batch=batch, threads=threads, attention=attention)
                assert got == TEXT


def test_same_seed_same_bytes(llama: Path) -> None:
    assert compress(TEXT[:30], llama, seed=5) == compress(TEXT[:30], llama, seed=5)


def test_torch_settings_are_given_back(packed: bytes, llama: Path) -> None:
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    decompress(packed, llama, threads=1)
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before


def test_hopeless_chunks_are_split_and_in_the_end_stored_token_by_token(llama: Path) -> None:
    packed = compress(TEXT, llama, budget_bits=400.0, max_steps=1)
    container = read_container(packed)
    literal = [chunk for chunk in container.payload.chunks if chunk.mem is None]
    assert literal
    assert all(len(chunk.patches) == chunk.num_tokens for chunk in literal)
    assert container.payload.chunks[0].num_tokens < len(TEXT)
    assert decompress(packed, llama) == TEXT


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"no final newline, and a few more words to go",
        b"carriage\r\nreturns\r\nstay\r\nwhere they are\r\n",
        b"\xef\xbb\xbfa byte order mark comes first here",
        b"a NUL \x00 in the middle of the line of text",
        b"not \xff\xfe UTF-8 \x80 at all, yet mostly words",
        "emoji \U0001f600\U0001f680 and 漢字かな at borders \U0001f468‍\U0001f469".encode(),
        b"literal <|endoftext|> and <|im_start|> and <s> are text",
    ],
    ids=["empty", "one", "nonl", "crlf", "bom", "nul", "invalid", "emoji", "special"],
)
def test_awkward_bytes(llama: Path, data: bytes) -> None:
    packed = compress(data, llama, max_steps=20)
    assert decompress(packed, llama) == data


@pytest.mark.parametrize(
    "data",
    [b" " * 200_000, os.urandom(65_536), bytes(range(256)) * 40],
    ids=["spaces", "random", "binary"],
)
def test_what_cramming_cannot_carry_is_stored_without_a_model(data: bytes, tmp_path: Path) -> None:
    nowhere = tmp_path / "no-such-model"
    packed = compress(data, nowhere)
    assert len(packed) <= len(data) + 512
    assert decompress(packed, nowhere) == data


def test_text_and_binary_in_one_file(llama: Path) -> None:
    data = TEXT + b"\n" * 4040 + os.urandom(9000) + TEXT
    packed = compress(data, llama, max_steps=20)
    kinds = [type(run) for run in read_container(packed).runs]
    assert StoredRun in kinds
    assert decompress(packed, llama) == data


def test_another_model_is_refused(packed: bytes, tiny_model: Callable[..., Path]) -> None:
    with pytest.raises(ModelMismatch) as caught:
        decompress(packed, tiny_model("llama", seed=1))
    assert caught.value.exit_code == 5
    assert caught.value.expected != caught.value.got


def test_a_model_that_only_the_file_names_is_not_loaded(packed: bytes) -> None:
    with pytest.raises(ModelUnavailable):
        decompress_bytes(packed, DecompressSettings())


def test_every_flipped_byte_is_detected(packed: bytes, llama: Path) -> None:
    for position in range(0, len(packed), max(1, len(packed) // 60)):
        broken = bytearray(packed)
        broken[position] ^= 0x10
        with pytest.raises(FormatError):
            decompress(bytes(broken), llama)


def test_other_vectors_behind_sound_checksums_fail_the_hash(packed: bytes, llama: Path) -> None:
    container = read_container(packed)
    payload = container.payload
    assert isinstance(payload, CramPayload)
    first = next(i for i, chunk in enumerate(payload.chunks) if chunk.mem is not None)
    mem = payload.chunks[first].mem
    assert isinstance(mem, GridMem)
    chunks = list(payload.chunks)
    turned = replace(mem, symbols=mem.symbols[:, ::-1].copy())
    chunks[first] = replace(chunks[first], mem=turned)
    forged = replace(container, payload=replace(payload, chunks=tuple(chunks)))
    with pytest.raises(IntegrityError) as caught:
        decompress(write_container(forged), llama)
    assert caught.value.exit_code == 6
    assert f"chunk {first + 1} of" in str(caught.value)


def test_a_patch_beyond_the_vocabulary_is_refused(packed: bytes, llama: Path) -> None:
    container = read_container(packed)
    payload = container.payload
    assert isinstance(payload, CramPayload)
    plain = [
        replace(
            chunk, patches=tuple((p, 1 if token is None else token) for p, token in chunk.patches)
        )
        for chunk in payload.chunks
    ]
    chunks = (replace(plain[0], patches=((0, 100_000),)), *plain[1:])
    forged = replace(container, payload=replace(payload, chunks=chunks, streams=()))
    with pytest.raises(Corrupt):
        decompress(write_container(forged), llama)


def test_cancel_stops_between_steps(llama: Path) -> None:
    import threading

    cancel = threading.Event()
    steps = 0

    def stop_soon(event: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            cancel.set()

    settings = CompressSettings(model=str(llama), budget_bits=200.0, context_tokens=0)
    with pytest.raises(Interrupted):
        compress_bytes(TEXT, settings, context=Context(on_progress=stop_soon, cancel=cancel))
    assert steps < 12
