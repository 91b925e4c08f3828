"""How much vectors hold: the longest exact text, and the paper's capacity at 99 %.

Owns the two protocols and which rows they leave. Knows nothing of tables or pictures.

Exact: for each text, the longest front that greedy decoding gives back, by `lab.growth`. At 99 %,
as Kuratov et al. 2025: every text is crammed at fixed lengths, from random vectors; the capacity is
the longest length with a mean accuracy of 0.99; gains are those of runs beyond it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from llmzip.lab.crammer import Outcome, Trial
from llmzip.lab.folder import Row, Value
from llmzip.lab.length_search import RESOLUTION, Growth, front_tokens
from llmzip.lab.measures import AT_99, BINS, mean_accuracy
from llmzip.lab.rows import number, row_head
from llmzip.lab.study import Study
from llmzip.lab.texts import Sample

# Outcomes of trials in any order, and what a coordinate of the vectors takes, stored.
CramAll: TypeAlias = Callable[[Sequence[Trial]], Sequence[tuple[Outcome, float | None]]]

# Beyond the capacity at 99 % lengths go on until vectors gain no more than this share of what there
# is to gain: a text that is nearly held says nothing of how much they could. So many at most.
_FULL_SHARE, _BINS_BEYOND = 0.9, 3


@dataclass(kw_only=True)
class _Search:
    """One text's search."""

    sample: Sample
    growth: Growth
    best: Outcome | None = None  # of the longest exact length
    best_row: Row | None = None


def measure_capacity(
    study: Study,
    samples: Sequence[Sample],
    *,
    num_mem: int,
    first_bits: float,
) -> None:
    """Leave rows of purpose growth, capacity and bin for samples of one source, those that an
    earlier run has left excepted."""
    search_exact(study, samples, num_mem=num_mem, first_bits=first_bits)
    run_bins(study, samples, num_mem=num_mem)
    take_exact_bins(study, samples, num_mem=num_mem)


def search_exact(
    study: Study,
    samples: Sequence[Sample],
    *,
    num_mem: int,
    first_bits: float,
    bits: int = 16,
    resolution: float = RESOLUTION,
    cram: CramAll | None = None,
) -> None:
    """The longest exact length of each text of one source.

    first_bits: surprisal of the length to begin with. bits, cram: where vectors are not stored as
    bf16, how many bits a coordinate has and how trials are crammed.
    """
    done = {row["text"] for row in rows_of(study, samples, num_mem, "capacity", bits)}
    left = [sample for sample in samples if sample.index not in done]
    tried = rows_of(study, samples, num_mem, "growth", bits)
    torn = {id(row) for row in tried if row["text"] not in done}  # of searches not ended
    study.folder.drop(lambda row: id(row) not in torn)
    what = f"exact, {bits} bits, {num_mem} mem, {samples[0].source}" if samples else ""
    for group in study.groups(left, what, done=len(samples) - len(left), total=len(samples)):
        searches = [_begin(study, sample, num_mem, first_bits, resolution) for sample in group]
        study.folder.add(_search_group(study, searches, num_mem, bits, cram))
    study.tell(what, len(samples), len(samples))


def _begin(
    study: Study, sample: Sample, num_mem: int, first_bits: float, resolution: float
) -> _Search:
    most = min(study.most_tokens - num_mem + 1, len(sample.ids))
    first = front_tokens(study.plain_bits(sample.ids[:most]), first_bits)
    growth = Growth(first_tokens=first, most_tokens=most, resolution=resolution)
    return _Search(sample=sample, growth=growth)


def _search_group(
    study: Study, searches: Sequence[_Search], num_mem: int, bits: int, cram: CramAll | None
) -> list[Row]:
    rows: list[Row] = []
    while trials := list(_next_trials(study, searches, num_mem)):
        found = cram(trials) if cram is not None else _cram_freely(study, trials)
        outcomes = [outcome for outcome, _ in found]
        new = study.rows_of("growth", outcomes, bits=bits)
        for (outcome, stored_bits), row in zip(found, new, strict=True):
            row["detail"] = stored_bits
            _report(searches, outcome, row)
        rows.extend(new)
    return rows + [_final_row(study, search, num_mem, bits) for search in searches]


def _cram_freely(study: Study, trials: Sequence[Trial]) -> list[tuple[Outcome, None]]:
    recipe = replace(study.recipe, gives_up=True)  # what cannot be held is not to take longest
    return [(outcome, None) for outcome in study.cram(trials, recipe=recipe)]


def _next_trials(study: Study, searches: Sequence[_Search], num_mem: int) -> Iterator[Trial]:
    for search in searches:
        length = search.growth.next_tokens
        if length is not None:
            yield Trial(
                sample=search.sample, num_tokens=length, num_mem=num_mem, seed=study.seed,
                warm_mem=search.best.mem if search.best else None,
            )  # fmt: skip


def _report(searches: Sequence[_Search], outcome: Outcome, row: Row) -> None:
    (search,) = (each for each in searches if each.sample is outcome.trial.sample)
    is_exact = bool(row["exact"])
    search.growth.report(outcome.trial.num_tokens, is_exact=is_exact)
    if is_exact:
        search.best, search.best_row = outcome, row


def _final_row(study: Study, search: _Search, num_mem: int, bits: int) -> Row:
    if search.best_row is not None:
        setting = "cut off" if search.growth.is_cut_off else ""
        return {**search.best_row, "purpose": "capacity", "setting": setting}
    trial = Trial(sample=search.sample, num_tokens=0, num_mem=num_mem, seed=study.seed)
    head = row_head("capacity", study.model, trial, study.loaded.decode_lm.dim, bits=bits)
    return {**head, "plain_bits": 0.0, "info_gain_bits": 0.0, "exact": False}


def run_bins(study: Study, samples: Sequence[Sample], *, num_mem: int) -> None:
    """Runs at fixed lengths, of the texts that do not hold so many tokens exactly, up to lengths
    beyond the capacity at 99 %."""
    exact = rows_of(study, samples, num_mem, "capacity")
    held = {row["text"]: int(number(row, "num_tokens")) for row in exact}
    longest = min(min(len(sample.ids) for sample in samples), study.most_tokens - num_mem + 1)
    lengths = [length for length in BINS if min(held.values()) < length <= longest]
    beyond, recipe = 0, study.recipe.for_entropy()
    for length in lengths:
        bins = rows_of(study, samples, num_mem, "bin")
        done = {row["text"] for row in bins if row["num_tokens"] == length}
        left = [s for s in samples if held[s.index] < length and s.index not in done]
        what = f"{length} tokens, {num_mem} mem, {samples[0].source}"
        for group in study.groups(left, what, done=len(samples) - len(left), total=len(samples)):
            trials = [
                Trial(sample=sample, num_tokens=length, num_mem=num_mem, seed=study.seed)
                for sample in group
            ]
            study.folder.add(study.rows_of("bin", list(study.cram(trials, recipe=recipe))))
        bins = rows_of(study, samples, num_mem, "bin")
        is_beyond = mean_accuracy(exact, bins, length) < AT_99
        beyond += is_beyond
        if beyond >= _BINS_BEYOND or (is_beyond and _gained_share(bins, length) <= _FULL_SHARE):
            return


def _gained_share(bins: Sequence[Row], length: int) -> float:
    """Of the cross-entropy of all runs at one length."""
    there = [row for row in bins if row["num_tokens"] == length]
    gained = sum(number(row, "info_gain_bits") for row in there)
    return gained / sum(number(row, "plain_bits") for row in there)


def take_exact_bins(study: Study, samples: Sequence[Sample], *, num_mem: int) -> None:
    """A run at a fixed length that is exact beyond what the search has found is the longest."""
    found = {row["text"]: row for row in rows_of(study, samples, num_mem, "capacity")}
    longest: dict[Value, Row] = {}
    for row in sorted(
        rows_of(study, samples, num_mem, "bin"), key=lambda row: number(row, "num_tokens")
    ):
        if row["exact"] and number(row, "num_tokens") > number(found[row["text"]], "num_tokens"):
            longest[row["text"]] = row
    old = {id(found[text]) for text in longest}
    study.folder.drop(lambda row: id(row) not in old)
    study.folder.add({**row, "purpose": "capacity"} for row in longest.values())


def rows_of(
    study: Study, samples: Sequence[Sample], num_mem: int, purpose: str, bits: int = 16
) -> list[Row]:
    """What is already known of these samples' source."""
    sources = {sample.source for sample in samples}
    wanted = {"purpose": purpose, "num_mem": num_mem, "bits": bits}
    return [
        row
        for row in study.own_rows
        if row["source"] in sources and all(row[key] == value for key, value in wanted.items())
    ]
