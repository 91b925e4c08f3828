"""Left contexts of the segments under way, read once each.

Owns the model's states after whole segments, no more than a batch needs, so that memory stays flat
as files grow. Knows nothing of mem vectors.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch

from llmzip.codecs.cram.chunking import Segment
from llmzip.codecs.cram.tasks import Task
from llmzip.lm.layout import pad_ids
from llmzip.lm.model import FrozenLM
from llmzip.lm.state import State, stack_states

# Kept beside those of the largest batch so far: so many segments, or fewer if they are long.
_SPARE_SEGMENTS, _SPARE_TOKENS = 16, 1024


class Contexts:
    """States of recently used segments under one model."""

    def __init__(self, lm: FrozenLM) -> None:
        self._lm = lm
        self._states: OrderedDict[tuple[int, int], State] = OrderedDict()
        self._starts: dict[tuple[int, ...], State] = {}  # after nothing but start tokens
        self._largest_batch = 0

    def before(self, tasks: Sequence[Task]) -> State:
        """What the model remembers before each task's first token: a row a task."""
        segments = {(t.segment.index, t.segment.offset) for t in tasks if t.start > 0}
        self._largest_batch = max(self._largest_batch, len(segments))
        return stack_states([self._before(task.segment, task.start) for task in tasks])

    def _before(self, segment: Segment, start: int) -> State:
        if start == 0:
            if segment.start_ids not in self._starts:
                self._starts[segment.start_ids] = self._read(segment.start_ids)
            return self._starts[segment.start_ids]
        key = (segment.index, segment.offset)
        if key not in self._states:
            # All but the last token: a chunk that is split may start at any token but the first.
            self._states[key] = self._read([*segment.start_ids, *segment.ids[:-1]])
            spare = min(_SPARE_SEGMENTS, 1 + _SPARE_TOKENS // len(segment.ids))
            if len(self._states) > self._largest_batch + spare:
                self._states.popitem(last=False)
        self._states.move_to_end(key)
        return self._states[key].first(len(segment.start_ids) + start)

    @torch.no_grad()
    def _read(self, tokens: Sequence[int]) -> State:
        ids, live = pad_ids([tokens], self._lm.device)
        _, state = self._lm.extend(self._lm.empty(1), self._lm.embed(ids), live)
        return state
