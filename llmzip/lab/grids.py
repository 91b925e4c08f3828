"""Trials whose vectors end on a grid of few bits, as `compress` stores them.

Owns the loop around `cram.optimizer.Rows` with a plan for the grid, without patches: every token
must be right. Knows nothing of capacity.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llmzip.codecs.cram.chunking import Segment, Span
from llmzip.codecs.cram.contexts import Contexts
from llmzip.codecs.cram.optimizer import Rows, Slot, as_stored, start_slot
from llmzip.codecs.cram.presets import grid_plan
from llmzip.codecs.cram.rounding import GridGoal, GridPlan
from llmzip.codecs.cram.tasks import Task
from llmzip.config import Preset
from llmzip.lab.batch import Plain
from llmzip.lab.crammer import LESS, Crammer, Outcome, Trial
from llmzip.lab.study import Study
from llmzip.lm.devices import no_room, out_of_room
from llmzip.lm.layout import segment_start
from llmzip.progress import check_cancelled
from llmzip.store.cram_grids import pack_grids
from llmzip.store.vectors import GridMem


@dataclass(frozen=True, kw_only=True)
class GridOutcome:
    """Vectors on a grid, and what they do."""

    outcome: Outcome
    grid: GridMem

    @property
    def coded_bits_a_dimension(self) -> float:
        """What a coordinate takes where these vectors alone are entropy-coded as in a file."""
        return 8 * len(pack_grids([self.grid])[1]) / self.grid.symbols.size


def cram_on_grid(
    study: Study, trials: Sequence[Trial], *, bits: int, preset: Preset
) -> list[GridOutcome]:
    """Cram trials that have as many vectors each, as many side by side as the device holds. Raises
    LimitExceeded where it has no room for one."""
    found: list[GridOutcome] = []
    error = out_of_room(
        lambda: found.extend(_side_by_side(study, trials, bits=bits, preset=preset)),
        study.loaded.lm.device,
    )
    if error is not None:
        if len(trials) == 1:
            raise no_room("one text", hint=LESS) from error
        half = len(trials) // 2
        for part in (trials[:half], trials[half:]):
            found.extend(cram_on_grid(study, part, bits=bits, preset=preset))
    return found


def _side_by_side(
    study: Study, trials: Sequence[Trial], *, bits: int, preset: Preset
) -> list[GridOutcome]:
    plan = grid_plan(preset, bits, None)
    assert plan is not None, "vectors of 16 bits have no grid"
    loaded = study.loaded
    crammer = study.crammer()
    goal = GridGoal(limit=0, wanted=study.recipe.min_margin + crammer.slack)
    slots = [
        start_slot(
            loaded.lm, _task(study, trial, index, crammer.plain(trial.ids)),
            trial.num_mem, trial.seed, goal=goal,
        )
        for index, trial in enumerate(trials)
    ]  # fmt: skip
    began = time.monotonic()
    _optimise(study, slots, plan, goal.wanted)
    seconds = (time.monotonic() - began) / max(1, len(trials))
    return [
        _result(crammer, trial, slot, seconds) for trial, slot in zip(trials, slots, strict=True)
    ]


def _task(study: Study, trial: Trial, index: int, plain: Plain) -> Task:
    bits = tuple(plain.bits.tolist())
    segment = Segment(
        index=index,
        offset=0,
        start_ids=tuple(segment_start(study.loaded.start_id)),
        ids=trial.ids,
        surprisal_bits=bits,
        spans=(Span(start=0, end=trial.num_tokens, surprisal_bits=sum(bits)),),
    )
    return Task(segment=segment, start=0, end=trial.num_tokens, warm_mem=trial.warm_mem)


def _optimise(study: Study, slots: Sequence[Slot], plan: GridPlan, wanted: float) -> None:
    """Until every slot is settled: it is right, or its last step has come."""
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


def _result(crammer: Crammer, trial: Trial, slot: Slot, seconds: float) -> GridOutcome:
    assert slot.grid_steps is not None, "a slot settles on a grid"
    mem = as_stored(slot.mem)
    outcome = crammer.outcome(trial, mem, steps=slot.step, best_step=slot.step, seconds=seconds)
    return GridOutcome(outcome=outcome, grid=grid_of(mem.cpu(), slot.grid_steps.cpu()))


def grid_of(mem: torch.Tensor, steps: torch.Tensor) -> GridMem:
    """The symbols and steps of vectors on a grid. mem: [K, D], steps: [K]."""
    symbols = torch.round(mem / steps[:, None]).to(torch.int16).numpy()
    patterns = steps.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    return GridMem(symbols=symbols, steps=patterns)
