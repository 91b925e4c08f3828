"""Sequences: chunks that are crammed one after another, so that each may end where its vectors turn
out to end.

Owns where the next chunk of a sequence is cut, how many wrong tokens a chunk may have beside the
others of its group, and how the budget follows what vectors turn out to hold. Knows nothing of
batches.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from llmzip.codecs.cram.chunking import Segment, first_of_even
from llmzip.codecs.cram.tasks import SequenceRule, Task

_SEQUENCE_CHUNKS = 8  # of a sequence, as planned
# Of the share of tokens that may be patched, what the budget aims at: the rest is a reserve.
_AIM, _LEAST_AIM = 0.9, 0.02
# How the logarithm of the budget follows the share of wrong tokens, and tokens that were added.
_FOLLOWS_WRONG, _FOLLOWS_GROWTH = 0.5, 0.3
_FILLINGS = (0.4, 2.5)
_MOST_OF_SHARE = 3  # what one chunk may patch at most, as a multiple of the share
# A chunk may be cut short to so much of its tokens; once it has had all of its steps, to so much.
_SHORTEST, _SHORTEST_AT_LAST = 0.8, 0.4
_GROWTH = 0.5  # of its tokens, of a chunk that is right before its first step
_LEAST_LEFT = 0.15  # of the steps, for a chunk that grows
_LEAST_REST = 0.35  # of a chunk's tokens: no chunk at the end of a sequence is shorter by choice


@dataclass(kw_only=True)
class Ledger:
    """What the chunks that were accepted leave to those that follow."""

    spare: float = 0.0  # tokens that could have been patched and were not
    filling: float = 1.0  # of the budget, for the chunks that are cut next

    def num_held(
        self, weak: Sequence[int], num_tokens: int, share: float, *, is_last_try: bool
    ) -> int:
        """How many of a chunk's first tokens may be accepted, 0 for none. weak: positions of wrong
        tokens, ascending. share: of all tokens, those that may be patched."""
        shortest = _SHORTEST_AT_LAST if is_last_try else _SHORTEST
        for end in range(num_tokens, max(1, math.ceil(shortest * num_tokens)) - 1, -1):
            if bisect_left(weak, end) <= self._most_wrong(end, share):
                return end
        return 0

    def holds_all(self, num_wrong: int, num_tokens: int, share: float) -> bool:
        """Whether a chunk may be accepted with so many wrong tokens."""
        return num_wrong <= self._most_wrong(num_tokens, share)

    def accept(self, num_wrong: int, num_tokens: int, share: float) -> None:
        """A chunk was accepted with so many patches."""
        self.spare += share * num_tokens - num_wrong

    def take_back(self, num_wrong: int, num_tokens: int, share: float) -> None:
        """What was accepted is not, after all."""
        self.spare -= share * num_tokens - num_wrong

    def follow(self, num_wrong: int, num_tokens: int, share: float) -> None:
        """Change the budget by how many tokens of a chunk that has had its steps are wrong."""
        aim = max(_AIM * share, min(_LEAST_AIM, share))
        self._fill(_FOLLOWS_WRONG * (aim - num_wrong / num_tokens))

    def longer(self, task: Task, steps_left: float, *, max_tokens: int) -> Task | None:
        """The chunk with tokens of its sequence added, where it is right with so much of its steps
        left; None: it is long enough."""
        if task.sequence_end is None or steps_left < _LEAST_LEFT or task.end == task.sequence_end:
            return None
        growth = max(1, round(_GROWTH * steps_left * task.num_tokens))
        end = task.end + growth
        if task.sequence_end - end < _LEAST_REST * task.num_tokens:
            end = task.sequence_end
        end = min(end, task.start + max_tokens)
        if end <= task.end:
            return None
        self._fill(_FOLLOWS_GROWTH * growth / task.num_tokens)
        return replace(task, end=end)

    def _fill(self, change: float) -> None:
        low, high = _FILLINGS
        self.filling = min(high, max(low, self.filling * math.exp(change)))

    def _most_wrong(self, num_tokens: int, share: float) -> int:
        most = min(share * num_tokens + self.spare, _MOST_OF_SHARE * share * num_tokens)
        return min(max(math.floor(most + 1e-9), 1 if share else 0), num_tokens - 1)


def shorter(task: Task) -> Task:
    """The chunk without its last tokens, if its sequence goes on."""
    if task.sequence_end is None:
        return task
    return replace(task, end=task.start + max(1, math.ceil(_SHORTEST * task.num_tokens)))


def sequences_of(segments: Iterable[Segment]) -> Iterator[Task]:
    """The first chunk of every sequence, in order."""
    for segment in segments:
        ends = [span.end for span in segment.spans]
        count = max(1, round(len(ends) / _SEQUENCE_CHUNKS))
        start = 0
        for number in range(count):
            first, last = len(ends) * number // count, len(ends) * (number + 1) // count
            yield Task(segment=segment, start=start, end=ends[first], sequence_end=ends[last - 1])
            start = ends[last - 1]


def next_of_sequence(task: Task, start: int, rule: SequenceRule, ledger: Ledger) -> Task | None:
    """The chunk of the task's sequence that begins at token `start`; None: the sequence is done."""
    end = task.end if task.sequence_end is None else task.sequence_end
    if start >= end:
        return None
    budget = rule.cut.budget_bits * (ledger.filling if rule.adapts else 1.0)
    bits = task.segment.surprisal_bits[start:end]
    size = first_of_even(bits, replace(rule.cut, budget_bits=budget))
    onward = Task(
        segment=task.segment, start=start, end=start + size, sequence_end=task.sequence_end
    )
    most = rule.context_tokens
    return onward if most is None or start <= most else onward.anew
