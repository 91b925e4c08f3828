"""Jobs among workers: who does what, what is done again, and how much waits.

Owns the order of jobs, how many of them are with a worker at a time, and what becomes of those of a
worker that is lost. Knows nothing of Ray, nor of what a job is.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llmzip.errors import LlmzipError
from llmzip.progress import check_cancelled

JOBS_A_WORKER = 2  # one that is worked on, one that waits: nobody is idle while a result travels
MOST_TRIES = 4  # of one job, on workers that are lost meanwhile
_LOOK_SECONDS = 0.5  # between two looks at whether the run is cancelled, or a worker has started
_PATIENCE = 60  # looks at a cluster on which no worker starts, before it is mentioned


class WorkerLost(Exception):
    """A worker has ended, and what it was given with it."""


class Pool(Protocol):
    """How workers are reached. They go by numbers; jobs, handles and results may be of any type."""

    def ready(self) -> Collection[int]:
        """Those that have started. Others may wait for room on the cluster, perhaps for ever."""

    def hand(self, worker: int, job: Any) -> Any:
        """Give a job to a worker; does not wait."""

    def wait(self, handles: Sequence[Any], seconds: float) -> Sequence[Any]:
        """Those that are done, or lost, after so long at most. With none: waits for a worker."""

    def result(self, handle: Any) -> Any:
        """What a job gave. Raises WorkerLost, and what the job raised."""

    def replace(self, worker: int) -> None:
        """Put another worker in the place of one that is lost."""


@dataclass(frozen=True, kw_only=True)
class _Given:
    worker: int
    number: int
    job: Any


def run_jobs(
    pool: Pool,
    jobs: Sequence[Any],
    *,
    say: Callable[[str], None] = lambda line: None,
    cancel: threading.Event | None = None,
) -> Iterator[tuple[int, Any]]:
    """The number and the result of every job, as they are done.

    No more is handed out while a result waits to be taken. Raises what a job raised, LlmzipError
    for one whose workers are lost again and again, Interrupted.
    """
    idle_looks = 0
    waiting = deque(enumerate(jobs))
    tries = [0] * len(jobs)
    given: dict[Any, _Given] = {}
    while waiting or given:
        check_cancelled(cancel)
        _hand_out(pool, waiting, given)
        done = pool.wait(list(given), _LOOK_SECONDS)
        idle_looks = 0 if given else idle_looks + 1
        if idle_looks == _PATIENCE:
            say("no worker has started yet: the cluster is busy, or has no room for one")
        lost: set[int] = set()
        for handle in done:
            own = given.pop(handle)
            try:
                result = pool.result(handle)
            except WorkerLost:
                lost.add(own.worker)
                tries[own.number] += 1
                if tries[own.number] >= MOST_TRIES:
                    raise LlmzipError(
                        f"{MOST_TRIES} workers were lost over the same part of the text",
                        hint="look at the cluster's logs: memory may be short",
                    ) from None
                waiting.appendleft((own.number, own.job))
                continue
            yield own.number, result
        for worker in sorted(lost):
            _take_back(worker, waiting, given)
            say(f"worker {worker + 1} was lost; its work is done again")
            pool.replace(worker)


def _hand_out(
    pool: Pool,
    waiting: deque[tuple[int, Any]],
    given: dict[Any, _Given],
) -> None:
    """Give everybody work who has started, those first who have least."""
    loads = dict.fromkeys(sorted(pool.ready()), 0) if waiting else {}
    for own in given.values():
        if own.worker in loads:
            loads[own.worker] += 1
    while waiting and loads:
        worker = min(loads, key=loads.__getitem__)
        if loads[worker] >= JOBS_A_WORKER:
            return
        number, job = waiting.popleft()
        given[pool.hand(worker, job)] = _Given(worker=worker, number=number, job=job)
        loads[worker] += 1


def _take_back(worker: int, waiting: deque[tuple[int, Any]], given: dict[Any, _Given]) -> None:
    """What else a lost worker was given goes to others; nobody asks for the old handles again."""
    for handle in [handle for handle, own in given.items() if own.worker == worker]:
        own = given.pop(handle)
        waiting.appendleft((own.number, own.job))
