"""The forecast of a run, on a tiny model."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llmzip.api import compress as codec
from llmzip.codecs.cram.presets import EFFORTS
from llmzip.config import CompressSettings
from llmzip.progress import Progress
from llmzip.store.container import read_container
from llmzip.store.stored import xz_bytes
from tests.tiny_models import TEXT

DATA = TEXT.encode()


@pytest.fixture(scope="module")
def settings(tiny_model: Callable[..., Path]) -> CompressSettings:
    model = str(tiny_model("llama"))
    return CompressSettings(model=model, num_mem=2, budget_bits=40.0, context_tokens=0)


def test_a_few_chunks_foretell_the_container(settings: CompressSettings) -> None:
    told: list[Progress] = []
    found = codec.estimate_bytes(DATA, settings, on_progress=told.append)
    packed = codec.compress_bytes(DATA, settings)
    container = read_container(packed)
    assert found.container_bytes == pytest.approx(len(packed), rel=0.3)
    num_crammed = sum(chunk.mem is not None for chunk in container.chunks)
    assert found.num_vectors == pytest.approx(2 * num_crammed, rel=0.3)
    assert found.num_chunks == pytest.approx(len(container.chunks), rel=0.3)
    assert (found.original_bytes, found.xz_bytes) == (len(DATA), xz_bytes(DATA))
    assert found.bits_per_byte(found.container_bytes) == 8 * found.container_bytes / len(DATA)
    assert found.tried_chunks == 3
    assert 1 <= found.steps_a_chunk <= 2 * EFFORTS[settings.preset].total_steps
    assert 0 < found.seconds < 600
    assert {event.chunks_total for event in told if event.stage == "cram"} == {3}


def test_split_chunks_count_with_all_their_steps_and_vectors(settings: CompressSettings) -> None:
    overfull = replace(settings, budget_bits=150.0, num_mem=1, max_steps=30)
    found = codec.estimate_bytes(DATA, overfull)
    assert found.tried_chunks == 3
    assert found.num_vectors > found.num_chunks
    assert found.steps_a_chunk > 30


def test_a_text_of_one_chunk(settings: CompressSettings) -> None:
    found = codec.estimate_bytes(b"the old mill stands", replace(settings, budget_bits=1000.0))
    assert (found.num_chunks, found.tried_chunks) == (1, 1)
    assert found.seconds > 0


def test_a_time_budget_does_not_shorten_the_forecast(settings: CompressSettings) -> None:
    found = codec.estimate_bytes(DATA, replace(settings, time_budget_s=1e-6))
    assert found.num_chunks > 3 and found.num_vectors > 6


@pytest.mark.parametrize("data", [b"", b"x", os.urandom(5000)], ids=["empty", "one", "random"])
def test_what_is_stored_is_foretold_exactly(data: bytes, settings: CompressSettings) -> None:
    found = codec.estimate_bytes(data, settings)
    assert found.container_bytes == len(codec.compress_bytes(data, settings))
    assert (found.num_chunks, found.num_vectors, found.seconds) == (0, 0, 0.0)
    assert (found.bits_per_byte(1) is None) == (data == b"")
