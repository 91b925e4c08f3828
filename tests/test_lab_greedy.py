"""What 99 % is worth when it is decoded: the study `greedy`, on tiny models."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmzip.codecs.cram.engine import OPTIMISER_SLACK
from llmzip.errors import InputError, Interrupted
from llmzip.lab.folder import read_rows
from llmzip.lab.greedy import greedy_summary, measure_greedy, stop_settings
from llmzip.lab.recipes import Recipe
from llmzip.lab.runner import TrialRunner
from llmzip.lm.loaded import LoadedModel
from tests.lab_study import (
    BF16_ARCH,
    accuracy_by_hand,
    decoded_by_hand,
    opened_study,
    seen_outcomes,
    texts_of,
    timeless_rows,
    tiny_loaded_model,
)
from tests.tiny_models import ARCHITECTURES

RECIPE = Recipe(max_steps=60, patience=60)
NUM_TOKENS, MARGINS = 6, (0.0, 0.5)
SETTINGS = ["83.3 %", "margin 0", "margin 0.5"]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def loaded(request: pytest.FixtureRequest, tiny_model: Callable[..., Path]) -> LoadedModel:
    return tiny_loaded_model(tiny_model, request.param)


# Settings


@pytest.mark.parametrize("num_tokens", [*range(2, 130), 199, 200, 300, 1000])
def test_early_ends_leave_a_token_at_least(num_tokens: int) -> None:
    early, *rest = stop_settings(RECIPE, num_tokens, MARGINS)
    enough = math.ceil(early.recipe.until * num_tokens)  # as `lab.runner` counts
    assert enough == min(num_tokens - 1, math.ceil(0.99 * num_tokens))
    assert early.recipe.min_margin == 0.0
    assert [(s.recipe.until, s.recipe.min_margin) for s in rest] == [(1.0, 0.0), (1.0, 0.5)]
    assert not any(s.recipe.slack for s in (early, *rest))


def test_settings_say_what_they_are() -> None:
    def names(num_tokens: int) -> list[str]:
        return [setting.name for setting in stop_settings(RECIPE, num_tokens, (2.0, 0.05, 2))]

    assert names(400) == names(100) == ["99 %", "margin 0.05", "margin 2"]
    assert names(60)[0] == "98.3 %" and names(1) == ["margin 0.05", "margin 2"]


def test_slack_can_be_done_without(tiny_model: Callable[..., Path]) -> None:
    loaded = tiny_loaded_model(tiny_model, BF16_ARCH)

    def slack(recipe: Recipe) -> float:
        return TrialRunner(loaded.lm, loaded.decode_lm, recipe, start_id=None).slack

    assert slack(Recipe()) == OPTIMISER_SLACK and slack(Recipe(slack=False)) == 0.0


# Measuring


def test_rows_are_what_vectors_do(loaded: LoadedModel, tmp_path: Path) -> None:
    samples = texts_of(loaded, count=2, num_tokens=NUM_TOKENS)
    with opened_study(loaded, tmp_path / "run", RECIPE) as study, seen_outcomes(study) as outcomes:
        measure_greedy(study, samples, num_tokens=NUM_TOKENS, margins=MARGINS)
        rows = study.own_rows
    ours = [row for row in rows if " in " not in str(row["setting"])]
    assert [row["setting"] for row in ours] == [s for s in SETTINGS for _ in samples]
    for row, outcome in zip(ours, outcomes, strict=True):
        assert row["purpose"] == "greedy" and row["text"] == outcome.trial.sample.index
        assert row["accuracy"] == accuracy_by_hand(loaded, outcome)
        decoded = decoded_by_hand(loaded, outcome.mem, NUM_TOKENS)
        right = [a == b for a, b in zip(decoded, outcome.trial.ids, strict=True)]
        assert row["greedy_right"] == sum(right)
        assert row["first_wrong"] == (None if all(right) else right.index(False))
        assert row["exact"] == all(right)
    if loaded.lm is loaded.decode_lm:
        assert len(rows) == len(ours)
        early = [row for row in ours if row["setting"] == SETTINGS[0]]
        assert all(row["tokens_right"] >= NUM_TOKENS - 1 for row in early)  # type: ignore[operator]
    assert any(row["exact"] for row in ours) and not all(row["exact"] for row in ours)


def test_the_optimisers_own_dtype_has_rows_of_its_own(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    loaded = tiny_loaded_model(tiny_model, BF16_ARCH)
    samples = texts_of(loaded, count=2, num_tokens=NUM_TOKENS)
    with opened_study(loaded, tmp_path / "run", RECIPE) as study:
        measure_greedy(study, samples, num_tokens=NUM_TOKENS, margins=MARGINS)
        rows = study.own_rows
    other = [row for row in rows if str(row["setting"]).endswith(" in bfloat16")]
    ours = [row for row in rows if row not in other]
    assert len(other) == len(ours) == 2 * len(SETTINGS)
    for a, b in zip(other, ours, strict=True):
        assert a["setting"] == f"{b['setting']} in bfloat16"
        same = "text", "steps", "best_step", "seconds", "detail", "num_tokens"
        assert [a[name] for name in same] == [b[name] for name in same]
        assert a["min_margin"] != b["min_margin"]
        # The optimiser stopped the run by its own count, but in another batch: noise is left.
        if b["setting"] == "margin 0" and a["steps"] < RECIPE.max_steps:  # type: ignore[operator]
            assert a["min_margin"] > -0.5  # type: ignore[operator]
    assert any(row["setting"] == "margin 0" and row["steps"] < RECIPE.max_steps for row in ours)  # type: ignore[operator]


@pytest.mark.parametrize("arch", ["gpt_neox", BF16_ARCH])
def test_a_run_that_was_stopped_goes_on(
    tiny_model: Callable[..., Path], tmp_path: Path, arch: str
) -> None:
    loaded = tiny_loaded_model(tiny_model, arch)
    samples = texts_of(loaded, count=2, num_tokens=NUM_TOKENS)
    ask: dict[str, Any] = {"num_tokens": NUM_TOKENS, "margins": MARGINS}
    with opened_study(loaded, tmp_path / "whole", RECIPE) as study:
        measure_greedy(study, samples, **ask)
    for stop in (0, 2, 4):
        path = tmp_path / f"parts {stop}"
        at = lambda what, done, stop=stop: done == stop  # noqa: E731
        with opened_study(loaded, path, RECIPE, cancel_at=at) as study:
            with pytest.raises(Interrupted):
                measure_greedy(study, samples, **ask)
            assert len(study.own_rows) == stop * (2 if arch == BF16_ARCH else 1)
        with opened_study(loaded, path, RECIPE) as study:
            measure_greedy(study, samples, **ask)
        assert timeless_rows(path) == timeless_rows(tmp_path / "whole")
    before = read_rows(tmp_path / "whole")
    with (
        opened_study(loaded, tmp_path / "whole", RECIPE) as study,
        seen_outcomes(study) as outcomes,
    ):
        measure_greedy(study, samples, **ask)
    assert not outcomes and read_rows(tmp_path / "whole") == before


def test_texts_that_are_too_short(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    loaded = tiny_loaded_model(tiny_model, "gpt_neox")
    samples = texts_of(loaded, count=1, num_tokens=5)
    with opened_study(loaded, tmp_path / "run", RECIPE) as study:
        with pytest.raises(InputError, match="fewer than 6 tokens"):
            measure_greedy(study, samples, num_tokens=6)


# The table


def row(setting: str, right: int, first_wrong: int | None, **more: Any) -> dict[str, Any]:
    return {
        "purpose": "greedy", "model": "m", "source": "natural", "num_mem": 1, "num_tokens": 10,
        "setting": setting, "detail": 0.5, "accuracy": 0.9, "greedy_right": right,
        "first_wrong": first_wrong, "steps": 4, "min_margin": -1.0, **more,
    }  # fmt: skip


def test_the_table_counts_texts() -> None:
    rows = [
        row("99 %", 0, 0),
        row("margin 1", 10, None, detail=1),
        row("99 %", 1, 1, accuracy=1.0, steps=8, min_margin=0.5),
        row("99 %", 9, 5),
        row("99 %", 10, None),
        row("99 %", 10, None, purpose="capacity"),
        row("99 %", 5, 3, source="random"),
    ]
    line, safe, other = greedy_summary(rows)
    assert line == {
        "model": "m", "source": "natural", "num_mem": 1, "num_tokens": 10, "setting": "99 %",
        "margin": 0.5, "texts": 4, "accuracy": pytest.approx(0.925), "greedy_accuracy": 0.5,
        "exact_share": 0.25, "first_wrong_share": 0.25, "wrong_by_second_share": 0.5,
        "steps": 5.0, "min_margin": -0.625,
    }  # fmt: skip
    assert (safe["setting"], safe["exact_share"], safe["first_wrong_share"]) == ("margin 1", 1, 0)
    assert (other["source"], other["texts"], other["exact_share"]) == ("random", 1, 0)
    assert greedy_summary([]) == []
