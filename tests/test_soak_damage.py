"""Damaged files: all of it to the frozen ones, a sample of what right checksums hide."""

from __future__ import annotations

import pytest

from llmzip.store.container import read_container
from tests.soak import damage, decoding, files
from tests.soak.outcome import MAX_MB, MAX_SECONDS, Outcome, table

pytestmark = pytest.mark.slow

GOLDEN = files.golden()


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    return {outcome.name: outcome for outcome in damage.run(seed=1, full=False)}


def test_nothing_is_overlooked_and_nothing_else_is_raised(outcomes: dict[str, Outcome]) -> None:
    assert all(outcome.is_clean for outcome in outcomes.values()), table([*outcomes.values()])


def test_every_bit_and_every_length(outcomes: dict[str, Outcome]) -> None:
    num_bytes = sum(map(len, GOLDEN.values()))
    assert outcomes["bits flipped"].cases == 8 * num_bytes
    assert outcomes["cuts and tails"].cases > 2 * num_bytes
    assert outcomes["records damaged"].cases > 2000


def test_files_behind_right_checksums_are_read_and_decoded(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["re-signed files read"].cases > 0.9 * damage.SIGNED_SAMPLE
    assert outcomes["re-signed files decoded"].cases > 2 * decoding.SAMPLE


def test_damage_takes_little_time_and_memory(outcomes: dict[str, Outcome]) -> None:
    for name, outcome in outcomes.items():
        if name != "re-signed files decoded":  # torch alone takes more
            assert 0 < outcome.peak_mb < MAX_MB and outcome.slowest_seconds < MAX_SECONDS


@pytest.mark.parametrize("name", GOLDEN)
def test_a_file_taken_apart_is_put_together_again(name: str) -> None:
    data = GOLDEN[name]
    parts = files.take_apart(data)
    planes = {plane: parts.plane(plane) for plane in files.PLANES}
    assert files.assemble(parts.header, planes) == data == files.reseal(data)
    longer = planes | {"columns": planes["columns"] + b"new"}
    found = files.take_apart(files.assemble(parts.header, longer))
    assert {plane: found.plane(plane) for plane in files.PLANES} == longer


@pytest.mark.parametrize("name", GOLDEN)
def test_records_cover_a_file(name: str) -> None:
    records = files.records(files.take_apart(GOLDEN[name]))
    covered = {at for first, last in records for at in range(first, last)}
    assert covered == set(range(len(GOLDEN[name])))


def test_signed_damage_gets_behind_the_checksums() -> None:
    parts = files.take_apart(GOLDEN["v1_tiny.crm"])
    edit = next(e for e in damage.flips(parts) if e.start == parts.planes["vectors"][0])
    found = read_container(files.apply_signed(parts, edit))
    assert found != read_container(parts.data)
