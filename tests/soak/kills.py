"""Runs that are killed: at random moments, before, within and after every call that changes a file.

Owns where it strikes, and how much is tried of all the ways to end a run early; the others are in
`powercuts`, `stops`, `journals` and `forgeries`. What must be true afterwards is in `scenes`: under
the final name nothing or all, no finished work lost, the same bytes in the end, nothing else left.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Sequence
from functools import partial

from tests.soak import faults
from tests.soak.child import in_child
from tests.soak.forgeries import foul_play
from tests.soak.forks import told_chunks
from tests.soak.journals import go_on_from_damaged, read_damaged, refuse_others
from tests.soak.outcome import Outcome
from tests.soak.powercuts import cut_power
from tests.soak.scenes import (
    ARITH,
    FEW,
    GRID,
    QUICK,
    RAW,
    SHORT,
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
from tests.soak.stops import CODES, second_runs, signal_at_points, signal_at_stages

AGAIN = 0.25  # share of cases in which the second run is killed, too
MOMENTS = ("before", "torn", "after")  # a torn write has done half
NUM_RANDOM, NUM_RANDOM_FULL = 3, 40  # of each variant


def run(*, seed: int, full: bool) -> list[Outcome]:
    """All of it; if not `full`, of each a part, mostly with the quickest variant."""
    return in_child(__name__, "kill_all", timeout_s=14400 if full else 900, seed=seed, full=full)


def kill_all(*, seed: int, full: bool) -> list[Outcome]:
    """In a process that forks."""
    with workplace() as place:
        if not full:
            return [
                kill_at_random(place, QUICK, seed, NUM_RANDOM),
                kill_at_points(place, [RAW], ("before", "torn")),
                kill_at_points(place, FEW),
                cut_power(place, [RAW, *FEW]),
                signal_at_points(place, every=9),
                signal_at_stages(place, [signal.SIGINT]),
                second_runs(place, seed, 3),
                read_damaged(place, seed, most=4),
                go_on_from_damaged(place, [RAW], seed, 4),
                refuse_others(place, every=8),
                foul_play(place, [RAW], seed, 5),
            ]
        return [
            kill_at_random(place, VARIANTS, seed, NUM_RANDOM_FULL),
            kill_at_points(place, [*VARIANTS, *SHORT]),
            cut_power(place, [*VARIANTS, *SHORT]),
            signal_at_points(place),
            signal_at_stages(place, CODES),
            second_runs(place, seed, 100),
            read_damaged(place, seed),
            go_on_from_damaged(place, [RAW, ARITH, GRID], seed, 100),
            refuse_others(place),
            foul_play(place, [RAW, ARITH, GRID], seed, 150),
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


def kill_at_points(
    place: Workplace, variants: Sequence[Variant], moments: Sequence[str] = MOMENTS
) -> Outcome:
    """Every call of a run that changes a file."""
    tally = new_tally("kills at system calls")
    for variant in variants:
        for at, what in enumerate(place.undisturbed(variant).calls):
            for when in moments:
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
