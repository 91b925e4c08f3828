"""Paths, solutions and what is around them: the study `geometry`, on tiny models."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llmzip.codecs.cram.slots import as_stored
from llmzip.errors import InputError, Interrupted
from llmzip.lab.folder import Row, read_rows
from llmzip.lab.geometry import PAIR_MEASURES, PATH_MEASURES, geometry_summary, measure_geometry
from llmzip.lab.paths import PATHS, OptimiserPath, num_components, on_two_components, read_paths
from llmzip.lab.recipes import Recipe
from llmzip.lab.runner import Run
from llmzip.lab.trials import Trial
from llmzip.lm.loaded import LoadedModel
from tests.lab_study import (
    accuracy_by_hand,
    decoded_by_hand,
    is_close,
    opened_study,
    seen_outcomes,
    texts_of,
    timeless_rows,
    tiny_loaded_model,
)
from tests.tiny_models import ARCHITECTURES

RECIPE = Recipe(max_steps=40, patience=40)
NUM_TOKENS = 6
ASK: dict[str, Any] = {
    "num_tokens": NUM_TOKENS, "num_seeds": 3, "num_points": 4, "radii": (1e-4, 30.0),
}  # fmt: skip


@pytest.fixture(scope="module", params=ARCHITECTURES)
def loaded(request: pytest.FixtureRequest, tiny_model: Callable[..., Path]) -> LoadedModel:
    return tiny_loaded_model(tiny_model, request.param)


# Principal components


def test_components_of_points_on_a_line_and_in_a_plane() -> None:
    generator = torch.Generator().manual_seed(0)
    way, other = torch.linalg.qr(torch.randn(20, 2, generator=generator)).Q.T
    line = torch.linspace(-3, 5, 9)[:, None] * way + 100.0
    assert num_components(line) == 1 and num_components(line[:1]) == 0
    circle = torch.arange(8) * (2 * math.pi / 8)
    plane = circle.cos()[:, None] * way + circle.sin()[:, None] * other
    assert num_components(plane) == 2
    flat, shares = on_two_components(plane + 7.0)
    assert shares == pytest.approx((0.5, 0.5))
    # In a plane, distances are what they were.
    assert torch.allclose(torch.cdist(flat, flat), torch.cdist(plane, plane).double(), atol=1e-4)
    flat, shares = on_two_components(line)
    assert shares == pytest.approx((1.0, 0.0), abs=1e-6)
    assert float(flat[:, 1].abs().max()) < 1e-3
    assert on_two_components(line[:1])[0].tolist() == [[0.0, 0.0]]


def test_as_many_components_as_the_share_needs() -> None:
    points = torch.diag(torch.tensor([10.0, 3.0, 1.0]))
    points = torch.cat([points, -points])  # variances as 100, 9, 1
    shares = {share: num_components(points, share) for share in (0.9, 0.95, 0.99, 0.995)}
    assert shares == {0.9: 1, 0.95: 2, 0.99: 2, 0.995: 3}


# Paths


def run_at(step: int, point: torch.Tensor, best_step: int) -> Run:
    return SimpleNamespace(step=step, mem=point, best_step=best_step)  # type: ignore[return-value]


@pytest.mark.parametrize("num_steps", [1, 10, 257, 1500])
def test_long_paths_keep_few_points_and_their_whole_length(num_steps: int) -> None:
    path = OptimiserPath()
    best = num_steps * 2 // 3
    for step in range(num_steps):
        point = torch.tensor([[0.0, 1.0 if step % 2 else 0.0]])  # to and fro
        path.add(run_at(step, point, min(step, best)))
    mem = torch.tensor([[0.0, best % 2.0]])
    path.end(SimpleNamespace(best_step=best, mem=mem))  # type: ignore[arg-type]
    assert path.length == best
    assert len(path.points) == len(path.steps) <= 258
    assert path.steps[0] == 0 and path.steps[-1] == best
    assert path.steps == sorted(set(path.steps))
    assert [float(point[1]) for point in path.points] == [step % 2 for step in path.steps]
    assert torch.equal(path.move, torch.tensor([0.0, best % 2.0]))


def test_a_path_goes_from_the_start_to_the_solution(loaded: LoadedModel, tmp_path: Path) -> None:
    (sample,) = texts_of(loaded, count=1, num_tokens=NUM_TOKENS)
    path, points = OptimiserPath(), []

    def note(runs: Any) -> None:
        path.add(runs[0])
        points.append(as_stored(runs[0].mem).flatten())

    with opened_study(loaded, tmp_path / "run", RECIPE) as study:
        (outcome,) = study.cram([Trial(sample=sample, num_tokens=6, seed=3)], on_step=note)
    path.end(outcome)
    start = as_stored(RECIPE.start(loaded.lm, 1, f"3 {sample.key}")).flatten()
    assert torch.equal(path.points[0], start)
    assert torch.equal(path.points[-1], outcome.mem.flatten())
    assert path.steps == list(range(outcome.best_step + 1))
    way = torch.stack(points[: outcome.best_step + 1])
    assert path.length == pytest.approx(float(way.diff(dim=0).norm(dim=1).sum()), rel=1e-4)
    assert path.length >= float(path.move.norm()) * (1 - 1e-5) > 0


# The study


def of(rows: list[Row], purpose: str, **wanted: object) -> list[Row]:
    wanted = {"purpose": purpose, **wanted}
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def test_rows_are_of_the_vectors(loaded: LoadedModel, tmp_path: Path) -> None:
    samples = texts_of(loaded, count=1, num_tokens=NUM_TOKENS)
    with opened_study(loaded, tmp_path / "run", RECIPE) as study, seen_outcomes(study) as outcomes:
        measure_geometry(study, samples, **ASK)
    rows = read_rows(tmp_path / "run")
    solutions = of(rows, "solution")
    by_seed = {outcome.trial.seed: outcome for outcome in outcomes}
    assert [row["seed"] for row in solutions] == sorted(by_seed) == [0, 1, 2]
    assert len(rows) == 3 * 3 + 3 * 3 + 3 * 4 + 3 * 3 * 2 + 3 and rows[-3:] == solutions
    for row in solutions:
        outcome = by_seed[row["seed"]]  # type: ignore[index]
        assert is_close(row["accuracy"], accuracy_by_hand(loaded, outcome))  # type: ignore[arg-type]
        ids = decoded_by_hand(loaded, outcome.mem, NUM_TOKENS)
        right = [a == b for a, b in zip(ids, outcome.trial.ids, strict=True)]
        assert (row["greedy_right"], row["exact"]) == (sum(right), all(right))
    for seed, outcome in by_seed.items():
        start = as_stored(RECIPE.start(loaded.lm, 1, f"{seed} {samples[0].key}"))
        length, displacement, components = (
            of(rows, "path", seed=seed, setting=name)[0]["detail"] for name in PATH_MEASURES
        )
        assert is_close(displacement, float((outcome.mem - start).norm()))  # type: ignore[arg-type]
        assert length >= displacement * (1 - 1e-5)  # type: ignore[operator]
        assert 1 <= components <= max(1, outcome.best_step)  # type: ignore[operator]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        check_pair(rows, a, b, by_seed, samples[0].key, loaded)
    for seed in by_seed:
        near = of(rows, "neighbour", seed=seed, detail=1e-4)
        assert [row["setting"] for row in near] == [f"direction {place}" for place in range(3)]
        # So near, most coordinates round to what they were.
        solved = solutions[seed]["info_gain_bits"]
        far = of(rows, "neighbour", seed=seed, detail=30)
        moved = [abs(row["info_gain_bits"] - solved) for row in (*near, *far)]  # type: ignore[operator]
        assert max(moved[:3]) < min(moved[3:])


def test_neighbours_are_as_far_as_they_say(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tiny_loaded_model(tiny_model, "opt")
    samples = texts_of(loaded, count=1, num_tokens=NUM_TOKENS)
    tried: list[torch.Tensor] = []
    geometry = sys.modules["llmzip.lab.geometry"]  # llmzip.lab has a function of that name
    measured = geometry._measured

    def note(study: Any, trial: Trial, mems: Any) -> Any:
        tried.extend(mems := list(mems))
        return measured(study, trial, mems)

    monkeypatch.setattr(geometry, "_measured", note)
    radii = (0.1, 1.0)
    with opened_study(loaded, tmp_path / "run", RECIPE) as study, seen_outcomes(study) as outcomes:
        measure_geometry(study, samples, num_tokens=NUM_TOKENS, num_seeds=1, radii=radii)
    (outcome,) = outcomes  # one seed: no pairs
    moves = [mem - outcome.mem for mem in tried]
    lengths = [float(move.norm() / outcome.mem.norm()) for move in moves]
    assert lengths == pytest.approx(radii * 3, rel=1e-4)
    ways = torch.cat([move / move.norm() for move in moves])
    cosines = ways @ ways.T
    assert torch.allclose(cosines.diagonal(1)[::2], torch.ones(3), atol=1e-4)  # one direction each
    assert float(cosines[0, 2::2].abs().max()) < 0.9


def check_pair(
    rows: list[Row], a: int, b: int, by_seed: dict[Any, Any], key: str, loaded: LoadedModel
) -> None:
    name = f"seeds {a}-{b}"
    one, other = (by_seed[seed].mem.flatten() for seed in (a, b))
    starts = [as_stored(RECIPE.start(loaded.lm, 1, f"{seed} {key}")).flatten() for seed in (a, b)]
    moves = one - starts[0], other - starts[1]
    found = [of(rows, "pair", setting=f"{name} {each}")[0]["detail"] for each in PAIR_MEASURES]
    mean_move = float(moves[0].norm() + moves[1].norm()) / 2
    cosine = torch.nn.functional.cosine_similarity
    wanted = (
        float((one - other).norm()) / mean_move,
        float(cosine(one, other, dim=0)),
        float(cosine(*moves, dim=0)),
    )
    assert found == pytest.approx(wanted, rel=1e-3, abs=1e-5)
    line = of(rows, "interpolation", setting=name)
    assert [row["detail"] for row in line] == [0, 0.333333, 0.666667, 1]
    same = "accuracy", "greedy_right", "first_wrong", "min_margin"
    for end, seed in ((line[0], a), (line[-1], b)):
        (solution,) = of(rows, "solution", seed=seed)
        assert [end[each] for each in same] == [solution[each] for each in same]


def test_a_run_that_was_stopped_goes_on(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    loaded = tiny_loaded_model(tiny_model, "llama")
    samples = texts_of(loaded, count=3, num_tokens=NUM_TOKENS)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with opened_study(loaded, whole, RECIPE) as study:
        measure_geometry(study, samples, **ASK)
        summary = geometry_summary(study.own_rows)
    for stop in (0, 2):
        with opened_study(
            loaded, parts, RECIPE, cancel_at=lambda _, done, s=stop: done == s
        ) as study:  # type: ignore[misc]
            with pytest.raises(Interrupted):
                measure_geometry(study, samples, **ASK)
            assert len(of(study.own_rows, "solution")) == 3 * stop
            assert len(read_paths(parts)) == stop
    # Paths are written before rows: those of a text without rows are written anew.
    stale = read_paths(parts) + [{**read_paths(parts)[0], "text": 2, "runs": []}]
    (parts / PATHS).write_text(json.dumps({"paths": stale}))
    with opened_study(loaded, parts, RECIPE) as study:
        measure_geometry(study, samples, **ASK)
        again = geometry_summary(study.own_rows)
    assert timeless_rows(parts) == timeless_rows(whole)
    assert read_paths(parts) == read_paths(whole)
    # Rows of an earlier run have six digits; they fall in with the others all the same.
    places = [point["at"] for point in again[study.model]["interpolation"]]
    assert places == [point["at"] for point in summary[study.model]["interpolation"]]
    assert [point["count"] for point in again[study.model]["interpolation"]] == [9] * 4
    with opened_study(loaded, whole, RECIPE) as study, seen_outcomes(study) as outcomes:
        measure_geometry(study, samples, **ASK)
    assert not outcomes and timeless_rows(whole) == timeless_rows(parts)


def test_paths_that_are_kept(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    loaded, path = tiny_loaded_model(tiny_model, "opt"), tmp_path / "run"
    samples = texts_of(loaded, count=2, num_tokens=NUM_TOKENS)
    recipe = Recipe(max_steps=90, patience=90, min_margin=50.0)  # which is never reached
    with opened_study(loaded, path, recipe) as study, seen_outcomes(study) as outcomes:
        measure_geometry(study, samples, num_tokens=NUM_TOKENS, num_seeds=2, radii=(1.0,))
    best = {(o.trial.sample.index, o.trial.seed): o.best_step for o in outcomes}
    assert max(best.values()) > 60
    found = read_paths(path)
    assert [(each["source"], each["text"]) for each in found] == [("natural", 0), ("natural", 1)]
    for each in found:
        assert [run["seed"] for run in each["runs"]] == [0, 1]
        assert 1 >= each["shown_variance"][0] >= each["shown_variance"][1] > 0
        for run in each["runs"]:
            assert run["steps"][0] == 0 and run["steps"][-1] == best[each["text"], run["seed"]]
            assert run["steps"] == sorted(set(run["steps"]))
            assert 2 <= len(run["steps"]) == len(run["points"]) <= 60
            assert all(len(point) == 2 for point in run["points"])
    assert read_paths(tmp_path) == []
    (path / PATHS).write_text("[]")
    with pytest.raises(InputError, match="cannot read"):
        read_paths(path)


def test_texts_that_are_too_short(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    loaded = tiny_loaded_model(tiny_model, "opt")
    samples = texts_of(loaded, count=1, num_tokens=5)
    with opened_study(loaded, tmp_path / "run", RECIPE) as study:
        with pytest.raises(InputError, match="fewer than 6 tokens"):
            measure_geometry(study, samples, num_tokens=6)


# The summary


def row(purpose: str, setting: str, detail: float | None, **more: Any) -> dict[str, Any]:
    return {
        "purpose": purpose, "model": "m", "source": "natural", "text": 0, "seed": 0,
        "num_tokens": 10, "setting": setting, "detail": detail, "accuracy": 1.0,
        "greedy_right": 10, "exact": True, "steps": 4, "info_gain_bits": 90.0, **more,
    }  # fmt: skip


def test_the_summary() -> None:
    rows = [
        row("path", "length", 30.0), row("path", "displacement", 10.0),
        row("path", "components for 99 %", 3),
        row("path", "length", 50.0, seed=1), row("path", "displacement", 10.0, seed=1),
        row("path", "components for 99 %", 5, seed=1),
        row("pair", "seeds 0-1 distance", 1.5), row("pair", "seeds 0-1 cosine", 0.5),
        row("pair", "seeds 0-1 cosine of moves", 0.25),
        row("interpolation", "seeds 0-1", 1), row("interpolation", "seeds 0-1", 0),
        row("interpolation", "seeds 0-1", 0.5, accuracy=0.5, greedy_right=2, exact=False),
        row("interpolation", "seeds 0-2", 0.5, accuracy=0.3, greedy_right=0, exact=False),
        row("neighbour", "direction 0", 0.1), row("neighbour", "direction 1", 0.1, exact=False),
        row("solution", None, None),  # type: ignore[arg-type]
        row("solution", "", None, seed=1, steps=6, exact=False, info_gain_bits=110.0),
        row("solution", "", None, model="n", steps=7),
    ]  # fmt: skip
    summary = geometry_summary(rows)
    assert list(summary) == ["m", "n"] and summary["n"]["steps"]["mean"] == 7
    found = summary["m"]
    assert (found["texts"], found["solutions"], found["exact_share"]) == (1, 2, 0.5)
    means = {name: each["mean"] for name, each in found.items() if isinstance(each, dict)}
    assert means == {
        "steps": 5, "components_99": 4, "length": 40, "displacement": 10,
        "length_over_displacement": 4, "distance_over_displacement": 1.5, "cosine": 0.5,
        "cosine_of_moves": 0.25, "gain_variation": pytest.approx(math.sqrt(200) / 100),
    }  # fmt: skip
    assert found["interpolation"] == [
        {"at": 0, "count": 1, "accuracy": 1, "greedy_accuracy": 1, "exact_share": 1},
        {"at": 0.5, "count": 2, "accuracy": 0.4, "greedy_accuracy": 0.1, "exact_share": 0},
        {"at": 1, "count": 1, "accuracy": 1, "greedy_accuracy": 1, "exact_share": 1},
    ]
    (near,) = found["neighbours"]
    assert (near["at"], near["count"], near["exact_share"]) == (0.1, 2, 0.5)
    assert geometry_summary([]) == {}
