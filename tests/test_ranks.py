"""Tokens named by rank, as files of earlier versions have them."""

from __future__ import annotations

import torch

from llmzip.codecs.cram.greedy import token_at
from llmzip.store.residual import Ranked


def test_a_rank_alone_names_its_token() -> None:
    logits = torch.tensor([0.0, 3.0, 1.0, 2.0, -1.0])
    assert token_at(logits, Ranked(skip=1, size=1, index=0)) == 3
    assert token_at(logits, Ranked(skip=3, size=1, index=0)) == 0


def test_neighbours_are_told_apart_by_id() -> None:
    logits = torch.tensor([2.0, 5.0, 2.05, 1.98, 0.0])
    names = [Ranked(skip=1, size=3, index=index) for index in range(3)]
    assert [token_at(logits, name) for name in names] == [0, 2, 3]
    assert token_at(torch.tensor([4.05, 4.0, 0.0]), Ranked(skip=0, size=2, index=0)) == 0


def test_a_name_beyond_the_vocabulary_gives_some_token() -> None:
    assert token_at(torch.zeros(3), Ranked(skip=3, size=1, index=0)) == 0
