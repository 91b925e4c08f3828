"""Patched tokens in streams: read back under noise, and safe whatever the bytes are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmzip.codecs.cram.greedy import Forced, _Wanted
from llmzip.codecs.cram.patch_tokens import (
    TEMPERATURE,
    PatchedTokens,
    TokenReader,
    masses_of,
    odds_guard,
    pack_tokens,
    path_odds,
)
from llmzip.codecs.token_odds import TokenOdds, build_tree
from llmzip.store.residual import Ranked

VOCAB = 300
TREE = build_tree([None, None, *(bytes([65 + i % 26]) * (1 + i // 26) for i in range(VOCAB - 2))])
ODDS = TokenOdds(TREE, torch.device("cpu"))
GUARD = odds_guard(0.05)


def logits_of(count: int, *, seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(count, VOCAB, generator=generator)


def ids_of(count: int, *, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(2, VOCAB, count).tolist()


def chunks_of(sizes: list[int], *, spread: float = 3.0) -> tuple[list[PatchedTokens], torch.Tensor]:
    logits = logits_of(sum(sizes), spread=spread)
    ids = ids_of(sum(sizes))
    odds = path_odds(ODDS, logits, torch.tensor(ids))
    ends = np.cumsum(sizes)
    return [
        PatchedTokens(ids=ids[end - size : end], odds=odds[end - size : end])
        for size, end in zip(sizes, ends.tolist(), strict=True)
    ], logits


def read(stream: bytes, sizes: list[int], logits: torch.Tensor) -> list[int]:
    reader, masses, found = TokenReader(ODDS, stream), iter(masses_of(ODDS, logits)), []
    for size in sizes:
        reader.next_chunk()
        found += [reader.token(next(masses)) for _ in range(size)]
    return found


@pytest.mark.parametrize("sizes", [[1], [5, 3, 1], [40]])
def test_they_come_back(sizes: list[int]) -> None:
    chunks, logits = chunks_of(sizes)
    stream = pack_tokens(TREE, chunks, guard=GUARD)
    assert read(stream, sizes, logits) == ids_of(sum(sizes))


@pytest.mark.parametrize("seed", range(6))
def test_noise_below_the_guard_changes_nothing(seed: int) -> None:
    sizes = [4, 6, 2]
    chunks, logits = chunks_of(sizes)
    stream = pack_tokens(TREE, chunks, guard=GUARD)
    # A logit that is off by x moves no log-odds by more than x / TEMPERATURE on either side.
    most = 0.5 * GUARD * TEMPERATURE
    noise = most * (2 * logits_of(sum(sizes), seed=seed + 9).sigmoid() - 1)
    assert read(stream, sizes, logits + noise) == ids_of(sum(sizes))


def test_expected_tokens_take_fewer_bits() -> None:
    ids = ids_of(60)
    flat, sure = torch.zeros(60, VOCAB), torch.zeros(60, VOCAB)
    sure[torch.arange(60), torch.tensor(ids)] = 12.0
    sizes = {}
    for name, logits in (("flat", flat), ("sure", sure)):
        odds = path_odds(ODDS, logits, torch.tensor(ids))
        sizes[name] = len(pack_tokens(TREE, [PatchedTokens(ids=ids, odds=odds)], guard=GUARD))
    assert sizes["sure"] < 0.45 * sizes["flat"]
    assert sizes["flat"] <= 60 * np.log2(VOCAB) / 8 + 8


def test_where_no_offset_is_safe_the_model_has_no_say() -> None:
    chunks, logits = chunks_of([30], spread=0.5)
    stream = pack_tokens(TREE, chunks, guard=0.3)
    assert read(stream, [30], logits) == ids_of(30)
    assert read(stream, [30], logits_of(30, seed=5)) == ids_of(30)  # whatever it says


@pytest.mark.parametrize("stream", [b"", b"\0", b"\xff" * 40, bytes(range(64))])
def test_any_bytes_give_tokens_of_the_vocabulary(stream: bytes) -> None:
    found = read(stream, [20, 20], logits_of(40))
    assert all(2 <= token < VOCAB for token in found)


def test_the_decoder_takes_tokens_by_id_by_rank_and_from_the_stream() -> None:
    chunks, logits = chunks_of([1])
    reader = TokenReader(ODDS, pack_tokens(TREE, chunks, guard=GUARD))
    forced = [
        Forced(tokens={0: 7}),
        Forced(tokens={0: Ranked(skip=1, size=1, index=0), 2: 9}),
        Forced(tokens={0: None}, reader=reader),
        Forced(tokens={}),
    ]
    wanted = _Wanted(forced, 3, torch.device("cpu"))
    rows = torch.stack([logits_of(1)[0] * 0, logits_of(1, seed=1)[0], logits[0], logits[0]])
    second = int(rows[1].topk(2).indices[1])
    places = torch.arange(4)
    taken = wanted.at(0, [0, 1, 2, 3], places, rows)
    assert taken.tolist() == [7, second, ids_of(1)[0], -1]
    some = [1, 3]  # rows that still decode
    assert wanted.at(2, some, places[some], rows[some]).tolist() == [9, -1]
