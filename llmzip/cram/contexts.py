"""Left contexts of the segments under way, read once each.

Owns the model's states after whole segments, a few at a time, so that memory stays flat as files
grow. Knows nothing of mem
vectors. Called by `cram.optimizer`.
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
        self._states: OrderedDict[int, State] = OrderedDict()

    def before(self, segment: Segment, start: int) -> State:
        """What the model remembers before token `start` of the segment: one row."""
        if not segment.start_ids and start == 0:
            return self._lm.empty(1)
        if segment.index not in self._states:
            self._states[segment.index] = self._read(segment)
            if len(self._states) > _KEPT_SEGMENTS:
                self._states.popitem(last=False)
        self._states.move_to_end(segment.index)
        return self._states[segment.index].first(len(segment.start_ids) + start)

    @torch.no_grad()
    def _read(self, segment: Segment) -> State:
        last = segment.spans[-1].start  # nothing is crammed behind the last chunk
        ids, live = pad_ids([[*segment.start_ids, *segment.ids[:last]]], self._lm.device)
        _, state = self._lm.extend(self._lm.empty(1), self._lm.embed(ids), live)
        return state
