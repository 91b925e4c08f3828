"""Vectors decoded as a file's would be, though nothing is patched.

Owns what is noted of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from llmzip.codecs.cram.greedy import decode_chunks
from llmzip.lab.crammer import Outcome
from llmzip.lm.layout import segment_start
from llmzip.lm.model import FrozenLM


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """What the decompressor's own path makes of vectors: token by token, on its own choices."""

    num_right: int  # tokens that are those of the text, place by place
    first_wrong: int | None  # None: exact
    margins: Tensor  # [L] of its choices


@torch.no_grad()
def decode_greedily(
    decode_lm: FrozenLM, outcomes: Sequence[Outcome], *, start_id: int | None, batch: int = 8
) -> list[Greedy]:
    """Decode vectors as a file's would be: fp32, token by token, nothing patched. All of them have
    as many vectors."""
    results: list[Greedy] = []
    left = iter(outcomes)
    while group := list(islice(left, batch)):
        lengths = [outcome.trial.num_tokens for outcome in group]
        decoded, _ = decode_chunks(
            decode_lm, decode_lm.empty(len(group)), [segment_start(start_id)] * len(group),
            torch.stack([outcome.mem for outcome in group]), lengths, [{}] * len(group),
        )  # fmt: skip
        for row, outcome in enumerate(group):
            length = lengths[row]
            truth = torch.tensor(outcome.trial.ids)
            wrong = (decoded.ids[row, :length].cpu() != truth).nonzero()[:, 0].tolist()
            results.append(
                Greedy(
                    num_right=length - len(wrong),
                    first_wrong=wrong[0] if wrong else None,
                    margins=decoded.margins[row, :length].cpu(),
                )
            )
    return results
