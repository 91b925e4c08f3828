"""Killed and stopped runs: nothing lost, the same bytes in the end."""

from __future__ import annotations

from tests.soak import kills


def test_a_short_campaign_is_clean() -> None:
    outcomes = kills.run(seed=1, full=False)
    assert outcomes
    for outcome in outcomes:
        assert outcome.cases, outcome
        assert outcome.is_clean, outcome
