"""The forecast of a run, on a tiny model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llmzip.api.compress import compress_bytes, estimate_bytes
from llmzip.cli.main import main
from llmzip.codecs.context import Context
from llmzip.config import DEFAULT_MAX_STEPS, CompressSettings
from llmzip.progress import Progress
from llmzip.store.container import read_container
from llmzip.store.stored import xz_bytes
from tests.tiny_models import TEXT

DATA = TEXT.encode()


@pytest.fixture(scope="module")
def settings(tiny_model: Callable[..., Path]) -> CompressSettings:
    model = str(tiny_model("llama"))
    return CompressSettings(model=model, num_mem=2, budget_bits=40.0, context_tokens=0, bits=16)


def test_a_few_chunks_foretell_the_container(settings: CompressSettings) -> None:
    told: list[Progress] = []
    found = estimate_bytes(DATA, settings, context=Context(on_progress=told.append))
    packed = compress_bytes(DATA, settings)
    container = read_container(packed)
    assert found.container_bytes == pytest.approx(len(packed), rel=0.3)
    num_crammed = sum(chunk.mem is not None for chunk in container.payload.chunks)
    assert found.num_vectors == pytest.approx(2 * num_crammed, rel=0.3)
    assert found.num_chunks == pytest.approx(len(container.payload.chunks), rel=0.3)
    assert (found.original_bytes, found.xz_bytes) == (len(DATA), xz_bytes(DATA))
    assert found.bits_per_byte(found.container_bytes) == 8 * found.container_bytes / len(DATA)
    assert (found.codec, found.tried_chunks, found.left_out) == ("cram", 3, ())
    assert found.result == f"{found.num_vectors} vectors"
    assert found.sample == f"3 of {found.num_chunks} chunks"
    assert 1 <= found.steps_a_chunk <= 2 * DEFAULT_MAX_STEPS
    assert 0 < found.seconds < 600
    assert {event.chunks_total for event in told if event.stage == "cram"} == {3}


def test_split_chunks_count_with_all_their_steps_and_vectors(settings: CompressSettings) -> None:
    overfull = replace(settings, budget_bits=150.0, num_mem=1, max_steps=30)
    found = estimate_bytes(DATA, overfull)
    assert found.tried_chunks == 3
    assert found.num_vectors > found.num_chunks
    assert found.steps_a_chunk > 30


def test_a_text_of_one_chunk(settings: CompressSettings) -> None:
    found = estimate_bytes(b"the old mill stands", replace(settings, budget_bits=1000.0))
    assert (found.num_chunks, found.tried_chunks) == (1, 1)
    assert found.seconds > 0


def test_a_time_budget_does_not_shorten_the_forecast(settings: CompressSettings) -> None:
    found = estimate_bytes(DATA, replace(settings, time_budget_s=1e-6))
    assert found.num_chunks > 3 and found.num_vectors > 6
    assert found.keeps_budget


@pytest.mark.parametrize(
    ("options", "left_out"),
    [
        ("--codec auto", None),
        ("--codec auto --try-cram --time-budget 0.1s", "--try-cram"),
        ("--codec arith --shared-mem 0 --verify quick", None),
        ("--codec arith --shared-mem 2 --verify full", "--shared-mem and --verify full"),
    ],
)
def test_a_forecast_of_the_arith_codec(
    tiny_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    options: str,
    left_out: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_bytes(DATA)
    words = ["compress", "--dry-run", "a.txt", "--model", str(tiny_model("llama"))]
    assert main([*words, *options.split()]) == 0
    line, source, *notes = capfd.readouterr().out.splitlines()
    assert line.startswith("a.txt: about ") and ", codec arith; xz -9e " in line
    assert source == "forecast from a small part of the text; nothing was written"
    assert notes == ([f"note: the work of {left_out} is not in this forecast"] if left_out else [])
    assert main([*words, *options.split(), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["codec"] == "arith"


@pytest.mark.parametrize("data", [b"", b"x", os.urandom(5000)], ids=["empty", "one", "random"])
def test_what_is_stored_is_foretold_exactly(data: bytes, settings: CompressSettings) -> None:
    found = estimate_bytes(data, settings)
    assert found.container_bytes == len(compress_bytes(data, settings))
    assert (found.num_chunks, found.num_vectors, found.seconds) == (0, 0, 0.0)
    assert found.codec == "stored"
    assert (found.bits_per_byte(1) is None) == (data == b"")
