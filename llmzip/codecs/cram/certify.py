"""How safely the model gives the tokens of finished chunks: what decides which are patched.

Owns one pass over whole chunks in the decoder's numerics. The decoder reads a token at a time; how
far the two can differ is what the calibration measures as noise, and the margin asked for is many
times that. A file is published only once the decoder itself has read it back. Knows nothing of what
becomes of a chunk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmzip.codecs.cram.patch_tokens import path_odds
from llmzip.codecs.token_odds import TokenOdds
from llmzip.lm.layout import mem_and_chunk, pad_ids, predicting_rows
from llmzip.lm.model import FrozenLM, target_margins
from llmzip.lm.state import State

_ROWS_OF_LOGITS = {"cpu": 64, "cuda": 2048, "mps": 64}


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What the model says of a chunk's tokens behind its vectors."""

    margins: list[float]  # logit of each token less the best other one
    odds: Mapping[int, Tensor]  # of weak tokens, by position: log-odds, [depth] fp32


@torch.no_grad()
def certify(
    lm: FrozenLM,
    state: State,
    mem: Tensor,
    chunks: Sequence[Sequence[int]],
    *,
    wanted: float,
    token_odds: TokenOdds | None = None,
) -> list[Certificate]:
    """Read chunks behind their contexts and vectors, all tokens at once. state: a row a chunk;
    mem: [B, K, D] as stored. token_odds: for the log-odds of tokens whose margin is not `wanted`,
    which will be patched."""
    ids, live = pad_ids(chunks, lm.device)
    embeds, live_new = mem_and_chunk(mem.to(lm.device, lm.dtype), lm.embed(ids), live)
    hidden, _ = lm.extend(state, embeds, live_new)
    rows = predicting_rows(hidden, mem.shape[1])  # [B, L, Dh]
    found = []
    for row, chunk in zip(rows, chunks, strict=True):
        margins: list[float] = []
        odds: dict[int, Tensor] = {}
        size = _ROWS_OF_LOGITS[lm.device.type]
        for first in range(0, len(chunk), size):
            own_ids = chunk[first : first + size]
            logits = lm.logits(row[first : first + len(own_ids)])
            targets = torch.tensor(own_ids, dtype=torch.int64, device=lm.device)
            own = target_margins(logits, targets)
            weak = (~(own >= wanted)).nonzero()[:, 0]
            if token_odds is not None and len(weak):
                some = path_odds(token_odds, logits[weak], targets[weak])
                odds |= {first + at: each for at, each in zip(weak.tolist(), some, strict=True)}
            margins += own.tolist()
        found.append(Certificate(margins=margins, odds=odds))
    return found
