"""The fixed tree of two-way decisions by which a token is coded.

Owns its shape: which token sits on which leaf, and which way leads there. The shape comes from the
vocabulary alone, in integers, so every machine builds the same one. Does not know the language
model's probabilities.

Leaves lie in the order of the tokens' bytes, so that tokens that start alike share their first
decisions, and each decision halves a guess at the tokens' frequencies (Zipf's law over ids, which
vocabularies list roughly by frequency): 13 decisions a token instead of 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
