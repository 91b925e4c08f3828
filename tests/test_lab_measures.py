"""The lab's bookkeeping: searches, measures, a run's folder, texts. No model is loaded."""

from __future__ import annotations

import csv
import json
import math
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmzip.errors import InputError, ResumeRefused
from llmzip.lab.capacity import LengthSearch
from llmzip.lab.folder import Folder, read_rows, read_settings, read_summary, write_json
from llmzip.lab.measures import (
    Line,
    Spread,
    bound_tokens,
    capacity_figures,
    fit_threshold,
    mean_accuracy,
)
from llmzip.lab.rate import chunk_lengths, rate_figures
from llmzip.lab.tables import number_text, table, table_text

# The search


@given(
    first=st.integers(1, 300),
    most=st.integers(1, 2000),
    holds=st.integers(0, 2500),
    resolution=st.sampled_from([0.0, 0.03, 0.2]),
)
def test_the_search_ends_at_what_is_held(
    first: int, most: int, holds: int, resolution: float
) -> None:
    search = LengthSearch(first_tokens=min(first, most), max_tokens=most, resolution=resolution)
    tried: set[int] = set()
    cold: set[int] = set()  # from random vectors: that it fails is no reason not to try it again
    while (length := search.next_tokens) is not None:
        assert 1 <= length <= most and length not in tried
        (tried if search.exact_tokens or length <= holds else cold).add(length)
        search.report(length, is_exact=length <= holds)
    found = search.exact_tokens
    assert search.is_cut_off == (holds >= most)
    assert found <= holds and found in {0, *tried}
    if holds < most:
        assert holds - found < max(1, int(resolution * found)) or found + 1 > holds
    else:
        assert found == most
    assert len(tried) <= 60


def test_a_text_may_hold_nothing() -> None:
    search = LengthSearch(first_tokens=8, max_tokens=50)
    lengths = []
    while (length := search.next_tokens) is not None:
        lengths.append(length)
        search.report(length, is_exact=False)
    assert lengths == [8, 4, 2, 1] and search.exact_tokens == 0 and not search.is_cut_off


def test_what_fails_from_random_vectors_is_tried_again_from_others() -> None:
    search = LengthSearch(first_tokens=40, max_tokens=100)
    lengths = []
    while (length := search.next_tokens) is not None:
        lengths.append(length)
        search.report(length, is_exact=search.exact_tokens > 0 or length <= 20)
    assert lengths == [40, 20, 28, 40, 56, 79, 100] and search.is_cut_off


# Measures


def test_spread() -> None:
    assert Spread.of([1.0, 2.0, 3.0, math.nan]) == Spread(mean=2.0, std=1.0, count=3)
    assert Spread.of([5.0]) == Spread(mean=5.0, std=0.0, count=1)
    assert math.isnan(Spread.of([]).mean) and Spread.of([]).count == 0
    assert Spread.of([2.0, 4.0]).times(0.5).mean == 1.5


def row(purpose: str, text: int, num_tokens: int, **more: Any) -> dict[str, Any]:
    return {
        "purpose": purpose, "model": "m", "source": "natural", "text": text, "num_mem": 1,
        "mem_dim": 10, "bits": 16, "num_tokens": num_tokens, "setting": None, "accuracy": None,
        "plain_bits": 0.0, "token_gain": None, "info_gain_bits": None, "detail": None, **more,
    }  # fmt: skip


def test_capacity_at_99_counts_texts_that_hold_more() -> None:
    rows = [
        row("capacity", 0, 20, plain_bits=100.0),
        row("capacity", 1, 40, plain_bits=140.0, setting="cut off"),
        row("growth", 1, 50, accuracy=0.9, plain_bits=160.0),  # counts nowhere
        row("bin", 0, 24, accuracy=0.99, token_gain=20, info_gain_bits=90.0),
        row("bin", 0, 32, accuracy=0.97, token_gain=22, info_gain_bits=80.0),
        row("bin", 0, 40, accuracy=0.90, token_gain=24, info_gain_bits=70.0),
    ]
    (found,) = capacity_figures(rows)
    assert mean_accuracy(rows[:2], rows[3:], 24) == pytest.approx(0.995)
    assert found.capacity_tokens_at_99 == 24 and not found.is_at_99_cut_off
    assert found.exact_tokens == Spread.of([20, 40]) and found.exact_bits.mean == 120
    assert found.bits_a_dimension == 12 and found.num_cut_off == 1
    # Runs beyond: those below 0.99 themselves.
    assert found.token_gain_above.mean == 23 and found.info_gain_bits_above.mean == 75
    nats: Any = found.to_dict()["info_gain_nats_above"]
    assert nats["mean"] == pytest.approx(75 * math.log(2))


def test_capacity_at_99_without_runs_beyond_what_all_hold() -> None:
    (found,) = capacity_figures([row("capacity", 0, 33), row("capacity", 1, 50)])
    assert found.capacity_tokens_at_99 == 32 and found.is_at_99_cut_off  # the next length is 40
    (none,) = capacity_figures([row("capacity", 0, 5), row("bin", 0, 8, accuracy=0.5)])
    assert none.capacity_tokens_at_99 is None and not none.is_at_99_cut_off


def test_models_sources_and_vectors_are_kept_apart() -> None:
    rows = [
        row("capacity", 0, 10),
        row("capacity", 0, 20, num_mem=2),
        row("capacity", 0, 30, source="random"),
        row("capacity", 0, 40, model="n"),
    ]
    assert [each.exact_tokens.mean for each in capacity_figures(rows)] == [10, 20, 30, 40]


def test_the_bound_of_the_paper() -> None:
    # 4,096 dimensions of 16 bits and a vocabulary of 128,256: Kuratov et al. 2025, Figure 5.
    assert bound_tokens(1, 4096, 16, 128256) == pytest.approx(3862, abs=1)


def test_threshold_and_line() -> None:
    held = [(x, 0.01 * x) for x in (50.0, 80.0, 120.0)]
    beyond = [(x, 0.9 * x - 100.0) for x in (140.0, 200.0, 300.0)]
    fit = fit_threshold([*held, *beyond])
    assert fit.threshold_bits == 120.0
    assert (fit.bias.slope, fit.bias.intercept) == pytest.approx((0.9, -100.0))
    # One text beyond the others that is held all the same does not move it.
    assert fit_threshold([*held, *beyond, (310.0, 0.0)]).threshold_bits == 120.0
    for points in ([], held, beyond, [*held, beyond[0]]):
        with pytest.raises(ValueError, match="held"):
            fit_threshold(points)
    with pytest.raises(ValueError, match="two different"):
        Line.through([(1.0, 2.0), (1.0, 3.0)])


def test_lengths_around_what_may_fit() -> None:
    assert chunk_lengths(100, 1000) == [40, 60, 80, 100, 125, 160, 200, 260]
    assert chunk_lengths(100, 130)[-1] == 125
    assert chunk_lengths(1, 100) == [2, 3]


def test_rate_counts_stored_bits_per_bit_of_text() -> None:
    rows = [
        row("capacity", 0, 10, bits=2, plain_bits=10.0, detail=2.5),
        row("capacity", 1, 0, bits=2, plain_bits=0.0),  # nothing fitted: counts as nothing held
        row("capacity", 0, 40, plain_bits=160.0),
    ]
    low, high = rate_figures(rows)
    assert (low.bits, low.tokens.mean, low.exact_bits.mean) == (2, 5.0, 5.0)
    assert low.stored_bits_an_information_bit == pytest.approx(2.5 * 10 / 5)
    assert high.stored_bits_an_information_bit == pytest.approx(16 * 10 / 160)
    assert (low.stored_bits, high.stored_bits) == (25.0, 160.0)
    (nothing,) = rate_figures([row("capacity", 0, 0, bits=1)])
    assert nothing.stored_bits_an_information_bit is None


# Tables


def test_tables_are_aligned() -> None:
    made = table("Title", ["name", "n"], [["a", 1.0], ["bcd", 1234.5], ["e", None]])
    assert table_text(made).splitlines() == [
        "Title",
        "name      n",
        "a      1.00",
        "bcd   1,234",
        "e         -",
    ]
    assert [number_text(x) for x in (0.123, 12.34, 123.4, math.nan)] == ["0.12", "12.3", "123", "-"]


# A run's folder


COLUMNS = ("model", "text", "accuracy", "exact", "name")
ROWS = [
    {"model": "m", "text": 0, "accuracy": 0.5, "exact": True, "name": 'a, "b"\nc'},
    {"model": "m", "text": 1, "accuracy": None, "exact": False, "name": "x"},
]


def opened(path: Path, settings: dict[str, Any] | None = None, **more: Any) -> Any:
    settings = {"seed": 0} if settings is None else settings
    return closing(Folder.open(path, "capacity", settings, columns=COLUMNS, **more))


def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as folder:
        folder.add(ROWS[:1])
    with opened(tmp_path / "run") as folder:
        assert folder.rows == ROWS[:1]
        folder.add(ROWS[1:])
    assert read_rows(tmp_path / "run") == ROWS
    assert sorted(os.listdir(tmp_path / "run")) == ["rows.csv", "settings.json"]
    with (tmp_path / "run" / "rows.csv").open(newline="") as file:
        assert [line["text"] for line in csv.DictReader(file)] == ["0", "1"]


def test_a_torn_row_is_dropped(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        folder.add(ROWS)
    whole = (tmp_path / "rows.csv").read_bytes()
    (tmp_path / "rows.csv").write_bytes(whole + b"m,2,0.7")
    with opened(tmp_path) as folder:
        assert folder.rows == ROWS
        folder.add([{**ROWS[1], "text": 2}])
    assert [found["text"] for found in read_rows(tmp_path)] == [0, 1, 2]


def test_rows_of_other_settings_do_not_mix(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    with (
        pytest.raises(ResumeRefused, match="seed was 0, is 1") as caught,
        opened(tmp_path, {"seed": 1}),
    ):
        pass
    assert "--restart" in caught.value.hint
    with pytest.raises(ResumeRefused, match="study capacity, not rate"):
        Folder.open(tmp_path, "rate", {"seed": 0}, columns=COLUMNS)
    with opened(tmp_path) as folder:
        folder.add(ROWS)
    with opened(tmp_path, {"seed": 1}, restart=True) as folder:
        assert folder.rows == []


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    for restart in (False, True):
        with pytest.raises(InputError, match="not empty"), opened(tmp_path, restart=restart):
            pass
    assert (tmp_path / "letter.txt").read_text() == "mine"


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path):
        with pytest.raises(InputError, match="another run"), opened(tmp_path):
            pass
    with opened(tmp_path):
        pass


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"), opened(tmp_path / "file"):
        pass
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "settings.json").write_text("[")
    with pytest.raises(InputError, match="cannot read"), opened(tmp_path / "run"):
        pass
    with pytest.raises(InputError, match="no run of the lab"):
        read_settings(tmp_path)
    assert read_summary(tmp_path) == {}


def test_json_has_no_numbers_that_json_has_not(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [math.nan, 1.5, {"b": math.inf}], "c": ("ä", None)})
    assert json.loads((tmp_path / "x.json").read_text("utf-8")) == {
        "a": [None, 1.5, {"b": None}],
        "c": ["ä", None],
    }
    assert os.listdir(tmp_path) == ["x.json"]
