"""What goes into the cram engine and comes out: its settings, chunks to be crammed, chunks crammed.

Owns these types, and the left contexts of the segments under way, which are read once each. Knows
nothing of how chunks are crammed.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmzip.codecs.cram.chunking import Segment
from llmzip.codecs.cram.signs import SignPlan
from llmzip.codecs.shared import SharedMem
from llmzip.config import DEFAULT_MAX_PATCHES
from llmzip.lm.layout import pad_ids
from llmzip.lm.model import FrozenLM
from llmzip.lm.state import State, stack_states


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How the engine spends its time. Nothing here changes what is exact."""

    num_mem: int
    max_steps: int
    seed: int
    context_tokens: int  # left context that no chunk exceeds, not even the second half of one
    min_margin: float  # logits by which every unpatched token must lead
    step_price_bits: float  # see `effort`
    patches: int | None = None  # stop as soon as so few tokens are wrong, whatever steps cost
    max_patches: float = DEFAULT_MAX_PATCHES  # share of a chunk's tokens; of a group's, with signs
    signs: SignPlan | None = None  # None: vectors are stored as bf16
    # Vectors and tokens of one step; None: what the device has room for.
    batch_tokens: int | None = None
    deadline: float | None = None  # of `time.monotonic`; chunks not finished by then are left


# Kept beside those of the largest batch so far: so many segments, or fewer if they are long.
_SPARE_SEGMENTS, _SPARE_TOKENS = 16, 1024


class Contexts:
    """States of recently used segments under one model."""

    def __init__(self, lm: FrozenLM) -> None:
        self._lm = lm
        self._states: OrderedDict[tuple[int, int], State] = OrderedDict()
        self._openings: OrderedDict[SharedMem | None, State] = OrderedDict()  # nothing else read
        self._largest_batch = 0

    def before(self, tasks: Sequence[Task], *, num_new: int | None = None) -> State:
        """What the model remembers before each task's first token: a row a task. num_new: slots
        that are read behind it, in a room if the model can."""
        segments = {(t.segment.index, t.segment.offset) for t in tasks if t.start > 0}
        self._largest_batch = max(self._largest_batch, len(segments))
        room_slots = None
        if num_new is not None and self._lm.needs_no_copy:
            room_slots = self.num_slots(tasks) + num_new
        return stack_states(
            [self._before(task.segment, task.start) for task in tasks], room_slots=room_slots
        )

    def num_slots(self, tasks: Sequence[Task]) -> int:
        """Of the longest of these states."""
        openings = (self._opening(task.segment).num_slots + task.start for task in tasks)
        return max(openings)

    def _before(self, segment: Segment, start: int) -> State:
        opening = self._opening(segment)
        if start == 0:
            return opening
        key = (segment.index, segment.offset)
        if key not in self._states:
            # All but the last token: a chunk that is split may start at any token but the first.
            ids, _ = pad_ids([segment.ids[:-1]], self._lm.device)
            embeds = torch.cat([segment.opening(self._lm), self._lm.embed(ids)], dim=1)
            self._states[key] = self._read(embeds)
            spare = min(_SPARE_SEGMENTS, 1 + _SPARE_TOKENS // len(segment.ids))
            if len(self._states) > self._largest_batch + spare:
                self._states.popitem(last=False)
        self._states.move_to_end(key)
        return self._states[key].first(opening.num_slots + start)

    def _opening(self, segment: Segment) -> State:
        """Behind what stands before the segment; all segments of a run have one start token."""
        if segment.shared not in self._openings:
            self._openings[segment.shared] = self._read(segment.opening(self._lm))
            if len(self._openings) > _SPARE_SEGMENTS:
                self._openings.popitem(last=False)
        self._openings.move_to_end(segment.shared)
        return self._openings[segment.shared]

    @torch.no_grad()
    def _read(self, embeds: Tensor) -> State:
        live = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        return self._lm.extend(self._lm.empty(1), embeds, live)[1]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Tokens [start, end) of a segment, to be crammed."""

    segment: Segment
    start: int
    end: int
    warm_mem: Tensor | None = None  # [K, D] to go on from
    steps_so_far: int = 0
    failures: int = 0  # attempts that ended with too many wrong tokens
    is_part: bool = False  # of a chunk that had too many wrong tokens

    @property
    def anew(self) -> Task:
        """The same tokens without left context, as the first ones of a segment."""
        own = self.segment.from_token(self.start)
        return Task(segment=own, start=0, end=self.num_tokens, is_part=self.is_part)

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
    def num_spared(self) -> int:
        """Tokens that its vectors need not hold. A part has room for all of its tokens, and nothing
        is left of the allowance for it."""
        most = math.inf if self.is_part else self.segment.most_bits
        return min(sum(bits > most for bits in self.surprisal_bits), self.num_tokens - 1)

    @property
    def place(self) -> int:
        """Position of the first token in the run of tokens that was cut."""
        return self.segment.offset + self.start

    @property
    def key(self) -> tuple[int, int, int]:
        """Which tokens of a plan these are."""
        return self.segment.index, self.place, self.num_tokens


@dataclass(frozen=True, kw_only=True)
class Crammed:
    """A finished chunk, certified. mem is None where the tokens are stored one by one."""

    task: Task
    mem: Tensor | None  # [K, D] bf16 on the CPU
    patches: tuple[tuple[int, int], ...]  # position, token id
    min_margin: float | None  # weakest unpatched margin, in logits
    steps: int
    grid_steps: Tensor | None = None  # [K] fp32 on the CPU, where mem is on a grid
    # [P, depth] fp32 on the CPU: what the model says of each patch, where mem is on a grid.
    patch_odds: Tensor | None = None


def tasks_of(segments: Iterable[Segment]) -> Iterator[Task]:
    """Every chunk, in order."""
    for segment in segments:
        for span in segment.spans:
            yield Task(segment=segment, start=span.start, end=span.end)


def step_tokens(tasks: Iterable[Task], num_mem: int) -> int:
    """Vectors and tokens that one optimiser step on these tasks computes."""
    return sum(num_mem + task.num_tokens for task in tasks)


def split(task: Task, *, context_tokens: int) -> Iterator[Task]:
    """Two tasks of about equal surprisal, each at least one token. Where the second half would see
    more than `context_tokens` of left context, it becomes a segment of its own."""
    segment, bits = task.segment, task.surprisal_bits
    half, so_far, middle = sum(bits) / 2, 0.0, task.start + 1
    for offset, token_bits in enumerate(bits[:-1]):
        so_far += token_bits
        middle = task.start + offset + 1
        if so_far >= half:
            break
    yield Task(segment=segment, start=task.start, end=middle, is_part=True)
    second = Task(segment=segment, start=middle, end=task.end, is_part=True)
    yield second if middle <= context_tokens else second.anew
