"""Runs that are killed: at random moments, before, within and after every call that changes a file.

Owns where it strikes. What must be true afterwards is in `scenes`: under the final name nothing or
all, no finished work lost, the same bytes in the end, nothing left behind.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial

from tests.soak import faults
from tests.soak.child import in_child
from tests.soak.forks import told_chunks
from tests.soak.outcome import Outcome
from tests.soak.scenes import (
    RAW,
    VARIANTS,
    Variant,
    Workplace,
    go_on,
    look,
    new_tally,
    require,
    try_case,
    workplace,
)

AGAIN = 0.25  # share of cases in which the second run is killed, too
NUM_RANDOM, NUM_RANDOM_FULL = 5, 40  # of each variant


def run(*, seed: int, full: bool) -> list[Outcome]:
    """All kills; if not `full`, those of the quickest variant and a few random ones."""
    return in_child(__name__, "kill_all", timeout_s=14400 if full else 300, seed=seed, full=full)


def kill_all(*, seed: int, full: bool) -> list[Outcome]:
    """In a process that forks."""
    with workplace() as place:
        return [
            kill_at_random(place, VARIANTS, seed, NUM_RANDOM_FULL if full else NUM_RANDOM),
            kill_at_points(place, VARIANTS if full else [RAW]),
        ]


def kill_at_random(place: Workplace, variants: Sequence[Variant], seed: int, num: int) -> Outcome:
    """So many random moments in a run of each variant."""
    tally, rng = new_tally("random kills"), random.Random(seed)
    for variant in variants:
        plain = place.undisturbed(variant)
        for index in range(num):
            moments = [rng.random()]
            while rng.random() < AGAIN:
                moments.append(rng.random())
            case = partial(_kill_at_moments, place, variant, moments)
            at = ", ".join(f"{m * plain.ended.cpu_seconds:.3f} s" for m in moments)
            try_case(tally, case, f"{variant.name} {index}, killed at {at}")
    return tally.outcome()


def _kill_at_moments(place: Workplace, variant: Variant, moments: Sequence[float]) -> None:
    """moments: shares of an undisturbed run's processor time."""
    plain = place.undisturbed(variant)
    with place.directory(variant) as directory:
        for moment in moments:
            child = place.start(variant, directory, around=None)
            child.kill_after(moment * plain.ended.cpu_seconds)
            ended = child.end()
            left = look(directory, variant, plain, told=told_chunks(ended.err))
            if left.is_complete:
                break
        go_on(place, directory, variant, plain, left)


def kill_at_points(place: Workplace, variants: Sequence[Variant]) -> Outcome:
    """Every call of a run that changes a file."""
    tally = new_tally("kills at system calls")
    for variant in variants:
        for at, what in enumerate(place.undisturbed(variant).calls):
            for when in ("before", "torn", "after"):
                if when == "torn" and not what.startswith("write"):
                    continue
                case = partial(_kill_at_call, place, variant, at, when)
                try_case(tally, case, f"{variant.name}, {when} call {at}: {what}")
    return tally.outcome()


def _kill_at_call(place: Workplace, variant: Variant, at: int, when: str) -> None:
    plain = place.undisturbed(variant)
    with place.directory(variant) as directory:
        ended = place.start(variant, directory, around=faults.kill(at, when)).end()
        require(ended.was_killed, f"it was to be killed: {ended}")
        left = look(directory, variant, plain, told=told_chunks(ended.err))
        go_on(place, directory, variant, plain, left)
