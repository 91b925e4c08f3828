"""Workers on a Ray cluster: the bytes of a run here, whoever is lost on the way."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmzip import codec, groups
from llmzip.cluster.pool import MOST_TRIES, WorkerLost, run_jobs
from llmzip.cluster.ray_crew import RayCrew, ray_crew
from llmzip.config import CompressSettings, CrewSettings
from llmzip.errors import Interrupted, LlmzipError, SettingsError
from llmzip.progress import Progress
from llmzip.store.journal import Journal
from tests.tiny_models import TEXT

ray = pytest.importorskip("ray")

ROOT = str(Path(__file__).resolve().parent.parent)
BOOK = TEXT[:500].encode()
OPTIONS: dict[str, Any] = {
    "budget_bits": 40.0, "max_steps": 30, "preset": "fast", "context_tokens": 16,
}  # fmt: skip
HANDLED = (signal.SIGINT, signal.SIGTERM)

# The order of jobs, without Ray


class Staff:
    """Workers that take a turn at every wait; some are lost with a job."""

    def __init__(self, num_workers: int, *, lose: Sequence[int] = (), wrong: int = -1) -> None:
        self.queues: list[list[int]] = [[] for _ in range(num_workers)]
        self.lost, self.wrong = list(lose), wrong
        self.most = 0
        self.replaced: list[int] = []
        self.dead: set[int] = set()

    def hand(self, worker: int, job: int) -> tuple[int, int]:
        assert worker not in self.dead
        self.queues[worker].append(job)
        self.most = max(self.most, len(self.queues[worker]))
        return worker, job

    def wait(self, handles: Sequence[tuple[int, int]], seconds: float) -> list[tuple[int, int]]:
        done = [(worker, queue[0]) for worker, queue in enumerate(self.queues) if queue]
        assert set(done) <= set(handles)
        return done[:1]

    def result(self, handle: tuple[int, int]) -> int:
        worker, job = handle
        if job in self.lost:
            self.lost.remove(job)
            self.dead.add(worker)
            self.queues[worker] = []
            raise WorkerLost
        assert self.queues[worker].pop(0) == job
        if job == self.wrong:
            raise LlmzipError("wrong")
        return job * job

    def replace(self, worker: int) -> None:
        self.dead.discard(worker)
        self.replaced.append(worker)


def test_every_job_is_done_once_and_few_wait() -> None:
    staff = Staff(3)
    found = list(run_jobs(staff, 3, range(20)))
    assert sorted(found) == [(number, number * number) for number in range(20)]
    assert staff.most == 2


def test_nothing_more_is_handed_out_while_a_result_waits_to_be_taken() -> None:
    staff = Staff(2)
    results = run_jobs(staff, 2, range(50))
    next(results)
    handed = sum(map(len, staff.queues))
    assert handed == 3  # of four, one is done; the next waits for the caller


def test_work_of_a_lost_worker_is_done_again() -> None:
    said: list[str] = []
    staff = Staff(2, lose=[3, 3, 5])
    found = list(run_jobs(staff, 2, range(9), say=said.append))
    assert sorted(number for number, _ in found) == list(range(9))
    assert len(staff.replaced) == len(said) == 3
    assert said[0] == f"worker {staff.replaced[0] + 1} was lost; its work is done again"


def test_a_job_that_costs_one_worker_after_another_ends_the_run() -> None:
    staff = Staff(2, lose=[1] * MOST_TRIES)
    with pytest.raises(LlmzipError, match="4 workers were lost") as caught:
        list(run_jobs(staff, 2, range(4)))
    assert caught.value.hint and len(staff.replaced) == MOST_TRIES - 1


def test_what_a_job_raises_ends_the_run() -> None:
    with pytest.raises(LlmzipError, match="wrong"):
        list(run_jobs(Staff(2, wrong=2), 2, range(9)))


def test_a_cancelled_run_hands_nothing_out() -> None:
    cancel = threading.Event()
    cancel.set()
    staff = Staff(1)
    with pytest.raises(Interrupted):
        list(run_jobs(staff, 1, range(3), cancel=cancel))
    assert staff.queues == [[]]


# On Ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two cores, whatever this machine has."""
    before = {number: signal.getsignal(number) for number in HANDLED}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_worker_niceness"] = "0"
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": ROOT}},
    )  # fmt: skip
    for number, handler in before.items():
        signal.signal(number, handler)
    yield
    ray.shutdown()


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(groups._GROUP_TOKENS, "cpu", 40)


def actors() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[0].startswith("ray::_Actor"):
            found.append(process)
    return found


@pytest.mark.filterwarnings("default")  # Ray's own
def test_two_workers_of_which_one_is_killed(
    cluster: None, small_groups: None, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    own = CompressSettings(model=str(tiny_model("llama")), **OPTIONS)
    expected = codec.compress_bytes(BOOK, own)
    said: list[str] = []
    killed: list[int] = []

    def kill_one(event: Progress) -> None:
        if event.message:
            said.append(event.message)
        if event.stage == "cram" and event.chunks_done and not killed:
            victim = actors()[0]
            killed.append(victim.pid)
            victim.kill()

    journal = Journal.open(str(tmp_path / "x.part"))
    with ray_crew(CrewSettings(num_workers=2), say=said.append) as crew:
        assert (
            codec.compress_bytes(BOOK, own, crew=crew, journal=journal, on_progress=kill_one)
            == expected
        )
        journal.remove()
        assert said[0] == "2 workers on the Ray cluster, 1 core each"
        assert sum(line.endswith("was lost; its work is done again") for line in said) == 1

        # Stopped in the middle, and gone on with by the same crew.
        cancel = threading.Event()
        journal = Journal.open(str(tmp_path / "y.part"))

        def stop(event: Progress) -> None:
            if event.stage == "cram" and event.chunks_done:
                cancel.set()

        with pytest.raises(Interrupted):
            codec.compress_bytes(
                BOOK, own, crew=crew, journal=journal, on_progress=stop, cancel=cancel
            )
        assert journal.has_work
        assert codec.compress_bytes(BOOK, own, crew=crew, journal=journal) == expected
        journal.remove()

        # An error of ours comes back as one.
        broken = CompressSettings(model=str(tiny_model("llama")), **OPTIONS)
        terms = _terms_with_another_digest(crew, broken)
        with pytest.raises(LlmzipError, match="on a worker: .* is not the model of the run") as got:
            list(crew.decode(terms, expected, [range(1)], say=said.append, cancel=None))
        assert got.value.exit_code == 5
    assert ray.is_initialized()  # it was not the crew's


def _terms_with_another_digest(crew: RayCrew, own: CompressSettings) -> Any:
    from dataclasses import replace

    from llmzip.crew import Terms
    from llmzip.lm.zoo import resolve

    files = replace(resolve(str(own.model)), digest=bytes(16))
    return Terms(
        model=str(own.model), files=files, numerics="cpu torch.float32", min_margin=0.05,
        settings=own,
    )  # fmt: skip


def test_more_cores_than_there_are(cluster: None, tiny_model: Callable[..., Path]) -> None:
    own = CompressSettings(model=str(tiny_model("llama")), **OPTIONS)
    with ray_crew(CrewSettings(cores=64)) as crew:
        with pytest.raises(SettingsError, match="no machine of the cluster has 64 cores"):
            codec.compress_bytes(BOOK, own, crew=crew)


@pytest.mark.parametrize("bad", [{"num_workers": 0}, {"cores": 0}, {"cores": 10**6}])
def test_numbers_of_workers_and_cores(bad: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="a number from 1"):
        CrewSettings(**bad)


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match="needs the package ray") as caught:
        with ray_crew(CrewSettings()):
            raise AssertionError
    assert caught.value.hint == "pip install 'llmzip[ray]'"
