"""Tokens named by rank: a name finds its token, and noise below half the guard changes nothing."""

from __future__ import annotations

import pytest
import torch

from llmzip.codecs.cram.greedy import rank_of, token_at
from llmzip.store.residual import MAX_RANK, Ranked

GUARD = 0.1


def test_a_token_between_gaps_is_named_by_its_rank_alone() -> None:
    logits = torch.tensor([0.0, 3.0, 1.0, 2.0, -1.0])
    assert rank_of(logits, 3, GUARD) == Ranked(skip=1, size=1, index=0)
    assert rank_of(logits, 0, GUARD) == Ranked(skip=3, size=1, index=0)
    assert token_at(logits, Ranked(skip=2, size=1, index=0)) == 2


def test_neighbours_within_the_guard_are_told_apart_by_id() -> None:
    logits = torch.tensor([2.0, 5.0, 2.05, 1.98, 0.0])
    assert rank_of(logits, 0, GUARD) == Ranked(skip=1, size=3, index=0)
    assert rank_of(logits, 2, GUARD) == Ranked(skip=1, size=3, index=1)
    assert rank_of(logits, 3, GUARD) == Ranked(skip=1, size=3, index=2)
    assert rank_of(logits, 1, GUARD) == Ranked(skip=0, size=1, index=0)


def test_an_unsafe_first_choice_has_a_group_that_begins_at_the_top() -> None:
    logits = torch.tensor([0.0, 4.0, 4.05])
    name = rank_of(logits, 2, GUARD)
    assert name == Ranked(skip=0, size=2, index=1)
    assert token_at(logits.flip(0), Ranked(skip=0, size=2, index=0)) == 0


def test_tokens_ranked_too_low_have_no_name() -> None:
    logits = -torch.arange(2.0 * MAX_RANK)
    assert rank_of(logits, MAX_RANK - 1, GUARD) == Ranked(skip=MAX_RANK - 1, size=1, index=0)
    assert rank_of(logits, MAX_RANK, GUARD) is None


def test_a_group_without_an_end_has_no_name() -> None:
    assert rank_of(torch.full((2 * MAX_RANK,), 1.0), 5, GUARD) is None
    assert rank_of(torch.tensor([2.0, 1.0, 0.99]), 2, GUARD) is None  # nothing follows the group


def test_a_name_beyond_the_vocabulary_gives_some_token() -> None:
    assert token_at(torch.zeros(3), Ranked(skip=3, size=1, index=0)) == 0


@pytest.mark.parametrize("seed", range(5))
def test_noise_below_half_the_guard_changes_no_token(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2000, generator=generator)
    noise = 0.499 * GUARD * (2 * torch.rand(2000, generator=generator) - 1)
    names = {int(token): rank_of(logits, int(token), GUARD) for token in logits.topk(60).indices}
    found = {token: name for token, name in names.items() if name is not None}
    assert len(found) > 20
    for token, name in found.items():
        assert token_at(logits, name) == token
        assert token_at(logits + noise, name) == token
