"""Where vectors lie that hold the same text: the optimiser's paths, several solutions, the lines
between them and their neighbours.

Owns the study `geometry`, after Progressive Cramming (Tarasov et al. 2026): principal components
and length of a path, distance of solutions over how far they moved. Knows nothing of pictures.

Rows, by purpose:
- "path": of the run with the row's `seed`; setting "length", "displacement" or "components for
  99 %", detail its value.
- "pair": setting "seeds 0-1 cosine" or another of PAIR_MEASURES, detail its value.
- "interpolation": a trial row; setting "seeds 0-1", detail the share of the way to the second.
- "neighbour": a trial row; `seed` is the solution's, setting "direction 2", detail the distance
  as a share of the solution's length.
- "solution": a trial row for each seed, last of all: a text that has these has all of its rows.

Paths on two principal components are in another file of the folder: `lab.paths`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from llmzip.codecs.cram.slots import as_stored, seeded
from llmzip.lab.folder import Row
from llmzip.lab.measures import Spread, greedy_accuracy, grouped, mean_of, number, spread_of
from llmzip.lab.paths import OptimiserPath, num_components, write_paths
from llmzip.lab.runner import Run
from llmzip.lab.study import Study
from llmzip.lab.texts import Sample, check_length
from llmzip.lab.trials import Outcome, Trial, row_head
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
    """Add the rows and paths of samples of one source, each crammed into one vector from several
    seeds, except for those that an earlier run has added.

    num_points: on the line between two solutions, both included. radii: of neighbours. Raises
    InputError where a text is shorter than num_tokens.
    """
    check_length(samples, num_tokens)
    left = study.without_rows(samples, "solution")
    for done, sample in enumerate(samples):
        if sample not in left:
            continue
        study.on_progress(f"{num_seeds} solutions of {num_tokens} tokens", done, len(samples))
        outcomes, paths = _solve(study, sample, num_tokens, num_seeds)
        rows = [
            *_path_rows(study, outcomes, paths),
            *_pair_rows(study, outcomes, paths),
            *_line_rows(study, outcomes, num_points),
            *_neighbour_rows(study, outcomes, radii),
            *study.decoded_rows("solution", outcomes),
        ]
        # Before the rows, which say that everything of this text is there.
        write_paths(study.folder.path, study.model, outcomes, paths)
        study.folder.add(rows)
    study.on_progress("geometry", len(samples), len(samples))


def _solve(
    study: Study, sample: Sample, num_tokens: int, num_seeds: int
) -> tuple[list[Outcome], list[OptimiserPath]]:
    """Outcomes and their paths, by seed."""
    seeds = range(study.seed, study.seed + num_seeds)
    paths = {seed: OptimiserPath() for seed in seeds}

    def record(runs: Sequence[Run]) -> None:
        for run in runs:
            paths[run.trial.seed].add(run)

    trials = [Trial(sample=sample, num_tokens=num_tokens, seed=seed) for seed in seeds]
    found = {outcome.trial.seed: outcome for outcome in study.cram(trials, on_step=record)}
    for seed, outcome in found.items():
        paths[seed].end(outcome)
    return [found[seed] for seed in seeds], list(paths.values())


def _path_rows(
    study: Study, outcomes: Sequence[Outcome], paths: Sequence[OptimiserPath]
) -> Iterator[Row]:
    for outcome, path in zip(outcomes, paths, strict=True):
        components = float(num_components(torch.stack(path.points)))
        yield _plain_row(study, "path", outcome, LENGTH, path.length)
        yield _plain_row(study, "path", outcome, DISPLACEMENT, float(path.move.norm()))
        yield _plain_row(study, "path", outcome, COMPONENTS, components)


def _pair_rows(
    study: Study, outcomes: Sequence[Outcome], paths: Sequence[OptimiserPath]
) -> Iterator[Row]:
    for (one, a), (other, b) in combinations(zip(outcomes, paths, strict=True), 2):
        displacement = float(a.move.norm() + b.move.norm()) / 2
        distance = float((one.mem - other.mem).norm())
        for name, value in (
            (DISTANCE, distance / displacement if displacement else math.nan),
            (COSINE, _cosine(one.mem.flatten(), other.mem.flatten())),
            (MOVES_COSINE, _cosine(a.move, b.move)),
        ):
            yield _plain_row(study, "pair", one, f"{_pair_name(one, other)} {name}", value)


def _line_rows(study: Study, outcomes: Sequence[Outcome], num_points: int) -> Iterator[Row]:
    """Along the straight line between each two solutions, both ends included."""
    # Rounded as in a file of rows, so that an earlier run's shares are equal to these.
    shares = [float(f"{place / (num_points - 1):.6g}") for place in range(num_points)]
    for one, other in combinations(outcomes, 2):
        mems = [torch.lerp(one.mem, other.mem, share) for share in shares]
        tried = _measured(study, one.trial, mems)
        name = _pair_name(one, other)
        yield from study.decoded_rows("interpolation", tried, setting=name, details=shares)


def _neighbour_rows(
    study: Study, outcomes: Sequence[Outcome], radii: Sequence[float]
) -> Iterator[Row]:
    """Around each solution, in random directions, the same ones at every distance."""
    for outcome in outcomes:
        for place in range(_DIRECTIONS):
            seed = f"{outcome.trial.seed} {outcome.trial.sample.key} direction {place}"
            direction = torch.randn(outcome.mem.shape, generator=seeded(seed))
            step = direction / direction.norm() * outcome.mem.norm()
            mems = [outcome.mem + radius * step for radius in radii]
            tried = _measured(study, outcome.trial, mems)
            name = f"direction {place}"
            yield from study.decoded_rows("neighbour", tried, setting=name, details=radii)


def _measured(study: Study, trial: Trial, mems: Iterable[Tensor]) -> list[Outcome]:
    """Outcomes of vectors that were not optimised."""
    check_cancelled(study.cancel)
    runner = study.runner()
    return [runner.outcome(trial, as_stored(mem)) for mem in mems]


def _plain_row(study: Study, purpose: str, outcome: Outcome, setting: str, value: float) -> Row:
    head = row_head(purpose, study.model, outcome.trial, outcome.mem.shape[1])
    return {**head, "setting": setting, "detail": value}


def _pair_name(one: Outcome, other: Outcome) -> str:
    return f"seeds {one.trial.seed}-{other.trial.seed}"


def _cosine(a: Tensor, b: Tensor) -> float:
    sizes = float(a.norm() * b.norm())
    return float(a @ b) / sizes if sizes else math.nan


def geometry_summary(rows: Sequence[Row]) -> dict[str, Any]:
    """By model: mean, std and count of what paths and pairs have; accuracy along the lines between
    solutions and around them."""
    models = dict.fromkeys(str(row["model"]) for row in rows if row["purpose"] == "solution")
    return {model: _summary([row for row in rows if row["model"] == model]) for model in models}


def _summary(rows: Sequence[Row]) -> dict[str, Any]:
    solutions = [row for row in rows if row["purpose"] == "solution"]
    lengths, moves = _details(rows, "path", LENGTH), _details(rows, "path", DISPLACEMENT)
    both = zip(lengths, moves, strict=True)
    texts = grouped(solutions, "source", "text")
    gains = [spread_of(group, "info_gain_bits") for group in texts.values()]
    figures = {
        "steps": [number(row, "steps") for row in solutions],
        "components_99": _details(rows, "path", COMPONENTS),
        "length": lengths,
        "displacement": moves,
        "length_over_displacement": [a / b if b else math.nan for a, b in both],
        "distance_over_displacement": _details(rows, "pair", DISTANCE),
        "cosine": _details(rows, "pair", COSINE),
        "cosine_of_moves": _details(rows, "pair", MOVES_COSINE),
        # Standard deviation of the gain between a text's seeds, over its mean.
        "gain_variation": [gain.std / gain.mean for gain in gains if gain.mean],
    }
    return {
        "texts": len(texts),
        "solutions": len(solutions),
        "exact_share": mean_of(bool(row["exact"]) for row in solutions),
        **{name: asdict(Spread.of(values)) for name, values in figures.items()},
        "interpolation": _curve(rows, "interpolation"),
        "neighbours": _curve(rows, "neighbour"),
    }


def _details(rows: Sequence[Row], purpose: str, measure: str) -> list[float]:
    """Values of a measure: a setting is its name, or the two seeds and its name."""
    return [
        number(row, "detail")
        for row in rows
        if row["purpose"] == purpose
        and (row["setting"] == measure or str(row["setting"]).split(" ", 2)[-1] == measure)
    ]


def _curve(rows: Sequence[Row], purpose: str) -> list[dict[str, float]]:
    """Accuracies at each detail, smallest first."""
    groups = grouped((row for row in rows if row["purpose"] == purpose), "detail").values()
    return [
        {
            "at": number(group[0], "detail"),
            "count": len(group),
            "accuracy": spread_of(group, "accuracy").mean,
            "greedy_accuracy": mean_of(map(greedy_accuracy, group)),
            "exact_share": mean_of(bool(row["exact"]) for row in group),
        }
        for group in sorted(groups, key=lambda group: number(group[0], "detail"))
    ]
