"""What a campaign found: cases, what went wrong with them, how long they took.

Owns the verdicts, the limits of time and memory that a case must keep, and the two ways to show
outcomes: a table and one line. Knows no campaign.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from llmzip.errors import LlmzipError

MAX_SECONDS = 1.0  # of processor time: what else the machine does must not matter
MAX_MB = 200.0  # of the whole process, Python and numpy included
MAX_NOTES = 5

# sound: what was read is all there is in the file. wrong: it is something else. lost: the file is
# damaged or hostile, and was taken for sound, or the other way round.
Verdict = Literal["refused", "sound", "lost", "wrong"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One campaign in numbers. `name` goes on from `cases`: 12 "bits flipped"."""

    name: str
    cases: int
    lost: int = 0
    wrong: int = 0
    foreign: int = 0  # exceptions that are no LlmzipError
    too_slow: int = 0  # cases beyond the limit of time, and one if the process is beyond its memory
    slowest_seconds: float = 0.0
    peak_mb: float = 0.0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()  # the first few failures, and what was left out

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.wrong or self.foreign or self.too_slow)


def died(name: str, reason: str) -> Outcome:
    """A campaign that did not come to its end."""
    return Outcome(name=name, cases=0, foreign=1, notes=(reason,))


def merged(outcomes: Sequence[Outcome]) -> Outcome:
    """Parts of one campaign as one outcome."""

    def total(name: str) -> int:
        return sum(getattr(each, name) for each in outcomes)

    return Outcome(
        name=outcomes[0].name,
        cases=total("cases"),
        lost=total("lost"),
        wrong=total("wrong"),
        foreign=total("foreign"),
        too_slow=total("too_slow"),
        slowest_seconds=max(each.slowest_seconds for each in outcomes),
        peak_mb=max(each.peak_mb for each in outcomes),
        seconds=sum(each.seconds for each in outcomes),
        notes=tuple(note for each in outcomes for note in each.notes)[:MAX_NOTES],
    )


def peak_mb() -> float:
    """The most memory that this process ever had in use."""
    try:  # the other source counts what the process had that started this one
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    except (OSError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows tells neither
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def cap_memory(more_mb: float) -> None:
    """Let every further allocation beyond so much fail, even of memory that is never touched."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):  # only Linux keeps to it
        return
    most = pages * resource.getpagesize() + int(more_mb * 1e6)
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


@dataclass(kw_only=True)
class Tally:
    """Counts cases as they are run."""

    name: str
    max_seconds: float = MAX_SECONDS
    max_mb: float = MAX_MB
    base_mb: float = 0.0  # in use before the first case, and not counted
    cases: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    slowest_seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    def run(self, case: Callable[[], Verdict], describe: Callable[[], str]) -> None:
        """Run a case and count what came of it. `describe` says how to see it again."""
        began = time.process_time()
        what: str
        try:
            what = case()
        except LlmzipError:
            what = "refused"
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of a library is no Exception
            what = "foreign"
            self._note(f"{type(error).__name__}: {error}", describe)
        seconds = time.process_time() - began
        self.cases += 1
        self.counts[what] = self.counts.get(what, 0) + 1
        self.slowest_seconds = max(self.slowest_seconds, seconds)
        if what in ("lost", "wrong"):
            self._note(what, describe)
        if seconds > self.max_seconds:
            self.counts["too_slow"] = self.counts.get("too_slow", 0) + 1
            self._note(f"{seconds:.1f} s", describe)

    def _note(self, what: str, describe: Callable[[], str]) -> None:
        if len(self.notes) < MAX_NOTES:
            self.notes.append(f"{self.name}: {what}: {describe()}")

    def outcome(self) -> Outcome:
        """The numbers so far."""
        peak, too_slow, notes = peak_mb(), self.counts.get("too_slow", 0), list(self.notes)
        if peak - self.base_mb > self.max_mb:
            too_slow += 1
            notes.append(f"{self.name}: {peak:.0f} MB in use, {self.base_mb:.0f} of them before")
        return Outcome(
            name=self.name,
            cases=self.cases,
            lost=self.counts.get("lost", 0),
            wrong=self.counts.get("wrong", 0),
            foreign=self.counts.get("foreign", 0),
            too_slow=too_slow,
            slowest_seconds=self.slowest_seconds,
            peak_mb=peak,
            seconds=time.perf_counter() - self.started,
            notes=tuple(notes),
        )


def table(outcomes: Sequence[Outcome]) -> str:
    """A line for each outcome, under headings, and then all notes."""
    heads = ("", "cases", "lost", "wrong", "foreign", "slow", "slowest s", "peak MB", "seconds")
    rows = [
        (
            each.name,
            f"{each.cases:,}",
            *(f"{count:,}" for count in (each.lost, each.wrong, each.foreign, each.too_slow)),
            f"{each.slowest_seconds:.3f}",
            f"{each.peak_mb:.0f}",
            f"{each.seconds:,.1f}",
        )
        for each in outcomes
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (heads, *rows)
    ]
    return "\n".join(lines + [note for each in outcomes for note in each.notes])


def summary(outcomes: Sequence[Outcome], *, seed: int, seconds: float) -> str:
    """Everything in one line."""

    def total(name: str) -> int:
        return sum(getattr(each, name) for each in outcomes)

    cases = ", ".join(f"{each.cases:,} {each.name}" for each in outcomes)
    line = (
        f"soak: seed {seed}; {cases}; {total('lost')} lost, {total('wrong')} wrong bytes, "
        f"{total('foreign')} foreign exceptions"
    )
    if total("too_slow"):
        line += f", {total('too_slow')} over a limit"
    return f"{line}; {seconds:,.0f} s"
