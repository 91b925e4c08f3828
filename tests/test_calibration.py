"""What is measured of a model, once, and how it is remembered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llmzip.codecs.context import QUIET
from llmzip.codecs.cram import calibration
from llmzip.codecs.cram import plan as plan_module
from llmzip.codecs.cram.calibration import (
    Calibration,
    calibrate,
    probe_text,
    remembered_calibration,
)
from llmzip.codecs.cram.executor import LocalExecutor
from llmzip.codecs.cram.plan import make_plan
from llmzip.codecs.cram.presets import EFFORTS
from llmzip.codecs.input import Stretch, tokenised_parts
from llmzip.config import CompressSettings, ComputeSettings
from llmzip.lm.loaded import LoadedModel, load_for_compression
from llmzip.lm.model import FrozenLM, load_model
from llmzip.lm.tokens import Tokens
from llmzip.lm.zoo import resolve
from tests.tiny_models import TEXT


@pytest.fixture(scope="module")
def loaded(tiny_model: Callable[..., Path]) -> LoadedModel:
    files = resolve(str(tiny_model("llama")))
    return load_for_compression(files, Tokens.load(files.path), ComputeSettings(device="cpu"))


def probe_ids(loaded: LoadedModel) -> list[int]:
    return loaded.tokens.ids_of(probe_text())


def test_measured_once_and_remembered(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, cache = probe_ids(loaded), tmp_path / "deep" / "figures.json"
    found = calibrate(loaded.lm, loaded.decode_lm, ids, start_id=None)
    assert 0 < found.gain_bits < 20 * len(ids)
    assert (
        remembered_calibration(loaded.lm, loaded.decode_lm, ids, start_id=None, cache=cache)
        == found
    )
    assert json.loads(cache.read_text()) == {"gain_bits": found.gain_bits, "noise": found.noise}
    assert [entry.name for entry in cache.parent.iterdir()] == ["figures.json"]
    with monkeypatch.context() as patch:
        patch.setattr(calibration, "calibrate", None)  # must not be called
        assert (
            remembered_calibration(loaded.lm, loaded.decode_lm, ids, start_id=None, cache=cache)
            == found
        )


@pytest.mark.parametrize(
    "damage",
    [
        "{",
        "[1]",
        "7",
        '{"gain_bits": 10}',
        '{"gain_bits": "much", "noise": 0}',
        '{"gain_bits": 10, "noise": NaN}',
        '{"gain_bits": -1, "noise": 0.1}',
        '{"gain_bits": Infinity, "noise": 0.1}',
        "\udcff",
    ],
)
def test_a_damaged_cache_is_measured_anew(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    cache = tmp_path / "figures.json"
    cache.write_text(damage, "utf-8", "surrogateescape")
    figures = Calibration(gain_bits=99.0, noise=0.001)
    monkeypatch.setattr(calibration, "calibrate", lambda lm, decode_lm, ids, *, start_id: figures)
    assert (
        remembered_calibration(loaded.lm, loaded.decode_lm, [], start_id=None, cache=cache)
        == figures
    )
    assert json.loads(cache.read_text())["gain_bits"] == 99.0


def test_a_place_that_cannot_be_written_costs_time_only(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    figures = Calibration(gain_bits=99.0, noise=0.001)
    monkeypatch.setattr(calibration, "calibrate", lambda lm, decode_lm, ids, *, start_id: figures)
    cache = tmp_path / "file" / "figures.json"
    assert (
        remembered_calibration(loaded.lm, loaded.decode_lm, [], start_id=None, cache=cache)
        == figures
    )


@pytest.mark.parametrize("arch", ["llama", "mamba"])
def test_decoding_in_another_way_is_only_noise(tiny_model: Callable[..., Path], arch: str) -> None:
    files = resolve(str(tiny_model(arch)))
    tokens = Tokens.load(files.path)
    lm: FrozenLM = load_model(
        files, device=torch.device("cpu"), dtype=torch.float32, attention="sdpa"
    )
    ids = tokens.ids_of(probe_text())
    assert 0 < calibrate(lm, lm, ids, start_id=1).noise < 0.01


def test_the_margin_follows_the_noise() -> None:
    assert Calibration(gain_bits=1.0, noise=0.0).min_margin == 0.05
    assert Calibration(gain_bits=1.0, noise=0.01).min_margin == pytest.approx(1.28)


def test_presets_and_vectors_fill_chunks_in_proportion(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Calibration(gain_bits=200.0, noise=0)
    monkeypatch.setattr(plan_module, "calibration_of", lambda loaded: measured)
    parts = tokenised_parts([Stretch(data=TEXT.encode(), is_text=True)], loaded.tokens)

    def fullest(**settings: object) -> float:
        chosen = CompressSettings(context_tokens=0, **settings)  # type: ignore[arg-type]
        here = LocalExecutor(loaded=loaded, settings=chosen, context=QUIET)
        plan = make_plan(parts, loaded, chosen, QUIET, here.read)
        full = [span.surprisal_bits for segment in plan.segments for span in segment.spans][:-1]
        return max(full)

    for preset, effort in EFFORTS.items():
        for num_mem in (1, 2):
            budget = max(48.0, effort.load * 200.0 * num_mem)
            found = fullest(preset=preset, num_mem=num_mem, bits=16)
            assert 0.8 * budget < found <= budget
            budget = max(12.0, effort.sign_load * 200.0 * num_mem)
            found = fullest(preset=preset, num_mem=num_mem)
            assert 0.8 * budget < found <= budget
    assert EFFORTS["fast"].load < EFFORTS["balanced"].load < EFFORTS["small"].load
    assert fullest(bits=2) < fullest(bits=3) < fullest(bits=6)
