"""Chunks in groups that are crammed apart from each other, here or elsewhere, to the same bits.

Owns how a plan falls into groups, the engine for one of them, and how long cramming takes, from a
few steps on its own first chunks. A chunk's vectors depend in their last bits on which chunks share
its batch; none ever shares one with a chunk of another group, so it does not matter where a group
is crammed, nor in which order. Knows nothing of files or journals.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from llmzip.codecs.cram.calibration import BF16_SAFE_MARGIN, calibration_of
from llmzip.codecs.cram.chunking import Segment
from llmzip.codecs.cram.engine import Engine, Hooks
from llmzip.codecs.cram.optimizer import Rows
from llmzip.codecs.cram.plan import Plan
from llmzip.codecs.cram.presets import EFFORTS
from llmzip.codecs.cram.signs import SignPlan
from llmzip.codecs.cram.slots import start_slot
from llmzip.codecs.cram.tasks import (
    Contexts,
    Crammed,
    EngineSettings,
    Task,
    step_tokens,
    tasks_of,
)
from llmzip.codecs.token_odds import token_odds_of
from llmzip.config import DEFAULT_MAX_STEPS, CompressSettings, Preset
from llmzip.lm.devices import first_step_tokens
from llmzip.lm.loaded import LoadedModel

# Tokens of a group, many batches: a batch runs empty at a group's end, where some chunks are split
# because the allowance of patches is used up. On an accelerator, whose batches grow with its
# memory, an empty one costs as much as a full one.
_GROUP_TOKENS = {"cpu": 2048, "cuda": 1 << 17, "mps": 8192}


@dataclass(frozen=True, kw_only=True)
class Group:
    """Neighbouring segments of a plan, and what the whole plan has in common."""

    segments: tuple[Segment, ...]
    context_tokens: int
    signs: SignPlan | None  # None: vectors are stored as bf16

    @property
    def index(self) -> int:
        """Which one it is: the index of its first segment."""
        return self.segments[0].index

    @property
    def num_tokens(self) -> int:
        return sum(len(segment.ids) for segment in self.segments)

    @property
    def tasks(self) -> Iterator[Task]:
        """Every chunk, in order."""
        return tasks_of(self.segments)


def groups_of(plan: Plan, device: str) -> list[Group]:
    """All segments of a plan in groups of about the same size. device: the kind that crams."""
    groups: list[list[Segment]] = []
    room = 0
    for segment in plan.segments:
        if room <= 0:
            groups.append([])
            room = _GROUP_TOKENS[device]
        groups[-1].append(segment)
        room -= len(segment.ids)
    return [
        Group(
            segments=tuple(found),
            context_tokens=plan.context_tokens,
            signs=plan.signs,
        )
        for found in groups
    ]


def unfinished(groups: Iterable[Group], chunks: Collection[Crammed]) -> list[Group]:
    """The groups of which these chunks leave tokens out."""
    held: Counter[int] = Counter()
    for chunk in chunks:
        held[chunk.task.segment.index] += chunk.task.num_tokens
    return [
        group
        for group in groups
        if any(held[each.index] < len(each.ids) for each in group.segments)
    ]


def wanted_margin(loaded: LoadedModel, settings: CompressSettings) -> float:
    """Logits by which every token that is no patch must lead."""
    return BF16_SAFE_MARGIN if settings.bf16_safe else calibration_of(loaded).min_margin


def make_engine(
    plan: Plan | Group,
    loaded: LoadedModel,
    settings: CompressSettings,
    *,
    min_margin: float | None = None,
    hooks: Hooks,
) -> Engine:
    """The engine for a plan's chunks. min_margin: None: of `wanted_margin`."""
    own = EngineSettings(
        num_mem=settings.num_mem,
        max_steps=settings.max_steps or DEFAULT_MAX_STEPS,
        seed=settings.seed,
        context_tokens=plan.context_tokens,
        min_margin=wanted_margin(loaded, settings) if min_margin is None else min_margin,
        step_price_bits=EFFORTS[settings.preset].step_price_bits,
        max_patches=settings.max_patches,
        signs=plan.signs,
        deadline=hooks.deadline,
    )
    has_odds = plan.signs is not None
    return Engine(
        loaded.lm,
        loaded.decode_lm,
        own,
        token_odds=token_odds_of(loaded.decode_lm, loaded.tokens) if has_odds else None,
        hooks=hooks,
    )


_TIMED_STEPS = 2
# Steps of a chunk of the usual prose, with 16 bits; with signs nearly as many as planned.
_STEPS_AT_16_BITS: dict[Preset, int] = {"fast": 13, "balanced": 21, "small": 37}
DECODING = 1.1  # of the optimiser's time, with certifying and decoding once more


def cram_seconds(groups: Sequence[Group], loaded: LoadedModel, settings: CompressSettings) -> float:
    """About how long cramming these groups and decoding them once more takes here."""
    tasks = [task for group in groups for task in group.tasks]
    signs = groups[0].signs
    steps = _STEPS_AT_16_BITS[settings.preset] if signs is None else signs.total_steps
    tokens = sum(group.num_tokens for group in groups)
    return DECODING * steps * tokens * seconds_a_token_step(tasks, loaded, settings)


def seconds_a_token_step(
    tasks: Sequence[Task], loaded: LoadedModel, settings: CompressSettings
) -> float:
    """Seconds that a step takes for each token of a full batch."""
    room = first_step_tokens(loaded.lm.device)
    sizes = accumulate(step_tokens([task], settings.num_mem) for task in tasks)
    picked = tasks[: max(1, sum(size <= room for size in sizes))]
    slots = [start_slot(loaded.lm, task, settings.num_mem, settings.seed) for task in picked]
    for slot in slots:
        slot.step = DEFAULT_MAX_STEPS  # long enough under way that every token is taken up
    rows = Rows(loaded.lm, Contexts(loaded.lm), slots)
    began = 0.0
    for number in range(1 + _TIMED_STEPS):
        if number == 1:  # the first step prepares the others, and is not timed
            began = time.monotonic()
        rows.measure()
        rows.step()
        rows.look()
    tokens = sum(task.num_tokens for task in picked)
    return (time.monotonic() - began) / _TIMED_STEPS / tokens
