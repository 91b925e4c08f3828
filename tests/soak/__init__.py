"""Campaigns against the readers of `.crm` files: `python -m tests.soak`, or a part of it in pytest.

A module of this package is a campaign if it has `run(*, seed, full) -> list[Outcome]`. It never
stops at a failure: it counts, and notes how to see the first few again.
"""
