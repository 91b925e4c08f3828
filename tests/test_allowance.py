"""The allowance of patches: which chunks a group accepts, holds and gives up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from llmzip.api.compress import compress_bytes
from llmzip.api.decompress import decompress_bytes
from llmzip.codecs.context import QUIET
from llmzip.codecs.cram.allowance import Allowance, Settled
from llmzip.codecs.cram.chunking import Segment
from llmzip.codecs.cram.signs import sign_plan
from llmzip.codecs.cram.slots import start_slot
from llmzip.codecs.cram.tasks import Crammed, EngineSettings, Task, split
from llmzip.codecs.cram.verdict import ATTEMPTS, Judge
from llmzip.config import CompressSettings, DecompressSettings
from llmzip.lm.model import FrozenLM
from llmzip.store.container import read_container
from llmzip.store.cram_payload import CramPayload
from tests.tiny_models import SHORT_TEXT

WHOLE = Segment(
    index=0, offset=0, start_ids=(), ids=tuple(range(4000)), surprisal_bits=(2.0,) * 4000, spans=()
)
SHARE = 1 / 8


def chunk(num_tokens: int, num_patches: int, *, start: int = 0) -> Crammed:
    return Crammed(
        task=Task(segment=WHOLE, start=start, end=start + num_tokens),
        mem=None,
        patches=tuple((position, 0) for position in range(num_patches)),
        min_margin=None,
        steps=1,
    )


def settled(allowance: Allowance) -> Settled:
    return allowance.settle(SHARE, attempts=ATTEMPTS, near=2.5)


def patches(chunks: Sequence[Crammed]) -> list[int]:
    return [len(each.patches) for each in chunks]


def tried(chunk: Crammed, times: int) -> Crammed:
    return replace(chunk, task=replace(chunk.task, failures=times - 1))


def test_a_chunk_within_its_share_is_accepted_and_leaves_the_rest_to_others() -> None:
    allowance = Allowance()
    assert allowance.take(chunk(40, 3), SHARE)
    assert allowance.spare == 2.0
    assert allowance.take(chunk(40, 5), SHARE)
    assert allowance.spare == 2.0
    assert allowance.held == []


def test_those_with_more_are_held_and_all_accepted_if_the_rest_leaves_enough() -> None:
    allowance = Allowance()
    assert not allowance.take(chunk(40, 8), SHARE)
    assert not allowance.take(chunk(40, 6, start=100), SHARE)
    assert allowance.take(chunk(40, 0, start=300), SHARE)  # 5 left over
    found = settled(allowance)
    assert patches(found.accepted) == [8, 6] and not found.again + found.given_up
    assert allowance.spare == 1.0 and allowance.held == []


def test_as_few_as_need_be_get_another_attempt_and_the_better_one_counts() -> None:
    allowance = Allowance()
    for start, count in ((0, 8), (100, 6), (200, 12), (300, 7)):
        assert not allowance.take(chunk(40, count, start=start), SHARE)
    assert allowance.take(chunk(40, 0, start=400), SHARE)
    assert allowance.take(chunk(40, 1, start=500), SHARE)  # 13 lacking, 9 left over
    found = settled(allowance)
    assert patches(found.again) == [12, 8] and not found.accepted + found.given_up
    assert sorted(patches(allowance.held)) == [6, 7, 8, 12]
    assert not allowance.take(tried(chunk(40, 13, start=200), 2), SHARE)  # worse than before
    assert allowance.take(tried(chunk(40, 4, start=0), 2), SHARE)
    assert sorted(patches(allowance.held)) == [6, 7, 12] and allowance.spare == 10.0
    found = settled(allowance)
    assert sorted(patches(found.accepted)) == [6, 7, 12] and allowance.spare == 0.0
    assert [each.task.failures for each in found.accepted if len(each.patches) == 12] == [1]


def test_those_that_were_tried_often_enough_are_given_up_as_few_as_need_be() -> None:
    allowance = Allowance(spare=1.0)
    for start, count in ((0, 8), (100, 6), (200, 9)):
        assert not allowance.take(tried(chunk(40, count, start=start), ATTEMPTS), SHARE)
    found = settled(allowance)
    assert patches(found.given_up) == [9] and not found.accepted + found.again
    assert sorted(patches(allowance.held)) == [6, 8]


@pytest.mark.parametrize(("share", "is_taken"), [(SHARE, True), (0.0, False)])
def test_a_short_chunk_may_have_one_patch_if_any_may(share: float, is_taken: bool) -> None:
    allowance = Allowance()
    assert bool(allowance.take(chunk(4, 1), share)) == is_taken
    assert allowance.spare == 0.0
    assert not allowance.take(chunk(1, 1), share)  # but not every token


def test_vectors_that_hold_nothing_are_never_accepted() -> None:
    allowance = Allowance(spare=100.0)
    assert not allowance.take(chunk(9, 9), SHARE)
    found = settled(allowance)
    assert found.accepted == [] and patches(found.given_up) == [9] and allowance.held == []


def judged(failed: Crammed, spare: float = 0.0) -> tuple[list[Crammed | Task], list[str]]:
    """What becomes of a held chunk, and what is said of it."""
    told: list[str] = []
    settings = EngineSettings(
        num_mem=1, max_steps=9, seed=0, context_tokens=100, min_margin=0.05, step_price_bits=1.0,
        max_patches=SHARE, signs=sign_plan(9),
    )  # fmt: skip
    judge = Judge(
        None, None, settings,  # type: ignore[arg-type]
        on_task=lambda what, task, steps: told.append(what), context=QUIET, token_odds=None,
    )  # fmt: skip
    return list(judge.settle(Allowance(spare=spare, held=[failed]))), told


def test_a_chunk_that_fails_has_more_attempts_before_it_is_split() -> None:
    failed = chunk(40, 8)
    for failures in range(1, ATTEMPTS):
        (again,), told = judged(failed)
        assert isinstance(again, Task) and told == ["refused"]
        assert again == replace(failed.task, steps_so_far=1, failures=failures)
        failed = replace(failed, task=replace(again, steps_so_far=0))
    parts, told = judged(failed)
    assert told == ["split"] and [part.failures for part in parts] == [0, 0]  # type: ignore[union-attr]
    assert [part.is_part for part in parts] == [True, True]  # type: ignore[union-attr]
    accepted, told = judged(failed, spare=3.0)
    assert accepted == [failed] and told == []


def test_one_that_is_far_from_right_is_split_at_once() -> None:
    _, told = judged(chunk(40, 13))
    assert told == ["split"]


def test_each_attempt_begins_elsewhere(lm: FrozenLM) -> None:
    task = chunk(6, 1).task
    starts = [
        start_slot(lm, replace(task, failures=failures), 1, 0, plan=sign_plan(9)).signs
        for failures in (0, 1, 1, 2)
    ]
    first, second, same, third = (signs.hidden for signs in starts if signs is not None)
    assert second.equal(same)
    assert not first.equal(second) and not second.equal(third) and not first.equal(third)


@pytest.mark.parametrize("max_patches", [0.0, 0.125, 0.4])
def test_files_keep_to_the_share(tiny_model: Callable[..., Path], max_patches: float) -> None:
    model = str(tiny_model("llama"))
    settings = CompressSettings(model=model, bits=1, preset="fast", max_patches=max_patches)
    packed = compress_bytes(SHORT_TEXT * 2, settings, QUIET)
    found = decompress_bytes(packed, DecompressSettings(model=model), QUIET)
    assert found == SHORT_TEXT * 2
    payload = read_container(packed).payload
    assert isinstance(payload, CramPayload)
    crammed = [each for each in payload.chunks if each.mem is not None]
    assert len(crammed) > 2
    patched = sum(len(each.patches) for each in crammed)
    # Those too short for a patch may have one all the same.
    few = sum(each.num_tokens * max_patches < 1 for each in crammed) if max_patches else 0
    assert patched <= max_patches * sum(each.num_tokens for each in crammed) + few


def test_parts_of_a_chunk_that_failed_spare_no_token() -> None:
    """Else what was spared in a part alone would be more than its share."""
    bits = (1.0, 9.0, 1.0, 9.0, 1.0, 1.0, 9.0, 1.0)
    whole = replace(WHOLE, ids=tuple(range(8)), surprisal_bits=bits, most_bits=5.0)
    task = Task(segment=whole, start=0, end=8)
    assert task.num_spared == 3
    parts = list(split(task, context_tokens=100))
    assert [part.num_spared for part in parts] == [0, 0]
    assert sum(part.num_tokens for part in parts) == 8
    assert parts[1].anew.num_spared == 0
