"""How much vectors hold: the longest exact text, and the paper's capacity at 99 %.

Owns the two protocols and which rows they produce. Knows nothing of tables or pictures.

Exact: for each text, the longest front that greedy decoding gives back. Lengths grow by a share
each time, from vectors that already hold the front of the text (as in Progressive Cramming, Tarasov
et al. 2026, where they grow by a token), and are then halved between the longest that was exact and
the shortest that was not. A failure from random vectors only says where not to begin: vectors that
hold the text's front may well hold that length.

At 99 %, as Kuratov et al. 2025: every text is crammed at fixed lengths, from random vectors; the
capacity is the longest length with a mean accuracy of 0.99; gains are those of runs beyond it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any, TypeAlias

from llmzip.lab.folder import Row, Value
from llmzip.lab.measures import AT_99, BINS, evenly, mean_accuracy, number
from llmzip.lab.runner import Run
from llmzip.lab.study import Study
from llmzip.lab.texts import Sample
from llmzip.lab.trials import Outcome, Trial, row_head

# Outcomes of trials in any order, and the bits that a coordinate of the vectors takes when stored.
CramAll: TypeAlias = Callable[[Sequence[Trial]], Sequence[tuple[Outcome, float | None]]]

_FACTOR = 1.4  # by which lengths grow
RESOLUTION = 0.04  # of the length: the search ends when the next longer one is so near

# Beyond the capacity at 99 % lengths go on until the vectors gain no more than this share of the
# cross-entropy, since a text that is nearly held does not show how much they could gain. So many
# lengths at most.
_FULL_SHARE, _BINS_BEYOND = 0.9, 3
_VIEWED_STEPS = 40  # at most, spread evenly


@dataclass(kw_only=True)
class LengthSearch:
    """The search for the longest exact length of one text: which length is tried next."""

    first_tokens: int  # length to begin with, from random vectors; 0: none is left
    max_tokens: int  # of the text
    resolution: float = RESOLUTION
    exact_tokens: int = 0  # longest length that was exact
    failed_tokens: int | None = None  # shortest length that was not

    @property
    def next_tokens(self) -> int | None:
        """The length to be tried; None: the search is over."""
        exact, failed = self.exact_tokens, self.failed_tokens
        if not exact:
            return self.first_tokens or None
        if failed is None:
            if exact >= self.max_tokens:
                return None
            return min(max(exact + 1, math.ceil(_FACTOR * exact)), self.max_tokens)
        if failed - exact <= max(1, int(self.resolution * exact)):
            return None
        return (exact + failed) // 2

    @property
    def is_cut_off(self) -> bool:
        """Whether the text ended before the vectors were full."""
        return self.failed_tokens is None and self.exact_tokens >= self.max_tokens

    def report(self, num_tokens: int, *, is_exact: bool) -> None:
        """Take in the result of the length that was tried."""
        if is_exact:
            self.exact_tokens = max(self.exact_tokens, num_tokens)
        elif not self.exact_tokens:
            self.first_tokens = num_tokens // 2
        else:
            self.failed_tokens = min(self.failed_tokens or num_tokens, num_tokens)


def front_tokens(bits: Sequence[float], wanted_bits: float) -> int:
    """Tokens of the longest front that has no more than so many bits; 1 at least."""
    return max(1, sum(total <= wanted_bits for total in accumulate(bits)))


@dataclass(kw_only=True)
class _TextSearch(LengthSearch):
    """The search on one text, and the best result so far."""

    sample: Sample
    best: Outcome | None = None  # of the longest exact length
    best_row: Row | None = None


def measure_capacity(study: Study, samples: Sequence[Sample], *, num_mem: int) -> None:
    """Add rows of purpose growth, capacity and bin for samples of one source, except for those that
    an earlier run has added."""
    search_exact(study, samples, num_mem=num_mem, first_bits=study.first_bits(num_mem))
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
    """Add rows of purpose growth and capacity for samples of one source.

    first_bits: surprisal of the length to begin with. bits, cram: where vectors are not stored as
    bf16, the bits of a coordinate and the function that crams trials.
    """
    left = study.without_rows(samples, "capacity", num_mem=num_mem, bits=bits)
    unfinished = {(sample.source, sample.index) for sample in left}
    tried = study.rows_with("growth", num_mem=num_mem, bits=bits)
    stale = {id(row) for row in tried if (row["source"], row["text"]) in unfinished}
    study.folder.drop(lambda row: id(row) not in stale)

    def search(group: Sequence[Sample]) -> list[Row]:
        searches = {
            sample.index: _begin(study, sample, num_mem, first_bits, resolution) for sample in group
        }
        return _search_group(study, searches, num_mem, bits, cram or partial(_cram_freely, study))

    what = (
        f"exact, {bits} bit{'s' * (bits > 1)}, {num_mem} mem, {samples[0].source}"
        if samples
        else ""
    )
    study.measure([(what, left, search)], total=len(samples), last=what)


def _begin(
    study: Study, sample: Sample, num_mem: int, first_bits: float, resolution: float
) -> _TextSearch:
    longest = min(study.max_tokens - num_mem + 1, len(sample.ids))
    first = front_tokens(study.plain_bits(sample.ids[:longest]), first_bits)
    return _TextSearch(sample=sample, first_tokens=first, max_tokens=longest, resolution=resolution)


def _cram_freely(study: Study, trials: Sequence[Trial]) -> list[tuple[Outcome, None]]:
    # A length that cannot be held must not take the longest time of all.
    recipe = replace(study.recipe, gives_up=True)
    return [(outcome, None) for outcome in study.cram(trials, recipe=recipe)]


def _search_group(
    study: Study, searches: dict[int, _TextSearch], num_mem: int, bits: int, cram: CramAll
) -> list[Row]:
    """Rows of all attempts, and of the longest exact lengths. searches: by the sample's index."""
    rows: list[Row] = []
    while trials := list(_next_trials(study, searches.values(), num_mem)):
        found = cram(trials)
        new = study.rows_of("growth", [outcome for outcome, _ in found], bits=bits)
        for (outcome, stored_bits), row in zip(found, new, strict=True):
            row["detail"] = stored_bits
            search, is_exact = searches[outcome.trial.sample.index], bool(row["exact"])
            search.report(outcome.trial.num_tokens, is_exact=is_exact)
            if is_exact:
                search.best, search.best_row = outcome, row
        rows.extend(new)
    return rows + [_final_row(study, search, num_mem, bits) for search in searches.values()]


def _next_trials(study: Study, searches: Iterable[_TextSearch], num_mem: int) -> Iterator[Trial]:
    for search in searches:
        if (length := search.next_tokens) is not None:
            yield Trial(
                sample=search.sample, num_tokens=length, num_mem=num_mem, seed=study.seed,
                warm_mem=search.best.mem if search.best else None,
            )  # fmt: skip


def _final_row(study: Study, search: _TextSearch, num_mem: int, bits: int) -> Row:
    if search.best_row is not None:
        setting = "cut off" if search.is_cut_off else ""
        return {**search.best_row, "purpose": "capacity", "setting": setting}
    trial = Trial(sample=search.sample, num_tokens=0, num_mem=num_mem, seed=study.seed)
    head = row_head("capacity", study.model, trial, study.loaded.decode_lm.dim, bits=bits)
    return {**head, "plain_bits": 0.0, "info_gain_bits": 0.0, "exact": False}


def run_bins(study: Study, samples: Sequence[Sample], *, num_mem: int) -> None:
    """Add rows of purpose bin: runs at fixed lengths of the texts that do not hold so many tokens
    exactly, up to lengths beyond the capacity at 99 %."""
    exact = _rows(study, samples, num_mem, "capacity")
    held = {row["text"]: int(number(row, "num_tokens")) for row in exact}
    longest = min(min(len(sample.ids) for sample in samples), study.max_tokens - num_mem + 1)
    beyond, recipe = 0, study.recipe.for_entropy()
    for length in BINS:
        if not min(held.values()) < length <= longest:
            continue

        def run(group: Sequence[Sample], length: int = length) -> list[Row]:
            trials = study.trials(group, length, num_mem)
            return study.rows_of("bin", list(study.cram(trials, recipe=recipe)))

        left = study.without_rows(samples, "bin", num_mem=num_mem, bits=16, num_tokens=length)
        short = [sample for sample in left if held[sample.index] < length]
        what = f"{length} tokens, {num_mem} mem, {samples[0].source}"
        study.measure([(what, short, run)], total=len(samples))
        bins = _rows(study, samples, num_mem, "bin")
        is_beyond = mean_accuracy(exact, bins, length) < AT_99
        beyond += is_beyond
        if beyond >= _BINS_BEYOND or (is_beyond and _gained_share(bins, length) <= _FULL_SHARE):
            return


def _gained_share(bins: Sequence[Row], length: int) -> float:
    """The share of the cross-entropy that all runs at one length gain."""
    runs = [row for row in bins if row["num_tokens"] == length]
    gained = sum(number(row, "info_gain_bits") for row in runs)
    return gained / sum(number(row, "plain_bits") for row in runs)


def take_exact_bins(study: Study, samples: Sequence[Sample], *, num_mem: int) -> None:
    """Where a run at a fixed length is exact and longer than what the search has found, it becomes
    the text's longest exact length."""
    found = {row["text"]: row for row in _rows(study, samples, num_mem, "capacity")}
    longest: dict[Value, Row] = {}
    bins = _rows(study, samples, num_mem, "bin")
    for row in sorted(bins, key=lambda row: number(row, "num_tokens")):
        if row["exact"] and number(row, "num_tokens") > number(found[row["text"]], "num_tokens"):
            longest[row["text"]] = row
    old = {id(found[text]) for text in longest}
    study.folder.drop(lambda row: id(row) not in old)
    study.folder.add({**row, "purpose": "capacity"} for row in longest.values())


def _rows(study: Study, samples: Sequence[Sample], num_mem: int, purpose: str) -> list[Row]:
    """Rows of the samples' source, with vectors of 16 bits."""
    return study.rows_with(purpose, source=samples[0].source, num_mem=num_mem, bits=16)


def token_view(study: Study, sample: Sample) -> dict[str, Any]:
    """Cram the front of a text into one vector once more and record, for the report, every token's
    surprisal and margin, and at which steps it was right."""
    plain_bits = study.plain_bits(sample.ids[: study.max_tokens])
    num_tokens = front_tokens(plain_bits, study.first_bits(1))
    trial = Trial(sample=sample, num_tokens=num_tokens, seed=study.seed)
    seen: dict[int, list[bool]] = {}

    def record(runs: Sequence[Run]) -> None:
        (run,) = runs
        assert run.margins is not None
        seen[run.step] = (run.margins > 0).tolist()

    (outcome,) = study.cram([trial], on_step=record)
    steps = evenly(sorted(seen), _VIEWED_STEPS)
    return {
        "title": f"{study.model}: {sample.name}, {num_tokens} tokens in one vector",
        "steps": steps,
        "tokens": [
            {
                "text": study.loaded.tokens.bytes_of([token]).decode("utf-8", errors="replace"),
                "bits": float(outcome.plain.bits[position]),
                "margin": float(outcome.margins[position]),
                "right": [seen[step][position] for step in steps],
            }
            for position, token in enumerate(trial.ids)
        ],
    }
