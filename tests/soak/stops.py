"""Runs that are asked to stop: by a signal at every call, at every stage, twice, in a long call.

Owns what an orderly stop is: within two seconds, with the right exit code, a way to go on, and
nothing left but the work. Also two runs on one output, of which the first must not notice the
second.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shlex
import signal
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from llmzip.codecs.cram.verdict import Judge
from llmzip.lm import loaded as models
from tests.soak import faults, forks
from tests.soak.forks import Child, Ended, told_chunks
from tests.soak.outcome import Outcome
from tests.soak.scenes import (
    FINAL,
    INPUT,
    PART,
    RAW,
    RESTORE,
    Left,
    Undisturbed,
    Variant,
    Workplace,
    check_clean,
    go_on,
    look,
    new_tally,
    require,
    try_case,
)

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}
MAX_SECONDS = 2.0
TRIES = 3  # a busy machine may be late now and then
_AGES = 1_000_000_000  # rounds of a hash: hours


def signal_at_points(place: Workplace, every: int = 1) -> Outcome:
    """One signal, and two of them, before every call that changes a file."""
    tally = new_tally("signals at system calls")
    for variant in (RAW, RESTORE):
        for at, what in enumerate(place.undisturbed(variant).calls):
            for times in (1, 2) if at % every == 0 else ():
                around = faults.send(at, signal.SIGINT, times)
                case = partial(_signalled, place, variant, around, times)
                try_case(tally, case, f"{variant.name}, {times} before call {at}: {what}")
    return tally.outcome()


def signal_at_stages(place: Workplace, numbers: Iterable[signal.Signals]) -> Outcome:
    """Each of these signals in each stage of a run; an interrupt, and two, within a long call."""
    tally = new_tally("signals at stages")
    slowest = [0.0]
    for number in numbers:
        for stage, reached in STAGES.items():
            case = partial(_in_time, slowest, partial(_at_stage, place, number, reached))
            try_case(tally, case, f"{number.name} at: {stage}")
    for stage, (owner, name) in LONG_CALLS.items():
        for times in (1, 2):
            case = partial(_in_time, slowest, partial(_in_long_call, place, owner, name, times))
            try_case(tally, case, f"{times} signals within a long call at: {stage}")
    case = partial(_in_time, slowest, partial(_at_stdin, place))
    try_case(tally, case, "while standard input is read")
    tally.slowest_seconds = slowest[0]
    return tally.outcome()


def second_runs(place: Workplace, seed: int, num: int) -> Outcome:
    """Runs on an output that another run is at work on."""
    tally, rng = new_tally("second runs"), random.Random(seed)
    for index in range(num):
        share = rng.random()
        case = partial(_second_run, place, share)
        try_case(tally, case, f"{index}: when the first is at {share:.3f}")
    return tally.outcome()


def _says(words: str) -> Callable[[Child], bool]:
    return lambda child: words in child.err


def _has_kept(name: str) -> Callable[[Child], bool]:
    return lambda child: f"kept {name} " in child.log


STAGES = {
    "the model is loaded": _has_kept("run"),
    "the text is read": _says("measure"),
    "the text is cut": _has_kept("plan"),
    "chunks are done": _has_kept("chunks"),
    "the result is verified": _says("verify"),
    "the result is published": _has_kept("result"),
}
LONG_CALLS: dict[str, tuple[Any, str]] = {
    "the model is loaded": (models, "load_for_compression"),
    "chunks are certified": (Judge, "outcomes"),
}


def _in_time(slowest: list[float], case: Callable[[], float]) -> None:
    """A case that takes a time; too long each time it is tried is a failure."""
    seconds = case()
    for _ in range(TRIES - 1):
        if seconds > MAX_SECONDS:
            seconds = case()
    slowest[0] = max(slowest[0], seconds)
    require(seconds <= MAX_SECONDS, f"answered after {seconds:.2f} s")


def _signalled(place: Workplace, variant: Variant, around: faults.Around, times: int) -> None:
    plain = place.undisturbed(variant)
    with place.directory(variant) as directory:
        ended = place.start(variant, directory, around=around).end()
        _check_stopped(
            place, directory, variant, plain, ended, signal.SIGINT, is_orderly=times == 1
        )


def _at_stage(place: Workplace, number: int, reached: Callable[[Child], bool]) -> float:
    plain = place.undisturbed(RAW)
    with place.directory(RAW) as directory:
        child = place.start(RAW, directory, around=None)
        require(child.wait_until(lambda: reached(child)), "the stage was not reached")
        seconds, ended = _stop(child, number)
        _check_stopped(place, directory, RAW, plain, ended, number)
    return seconds


def _in_long_call(place: Workplace, owner: object, name: str, times: int) -> float:
    """times: signals, the second well before the first one's patience ends."""

    def prepare() -> None:
        def busy(*arguments: object, **options: object) -> None:
            faults.log("kept busy 0")
            hashlib.pbkdf2_hmac("sha256", b"", b"", _AGES)

        setattr(owner, name, busy)

    plain = place.undisturbed(RAW)
    with place.directory(RAW) as directory:
        child = place.start(RAW, directory, around=None, prepare=prepare)
        require(child.wait_until(lambda: _has_kept("busy")(child)), "it does not get there")
        if times == 2:
            child.send(signal.SIGINT)
            time.sleep(0.2)
        seconds, ended = _stop(child, signal.SIGINT)
        require(times == 1 or seconds < 1.25, f"the second is answered after {seconds:.2f} s")
        _check_stopped(place, directory, RAW, plain, ended, signal.SIGINT)
    return seconds


def _at_stdin(place: Workplace) -> float:
    with place.directory(RAW) as directory:
        (directory / INPUT).unlink()
        reader, writer = os.pipe()
        try:
            os.write(writer, RAW.data)
            command = ("compress", "-", "-o", FINAL, *place.command(RAW)[2:])
            child = forks.start(command, directory, place.notes, stdin=reader)
            waits = Path(f"/proc/{child.pid}/wchan")
            require(
                child.wait_until(lambda: "pipe" in waits.read_text()), "it does not read the pipe"
            )
            seconds, ended = _stop(child, signal.SIGINT)
        finally:
            os.close(reader)
            os.close(writer)
        require(ended.code == 130 and "nothing was written" in ended.err, str(ended))
        check_clean(directory, RAW)
    return seconds


def _stop(child: Child, number: int) -> tuple[float, Ended]:
    began = time.monotonic()
    child.send(number)
    ended = child.end()
    return time.monotonic() - began, ended


def _check_stopped(
    place: Workplace,
    directory: Path,
    variant: Variant,
    plain: Undisturbed,
    ended: Ended,
    number: int,
    is_orderly: bool = True,
) -> None:
    """What a stop leaves and says; then the run goes on. not is_orderly: it did not wait, and
    leaves to the next run what a kill may leave."""
    left = look(directory, variant, plain, told=told_chunks(ended.err))
    # It came too late to stop anything, or even to be handled.
    over = ended.code in (0, -number)
    require(over or ended.code == CODES[signal.Signals(number)], str(ended))
    require(not over or left.is_complete, f"it says it is done: {ended}")
    require(ended.code >= 0 or not left.has_part, f"it was not done: {ended}")
    if is_orderly:
        names = set(os.listdir(directory)) - {variant.source, variant.final, PART}
        require(not names, f"left behind: {sorted(names)}; {ended}")
    if not over:
        if is_orderly:
            _check_words(ended, left)
        go_on(place, directory, variant, plain, left)


def _check_words(ended: Ended, left: Left) -> None:
    """What a stopped run says of what is left."""
    require("interrupted: " in ended.err, str(ended))
    kept = re.search(r"(\d+) of \d+ chunks are kept in", ended.err)
    told = int(kept[1]) if kept else 0
    if left.has_part:
        require(told == left.num_chunks, f"{left.num_chunks} chunks are left, it says {told}")
        hint = re.search("^hint: resume: (.*)$", ended.err, re.MULTILINE)
        require(hint is not None, f"it does not say how to go on: {ended}")
        assert hint is not None
        require(shlex.split(hint[1]) == ["llmzip", *ended.command], hint[1])
    elif not left.is_complete:
        require("nothing was written" in ended.err and not told, str(ended))


def _second_run(place: Workplace, share: float) -> None:
    """share: of the first run's processor time, after which it is halted while the second runs."""
    plain = place.undisturbed(RAW)
    with place.directory(RAW) as directory:
        first = place.start(RAW, directory, around=None)
        require(first.wait_until((directory / PART).exists), "there is no journal")
        first.wait_for(share * plain.ended.cpu_seconds)
        first.halt()
        is_published = (directory / FINAL).exists()
        second = place.start(RAW, directory, around=None).end()
        first.send(signal.SIGCONT)
        ended = first.end()
        require(ended.code == 0, f"the first run: {ended}; the second one: {second}")
        code, words = (0, "already there") if is_published else (1, "is writing")
        require(second.code == code and words in second.err, f"the second run: {second}")
        require(second.seconds < MAX_SECONDS, f"refused after {second.seconds:.1f} s")
        left = look(directory, RAW, plain)
        require(left.is_complete, "there is no result")
        check_clean(directory, RAW)
