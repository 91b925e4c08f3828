"""Texts laid out as rows: what the model says of them with vectors before them, and without.

Owns the layout of a batch, [start token | mem | text] without left context, so that all a text has
to go by is in its vectors, and the way back from its loss to the vectors. Knows nothing of runs or
recipes' ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmzip.codecs.cram.optimizer import as_stored
from llmzip.lab.recipes import Recipe
from llmzip.lm.layout import mem_and_chunk, pad_ids, predicting_rows
from llmzip.lm.model import FrozenLM


@dataclass(frozen=True, kw_only=True)
class Plain:
    """What the model says of a text without vectors."""

    bits: Tensor  # [L] surprisal of each token
    right: Tensor  # [L] bool, whether it is the most likely one


class Batch:
    """Texts and their vectors laid out as rows: [start token | mem | text]."""

    def __init__(self, lm: FrozenLM, start: Sequence[int], texts: Sequence[Sequence[int]]) -> None:
        self._lm = lm
        self._ids, self._live = pad_ids(texts, lm.device)  # [B, L]
        with torch.no_grad():
            before, before_live = pad_ids([start] * len(texts), lm.device)
            _, self._state = lm.extend(lm.empty(len(texts)), lm.embed(before), before_live)
            self._embeds = lm.embed(self._ids)  # [B, L, D]
        self._places = self._live.flatten().nonzero()[:, 0]  # [N]
        self._targets = self._ids.flatten()[self._places]  # [N]
        self._num_tokens = [len(ids) for ids in texts]

    def measure(self, mem: Tensor, recipe: Recipe) -> list[Tensor]:
        """Margins of each row's tokens with the vectors as they would be stored: [L_row] each. mem:
        [B, K, D]."""
        leaf = as_stored(mem).to(self._lm.dtype).requires_grad_(True)
        self._leaf, self._rows = leaf, self._forward(leaf)
        self._found = self._lm.predict(
            self._rows.detach().flatten(0, 1)[self._places],
            self._targets,
            margin_goal=recipe.margin_goal,
            temperature=recipe.temperature,
        )
        return list(self._found.margins.split(self._num_tokens))

    def scores(self, wanted: float) -> list[tuple[int, int, float]]:
        """Of each row as measured last: tokens right, those of them with the margin wanted, and how
        safely all are. Waits for the device, once."""
        margins = torch.zeros(self._live.shape, device=self._lm.device)
        margins.view(-1)[self._places] = self._found.margins
        right = margins > 0  # what is no token counts for none
        safe = right & (margins >= wanted)
        how_safely = margins.clamp(-1.0, wanted + 1.0).sum(dim=1)
        counts = torch.stack([right.sum(dim=1), safe.sum(dim=1), how_safely], dim=1)
        return [(int(each[0]), int(each[1]), each[2]) for each in counts.tolist()]

    def gradients(self) -> Tensor:
        """Of the loss in each row's vectors, as measured last: [B, K x D] fp32."""
        gradient = torch.zeros_like(self._rows)
        gradient.view(-1, gradient.shape[-1])[self._places] = self._found.gradient
        self._rows.backward(gradient)
        assert self._leaf.grad is not None
        return self._leaf.grad.float().flatten(1)

    @torch.no_grad()
    def decode_lm(self, mem: Tensor) -> tuple[Tensor, Tensor]:
        """Margins and surprisal of all tokens given vectors: [N] each. mem: [B, K, D]."""
        hidden = self._forward(mem.to(self._lm.device, self._lm.dtype)).flatten(0, 1)
        hidden = hidden[self._places]
        found = self._lm.predict(hidden, self._targets, margin_goal=-math.inf)
        return found.margins, self._lm.surprisal_bits(hidden, self._targets)

    def _forward(self, mem: Tensor) -> Tensor:
        embeds, live = mem_and_chunk(mem, self._embeds, self._live)
        hidden, _ = self._lm.extend(self._state, embeds, live)
        return predicting_rows(hidden, mem.shape[1])  # [B, L, Dh]


@torch.no_grad()
def plain_text(lm: FrozenLM, ids: Sequence[int], *, start: Sequence[int]) -> Plain:
    """Read a text without vectors, from a start token if there is one.

    Without one nothing stands before the first token: it may be any, and is not predicted.
    """
    whole, live = pad_ids([[*start, *ids]], lm.device)
    hidden, _ = lm.extend(lm.empty(1), lm.embed(whole), live)
    targets = torch.tensor(ids, dtype=torch.int64, device=lm.device)
    missing = 1 - len(start)
    rows = hidden[0, max(0, len(start) - 1) : -1]
    margins = lm.predict(rows, targets[missing:], margin_goal=-math.inf).margins
    bits = lm.surprisal_bits(rows, targets[missing:])
    if missing:
        bits = torch.cat([bits.new_full((1,), math.log2(lm.vocab_size)), bits])
        margins = torch.cat([margins.new_full((1,), -math.inf), margins])
    return Plain(bits=bits.cpu(), right=(margins > 0).cpu())
