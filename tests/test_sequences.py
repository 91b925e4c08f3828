"""Sequences: where chunks end, what they may patch, and how the budget follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llmzip.api.compress import compress_bytes
from llmzip.api.decompress import decompress_bytes
from llmzip.codecs.context import QUIET
from llmzip.codecs.cram.chunking import CutRule, Segment, Span
from llmzip.codecs.cram.sequences import Ledger, next_of_sequence, sequences_of, shorter
from llmzip.codecs.cram.tasks import SequenceRule, Task
from llmzip.config import CompressSettings, DecompressSettings
from llmzip.store.container import read_container
from llmzip.store.cram_payload import CramPayload
from tests.tiny_models import SHORT_TEXT

RULE = SequenceRule(
    cut=CutRule(context_tokens=1000, budget_bits=20.0, max_chunk_tokens=64, spared=0.0),
    context_tokens=None,
    adapts=True,
)


def segment(num_tokens: int, num_spans: int) -> Segment:
    """Tokens of two bits each, in spans of about equal length."""
    ends = [num_tokens * (number + 1) // num_spans for number in range(num_spans)]
    spans = [
        Span(start=start, end=end, surprisal_bits=2.0 * (end - start))
        for start, end in zip([0, *ends], ends, strict=False)
    ]
    return Segment(
        index=0, offset=0, start_ids=(), ids=tuple(range(num_tokens)),
        surprisal_bits=(2.0,) * num_tokens, spans=tuple(spans),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("num_spans", "sequences"), [(1, 1), (8, 1), (11, 1), (13, 2), (16, 2), (24, 3)]
)
def test_sequences_cover_a_segment(num_spans: int, sequences: int) -> None:
    whole = segment(10 * num_spans, num_spans)
    found = list(sequences_of([whole]))
    assert len(found) == sequences
    assert [task.start for task in found] == [0, *(task.sequence_end for task in found[:-1])]
    assert found[-1].sequence_end == len(whole.ids)
    assert all(task.num_tokens == 10 for task in found)  # the first of their chunks


def test_the_chunks_of_a_lane_are_of_equal_load() -> None:
    task = Task(segment=segment(45, 1), start=0, end=5, sequence_end=45)
    sizes, ledger = [], Ledger()
    start = 5
    while (following := next_of_sequence(task, start, RULE, ledger)) is not None:
        assert following.sequence_end == 45
        sizes.append(following.num_tokens)
        start = following.end
    assert sum(sizes) == 40
    assert sizes == [10] * 4


def test_no_chunk_has_more_context_than_was_asked_for() -> None:
    task = Task(segment=segment(45, 1), start=0, end=5, sequence_end=45)
    following = next_of_sequence(task, 5, replace(RULE, context_tokens=4), Ledger())
    assert following is not None
    assert (following.start, following.sequence_end, following.segment.offset) == (0, 40, 5)
    assert following.ids == tuple(range(5, 15))
    same = next_of_sequence(task, 5, replace(RULE, context_tokens=5), Ledger())
    assert same is not None and (same.start, same.ids) == (5, following.ids)


def test_the_budget_grows_with_what_vectors_hold() -> None:
    task = Task(segment=segment(90, 1), start=0, end=5, sequence_end=90)

    def size(ledger: Ledger, rule: SequenceRule = RULE) -> int:
        following = next_of_sequence(task, 5, rule, ledger)
        assert following is not None
        return following.num_tokens

    assert size(Ledger(filling=2.0)) > size(Ledger()) > size(Ledger(filling=0.5))
    named = replace(RULE, adapts=False)
    assert size(Ledger(filling=2.0), named) == size(Ledger(), named)


def test_how_the_budget_follows() -> None:
    ledger = Ledger()
    ledger.follow(30, 100, 0.125)  # too many were wrong
    lower = ledger.filling
    assert lower < 1
    ledger.follow(5, 100, 0.125)
    assert ledger.filling > lower
    for _ in range(99):
        ledger.follow(50, 100, 0.125)
    lowest = ledger.filling
    ledger.follow(50, 100, 0.125)
    assert ledger.filling == lowest > 0


def test_a_chunk_that_is_right_early_grows() -> None:
    ledger = Ledger()
    task = Task(segment=segment(90, 1), start=10, end=30, sequence_end=90)
    longer = ledger.longer(task, 0.5, max_tokens=64)
    assert longer is not None
    assert (longer.start, longer.end, longer.sequence_end) == (10, 35, 90)
    assert ledger.filling > 1
    assert ledger.longer(task, 0.1, max_tokens=64) is None  # no time for more
    assert ledger.longer(replace(task, sequence_end=None), 0.5, max_tokens=64) is None
    assert ledger.longer(replace(task, end=90), 0.5, max_tokens=99) is None
    assert ledger.longer(task, 0.5, max_tokens=20) is None  # as long as any may be
    near = ledger.longer(replace(task, sequence_end=40), 0.5, max_tokens=64)
    assert near is not None and near.end == 40  # no rest of 5 tokens


def test_a_chunk_that_is_sent_back_is_shorter() -> None:
    task = Task(segment=segment(90, 1), start=10, end=30, sequence_end=90)
    assert shorter(task).end == 26
    alone = replace(task, sequence_end=None)
    assert shorter(alone) == alone
    assert shorter(replace(task, end=11)).end == 11


@pytest.mark.parametrize("share", [0.125, 0.03, 0.0])
def test_never_more_patches_than_the_share(share: float) -> None:
    """Whatever chunks come, in whatever order; but a chunk may always have one, if any may."""
    ledger, patched, tokens, chunks = Ledger(), 0, 0, 0
    for number in range(60):
        size = 20 + number % 50
        weak = list(range(0, size, 5 + number % 17))
        held = ledger.num_held(weak, size, share, is_last_try=number % 2 == 1)
        if held:
            own = sum(position < held for position in weak)
            ledger.accept(own, held, share)
            patched, tokens, chunks = patched + own, tokens + held, chunks + (own == 1)
        assert patched <= share * tokens + (chunks if share else 0)


def test_a_chunk_is_cut_where_wrong_tokens_begin() -> None:
    weak = [2, *range(36, 40)]
    ledger = Ledger()
    assert ledger.num_held(weak, 40, 0.125, is_last_try=False) == 40  # 5 of 40
    assert ledger.num_held([1, *weak], 40, 0.125, is_last_try=False) == 38  # 4 before it
    assert Ledger(spare=1.0).num_held([1, *weak], 40, 0.125, is_last_try=False) == 40
    front = list(range(16))
    assert ledger.num_held(front, 40, 0.125, is_last_try=True) == 0
    middle = list(range(20, 40))
    assert ledger.num_held(middle, 40, 0.125, is_last_try=False) == 0
    assert ledger.num_held(middle, 40, 0.125, is_last_try=True) == 22
    assert not ledger.holds_all(6, 40, 0.125)
    assert ledger.holds_all(5, 40, 0.125)
    assert ledger.num_held(list(range(4)), 4, 0.5, is_last_try=True) == 0  # never every token


@pytest.mark.parametrize("max_patches", [0.0, 0.125, 0.4])
def test_files_keep_to_the_share(tiny_model: Callable[..., Path], max_patches: float) -> None:
    model = str(tiny_model("llama"))
    settings = CompressSettings(model=model, bits=1, preset="fast", max_patches=max_patches)
    packed = compress_bytes(SHORT_TEXT * 2, settings, QUIET)
    found = decompress_bytes(packed, DecompressSettings(model=model), QUIET)
    assert found == SHORT_TEXT * 2
    payload = read_container(packed).payload
    assert isinstance(payload, CramPayload)
    crammed = [chunk for chunk in payload.chunks if chunk.mem is not None]
    assert len(crammed) > 2
    patched = sum(len(chunk.patches) for chunk in crammed)
    few = sum(
        chunk.num_tokens * max_patches < 1 for chunk in crammed
    )  # that may have one all the same
    assert patched <= max_patches * sum(chunk.num_tokens for chunk in crammed) + (
        few if max_patches else 0
    )
