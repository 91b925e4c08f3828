"""Where vectors lie that hold the same text: the optimiser's paths, several solutions, what is
between them and around them.

Owns the study `geometry`, after Progressive Cramming (Tarasov et al. 2026): principal components
and length of a path, distance of solutions over how far they moved. Knows nothing of pictures.

Rows, where setting and detail say what each is of:
- "path": `seed`'s; setting "length", "displacement" or "components for 99 %", detail its value.
- "pair": setting "seeds 0-1 cosine" or another of PAIR_MEASURES, detail its value.
- "interpolation": a trial row; setting "seeds 0-1", detail the share of the way to the second.
- "neighbour": a trial row; `seed` is the solution's, setting "direction 2", detail the distance
  as a share of the solution's length.
- "solution": a trial row for each seed, last of all: a text that has these has all of its rows.

Paths on two principal components are in another file of the folder: `lab.trails`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from llmzip.codecs.cram.optimizer import as_stored, seeded
from llmzip.lab.crammer import Outcome, Run, Trial
from llmzip.lab.folder import Row, Value
from llmzip.lab.measures import Spread, mean_of
from llmzip.lab.paths import Trail, keep_paths, num_components
from llmzip.lab.rows import greedy_accuracy, number, row_head, trial_row
from llmzip.lab.study import Study
from llmzip.lab.texts import Sample, check_length
from llmzip.progress import check_cancelled

RADII = (0.01, 0.03, 0.1, 0.3, 1.0)  # of neighbours, as shares of the solution's length
PATH_MEASURES = LENGTH, DISPLACEMENT, COMPONENTS = "length", "displacement", "components for 99 %"
# Distance: over the mean displacement of the two. Moves: from a run's start to its solution.
PAIR_MEASURES = DISTANCE, COSINE, MOVES_COSINE = "distance", "cosine", "cosine of moves"
_DIRECTIONS = 3  # in which neighbours are tried


def measure_geometry(
    study: Study,
    samples: Sequence[Sample],
    *,
    num_tokens: int,
    num_seeds: int = 4,
    num_points: int = 11,
    radii: Sequence[float] = RADII,
) -> None:
    """Leave the rows and paths of samples of one source, each crammed into one vector from several
    seeds; those that an earlier run has left excepted.

    num_points: on the line between two solutions, both included. radii: of neighbours. Raises
    InputError where a text is shorter than num_tokens.
    """
    check_length(samples, num_tokens)
    known = {(row["source"], row["text"]) for row in study.own_rows if row["purpose"] == "solution"}
    for done, sample in enumerate(samples):
        if (sample.source, sample.index) in known:
            continue
        study.tell(f"{num_seeds} solutions of {num_tokens} tokens", done, len(samples))
        outcomes, trails = _solve(study, sample, num_tokens, num_seeds)
        rows = [
            *_path_rows(study, outcomes, trails),
            *_pair_rows(study, outcomes, trails),
            *_line_rows(study, outcomes, num_points),
            *_neighbour_rows(study, outcomes, radii),
            *_trial_rows(study, "solution", outcomes, "", [None] * num_seeds),
        ]
        keep_paths(
            study.folder.path, study.model, outcomes, trails
        )  # first: the rows say that all of it is there
        study.folder.add(rows)
    study.tell("geometry", len(samples), len(samples))


def _solve(
    study: Study, sample: Sample, num_tokens: int, num_seeds: int
) -> tuple[list[Outcome], list[Trail]]:
    """Outcomes and their paths, by seed."""
    seeds = range(study.seed, study.seed + num_seeds)
    trails = {seed: Trail() for seed in seeds}

    def note(runs: Sequence[Run]) -> None:
        for run in runs:
            trails[run.trial.seed].add(run)

    trials = [Trial(sample=sample, num_tokens=num_tokens, seed=seed) for seed in seeds]
    found = {outcome.trial.seed: outcome for outcome in study.cram(trials, on_step=note)}
    for seed, outcome in found.items():
        trails[seed].end(outcome)
    return [found[seed] for seed in seeds], [trails[seed] for seed in seeds]


def _path_rows(study: Study, outcomes: Sequence[Outcome], trails: Sequence[Trail]) -> Iterator[Row]:
    for outcome, trail in zip(outcomes, trails, strict=True):
        components = num_components(torch.stack(trail.points))
        values = trail.length, float(trail.move.norm()), float(components)
        for setting, value in zip(PATH_MEASURES, values, strict=True):
            yield _plain_row(study, "path", outcome, setting, value)


def _pair_rows(study: Study, outcomes: Sequence[Outcome], trails: Sequence[Trail]) -> Iterator[Row]:
    for (one, a), (other, b) in combinations(zip(outcomes, trails, strict=True), 2):
        displacement = float(a.move.norm() + b.move.norm()) / 2
        distance = float((one.mem - other.mem).norm())
        values = (
            distance / displacement if displacement else math.nan,
            _cosine(one.mem.flatten(), other.mem.flatten()),
            _cosine(a.move, b.move),
        )
        for name, value in zip(PAIR_MEASURES, values, strict=True):
            yield _plain_row(study, "pair", one, f"{_pair_name(one, other)} {name}", value)


def _line_rows(study: Study, outcomes: Sequence[Outcome], num_points: int) -> Iterator[Row]:
    """Along the straight line between each two solutions, both ends included."""
    # Rounded as in a row, so that those of an earlier run are the same.
    shares = [float(f"{place / (num_points - 1):.6g}") for place in range(num_points)]
    for one, other in combinations(outcomes, 2):
        mems = [torch.lerp(one.mem, other.mem, share) for share in shares]
        tried = _tried(study, one.trial, mems)
        yield from _trial_rows(study, "interpolation", tried, _pair_name(one, other), shares)


def _neighbour_rows(
    study: Study, outcomes: Sequence[Outcome], radii: Sequence[float]
) -> Iterator[Row]:
    """Around each solution, in random directions, the same ones at every distance."""
    for outcome in outcomes:
        for place in range(_DIRECTIONS):
            seed = f"{outcome.trial.seed} {outcome.trial.sample.key} direction {place}"
            way = _direction(outcome.mem, seed) * outcome.mem.norm()
            tried = _tried(study, outcome.trial, [outcome.mem + radius * way for radius in radii])
            yield from _trial_rows(study, "neighbour", tried, f"direction {place}", radii)


def _tried(study: Study, trial: Trial, mems: Iterable[Tensor]) -> list[Outcome]:
    """What vectors do that nobody optimised."""
    check_cancelled(study.cancel)
    crammer = study.crammer()
    return [
        crammer.outcome(trial, as_stored(mem), steps=0, best_step=0, seconds=0.0) for mem in mems
    ]


def _trial_rows(
    study: Study,
    purpose: str,
    outcomes: Sequence[Outcome],
    setting: str,
    details: Sequence[float | None],
) -> list[Row]:
    """Rows of outcomes that are decoded, whether all right or not."""
    return [
        trial_row(purpose, study.model, outcome, greedy, setting=setting, detail=detail)
        for outcome, greedy, detail in zip(outcomes, study.decode(outcomes), details, strict=True)
    ]


def _plain_row(study: Study, purpose: str, outcome: Outcome, setting: str, value: float) -> Row:
    head = row_head(purpose, study.model, outcome.trial, outcome.mem.shape[1])
    return {**head, "setting": setting, "detail": value}


def _pair_name(one: Outcome, other: Outcome) -> str:
    return f"seeds {one.trial.seed}-{other.trial.seed}"


def _cosine(a: Tensor, b: Tensor) -> float:
    sizes = float(a.norm() * b.norm())
    return float(a @ b) / sizes if sizes else math.nan


def _direction(mem: Tensor, seed: str) -> Tensor:
    """A random direction, of length 1, in the space of mem."""
    way = torch.randn(mem.shape, generator=seeded(seed))
    length: Tensor = way.norm()
    return way / length


def geometry_summary(rows: Sequence[Row]) -> dict[str, Any]:
    """By model: figures of paths and pairs as mean, std and count; accuracy along lines between
    solutions and around them."""
    models = dict.fromkeys(str(row["model"]) for row in rows if row["purpose"] == "solution")
    return {model: _summary([row for row in rows if row["model"] == model]) for model in models}


def _summary(rows: Sequence[Row]) -> dict[str, Any]:
    solutions = [row for row in rows if row["purpose"] == "solution"]
    paths = {name: _details(rows, "path", name) for name in PATH_MEASURES}
    ratios = [
        length / move if move else math.nan
        for length, move in zip(paths[LENGTH], paths[DISPLACEMENT], strict=True)
    ]
    gains: dict[tuple[Value, Value], list[float]] = {}
    for row in solutions:
        key = row["source"], row["text"]
        gains.setdefault(key, []).append(number(row, "info_gain_bits"))
    spreads = [Spread.of(values) for values in gains.values()]
    figures = {
        "steps": [number(row, "steps") for row in solutions],
        "components_99": paths[COMPONENTS],
        "length": paths[LENGTH],
        "displacement": paths[DISPLACEMENT],
        "length_over_displacement": ratios,
        "distance_over_displacement": _details(rows, "pair", DISTANCE),
        "cosine": _details(rows, "pair", COSINE),
        "cosine_of_moves": _details(rows, "pair", MOVES_COSINE),
        # Standard deviation of the gain between a text's seeds, over its mean.
        "gain_variation": [each.std / each.mean for each in spreads if each.mean],
    }
    return {
        "texts": len(gains),
        "solutions": len(solutions),
        "exact_share": mean_of(bool(row["exact"]) for row in solutions),
        **{name: asdict(Spread.of(values)) for name, values in figures.items()},
        "interpolation": _curve(rows, "interpolation"),
        "neighbours": _curve(rows, "neighbour"),
    }


def _details(rows: Sequence[Row], purpose: str, measure: str) -> list[float]:
    """Values of a measure: a setting is its name, or ends with it behind the seeds."""
    return [
        number(row, "detail")
        for row in rows
        if row["purpose"] == purpose
        and (row["setting"] == measure or str(row["setting"]).split(" ", 2)[-1] == measure)
    ]


def _curve(rows: Sequence[Row], purpose: str) -> list[dict[str, float]]:
    """Accuracies at each detail, smallest first."""
    places: dict[float, list[Row]] = {}
    for row in rows:
        if row["purpose"] == purpose:
            places.setdefault(number(row, "detail"), []).append(row)
    return [
        {
            "at": at,
            "count": len(group),
            "accuracy": mean_of(number(row, "accuracy") for row in group),
            "greedy_accuracy": mean_of(map(greedy_accuracy, group)),
            "exact_share": mean_of(bool(row["exact"]) for row in group),
        }
        for at, group in sorted(places.items())
    ]
