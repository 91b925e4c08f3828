"""The tokens of patches, coded by the language model: a stream for each segment.

Owns how a patched token becomes decisions of the vocabulary's tree (`token_odds`), coded with the
probabilities that the model has at that position, and how far these may differ where the file is
decoded. Knows nothing of chunks' vectors.

The model's logits are divided by a temperature: the tokens of patches are those that it does not
expect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llmzip.codecs.log_odds import MAX_ODDS, SQUASH
from llmzip.codecs.odds_grid import Grid, OffsetCoder, grid_of, safe_offset
from llmzip.codecs.token_odds import Floats, TokenOdds, Tree
from llmzip.errors import Corrupt
from llmzip.store.range_coder import RangeReader, RangeWriter

TEMPERATURE = 2.0
_GUARD_OF_MARGIN = 0.04  # in nats, of the margin in logits by which kept tokens must lead


def odds_guard(min_margin: float) -> float:
    """How far log-odds (nats) may differ where a file is decoded whose kept tokens lead by
    `min_margin` logits at least."""
    return _GUARD_OF_MARGIN * min_margin


def masses_of(token_odds: TokenOdds, logits: Tensor) -> Floats:
    """The tree's masses at patched positions. logits: [N, V] -> [N, num_leaves + 1]."""
    return token_odds.masses(logits / TEMPERATURE)


@dataclass(frozen=True, kw_only=True)
class PatchedTokens:
    """The patched tokens of one chunk, and the model's log-odds on the way to each."""

    ids: Sequence[int]
    odds: Tensor  # [N, depth] fp32 on the CPU


def path_odds(token_odds: TokenOdds, logits: Tensor, ids: Tensor) -> Tensor:
    """The model's log-odds on the way to each token. logits: [N, V], ids: [N] -> [N, depth]."""
    found = token_odds.path_odds(masses_of(token_odds, logits), ids.cpu().numpy())
    return torch.from_numpy(found.astype(np.float32))


def pack_tokens(tree: Tree, chunks: Sequence[PatchedTokens], *, guard: float) -> bytes:
    """The stream of one segment's chunks, of those with patches. guard: see `odds_guard`."""
    writer = RangeWriter()
    offsets = OffsetCoder(writer)
    for chunk in chunks:
        ids, odds = np.array(chunk.ids), chunk.odds.double().numpy()
        is_decision = tree.nodes[ids] >= 0  # [N, depth]
        offset = offsets.code(safe_offset(odds, is_decision, guard=guard))
        rounded = np.zeros(odds.shape, dtype=np.int32)
        if (grid := grid_of(offset)) is not None:
            rounded = grid.values(odds)
        for row, token in enumerate(chunk.ids):
            for value, bit in zip(
                rounded[row][is_decision[row]].tolist(),
                tree.bits[token][is_decision[row]].tolist(),
                strict=True,
            ):
                writer.bit(SQUASH[MAX_ODDS + value], bit)
    return writer.finish(least_bytes=1)


class TokenReader:
    """Reads the stream of one segment."""

    def __init__(self, token_odds: TokenOdds, stream: bytes) -> None:
        self.token_odds = token_odds
        self._children = token_odds.tree.children
        self._reader = RangeReader(stream, what="patched tokens")
        self._offsets = OffsetCoder(self._reader)
        self._grid: Grid | None = None
        self._is_new = True
        self._has_failed = False

    def next_chunk(self) -> None:
        """Say that what follows is another chunk."""
        self._is_new = True

    def token(self, masses: Floats) -> int:
        """The next patched token. masses: [num_leaves + 1] of `masses_of`, at its position. Bytes
        that are no stream give some token, and the chunk then fails its check."""
        if not self._has_failed:
            try:
                return self._read(masses)
            except Corrupt:
                self._has_failed = True
        return int(self.token_odds.tree.leaf_tokens[0])

    def _read(self, masses: Floats) -> int:
        if self._is_new:
            self._grid = grid_of(self._offsets.code(None))
            self._is_new = False
        node = 0
        while node >= 0:
            value = 0
            if self._grid is not None:
                value = self._grid.value(self.token_odds.node_odds(masses, node))
            node = int(self._children[node, self._reader.bit(SQUASH[MAX_ODDS + value], None)])
        return -1 - node
