"""`python -m tests.soak`: every campaign, a table, and one line. Exit code 1 if one found anything.

Owns which campaigns there are and in which order they run.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time

from tests.soak.outcome import died, summary, table

# Modules of this package with `run(*, seed, full) -> list[Outcome]`.
CAMPAIGNS = ("damage", "fuzz", "bombs", "kills", "disk")


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="what is drawn at random (default 1)")
    parser.add_argument(
        "--scale", choices=("ci", "full"), default="full", help="about a minute, or all of it"
    )
    parser.add_argument("--only", choices=CAMPAIGNS, action="append", help="this campaign alone")
    options = parser.parse_args()
    started = time.perf_counter()
    outcomes = []
    for name in options.only or CAMPAIGNS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        campaign = importlib.import_module(f"tests.soak.{name}")
        found = campaign.run(seed=options.seed, full=options.scale == "full")
        outcomes += found or [died(name, f"{name}: no outcome")]
    print(table(outcomes))
    print(summary(outcomes, seed=options.seed, seconds=time.perf_counter() - started))
    return 0 if all(outcome.is_clean for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
