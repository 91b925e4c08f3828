"""Several segments decoded side by side by the model: batches, lanes of other lengths, damage."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from llmzip.codecs.arith.reader import Reader
from llmzip.codecs.arith.segment_coding import Encoded, decode_wave, encode_segment
from llmzip.codecs.arith.segments import Segment, shape_of
from llmzip.codecs.shared import opening_embeds
from llmzip.codecs.token_odds import TokenOdds, build_tree
from llmzip.errors import Interrupted
from llmzip.lm.layout import segment_start
from llmzip.lm.model import load_model
from llmzip.lm.tokens import Tokens
from llmzip.lm.zoo import resolve
from tests.tiny_models import TEXT

CPU = torch.device("cpu")
GUARD = 0.01
# num_tokens, num_lanes: all short, one of one lane (which has no prefix), one of one token.
SHAPES = [(90, 3), (40, 1), (50, 4), (1, 1), (64, 7), (6, 5)]


@dataclass(frozen=True, kw_only=True)
class Coded:
    reader: Reader
    token_odds: TokenOdds
    segments: list[Segment]
    wave: list[Encoded]


@pytest.fixture(scope="module", params=["llama", "llama-bos", "mamba", "opt"])
def coded(request: pytest.FixtureRequest, tiny_model: Callable[..., Path]) -> Coded:
    arch, _, bos = request.param.partition("-")
    directory = tiny_model(arch, bos=bool(bos))
    lm = load_model(resolve(str(directory)), device=CPU, dtype=torch.float32, attention="sdpa")
    tokens = Tokens.load(directory)
    token_odds = TokenOdds(build_tree(tokens.meanings[: lm.vocab_size]), CPU)
    opening = opening_embeds(lm, segment_start(tokens.bos_id), None)
    reader = Reader(lm, token_odds, opening, window_tokens=256)
    segments, wave = [], []
    ids = tokens.ids_of(TEXT.encode())
    for number, (num_tokens, num_lanes) in enumerate(SHAPES):
        own = ids[50 * number : 50 * number + num_tokens]
        text = tokens.bytes_of(own)
        segment = Segment(
            original=text, unwrapped=text, flags=None, ids=own,
            lanes=shape_of(num_tokens, num_lanes, 13),
        )  # fmt: skip
        odds = reader.known_odds(segment.lanes, own)
        stream = encode_segment(token_odds.tree, segment, odds, guard=GUARD)
        segments.append(segment)
        wave.append(Encoded(lanes=segment.lanes, stream=stream))
    return Coded(reader=reader, token_odds=token_odds, segments=segments, wave=wave)


@pytest.mark.parametrize("batch", [1, 2, 5, 100])
def test_a_wave_in_batches_of_any_size(coded: Coded, batch: int) -> None:
    told: list[int] = []
    found = decode_wave(
        coded.reader, coded.token_odds, coded.wave, batch=batch, on_tokens=told.append
    )
    assert [each.ids for each in found] == [segment.ids for segment in coded.segments]
    assert not any(each.has_failed for each in found)
    assert sum(told) == sum(num_tokens for num_tokens, _ in SHAPES)


@pytest.mark.parametrize("index", range(len(SHAPES)))
def test_one_segment_alone(coded: Coded, index: int) -> None:
    (found,) = decode_wave(coded.reader, coded.token_odds, [coded.wave[index]], batch=100)
    assert found.ids == coded.segments[index].ids


def test_damage_stays_in_its_segment(coded: Coded) -> None:
    wave = list(coded.wave)
    for index in (0, 2):
        stream = bytes(byte ^ 0xFF for byte in wave[index].stream)
        wave[index] = Encoded(lanes=wave[index].lanes, stream=stream)
    found = decode_wave(coded.reader, coded.token_odds, wave, batch=6)
    for index, (each, segment) in enumerate(zip(found, coded.segments, strict=True)):
        if index in (0, 2):
            assert each.has_failed or each.ids != segment.ids
        else:
            assert not each.has_failed and each.ids == segment.ids


def test_noise_below_the_guard(coded: Coded) -> None:
    noisy = TokenOdds(coded.token_odds.tree, CPU, noise=0.9 * GUARD)
    found = decode_wave(coded.reader, noisy, coded.wave, batch=100)
    # The reader asks its own token_odds for masses; only decisions are moved.
    assert [each.ids for each in found] == [segment.ids for segment in coded.segments]


def test_a_wave_can_be_cancelled(coded: Coded) -> None:
    cancel = threading.Event()
    told: list[int] = []

    def on_tokens(num_tokens: int) -> None:
        told.append(num_tokens)
        cancel.set()

    with pytest.raises(Interrupted):
        decode_wave(
            coded.reader,
            coded.token_odds,
            coded.wave[3:],
            batch=9,
            on_tokens=on_tokens,
            cancel=cancel,
        )
    assert len(told) == 1
