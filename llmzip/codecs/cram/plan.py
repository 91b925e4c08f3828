"""What will be crammed: stretches of text -> tokens -> segments and chunks.

Owns the left context and the budget of a run, chosen from its settings, its size and its model.
Knows nothing of optimisation or containers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

from llmzip.codecs.context import Context
from llmzip.codecs.cram.calibration import calibration_of
from llmzip.codecs.cram.checkpoint import pack_segments, unpack_segments
from llmzip.codecs.cram.chunking import CutRule, Segment, longest_chunk, plan_segments
from llmzip.codecs.cram.presets import EFFORTS, Effort, chunk_budget_bits, signs_of
from llmzip.codecs.cram.sharing import (
    STRETCH_TOKENS,
    OnStep,
    SharingPlan,
    learn_shared,
)
from llmzip.codecs.cram.signs import SignPlan
from llmzip.codecs.cram.tasks import Task, tasks_of
from llmzip.codecs.input import Part
from llmzip.config import CompressSettings
from llmzip.lm.loaded import LoadedModel
from llmzip.lm.model import FrozenLM
from llmzip.progress import Progress
from llmzip.store.journal import Journal

# Left context when the user names none is at most so long that there are this many segments for
# the decoder to work on at a time.
_SEGMENTS_WANTED = 64
_SHORTEST_CONTEXT_TOKENS = 64  # a shorter one only makes chunks wait for each other
# Tokens that are read apart from others: enough for the segments that end with them, too early, to
# be few.
_BLOCK_TOKENS = 16384
_LOWEST_BUDGET_BITS, _LOWEST_SIGN_BUDGET_BITS = 48.0, 12.0
_KEPT = "plan"  # in the journal
# Of the tokens that may be patched, those that no vector has to hold; the others are for what the
# optimiser does not reach.
SPARED_OF_PATCHES = 0.85
_BF16_SAFE_LOAD = 0.6  # of sign vectors, which hold less where margins are to be wide


# Cuts one block of tokens: `_cut_block` with its settings, which can be sent elsewhere.
Cut: TypeAlias = Callable[[FrozenLM, Sequence[int], OnStep], Iterator[Segment]]
Blocks: TypeAlias = Sequence[tuple[int, ...]]  # of tokens
# The number and the segments of each block, as they are read. No segment goes beyond its block, so
# that it does not matter where a block is read.
BlocksRead: TypeAlias = Iterator[tuple[int, Sequence[Segment]]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Parts of the input in order, each with its segments (none: stored)."""

    parts: Sequence[tuple[Part, Sequence[Segment]]]
    context_tokens: int
    signs: SignPlan | None  # None: vectors are stored as bf16

    @property
    def segments(self) -> list[Segment]:
        return [segment for _, segments in self.parts for segment in segments]

    @property
    def by_index(self) -> dict[int, Segment]:
        """Segments by their own numbers."""
        return {segment.index: segment for segment in self.segments}

    @property
    def tasks(self) -> Iterator[Task]:
        """Every chunk of the plan, in order."""
        return tasks_of(self.segments)


def make_plan(
    parts: Sequence[Part],
    loaded: LoadedModel,
    settings: CompressSettings,
    context: Context,
    read: Callable[[Cut, Blocks], BlocksRead],
) -> Plan:
    """Read every part with the model and cut it. A plan in the journal stays as it is."""
    journal = context.journal
    context.report(Progress(stage="measure", bytes_total=sum(len(part.data) for part in parts)))
    num_tokens = sum(len(part.ids or ()) for part in parts)
    signs = signs_of(settings.preset, settings.bits, settings.max_steps)
    budget_bits = settings.budget_bits or _default_budget_bits(loaded, settings, signs)
    context_tokens = settings.context_tokens
    if context_tokens is None:
        effort = EFFORTS[settings.preset]
        context_tokens = _default_context(effort, num_tokens, signs)
    sharing = _sharing_plan(settings)
    # The longest chunk and its vectors must still fit behind what stands before the context.
    room = loaded.decode_lm.max_positions - settings.num_mem - 1
    room -= sharing.num_mem if sharing else 0
    longest = min(longest_chunk(settings.num_mem), max(1, room // 2))
    context_tokens = max(0, min(context_tokens, room - longest))
    rule = CutRule(
        context_tokens=context_tokens,
        budget_bits=budget_bits,
        max_chunk_tokens=longest,
        spared=0.0 if signs is None else SPARED_OF_PATCHES * settings.max_patches,
    )
    cut = partial(_cut_block, rule=rule, sharing=sharing, start_id=loaded.start_id)
    blocks = [
        (number, offset, ids)
        for number, part in enumerate(parts)
        for offset, ids in _blocks(part.ids or (), context_tokens, is_sharing=sharing is not None)
    ]
    by_block = _read_blocks([ids for _, _, ids in blocks], partial(read, cut), journal)
    segments: list[list[Segment]] = [[] for _ in parts]
    index = 0
    for place, (number, offset, _) in enumerate(blocks):
        for segment in by_block.get(place, ()):
            segments[number].append(replace(segment, index=index, offset=offset + segment.offset))
            index += 1
    planned = list(zip(parts, segments, strict=True))
    return Plan(parts=planned, context_tokens=context_tokens, signs=signs)


def _cut_block(
    lm: FrozenLM,
    ids: Sequence[int],
    on_step: OnStep,
    *,
    rule: CutRule,
    sharing: SharingPlan | None,
    start_id: int | None,
) -> Iterator[Segment]:
    """The segments of a block, behind the vectors that they share, if any."""
    shared = None
    if sharing is not None:
        shared = learn_shared(lm, ids, sharing, start_id=start_id, on_step=on_step)
    yield from plan_segments(lm, ids, rule, start_id=start_id, shared=shared)


def _read_blocks(
    blocks: Blocks, read: Callable[[Blocks], BlocksRead], journal: Journal | None
) -> dict[int, Sequence[Segment]]:
    """The segments of each block that could be read, by its number; kept as they come."""
    found: dict[int, Sequence[Segment]] = {}
    for number, ids in enumerate(blocks):
        if journal and (kept := journal.kept(f"{_KEPT} {number}")):
            (found[number],) = unpack_segments(kept[-1], [ids])
    waiting = [number for number in range(len(blocks)) if number not in found]
    for place, segments in read([blocks[number] for number in waiting]):
        found[waiting[place]] = segments
        if journal:
            journal.keep(f"{_KEPT} {waiting[place]}", pack_segments([segments]))
    return found


def _blocks(
    ids: tuple[int, ...], context_tokens: int, *, is_sharing: bool
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Tokens in blocks, and where each begins: of about the same size or, where the segments of a
    block share vectors, of a few whole segments."""
    size = STRETCH_TOKENS if is_sharing else _BLOCK_TOKENS
    count = max(1, round(len(ids) / size))
    ends = [len(ids) * number // count for number in range(count + 1)]
    if is_sharing and context_tokens:
        segments = max(1, round(len(ids) / context_tokens))
        each = max(1, round(size / context_tokens))
        ends = [len(ids) * number // segments for number in range(0, segments, each)] + [len(ids)]
    for begin, end in zip(ends, ends[1:], strict=False):
        if end > begin:
            yield begin, ids[begin:end]


def _sharing_plan(settings: CompressSettings) -> SharingPlan | None:
    """How vectors for whole segments are found, where they are asked for."""
    if not settings.shared_mem:
        return None
    spared = SPARED_OF_PATCHES * settings.max_patches
    return SharingPlan(num_mem=settings.shared_mem, spared=spared, seed=settings.seed)


def _default_context(effort: Effort, num_tokens: int, signs: SignPlan | None) -> int:
    if signs is not None:
        # Every bit of surprisal saved is worth several of a sign vector, and the first tokens of a
        # segment cost most: segments of equal length, none of them short.
        num_segments = max(1, round(num_tokens / effort.sign_context_tokens))
        return -(-num_tokens // num_segments)
    context = min(effort.longest_context_tokens, num_tokens // _SEGMENTS_WANTED)
    return context if context >= _SHORTEST_CONTEXT_TOKENS else 0


def _default_budget_bits(
    loaded: LoadedModel, settings: CompressSettings, signs: SignPlan | None
) -> float:
    """The surprisal that a chunk should hold: the preset's share of what its vectors hold."""
    bits = chunk_budget_bits(settings.preset, signs, calibration_of(loaded).gain_bits)
    if signs is not None and settings.bf16_safe:
        bits *= _BF16_SAFE_LOAD
    lowest = _LOWEST_BUDGET_BITS if signs is None else _LOWEST_SIGN_BUDGET_BITS
    return max(lowest, bits * settings.num_mem)
