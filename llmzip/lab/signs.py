"""Trials with sign vectors, by the cram codec's own steps.

Owns how a trial becomes a task of the codec, and what its vectors take when they are stored. Knows
no study.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from llmzip.codecs.cram.chunking import Segment, Span
from llmzip.codecs.cram.optimizer import Rows
from llmzip.codecs.cram.payload import grid_mem
from llmzip.codecs.cram.presets import held_share, signs_of
from llmzip.codecs.cram.signs import SignPlan
from llmzip.codecs.cram.slots import Slot, as_stored, start_slot
from llmzip.codecs.cram.tasks import Contexts, Task
from llmzip.config import Preset
from llmzip.lab.capacity import RESOLUTION, search_exact
from llmzip.lab.runner import NO_ROOM_HINT
from llmzip.lab.study import Study
from llmzip.lab.texts import Sample
from llmzip.lab.trials import Outcome, Trial
from llmzip.lm.devices import out_of_memory_error, too_little_memory
from llmzip.lm.layout import segment_start
from llmzip.progress import check_cancelled
from llmzip.store.grids import pack_grids
from llmzip.store.vectors import RAW_BITS, GridMem


def search_bits(
    study: Study,
    samples: Sequence[Sample],
    *,
    num_mem: int,
    bits: int,
    preset: Preset,
    resolution: float = RESOLUTION,
) -> None:
    """Add rows of purpose growth and capacity for samples of one source and vectors of so many bits
    a dimension: signs, or 16 (`RAW_BITS`). The `detail` of a row of signs is the bits that a
    coordinate takes when it is stored."""
    first_bits = study.first_bits(num_mem)
    is_raw = bits == RAW_BITS
    search_exact(
        study, samples, num_mem=num_mem, bits=bits, resolution=resolution,
        first_bits=first_bits if is_raw else held_share(bits) * first_bits,
        cram=None if is_raw else partial(cram_signs, study, bits=bits, preset=preset),
    )  # fmt: skip


def cram_signs(
    study: Study, trials: Sequence[Trial], *, bits: int, preset: Preset
) -> list[tuple[Outcome, float]]:
    """Cram trials with the same number of vectors, as many side by side as the device holds.

    Returns the outcome of each trial, and the bits that a coordinate takes where its vectors alone
    are stored as in a file. Raises LimitExceeded where the device has no room for one trial.
    """
    found: list[tuple[Outcome, float]] = []
    error = out_of_memory_error(
        lambda: found.extend(_side_by_side(study, trials, bits, preset)), study.loaded.lm.device
    )
    if error is not None:
        if len(trials) == 1:
            raise too_little_memory("one text", hint=NO_ROOM_HINT) from error
        half = len(trials) // 2
        for part in (trials[:half], trials[half:]):
            found.extend(cram_signs(study, part, bits=bits, preset=preset))
    return found


def _side_by_side(
    study: Study, trials: Sequence[Trial], bits: int, preset: Preset
) -> list[tuple[Outcome, float]]:
    plan = signs_of(preset, bits, study.recipe.sign_steps)
    assert plan is not None, "vectors of 16 bits are stored as they are"
    runner = study.runner()
    wanted = study.recipe.min_margin + runner.slack
    slots = [
        start_slot(
            study.loaded.lm, _task(study, trial, index, runner.plain(trial.ids).bits.tolist()),
            trial.num_mem, trial.seed, plan=plan,
        )
        for index, trial in enumerate(trials)
    ]  # fmt: skip
    began = time.monotonic()
    _optimise(study, slots, plan, wanted)
    seconds = (time.monotonic() - began) / max(1, len(trials))
    found = []
    for trial, slot in zip(trials, slots, strict=True):
        assert slot.grid_steps is not None, "a settled slot has signs"
        mem = as_stored(slot.mem)
        outcome = runner.outcome(trial, mem, steps=slot.step, best_step=slot.step, seconds=seconds)
        grid = grid_mem(mem.cpu(), slot.grid_steps.cpu())
        found.append((outcome, _coded_bits(grid, bits)))
    return found


def _task(study: Study, trial: Trial, index: int, bits: list[float]) -> Task:
    """A trial as the cram codec's own task: one segment of one chunk. bits: of each token."""
    span = Span(start=0, end=trial.num_tokens, surprisal_bits=sum(bits))
    segment = Segment(
        index=index, offset=0, start_ids=tuple(segment_start(study.loaded.start_id)),
        ids=trial.ids, surprisal_bits=tuple(bits), spans=(span,),
    )  # fmt: skip
    return Task(segment=segment, start=0, end=trial.num_tokens, warm_mem=trial.warm_mem)


def _optimise(study: Study, slots: Sequence[Slot], plan: SignPlan, wanted: float) -> None:
    """Step until every slot is settled: it is right, or it has had its last step."""
    lm = study.loaded.lm
    going = list(slots)
    while going:
        rows = Rows(lm, Contexts(lm), going, min_margin=wanted, plan=plan)
        while not any(slot.is_settled for slot in going):
            check_cancelled(study.cancel)
            rows.measure()
            rows.step()
            rows.look()
        going = [slot for slot in going if not slot.is_settled]


def _coded_bits(grid: GridMem, bits: int) -> float:
    """Bits that a coordinate takes in a file of many vectors: no more than it has signs. One vector
    alone takes more, since its symbols are too few to learn their shares from."""
    return min(float(bits), 8 * len(pack_grids([grid])[1]) / grid.symbols.size)
