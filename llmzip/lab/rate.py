"""What becomes of bits: cross-entropy before and after cramming, and bits per dimension against
what vectors hold.

Owns the measurements of both studies. Knows nothing of how they are drawn.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from typing import Any

from llmzip.codecs.cram.chunking import Segment, Span
from llmzip.codecs.cram.optimizer import Rows
from llmzip.codecs.cram.payload import grid_mem
from llmzip.codecs.cram.presets import held_share, signs_of
from llmzip.codecs.cram.signs import SignPlan
from llmzip.codecs.cram.slots import Slot, as_stored, start_slot
from llmzip.codecs.cram.tasks import Contexts, Task
from llmzip.config import Preset
from llmzip.lab.capacity import search_exact
from llmzip.lab.folder import Row
from llmzip.lab.measures import Spread, Threshold, fit_threshold, grouped, number, spread_of
from llmzip.lab.runner import NO_ROOM_HINT
from llmzip.lab.study import Part, Study
from llmzip.lab.texts import Sample
from llmzip.lab.trials import Outcome, Trial
from llmzip.lm.devices import out_of_memory_error, too_little_memory
from llmzip.lm.layout import segment_start
from llmzip.progress import check_cancelled
from llmzip.store.cram_grids import pack_grids
from llmzip.store.vectors import RAW_BITS

SHARES = (0.4, 0.6, 0.8, 1.0, 1.25, 1.6, 2.0, 2.6)  # of the length that is expected to be held


def chunk_lengths(expected_tokens: int, max_tokens: int) -> list[int]:
    """Lengths around the one that is expected to be held, shortest first."""
    lengths = {max(2, round(share * expected_tokens)) for share in SHARES}
    return sorted(length for length in lengths if length <= max_tokens)


def measure_entropy(
    study: Study, samples: Sequence[Sample], *, lengths: Sequence[int], num_mem: int = 1
) -> None:
    """Add a row of purpose chunk for every text at every length."""
    recipe = study.recipe.for_entropy()

    def run(length: int, group: Sequence[Sample]) -> list[Row]:
        trials = study.trials(group, length, num_mem)
        return study.rows_of("chunk", list(study.cram(trials, recipe=recipe)))

    parts: list[Part] = []
    for length in lengths:
        left = study.without_rows(samples, "chunk", num_mem=num_mem, num_tokens=length)
        parts.append((f"chunks of {length} tokens", left, partial(run, length)))
    study.measure(parts, total=len(samples) * len(lengths), last="chunks")


def entropy_points(rows: Sequence[Row]) -> dict[str, list[tuple[float, float]]]:
    """Bits before and after cramming of each chunk, by source."""
    chunks = grouped((row for row in rows if row["purpose"] == "chunk"), "source")
    return {
        str(source): [(number(row, "plain_bits"), number(row, "after_bits")) for row in group]
        for (source,), group in chunks.items()
    }


def entropy_summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Threshold, and line through the texts beyond it, of each source and of all together."""
    groups = entropy_points(rows)
    if len(groups) > 1:
        groups["all"] = list(chain(*groups.values()))
    summary: dict[str, Any] = {}
    for source, points in groups.items():
        try:
            found = asdict(fit_threshold(points))
        except ValueError as error:
            found = {"threshold_bits": None, "why": str(error)}
        summary[source] = {"chunks": len(points), **found}
    return summary


def threshold_of(rows: Sequence[Row]) -> Threshold | None:
    """Of all chunks; None: too few of them are held, or too few are not."""
    with suppress(ValueError):
        return fit_threshold(list(chain(*entropy_points(rows).values())))
    return None


RESOLUTION = 0.08  # of the length


def measure_rate(
    study: Study,
    samples: Sequence[Sample],
    *,
    bits: Sequence[int],
    num_mem: int = 1,
    first_bits: float,
    preset: Preset = "fast",
) -> None:
    """Add rows of purpose growth and capacity for each number of bits, most bits first.

    The `detail` of a row of few bits is the bits that a coordinate takes, entropy-coded.
    """
    for each in sorted(bits, reverse=True):
        is_raw = each == RAW_BITS
        search_exact(
            study, samples, num_mem=num_mem, bits=each, resolution=RESOLUTION,
            first_bits=first_bits if is_raw else held_share(each) * first_bits,
            cram=None if is_raw else partial(cram_signs, study, bits=each, preset=preset),
        )  # fmt: skip


def cram_signs(
    study: Study, trials: Sequence[Trial], *, bits: int, preset: Preset
) -> list[tuple[Outcome, float]]:
    """Cram trials with the same number of vectors, as many side by side as the device holds.

    Returns the outcome of each trial, and the bits that a coordinate takes where its vectors alone
    are entropy-coded as in a file. Raises LimitExceeded where the device has no room for one trial.
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
    plan = signs_of(preset, bits, None)
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
        found.append((outcome, 8 * len(pack_grids([grid])[1]) / grid.symbols.size))
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


@dataclass(frozen=True, kw_only=True)
class RateFigures:
    """What vectors of one number of bits a dimension hold."""

    bits: int  # where the grid begins
    texts: int
    tokens: Spread
    exact_bits: Spread
    coded_bits_a_dimension: float  # stored, entropy-coded, on average
    exact_bits_a_dimension: float
    stored_bits_an_information_bit: float | None  # None: nothing is held

    def to_dict(self) -> dict[str, Any]:
        """For the summary, which has mean and standard deviation of a figure side by side."""
        flat: dict[str, Any] = {}
        for name, value in vars(self).items():
            is_spread = isinstance(value, Spread)
            flat |= {name: value.mean, f"{name}_std": value.std} if is_spread else {name: value}
        return flat


def rate_figures(rows: Sequence[Row]) -> list[RateFigures]:
    """A line for each number of bits, fewest first."""
    exact = [row for row in rows if row["purpose"] == "capacity"]
    groups = {int(number(group[0], "bits")): group for group in grouped(exact, "bits").values()}
    return [_figures(bits, group) for bits, group in sorted(groups.items())]


def _figures(bits: int, rows: Sequence[Row]) -> RateFigures:
    held = [row for row in rows if number(row, "num_tokens")]
    coded = [number(row, "detail") if row["detail"] is not None else 16.0 for row in held]
    stored = Spread.of(coded or [float(bits)]).mean
    exact_bits = spread_of(rows, "plain_bits")
    coordinates = number(rows[0], "num_mem") * number(rows[0], "mem_dim")
    cost = stored * coordinates / exact_bits.mean if exact_bits.mean else None
    return RateFigures(
        bits=bits, texts=len(rows), tokens=spread_of(rows, "num_tokens"), exact_bits=exact_bits,
        coded_bits_a_dimension=stored, exact_bits_a_dimension=exact_bits.mean / coordinates,
        stored_bits_an_information_bit=cost,
    )  # fmt: skip
