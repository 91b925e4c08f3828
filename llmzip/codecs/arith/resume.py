"""What a run of the arith codec keeps in the journal: every result that takes the model or long.

Owns under which name each is found again: a hash of all that it depends on. Does not know how it is
made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

from llmzip.codecs.arith.segments import Segment
from llmzip.codecs.shared import SharedMem
from llmzip.codecs.token_odds import Floats
from llmzip.store.journal import Journal
from llmzip.store.journal_records import invalid_record
from llmzip.store.shared_vectors import MAX_SHARED_MEM
from llmzip.store.vectors import GridMem

_Array = npt.NDArray[Any]


class ResumeCache:
    """Results by what they depend on; without a journal every one is made."""

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal

    def shared(
        self,
        segments: Sequence[Segment],
        num_mem: int | None,
        seed: int,
        make: Callable[[], SharedMem | None],
        *,
        mem_dim: int,
    ) -> SharedMem | None:
        """The shared vectors of these segments, if any: [K, mem_dim]."""

        def arrays() -> list[_Array]:
            found = make()
            return [] if found is None else [found.grid.symbols, found.grid.steps]

        ids = [np.array(segment.ids) for segment in segments]
        found = self._arrays("shared", [np.array([num_mem or -1, seed]), *ids], arrays)
        if not found:
            return None
        if len(found) != 2:
            raise invalid_record(f"{len(found)} arrays of shared vectors")
        grid = GridMem(symbols=found[0], steps=found[1])
        count = grid.symbols.shape[0] if grid.symbols.ndim else 0
        if not 1 <= count <= MAX_SHARED_MEM or grid.problem(count, mem_dim):
            raise invalid_record("shared vectors of another shape than the model has")
        return SharedMem(grid=grid)

    def odds(
        self, segment: Segment, shared: SharedMem | None, make: Callable[[], Floats]
    ) -> Floats:
        """The log-odds of a segment behind these vectors."""
        grid = [] if shared is None else [shared.grid.symbols, shared.grid.steps]
        causes = [np.array(segment.ids), np.array([segment.lanes.num_lanes]), *grid]
        (found,) = self._arrays("odds", causes, lambda: [make()])
        return found

    def stream(
        self, segment: Segment, odds: Floats, guard: float, make: Callable[[], bytes]
    ) -> bytes:
        """The stream of a segment."""
        text = np.frombuffer(segment.original, dtype=np.uint8)
        return self._bytes("stream", [odds, np.array([guard]), text], make)

    def _arrays(
        self, kind: str, causes: Sequence[_Array], make: Callable[[], list[_Array]]
    ) -> list[_Array]:
        made: list[_Array] = []

        def packed() -> bytes:
            made.extend(make())
            out = BytesIO()
            for array in [np.array(len(made)), *made]:
                np.save(out, array)
            return out.getvalue()

        data = self._bytes(kind, causes, packed)
        if made or not data:
            return made
        try:
            source = BytesIO(data)
            count = int(np.load(source, allow_pickle=False))
            return [np.load(source, allow_pickle=False) for _ in range(count)]
        except Exception as error:  # numpy has many for bytes that it did not write
            raise invalid_record(str(error)) from error

    def _bytes(self, kind: str, causes: Sequence[_Array], make: Callable[[], bytes]) -> bytes:
        if self._journal is None:
            return make()
        digest = blake2b(digest_size=16)
        for array in causes:
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        name = f"{kind}:{digest.hexdigest()}"
        kept = self._journal.kept(name)
        if kept:
            return kept[-1]
        data = make()
        self._journal.keep(name, data)
        return data
