"""Left contexts of the segments under way, read once each.

Owns the model's states after whole segments, a few at a time, so that memory stays flat as files
grow. Knows nothing of mem vectors. Called by `cram.optimizer`.
"""

from __future__ import annotations

from collections import OrderedDict

import torch

from llmzip.cram.chunking import Segment
from llmzip.lm.layout import pad_ids
from llmzip.lm.model import FrozenLM
from llmzip.lm.state import State

_KEPT_SEGMENTS = 16  # more than a batch and the chunks waiting for certification touch


class Contexts:
    """States of recently used segments under one model."""

    def __init__(self, lm: FrozenLM) -> None:
        self._lm = lm
        self._states: OrderedDict[tuple[int, int], State] = OrderedDict()

    def before(self, segment: Segment, start: int) -> State:
        """What the model remembers before token `start` of the segment: one row."""
        if not segment.start_ids and start == 0:
            return self._lm.empty(1)
        key = (segment.index, segment.offset)
        if key not in self._states:
            self._states[key] = self._read(segment)
            if len(self._states) > _KEPT_SEGMENTS:
                self._states.popitem(last=False)
        self._states.move_to_end(key)
        return self._states[key].first(len(segment.start_ids) + start)

    @torch.no_grad()
    def _read(self, segment: Segment) -> State:
        # All but the last token: a chunk that is split may start at any token but the first.
        ids, live = pad_ids([[*segment.start_ids, *segment.ids[:-1]]], self._lm.device)
        _, state = self._lm.extend(self._lm.empty(1), self._lm.embed(ids), live)
        return state
