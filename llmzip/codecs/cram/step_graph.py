"""Batches of chunks and their steps: on fixed buffers, where a graph can run them.

Owns which batches share a graph, and how the rows of one take the place of another's. Knows nothing
of the recipe, nor of queues.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from llmzip.codecs.cram.optimizer import BatchShape, Rows, StopRule
from llmzip.codecs.cram.signs import SignPlan
from llmzip.codecs.cram.slots import Slot
from llmzip.codecs.cram.tasks import Contexts
from llmzip.lm.graphs import CaptureFailed, Replay, uses_graphs
from llmzip.lm.model import FrozenLM
from llmzip.lm.token_graph import row_bucket

# Sizes of graphs: longest chunk and context in steps of so many.
_TOKENS, _CONTEXT_SLOTS = 32, 256
_MOST_KEPT = 3  # graphs, with the contexts of their rows


class Batch(Protocol):
    """Chunks that are moved together."""

    @property
    def num_tokens(self) -> int: ...

    def advance(self) -> None:
        """Measure, and move once."""

    def look(self) -> None:
        """Write the state of every row into its slot; waits for the device."""

    def margins(self, row: int) -> Tensor:
        """See `Rows.margins`."""


class _Plain:
    """Rows as they are."""

    def __init__(self, rows: Rows, may_stop: StopRule | None) -> None:
        self._rows, self._may_stop = rows, may_stop
        self.look, self.margins = rows.look, rows.margins

    @property
    def num_tokens(self) -> int:
        return self._rows.num_tokens

    def advance(self) -> None:
        self._rows.advance(self._may_stop)


class _Replayed:
    """Rows whose tensors stay where they are."""

    def __init__(self, rows: Rows, may_stop: StopRule | None) -> None:
        """Raises CaptureFailed."""
        self._rows, self._may_stop = rows, may_stop
        self.look, self.margins = rows.look, rows.margins
        begin = {name: value.clone() for name, value in rows.tensors(moving=True).items()}
        self._replay = Replay(self._step, rows.device)
        _copy(begin, rows.tensors(moving=True))

    @property
    def num_tokens(self) -> int:
        return self._rows.num_tokens

    def load(self, rows: Rows, slots: Sequence[Slot]) -> None:
        """Take the place of these rows, of the same shape."""
        for moving in (False, True):
            _copy(rows.tensors(moving=moving), self._rows.tensors(moving=moving))
        self._rows.serve(slots)

    def advance(self) -> None:
        self._replay.run()

    def _step(self) -> None:
        """A step whose results are where they were before it."""
        before = self._rows.tensors(moving=True)
        self._rows.advance(self._may_stop)
        # Copies first: what is new of one may be a view of what was before of another.
        after = {name: value.clone() for name, value in self._rows.tensors(moving=True).items()}
        _copy(after, before)
        self._rows.put(before)


def _copy(new: dict[str, Tensor], into: dict[str, Tensor]) -> None:
    for name, value in into.items():
        value.copy_(new[name])


class Batches:
    """Lays out chunks under way as batches, all with one recipe."""

    def __init__(
        self, lm: FrozenLM, contexts: Contexts, *, min_margin: float, plan: SignPlan | None,
        may_stop: StopRule | None,
    ) -> None:  # fmt: skip
        self._lm, self._contexts = lm, contexts
        self._min_margin, self._plan, self._may_stop = min_margin, plan, may_stop
        self._kept: dict[BatchShape, _Replayed] = {}  # the one used last at the end

    def of(self, slots: Sequence[Slot]) -> Batch:
        """A batch of these slots, until the next one is asked for."""
        if not uses_graphs(self._lm.device):
            return _Plain(self._rows(slots, None), self._may_stop)
        shape = _shape_of(slots, self._contexts)
        rows = self._rows(slots, shape)
        found = self._kept.pop(shape, None)
        if found is not None:
            found.load(rows, slots)
        else:
            while len(self._kept) >= _MOST_KEPT:
                del self._kept[next(iter(self._kept))]
            try:
                found = _Replayed(rows, self._may_stop)
            except CaptureFailed:
                return _Plain(self._rows(slots, None), self._may_stop)
        self._kept[shape] = found
        return found

    def _rows(self, slots: Sequence[Slot], shape: BatchShape | None) -> Rows:
        return Rows(
            self._lm, self._contexts, slots, min_margin=self._min_margin, plan=self._plan,
            shape=shape,
        )  # fmt: skip


def _shape_of(slots: Sequence[Slot], contexts: Contexts) -> BatchShape:
    longest = max(slot.task.num_tokens for slot in slots)
    return BatchShape(
        num_rows=row_bucket(len(slots)),
        num_tokens=_up(longest, _TOKENS),
        context_slots=_up(contexts.num_slots([slot.task for slot in slots]), _CONTEXT_SLOTS),
    )


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
