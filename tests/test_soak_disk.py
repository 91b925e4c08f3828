"""Full and failing disks, inputs that change: one clear line, nothing half written."""

from __future__ import annotations

from tests.soak import disk


def test_a_short_campaign_is_clean() -> None:
    outcomes = disk.run(seed=1, full=False)
    assert outcomes
    for outcome in outcomes:
        assert outcome.cases, outcome
        assert outcome.is_clean, outcome
