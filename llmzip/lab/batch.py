"""What the model predicts of texts: given vectors, without them, and decoded token by token.

Owns the layout of a batch, [start token | mem | text] without left context, so that all the model
knows of a text is in its vectors, and the gradient of the loss in the vectors. Knows nothing of
runs, steps or files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from llmzip.codecs.cram.greedy import decode_chunks
from llmzip.codecs.cram.slots import as_stored
from llmzip.lab.recipes import Recipe
from llmzip.lab.trials import Greedy, Outcome, Plain
from llmzip.lm.layout import mem_and_chunk, pad_ids, predicting_rows, segment_start
from llmzip.lm.model import FrozenLM


class Batch:
    """Texts and their vectors laid out as rows: [start token | mem | text]."""

    def __init__(self, lm: FrozenLM, start: Sequence[int], texts: Sequence[Sequence[int]]) -> None:
        self._lm = lm
        self._ids, self._live = pad_ids(texts, lm.device)  # [B, L]
        with torch.no_grad():
            before, before_live = pad_ids([start] * len(texts), lm.device)
            _, self._state = lm.extend(lm.empty(len(texts)), lm.embed(before), before_live)
            self._embeds = lm.embed(self._ids)  # [B, L, D]
        self._positions = self._live.flatten().nonzero()[:, 0]  # [N]
        self._targets = self._ids.flatten()[self._positions]  # [N]
        self._num_tokens = [len(ids) for ids in texts]

    def measure(self, mem: Tensor, recipe: Recipe) -> list[Tensor]:
        """Margins of each row's tokens, [L_row] each, with the vectors as they would be stored.
        mem: [B, K, D]."""
        leaf = as_stored(mem).to(self._lm.dtype).requires_grad_(True)
        self._leaf, self._rows = leaf, self._forward(leaf)
        hidden = self._rows.detach().flatten(0, 1)[self._positions]
        self._found = self._lm.predict(
            hidden, self._targets, margin_goal=recipe.margin_goal, temperature=recipe.temperature
        )
        return list(self._found.margins.split(self._num_tokens))

    def scores(self, wanted: float) -> list[tuple[int, int, float]]:
        """Of each row's last measurement: tokens right, tokens with the wanted margin, and the sum
        of all margins, clamped. Waits for the device, once."""
        margins = torch.zeros(self._live.shape, device=self._lm.device)
        margins.view(-1)[self._positions] = self._found.margins
        right = margins > 0  # padding counts as wrong
        safe = right & (margins >= wanted)
        clamped = margins.clamp(-1.0, wanted + 1.0).sum(dim=1)
        scores = torch.stack([right.sum(dim=1), safe.sum(dim=1), clamped], dim=1)
        return [(int(each[0]), int(each[1]), each[2]) for each in scores.tolist()]

    def gradients(self) -> Tensor:
        """Gradients of the loss, as measured last, in each row's vectors: [B, K x D] fp32."""
        gradient = torch.zeros_like(self._rows)
        gradient.view(-1, gradient.shape[-1])[self._positions] = self._found.gradient
        self._rows.backward(gradient)
        assert self._leaf.grad is not None
        return self._leaf.grad.float().flatten(1)

    @torch.no_grad()
    def margins_and_bits(self, mem: Tensor) -> tuple[Tensor, Tensor]:
        """Margins and surprisal of all tokens given vectors: [N] each. mem: [B, K, D]."""
        hidden = self._forward(mem.to(self._lm.device, self._lm.dtype)).flatten(0, 1)
        hidden = hidden[self._positions]
        found = self._lm.predict(hidden, self._targets, margin_goal=-math.inf)
        return found.margins, self._lm.surprisal_bits(hidden, self._targets)

    def _forward(self, mem: Tensor) -> Tensor:
        embeds, live = mem_and_chunk(mem, self._embeds, self._live)
        hidden, _ = self._lm.extend(self._state, embeds, live)
        return predicting_rows(hidden, mem.shape[1])  # [B, L, Dh]


@torch.no_grad()
def plain_text(lm: FrozenLM, ids: Sequence[int], *, start: Sequence[int]) -> Plain:
    """Read a text without vectors, from a start token if there is one.

    Without a start token nothing precedes the first token, so it is not predicted: its surprisal
    is that of a uniform choice from the vocabulary.
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


@torch.no_grad()
def decode_greedily(
    lm: FrozenLM, outcomes: Sequence[Outcome], *, start_id: int | None, batch: int = 8
) -> list[Greedy]:
    """Decode vectors as the decompressor would, token by token, but without patches. All outcomes
    have the same number of vectors. batch: texts decoded side by side."""
    results: list[Greedy] = []
    for first in range(0, len(outcomes), batch):
        group = outcomes[first : first + batch]
        decoded, _ = decode_chunks(
            lm, lm.empty(len(group)), [segment_start(start_id)] * len(group),
            torch.stack([outcome.mem for outcome in group]),
            [(outcome.trial.num_tokens, {}) for outcome in group],
        )  # fmt: skip
        for row, outcome in enumerate(group):
            truth = torch.tensor(outcome.trial.ids)
            ids = decoded.ids[row, : len(truth)].cpu()
            wrong = (ids != truth).nonzero()[:, 0].tolist()
            margins = decoded.margins[row, : len(truth)].cpu()
            right, at = len(truth) - len(wrong), wrong[0] if wrong else None
            results.append(Greedy(num_right=right, first_wrong=at, margins=margins))
    return results
