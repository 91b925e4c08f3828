"""What the language model says of each decision: log-odds in floating point, not yet rounded.

Owns the way from a row of logits to the masses under the tree's nodes, with a floor that keeps
every token possible and every difference of two sums well above the rounding of the sums. Does not
know what is done with it.
"""

from __future__ import annotations

import math
import random

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llmzip.codecs.arith.tree import Tree, build_tree
from llmzip.lm.model import FrozenLM
from llmzip.lm.tokens import Tokens

Floats = npt.NDArray[np.float64]

_FLOOR = 2.0**-13  # share of all mass that is dealt out by the tree's own weights


def token_odds_of(lm: FrozenLM, tokens: Tokens, *, noise: float = 0.0) -> TokenOdds:
    """The token_odds of a model on its vocabulary."""
    return TokenOdds(build_tree(tokens.meanings[: lm.vocab_size]), lm.device, noise=noise)


class TokenOdds:
    """The tree's masses under a model."""

    def __init__(self, tree: Tree, device: torch.device, *, noise: float = 0.0) -> None:
        """noise: how far `node_odds` is moved at random, to try what a file bears. In nats."""
        self.tree = tree
        self._noise = noise
        self._random = random.Random(0)
        # Accelerators without doubles leave the sums to the CPU.
        self._device = device if device.type == "cuda" else torch.device("cpu")
        self._leaf_tokens = torch.from_numpy(tree.leaf_tokens).to(self._device)
        below = np.concatenate(([0], np.cumsum(tree.leaf_weights)))
        self._floor: Floats = below * (_FLOOR / float(below[-1]))
        self._middle, self._ends = (
            tree.middle.tolist(),
            list(zip(tree.first.tolist(), tree.last.tolist(), strict=True)),
        )

    def masses(self, logits: Tensor) -> Floats:
        """Sums of mass over all leaves before each. logits: [N, V] -> [N, num_leaves + 1]."""
        shares = torch.softmax(logits.float(), dim=1).to(self._device)
        shares = shares.index_select(1, self._leaf_tokens)
        sums = shares.cumsum(dim=1, dtype=torch.float64).cpu().numpy()
        out = np.empty((len(sums), sums.shape[1] + 1))
        out[:, 0] = 0.0
        np.multiply(sums, 1.0 - _FLOOR, out=out[:, 1:])
        out += self._floor
        return out

    def path_odds(self, masses: Floats, tokens: npt.NDArray[np.int64]) -> Floats:
        """Log-odds of a right turn at each node on the way to each token, in nats; 0 behind it.

        masses: [N, num_leaves + 1], tokens: [N] -> [N, depth].
        """
        tree = self.tree
        nodes = tree.nodes[tokens]  # [N, depth]
        rows = np.arange(len(tokens))[:, None]
        left = masses[rows, tree.first[nodes]]
        middle = masses[rows, tree.middle[nodes]]
        right = masses[rows, tree.last[nodes]]
        odds: Floats = np.log((right - middle) / (middle - left))
        odds[nodes < 0] = 0.0
        return odds

    def path_bits(self, odds: Floats, tokens: npt.NDArray[np.int64]) -> Floats:
        """What each token costs at these log-odds of its way. odds: [N, depth] -> [N]."""
        signed = np.where(self.tree.bits[tokens] == 1, -odds, odds)
        nats = np.where(self.tree.nodes[tokens] >= 0, np.logaddexp(0, signed), 0).sum(axis=1)
        bits: Floats = nats / math.log(2)
        return bits

    def node_odds(self, masses: Floats, node: int) -> float:
        """Log-odds of a right turn at one node. masses: [num_leaves + 1]."""
        first, last = self._ends[node]
        middle = masses[self._middle[node]]
        odds = math.log((masses[last] - middle) / (middle - masses[first]))
        return odds + self._random.uniform(-self._noise, self._noise) if self._noise else odds
