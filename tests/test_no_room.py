"""A device that has too little memory for what it is given: less at a time, then the CPU, then one
clear line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from llmzip.api.compress import compress_bytes
from llmzip.codecs.arith import decoder as arith_decoding
from llmzip.codecs.arith import encoder as arith_encoding
from llmzip.codecs.base import DecodingModel, Request
from llmzip.codecs.context import QUIET, Context
from llmzip.codecs.cram import decoder as decoding
from llmzip.config import CompressSettings
from llmzip.errors import LimitExceeded
from llmzip.lab import signs
from llmzip.lab.batch import Batch
from llmzip.lab.recipes import Recipe
from llmzip.lab.runner import TrialRunner
from llmzip.lab.signs import cram_signs
from llmzip.lab.trials import Trial
from llmzip.lm.loaded import LoadedModel
from llmzip.lm.model import FrozenLM, load_model
from llmzip.lm.tokens import Tokens
from llmzip.lm.zoo import resolve
from llmzip.store.arith_payload import ArithPayload
from llmzip.store.container import read_container
from llmzip.store.cram_payload import CramPayload
from tests.lab_study import opened_study, texts_of, tiny_loaded_model
from tests.tiny_models import TEXT

PROSE = TEXT.encode()[:160]


@pytest.fixture
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("llama")


@pytest.fixture
def tokens(model: Path) -> Tokens:
    return Tokens.load(model)


@pytest.fixture
def segmented(model: Path) -> CramPayload:
    """Vectors in many segments, so that many chunks may be decoded side by side."""
    settings = CompressSettings(
        model=str(model), budget_bits=40.0, max_steps=80, context_tokens=0, bits=16
    )
    payload = read_container(compress_bytes(PROSE, settings)).payload
    assert isinstance(payload, CramPayload)
    return payload


def whole(payload: CramPayload | ArithPayload, batch: int | None = None) -> Request:
    return Request(wanted=range(len(payload.pieces)), batch=batch)


def text_of(parts: list[bytes | None]) -> bytes:
    return b"".join(part for part in parts if part is not None)


class Small:
    """Stands for `function`, and has room for so many of what `size_of` counts."""

    def __init__(self, function: Callable[..., Any], room: int, size_of: Callable[..., int]):
        self._function, self._room, self._size_of = function, room, size_of
        self.sizes: list[int] = []

    def __call__(self, *given: object, **more: object) -> Any:
        self.sizes.append(self._size_of(*given, **more))
        if self.sizes[-1] > self._room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB")
        return self._function(*given, **more)


# Vectors


@pytest.fixture
def small_decoder(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Small]:
    def make(room: int) -> Small:
        small = Small(decoding.decode_segments, room, lambda *given, batch, **more: batch)
        monkeypatch.setattr(decoding, "decode_segments", small)
        return small

    return make


def test_fewer_chunks_are_decoded_at_a_time(
    lm: FrozenLM, tokens: Tokens, segmented: CramPayload, small_decoder: Callable[[int], Small]
) -> None:
    small = small_decoder(5)
    model = DecodingModel(lm=lm, tokens=tokens)
    got = decoding.decode_chunks_of(segmented, model, whole(segmented, batch=16), QUIET)
    assert text_of(got) == PROSE
    assert small.sizes == [16, 8, 4]


def test_another_device_takes_what_does_not_fit(
    lm: FrozenLM,
    model: Path,
    tokens: Tokens,
    segmented: CramPayload,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = load_model(
        resolve(str(model)), device=torch.device("cpu"), dtype=torch.float32, attention="sdpa"
    )
    monkeypatch.setattr(lm, "device", torch.device("meta"))  # none that has a fallback is here
    small = Small(decoding.decode_segments, 0, lambda lm, *given, **more: lm.device.type == "meta")
    monkeypatch.setattr(decoding, "decode_segments", small)
    decoding_model = DecodingModel(lm=lm, tokens=tokens, fallback=lambda: other)
    got = decoding.decode_chunks_of(segmented, decoding_model, whole(segmented, batch=2), QUIET)
    assert text_of(got) == PROSE
    assert small.sizes == [1, 1, 1, 0]  # of 2, of 1, of 1 again, and there


def test_a_chunk_too_large_to_decode_is_a_limit(
    lm: FrozenLM, tokens: Tokens, segmented: CramPayload, small_decoder: Callable[[int], Small]
) -> None:
    small_decoder(0)
    model = DecodingModel(lm=lm, tokens=tokens)
    with pytest.raises(LimitExceeded, match="decoding one chunk takes more memory") as caught:
        decoding.decode_chunks_of(segmented, model, whole(segmented, batch=4), QUIET)
    assert caught.value.exit_code == 7 and "--device cpu" in caught.value.hint


def test_other_failures_are_not_taken_for_it(
    lm: FrozenLM, tokens: Tokens, segmented: CramPayload, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object, **more: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(decoding, "decode_segments", fail)
    model = DecodingModel(lm=lm, tokens=tokens)
    with pytest.raises(RuntimeError, match="shapes"):
        decoding.decode_chunks_of(segmented, model, whole(segmented), QUIET)


# Arithmetic coding


@pytest.fixture
def coded(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ArithPayload]:
    """Several segments: a random model predicts worse than zstd, and is kept all the same."""
    monkeypatch.setattr(arith_encoding, "pack_stored", lambda data: bytes(1 << 20))
    monkeypatch.setattr("llmzip.codecs.arith.segments._TOKENS_OF_ONE_LANE", 20)
    monkeypatch.setattr("llmzip.codecs.arith.segments._SEGMENT_TOKENS", 40)
    settings = CompressSettings(model=str(model), codec="arith")
    payload = read_container(compress_bytes(PROSE, settings)).payload
    assert isinstance(payload, ArithPayload)
    yield payload


def small_wave(monkeypatch: pytest.MonkeyPatch, room: int) -> Small:
    small = Small(arith_decoding.decode_wave, room, lambda reader, outlook, wave, **more: len(wave))
    monkeypatch.setattr(arith_decoding, "decode_wave", small)
    return small


def test_fewer_segments_are_decoded_at_a_time(
    lm: FrozenLM, tokens: Tokens, coded: ArithPayload, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(coded.segments) >= 3
    small = small_wave(monkeypatch, 1)
    told: list[int] = []
    texts = arith_decoding.decode_segments_of(
        coded,
        DecodingModel(lm=lm, tokens=tokens),
        whole(coded),
        Context(on_progress=lambda event: told.append(event.tokens_right)),
    )
    assert text_of(texts) == PROSE
    assert small.sizes[0] == len(coded.segments) and small.sizes[-1] == 1
    assert told == sorted(told)


def test_a_segment_too_large_to_decode_is_a_limit(
    lm: FrozenLM, tokens: Tokens, coded: ArithPayload, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_wave(monkeypatch, 0)
    model = DecodingModel(lm=lm, tokens=tokens)
    with pytest.raises(LimitExceeded, match="decoding one segment takes more memory"):
        arith_decoding.decode_segments_of(coded, model, whole(coded), QUIET)


# The lab


@pytest.fixture
def loaded(tiny_model: Callable[..., Path]) -> LoadedModel:
    return tiny_loaded_model(tiny_model, "llama")


def trials(loaded: LoadedModel) -> list[Trial]:
    samples = texts_of(loaded, count=5, num_tokens=6)
    return [Trial(sample=sample, num_tokens=6) for sample in samples]


def cram(loaded: LoadedModel) -> dict[int, tuple[int, float]]:
    recipe = Recipe(max_steps=30, patience=30)
    runner = TrialRunner(loaded.lm, loaded.decode_lm, recipe, start_id=loaded.start_id)
    outcomes = list(runner.run(trials(loaded)))
    assert len(outcomes) == 5
    return {o.trial.sample.index: (o.steps, o.min_margin) for o in outcomes}


@pytest.mark.parametrize("where", ["measure", "gradients"])
def test_fewer_texts_are_crammed_at_a_time(
    loaded: LoadedModel, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each goes the way it would have gone."""
    expected = cram(loaded)
    real = getattr(Batch, where)
    sizes: list[int] = []
    steps = 0

    def run_out(batch: Batch, *given: object) -> Any:
        nonlocal steps
        steps += 1
        sizes.append(len(batch._num_tokens))
        if steps > 10 and sizes[-1] > 2:  # other programs take memory meanwhile
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB")
        return real(batch, *given)

    monkeypatch.setattr(Batch, where, run_out)
    got = cram(loaded)
    assert max(sizes) == 5 and max(sizes[15:]) <= 2
    assert got.keys() == expected.keys()
    for index, (num_steps, margin) in got.items():
        assert num_steps == pytest.approx(expected[index][0], abs=1)
        assert margin == pytest.approx(expected[index][1], abs=0.05)


def test_a_text_too_long_for_the_device_is_a_limit(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(batch: Batch, *given: object) -> None:
        raise torch.OutOfMemoryError("MPS backend out of memory")

    monkeypatch.setattr(Batch, "measure", measure)
    with pytest.raises(LimitExceeded, match="one text takes more memory") as caught:
        cram(loaded)
    assert "fewer --tokens" in caught.value.hint


def test_fewer_texts_end_as_signs_at_a_time(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Small(signs._optimise, 2, lambda study, slots, *given: len(slots))
    monkeypatch.setattr(signs, "_optimise", small)
    with opened_study(loaded, tmp_path / "run", Recipe(max_steps=5)) as study:
        found = cram_signs(study, trials(loaded), bits=4, preset="fast")
        assert [outcome.trial.sample.index for outcome, _ in found] == [0, 1, 2, 3, 4]
        assert small.sizes == [5, 2, 3, 1, 2]
        small._room = 0
        with pytest.raises(LimitExceeded, match="one text takes more memory"):
            cram_signs(study, trials(loaded), bits=4, preset="fast")
