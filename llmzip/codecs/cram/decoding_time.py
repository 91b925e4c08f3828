"""How long it takes to read a crammed file back.

Owns that forecast: a token at a time, in as many rows as there are segments. Knows nothing of what
is decoded.
"""

from __future__ import annotations

import time

import torch

from llmzip.lm.model import FrozenLM
from llmzip.lm.state import stack_states

_TIMED_TOKENS = 4
# Rows decoded together, and what one more costs as a share of a token for one.
_ROWS, _ROW_COST = 16, 1 / 16


@torch.no_grad()
def token_seconds(lm: FrozenLM) -> float:
    """Seconds that the model takes for a token in one row."""
    ids = torch.zeros(1, dtype=torch.int64, device=lm.device)
    state = stack_states([lm.empty(1)], room_slots=_TIMED_TOKENS + 2)
    live = torch.ones(1, 1, dtype=torch.bool, device=lm.device)
    hidden, state = lm.extend(state, lm.embed(ids)[None], live)
    hidden, best = hidden[:, -1], float("inf")
    for _ in range(_TIMED_TOKENS):
        began = time.monotonic()
        ids = lm.logits(hidden).argmax(dim=1)
        ids.tolist()  # waits for the device
        hidden, state = lm.read_tokens(state, ids)
        best = min(best, time.monotonic() - began)
    return best


def decode_seconds(a_token: float, *, num_tokens: int, num_segments: int) -> float:
    """Seconds for so many tokens in segments of about the same size. a_token: see
    `token_seconds`."""
    rows = max(1, min(_ROWS, num_segments))
    return a_token * (1 + (rows - 1) * _ROW_COST) * num_tokens / rows
