"""The pieces of work that the cram engine takes and gives: chunks to be crammed, chunks crammed.

Owns their data and how one is split in two. Knows nothing of optimisation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from llmzip.codecs.cram.chunking import Segment
from llmzip.store.residual import Patch


@dataclass(frozen=True, kw_only=True)
class Task:
    """Tokens [start, end) of a segment, to be crammed."""

    segment: Segment
    start: int
    end: int
    warm_mem: Tensor | None = None  # [K, D] to go on from
    steps_so_far: int = 0

    @property
    def ids(self) -> tuple[int, ...]:
        return self.segment.ids[self.start : self.end]

    @property
    def num_tokens(self) -> int:
        return self.end - self.start

    @property
    def surprisal_bits(self) -> tuple[float, ...]:
        """Of each token, without the vectors."""
        return self.segment.surprisal_bits[self.start : self.end]

    @property
    def place(self) -> int:
        """Position of the first token in the run of tokens that was cut."""
        return self.segment.offset + self.start


@dataclass(frozen=True, kw_only=True)
class Crammed:
    """A finished chunk, certified. mem is None where the tokens are stored one by one."""

    task: Task
    mem: Tensor | None  # [K, D] bf16 on the CPU
    patches: tuple[Patch, ...]
    min_margin: float | None  # weakest unpatched margin, in logits
    steps: int
    grid_steps: Tensor | None = None  # [K] fp32 on the CPU, where mem is on a grid


def tasks_of(segments: Iterable[Segment]) -> Iterator[Task]:
    """Every chunk, in order."""
    for segment in segments:
        for span in segment.spans:
            yield Task(segment=segment, start=span.start, end=span.end)


def step_tokens(tasks: Iterable[Task], num_mem: int) -> int:
    """Vectors and tokens that one optimiser step on these tasks computes."""
    return sum(num_mem + task.num_tokens for task in tasks)


def split(task: Task, *, context_tokens: int) -> Iterator[Task]:
    """Two tasks of about equal surprisal, each at least one token.

    Where the second half would see more than `context_tokens` of left context, it becomes a segment
    of its own.
    """
    segment = task.segment
    bits = task.surprisal_bits
    half, so_far, middle = sum(bits) / 2, 0.0, task.start + 1
    for offset, token_bits in enumerate(bits[:-1]):
        so_far += token_bits
        middle = task.start + offset + 1
        if so_far >= half:
            break
    yield Task(segment=segment, start=task.start, end=middle)
    if middle > context_tokens:
        yield Task(segment=segment.from_token(middle), start=0, end=task.end - middle)
    else:
        yield Task(segment=segment, start=middle, end=task.end)
