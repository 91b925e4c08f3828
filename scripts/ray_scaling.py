"""What a cluster gains: measured with 1 and 2 workers here, computed for as many as 1,000.

    python scripts/ray_scaling.py measure TEXT [--workers 1,2]    real runs, then the check
    python scripts/ray_scaling.py simulate --megabytes 10         a table for a text of that size

The simulation drives the scheduler that real runs use (`llmzip.cluster.pool`) with workers whose
time is simulated. Its input was measured or calculated: `DEFAULTS` says where.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import cast

from llmzip.api.compress import compress_bytes
from llmzip.cluster.pool import WorkerLost, run_jobs
from llmzip.cluster.ray_workers import ray_workers
from llmzip.codecs.context import Context
from llmzip.config import ClusterSettings, CompressSettings, Preset
from llmzip.progress import Progress
from llmzip.store.journal import Journal

_SAME_RESULT = 0.5  # seconds within which chunks are those of one group


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds. A worker is two cores of a server CPU."""

    startup: float  # a worker, until it has the model
    reading: float  # a worker, a block of 16,384 tokens
    group: float  # a group of chunks, mean
    spread: float  # of groups, a standard deviation as a share of the mean
    result: float  # the driver, for each group: to check, keep and sync it
    decoding_a_group: float  # a worker, in the end
    group_bytes: float = 3860.0  # of prose
    block_bytes: float = 61700.0
    packing_a_group: float = 0.1  # the driver, in the end
    hours_between_losses: float = 0.0  # of one worker; 0: none is ever lost


# Default model, `balanced`, 2 cores of an AMD Genoa, calculated from whole runs: docs/CLUSTER.md.
DEFAULTS = Costs(
    startup=8.0, reading=34.0, group=215.0, spread=0.12, result=0.02, decoding_a_group=6.0,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run would take."""

    workers: int
    seconds: float
    busy: float  # share of the workers' time
    lost: int
    wasted_seconds: float  # of workers, on what was done again


class SimulatedStaff:
    """Workers in whose world time passes when somebody waits."""

    def __init__(
        self, num_workers: int, costs: Costs, seed: int = 0, *, num_ready: int = 0
    ) -> None:
        """num_ready: workers that have the model already."""
        self.now, self.worked, self.wasted, self.lost = 0.0, 0.0, 0.0, 0
        self._costs = costs
        self._random = random.Random(seed)
        self._free = [0.0] * num_workers
        self._is_new = [number >= num_ready for number in range(num_workers)]
        self._ends = [self._lifetime() for _ in range(num_workers)]
        self._count = 0

    def _lifetime(self) -> float:
        hours = self._costs.hours_between_losses
        return self.now + self._random.expovariate(1 / (3600 * hours)) if hours else float("inf")

    def work(self, jobs: Sequence[float]) -> None:
        """Do jobs, given as their seconds, in the order that real workers would."""
        for _ in run_jobs(self, jobs):
            pass

    def ready(self) -> range:
        return range(len(self._free))

    def hand(self, worker: int, job: float) -> tuple[float, int, int, float]:
        """job: its seconds. Returns its end, a number, the worker and its beginning."""
        begin = max(self.now, self._free[worker])
        end = begin + job + (self._costs.startup if self._is_new[worker] else 0.0)
        self._is_new[worker] = False
        self._free[worker] = end
        self._count += 1
        return min(end, max(begin, self._ends[worker])), self._count, worker, begin

    def wait(
        self, handles: Sequence[tuple[float, int, int, float]], seconds: float
    ) -> list[tuple[float, int, int, float]]:
        first = min(handles)
        self.now = max(self.now, first[0])
        return [first]

    def result(self, handle: tuple[float, int, int, float]) -> None:
        end, _, worker, begin = handle
        if end >= self._ends[worker]:
            self.wasted += end - begin
            self.lost += 1
            raise WorkerLost
        self.worked += end - begin
        self.now += self._costs.result

    def replace(self, worker: int) -> None:
        self._free[worker], self._is_new[worker] = self.now, True
        self._ends[worker] = self._lifetime()


def simulate(num_workers: int, num_bytes: float, costs: Costs, *, seed: int = 0) -> Outcome:
    """A run on one text."""
    chance = random.Random(seed)
    count = max(1, round(num_bytes / costs.group_bytes))
    groups = [max(1.0, chance.gauss(costs.group, costs.spread * costs.group)) for _ in range(count)]
    staff = SimulatedStaff(num_workers, costs, seed)
    reading = [costs.reading] * max(1, round(num_bytes / costs.block_bytes))
    staff.work(reading)
    staff.work(groups)
    staff.now += costs.packing_a_group * count
    staff.work([costs.decoding_a_group] * count)
    return Outcome(
        workers=num_workers,
        seconds=staff.now,
        busy=staff.worked / (num_workers * staff.now),
        lost=staff.lost,
        wasted_seconds=staff.wasted,
    )


def table(num_bytes: float, costs: Costs, workers: Sequence[int]) -> Iterator[str]:
    """Lines for people."""
    alone = simulate(1, num_bytes, replace(costs, hours_between_losses=0.0)).seconds
    yield f"{num_bytes / 1e6:g} MB, {round(num_bytes / costs.group_bytes):,} groups"
    yield f"{'workers':>8} {'time':>12} {'faster':>8} {'busy':>6} {'worker hours':>13} {'lost':>5}"
    for number in workers:
        found = simulate(number, num_bytes, costs)
        yield (
            f"{number:>8,} {clock(found.seconds):>12} {alone / found.seconds:>8.1f} "
            f"{found.busy:>6.0%} {number * found.seconds / 3600:>13,.1f} {found.lost:>5}"
        )


def clock(seconds: float) -> str:
    """A time: 1 h 02 min, 3 min 20 s."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60:,} h {minutes % 60:02} min"
    return f"{minutes} min {rest:02} s"


class Watch:
    """When the results of each stage came in, in seconds."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._counts = {"measure": 0, "cram": 0, "verify": 0}
        self.begun = dict.fromkeys(self._counts, 0.0)
        self.done: dict[str, list[float]] = {stage: [] for stage in self._counts}
        self.seconds = 0.0

    def __call__(self, event: Progress) -> None:
        if event.stage not in self._counts:
            return
        now = time.monotonic() - self._began
        self.begun[event.stage] = self.begun[event.stage] or now
        accepted = event.chunk is not None and event.chunk.what == "accepted"
        count = {"measure": event.tokens_right, "verify": event.chunks_done}.get(
            event.stage, self._counts["cram"] + accepted
        )
        if count == self._counts[event.stage]:
            return
        self._counts[event.stage] = count
        done = self.done[event.stage]
        if event.stage == "cram" and done and now - done[-1] < _SAME_RESULT:
            done[-1] = now  # of the group's chunks one after another
        else:
            done.append(now)

    def stop(self) -> None:
        """The run has ended."""
        self.seconds = time.monotonic() - self._began

    def jobs(self) -> list[list[float]]:
        """Seconds of the jobs of each stage, where one worker did them."""
        return [
            [b - a for a, b in pairwise([begin, *self.done[stage]])]
            for stage, begin in {
                "measure": self.begun["measure"],
                "cram": self.done["measure"][-1],
                "verify": self.begun["verify"],
            }.items()
        ]


def predict(alone: Watch, num_workers: int, costs: Costs) -> float:
    """Seconds that the model gives a run with more workers, from one with a single worker."""
    staff = SimulatedStaff(num_workers, replace(costs, result=0.0), num_ready=1)
    stages = alone.jobs()
    for jobs in stages:
        staff.work(jobs)
    drivers = alone.seconds - sum(map(sum, stages))  # what nobody can share
    return staff.now + drivers


def measure(text: bytes, workers: Sequence[int], settings: CompressSettings) -> None:
    """Real runs on this machine, one after another, each worker on one core."""
    packed = set()
    alone: Watch | None = None
    for number in workers:
        with (
            tempfile.TemporaryDirectory() as directory,
            closing(Journal.open(str(Path(directory) / "x.part"))) as journal,
            ray_workers(ClusterSettings(num_workers=number, cores=1), say=print) as cluster,
        ):
            watch = Watch()
            packed.add(
                compress_bytes(
                    text,
                    settings,
                    Context(workers=cluster, journal=journal, on_progress=watch),
                )
            )
            watch.stop()
            journal.remove()
        done = {stage: [round(each, 1) for each in ends] for stage, ends in watch.done.items()}
        found = {"workers": number, "seconds": round(watch.seconds, 1), "done": done}
        print(json.dumps(found), flush=True)
        if number == 1:
            alone = watch
        elif alone is not None:
            model = predict(alone, number, DEFAULTS)
            print(
                f"{number} workers: {watch.seconds:.1f} s, {alone.seconds / watch.seconds:.2f} "
                f"times as fast as one; the model says {model:.1f} s "
                f"({watch.seconds / model:.2f} of it)",
                flush=True,
            )
    print("the same bytes" if len(packed) == 1 else "OTHER BYTES")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True, dest="command")
    real = commands.add_parser("measure")
    real.add_argument("text", type=Path)
    real.add_argument("--bytes", type=int, default=0)
    real.add_argument("--workers", default="1,2")
    real.add_argument("--preset", default="balanced")
    real.add_argument("--model", help="a name or a directory; the default model else")
    model = commands.add_parser("simulate")
    model.add_argument("--megabytes", type=float, default=10.0)
    model.add_argument("--workers", default="1,2,8,32,100,300,1000")
    for name, value in asdict(DEFAULTS).items():
        model.add_argument(f"--{name.replace('_', '-')}", type=float, default=value)
    given = parser.parse_args()
    workers = [int(each) for each in given.workers.split(",")]
    if given.command == "measure":
        text = given.text.read_bytes()
        settings = CompressSettings(model=given.model, preset=cast(Preset, given.preset))
        measure(text[: given.bytes or None], workers, settings)
        return
    costs = Costs(**{name: getattr(given, name) for name in asdict(DEFAULTS)})
    print("\n".join(table(1e6 * given.megabytes, costs, workers)))


if __name__ == "__main__":
    main()
