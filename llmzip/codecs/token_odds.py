"""What the language model says of each token: log-odds of the two-way decisions that code it.

Owns the fixed tree of decisions over the vocabulary, and the log-odds of each in floating point,
not yet rounded. Does not know how a decision is coded.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llmzip.lm.model import FrozenLM
from llmzip.lm.tokens import Tokens

_ZIPF_OFFSET = 40  # ids below it are about as frequent as one another
_WEIGHT_ONE = 1 << 32


@dataclass(frozen=True, kw_only=True, eq=False)
class Tree:
    """Tokens on leaves. Nodes are numbered level by level; a node covers the leaves from `first` up
    to `last`, its left half ends at `middle`."""

    leaf_tokens: npt.NDArray[np.int64]  # [num_leaves] token on each leaf
    leaf_weights: npt.NDArray[np.int64]  # [num_leaves] the guess at its frequency
    first: npt.NDArray[np.int64]  # [num_nodes]
    middle: npt.NDArray[np.int64]
    last: npt.NDArray[np.int64]
    children: npt.NDArray[np.int32]  # [num_nodes, 2]: a node, or -1 - token
    nodes: npt.NDArray[np.int32]  # [V, depth] nodes on the way to a token, then -1
    bits: npt.NDArray[np.int8]  # [V, depth] the way taken there: 1 is right; then 0

    @property
    def num_nodes(self) -> int:
        return len(self.first)

    @property
    def depth(self) -> int:
        return int(self.nodes.shape[1])


def build_tree(meanings: Sequence[bytes | None]) -> Tree:
    """The tree of a vocabulary. meanings: the bytes of each token id, None or empty for tokens
    that stand for none and cannot occur. Two tokens at least must mean something."""
    tokens = [i for i, data in enumerate(meanings) if data]
    assert len(tokens) > 1
    leaf_tokens = np.array(sorted(tokens, key=lambda i: (meanings[i], i)), dtype=np.int64)
    weights = _WEIGHT_ONE // (leaf_tokens + _ZIPF_OFFSET)
    below = np.concatenate(([0], np.cumsum(weights)))
    firsts, middles, lasts, children = [], [], [], []
    levels_nodes, levels_bits = [], []
    first, last = np.array([0]), np.array([len(tokens)])
    num_nodes = 0
    while len(first):
        middle = _halves(below, first, last)
        node = num_nodes + np.arange(len(first))
        num_nodes += len(first)
        firsts.append(first)
        middles.append(middle)
        lasts.append(last)
        at_level = np.full(len(meanings), -1, dtype=np.int32)
        ways = np.zeros(len(meanings), dtype=np.int8)
        at_level[leaf_tokens[_spread(first, last)]] = np.repeat(node, last - first)
        ways[leaf_tokens[_spread(middle, last)]] = 1
        levels_nodes.append(at_level)
        levels_bits.append(ways)
        # The halves, left and right of each node in turn; those of one leaf are finished.
        starts = np.stack((first, middle), axis=1).ravel()
        ends = np.stack((middle, last), axis=1).ravel()
        is_node = ends - starts > 1
        below_here = np.where(is_node, num_nodes + np.cumsum(is_node) - 1, -1 - leaf_tokens[starts])
        children.append(below_here.reshape(-1, 2))
        first, last = starts[is_node], ends[is_node]
    return Tree(
        leaf_tokens=leaf_tokens,
        leaf_weights=weights,
        first=np.concatenate(firsts),
        middle=np.concatenate(middles),
        last=np.concatenate(lasts),
        children=np.concatenate(children).astype(np.int32),
        nodes=np.stack(levels_nodes, axis=1),
        bits=np.stack(levels_bits, axis=1),
    )


def _halves(
    below: npt.NDArray[np.int64], first: npt.NDArray[np.int64], last: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Where each interval of leaves is cut: as near to half its weight as a cut between two leaves
    comes, the later one of two as near."""
    twice = below[first] + below[last]
    cut = np.clip(np.searchsorted(2 * below, twice), first + 1, last - 1)
    before = np.maximum(cut - 1, first + 1)
    is_nearer = np.abs(2 * below[before] - twice) < np.abs(2 * below[cut] - twice)
    return np.where(is_nearer, before, cut)


def _spread(first: npt.NDArray[np.int64], last: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The numbers from each first up to each last, one interval after the other."""
    sizes = last - first
    starts = np.repeat(first - np.concatenate(([0], np.cumsum(sizes)[:-1])), sizes)
    return starts + np.arange(int(sizes.sum()))


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
        self._middle = tree.middle.tolist()
        self._ends = list(zip(tree.first.tolist(), tree.last.tolist(), strict=True))

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
        masses: [N, num_leaves + 1], tokens: [N] -> [N, depth]."""
        tree = self.tree
        nodes = tree.nodes[tokens]  # [N, depth]
        rows = np.arange(len(tokens))[:, None]
        left, middle, right = (
            masses[rows, bound[nodes]] for bound in (tree.first, tree.middle, tree.last)
        )
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
