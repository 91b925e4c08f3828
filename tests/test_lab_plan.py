"""What a book needs: the study `plan`, on tiny models."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmzip.errors import InputError, Interrupted
from llmzip.lab.capacity import front_tokens
from llmzip.lab.folder import read_rows
from llmzip.lab.measures import Spread, number
from llmzip.lab.plan import (
    BOOK,
    LOAD,
    Book,
    BookPlan,
    PlanSettings,
    forecast,
    gains_of,
    plan_book,
    spread_stretches,
    vectors_by_tokens,
)
from llmzip.lab.recipes import Recipe
from llmzip.lm.loaded import LoadedModel
from tests.lab_study import opened_study, seen_outcomes, timeless_rows, tiny_loaded_model
from tests.tiny_models import ARCHITECTURES, TEXT

RECIPE = Recipe(max_steps=40, patience=30)
BOOK_BYTES = TEXT.encode()
ASK: dict[str, Any] = {"chunk_tokens": 8, "num_stretches": 10, "num_trials": 2}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def loaded(request: pytest.FixtureRequest, tiny_model: Callable[..., Path]) -> LoadedModel:
    return tiny_loaded_model(tiny_model, request.param)


# Stretches


@given(
    size=st.integers(1, 400),
    num_tokens=st.integers(1, 60),
    room=st.integers(0, 100),
    count=st.integers(1, 50),
)
def test_stretches_are_spread_and_do_not_overlap(
    size: int, num_tokens: int, room: int, count: int
) -> None:
    num_tokens = min(num_tokens, size)
    ids = range(size)
    stretches = spread_stretches(
        ids, num_tokens=num_tokens, room_tokens=num_tokens + room, count=count
    )
    assert len(stretches) == max(1, min(count, size // num_tokens))
    end = 0
    for index, each in enumerate(stretches):
        start = each.ids[0]
        assert (each.source, each.index) == (BOOK, index)
        assert each.ids == tuple(ids[start : start + num_tokens + room])
        assert start >= end and len(each.ids) >= num_tokens
        end = start + num_tokens
    # As much before the first as behind the last, and as between, but for rounding.
    gaps = [stretches[0].ids[0], size - end]
    share = size / len(stretches) - num_tokens
    assert all(abs(gap - share / 2) <= 2 for gap in gaps)


def test_fronts_of_so_many_bits() -> None:
    bits = [3.0, 1.0, 0.0, 2.0]
    assert [front_tokens(bits, wanted) for wanted in (0.5, 3.5, 4.0, 5.9, 6.0, 99.0)] == [
        1, 1, 3, 3, 4, 4,
    ]  # fmt: skip


# The paper's count


def test_the_papers_book() -> None:
    """The Hobbit, 120,000 tokens: Kuratov et al. 2025 say 128 and 256 vectors, powers of two."""
    for tokens_a_vector, wanted in ((1568, 128), (512, 256)):
        segments, vectors = vectors_by_tokens(
            120_000, tokens_a_vector=tokens_a_vector, max_positions=131_072
        )
        assert segments == 1 and vectors == math.ceil(120_000 / tokens_a_vector) <= wanted


@given(
    num_tokens=st.integers(1, 5000),
    tokens_a_vector=st.floats(0.2, 300),
    max_positions=st.integers(3, 600),
)
def test_segments_fit_what_the_model_reads(
    num_tokens: int, tokens_a_vector: float, max_positions: int
) -> None:
    segments, vectors = vectors_by_tokens(
        num_tokens, tokens_a_vector=tokens_a_vector, max_positions=max_positions
    )
    room = max_positions - 1
    assert segments * room >= num_tokens + vectors - 1e-9
    if tokens_a_vector >= 1:
        assert vectors * tokens_a_vector >= num_tokens - 1e-6
        assert vectors <= num_tokens
    # Each segment but the last is full, to a vector and a token.
    full = (room / (1 + tokens_a_vector) - 1) * tokens_a_vector - 1
    assert (segments - 1) * full <= num_tokens


# The forecast


def row(purpose: str, **more: Any) -> dict[str, Any]:
    return {"purpose": purpose, "model": "m", "source": BOOK, "num_mem": 1, "bits": 16,
            "setting": None, **more}  # fmt: skip


ROWS = [
    row("stretch", num_tokens=10, plain_bits=40.0),
    row("stretch", num_tokens=10, plain_bits=60.0),
    row("stretch", num_tokens=10, plain_bits=10.0, model="n"),
    row("capacity", num_tokens=20, plain_bits=100.0),
    row("trial", num_tokens=15, steps=9, seconds=3.0, exact=True, detail=0.25),
    row("trial", num_tokens=25, steps=19, seconds=5.0, exact=False, detail=0.75),
]


def plan_of(rows: list[dict[str, Any]], **more: Any) -> BookPlan:
    book = Book(model="m", original_bytes=4000, num_tokens=1000, mem_dim=64, max_positions=51)
    gain = more.pop("gain", Spread.of([90.0, 110.0]))
    return forecast(rows, book, gain, PlanSettings(chunk_tokens=8, **more))


def test_a_forecast_from_rows() -> None:
    plan = plan_of(ROWS, bits=4, held_share=0.5)
    assert (plan.bits_a_token, plan.bits_a_token_error, plan.total_bits) == (5.0, 1.0, 5000.0)
    assert (plan.gain_bits, plan.gain_bits_error, plan.tokens_a_vector) == (100.0, 10.0, 20.0)
    assert plan.num_vectors == 50 and plan.bytes_at_16_bits == 50 * 64 * 2
    assert plan.num_vectors_error == pytest.approx(50 * math.hypot(0.2, 0.1))
    assert plan.num_vectors_at_load == math.ceil(50 / LOAD)
    assert plan.num_vectors_at_bits == 100 and plan.bytes_at_bits == 100 * 64 // 2
    # 50 places: 2 vectors and 40 tokens a segment.
    assert (plan.num_segments, plan.num_vectors_by_tokens) == (25, 50)
    assert plan.seconds_a_token_step == 8.0 / (15 * 10 + 25 * 20)
    assert (plan.num_trials, plan.num_trials_exact, plan.steps_a_chunk) == (2, 1, 14.0)
    assert (plan.optimiser_seconds, plan.decoding_seconds) == (200.0, 25.0)
    assert not plan.is_gain_cut_off and plan.to_dict()["num_vectors"] == 50


def test_scaling_counts_by_tokens_alone() -> None:
    plan = plan_of(ROWS, scaling=0.5)
    assert plan.num_vectors == 50 and plan.tokens_a_vector == 20.0
    # 50 places: 4 vectors and 40 tokens a segment.
    assert (plan.num_segments, plan.num_vectors_by_tokens) == (25, 100)


def test_one_measurement_has_no_error() -> None:
    cut = row("capacity", num_tokens=20, plain_bits=100.0, setting="cut off")
    plan = plan_of([*ROWS[1:], cut], gain=Spread.of([100.0]))
    assert math.isnan(plan.bits_a_token_error) and math.isnan(plan.num_vectors_error)
    assert plan.bits_a_token == 6.0 and plan.num_vectors == 60 and plan.is_gain_cut_off


def test_gains_are_of_one_model_source_and_vector() -> None:
    rows = [
        row("capacity", plain_bits=1.0, source="natural"),
        row("capacity", plain_bits=2.0, source="random"),
        row("capacity", plain_bits=3.0, source="natural", num_mem=2),
        row("capacity", plain_bits=4.0, source="natural", bits=4),
        row("capacity", plain_bits=5.0, source="natural", model="n"),
        row("growth", plain_bits=6.0, source="natural"),
        row("capacity", plain_bits=7.0, source="natural"),
    ]
    assert gains_of(rows, "m") == [1.0, 7.0] and gains_of(rows, "m", source="random") == [2.0]


# The study


def test_a_book_is_planned(loaded: LoadedModel, tmp_path: Path) -> None:
    with opened_study(loaded, tmp_path / "run", RECIPE) as study, seen_outcomes(study) as outcomes:
        plan = plan_book(study, BOOK_BYTES, PlanSettings(**ASK))
        rows = study.own_rows
    by_purpose = {
        purpose: [row for row in rows if row["purpose"] == purpose]
        for purpose in ("stretch", "growth", "capacity", "trial")
    }
    assert sum(map(len, by_purpose.values())) == len(rows)
    counts = {purpose: len(found) for purpose, found in by_purpose.items()}
    assert (counts["stretch"], counts["capacity"], counts["trial"]) == (10, 2, 2)
    assert {row["text"] for row in by_purpose["trial"]} == {2, 7}  # evenly spread
    # Nothing is read but the stretches, and nothing is crammed but two of them.
    assert {outcome.trial.sample.index for outcome in outcomes} == {2, 7}
    ids = loaded.tokens.ids_of(BOOK_BYTES)
    assert (plan.original_bytes, plan.num_tokens) == (len(BOOK_BYTES), len(ids))
    rates = [number(row, "plain_bits") / 8 for row in by_purpose["stretch"]]
    assert plan.total_bits == pytest.approx(sum(rates) / 10 * len(ids))
    gain = sum(number(row, "plain_bits") for row in by_purpose["capacity"]) / 2
    assert plan.gain_bits == gain > 0
    assert plan.num_vectors == math.ceil(plan.total_bits / gain)
    assert plan.bytes_at_16_bits == 2 * loaded.decode_lm.dim * plan.num_vectors
    for each in by_purpose["trial"]:
        assert number(each, "plain_bits") <= LOAD * gain or each["num_tokens"] == 1
        assert number(each, "seconds") > 0 and number(each, "detail") > 0
    assert plan.optimiser_seconds > 0 and plan.decoding_seconds > 0


def test_a_gain_that_is_known_is_not_measured(loaded: LoadedModel, tmp_path: Path) -> None:
    with opened_study(loaded, tmp_path / "run", RECIPE) as study:
        plan = plan_book(study, BOOK_BYTES, PlanSettings(gain_bits=(30.0, 50.0), **ASK))
        assert {row["purpose"] for row in study.own_rows} == {"stretch", "trial"}
    assert plan.gain_bits == 40.0 and plan.gain_bits_error == 10.0


def test_a_run_that_was_stopped_goes_on(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    loaded = tiny_loaded_model(tiny_model, "gpt_neox")
    with opened_study(loaded, tmp_path / "whole", RECIPE) as study:
        plan = plan_book(study, BOOK_BYTES, PlanSettings(**ASK))
    whole = timeless_rows(tmp_path / "whole", but=lambda row: row["purpose"] == "trial")
    stops: list[tuple[str, set[object]]] = [
        ("stretches", set()),
        ("exact", {"stretch"}),
        ("trial", {"stretch", "growth", "capacity"}),
    ]
    path = tmp_path / "parts"
    for begins, left in stops:
        at = lambda what, done, begins=begins: what.startswith(begins)  # noqa: E731
        with opened_study(loaded, path, RECIPE, cancel_at=at) as study:
            with pytest.raises(Interrupted):
                plan_book(study, BOOK_BYTES, PlanSettings(**ASK))
            assert {row["purpose"] for row in study.own_rows} == left
    with opened_study(loaded, path, RECIPE) as study:
        again = plan_book(study, BOOK_BYTES, PlanSettings(**ASK))
    assert timeless_rows(path, but=lambda row: row["purpose"] == "trial") == whole
    assert again.num_vectors == plan.num_vectors
    assert again.gain_bits == pytest.approx(plan.gain_bits, rel=1e-5)
    before = read_rows(path)
    with opened_study(loaded, path, RECIPE) as study, seen_outcomes(study) as outcomes:
        assert plan_book(study, BOOK_BYTES, PlanSettings(**ASK)).num_trials == 2
    assert not outcomes and read_rows(path) == before


def test_short_books(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    loaded = tiny_loaded_model(tiny_model, "gpt_neox")
    with opened_study(loaded, tmp_path / "run", RECIPE) as study:
        with pytest.raises(InputError, match="no text"):
            plan_book(study, b"", PlanSettings(**ASK))
        plan = plan_book(study, b"the", PlanSettings(**ASK))
    assert plan.num_vectors == plan.num_segments == plan.num_vectors_by_tokens == 1
    assert plan.is_gain_cut_off


def test_vectors_that_hold_nothing(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    loaded = tiny_loaded_model(tiny_model, "gpt_neox")
    recipe = Recipe(max_steps=1, patience=1, min_margin=1000.0)
    with opened_study(loaded, tmp_path / "run", recipe) as study:
        with pytest.raises(InputError, match="holds nothing"):
            settings = PlanSettings(
                chunk_tokens=40, num_stretches=2, num_trials=1, gain_bits=(0.0,)
            )
            plan_book(study, BOOK_BYTES, settings)
