"""Workers on a Ray cluster: the bytes of a run here, whoever is lost on the way."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray_scaling

from llmzip.api.compress import compress_bytes
from llmzip.cluster.pool import MOST_TRIES, WorkerLost, run_jobs
from llmzip.cluster.ray_workers import ray_workers
from llmzip.codecs.context import Context
from llmzip.codecs.cram import groups
from llmzip.config import ClusterSettings, CompressSettings
from llmzip.errors import Interrupted, LlmzipError, SettingsError
from llmzip.progress import Progress
from llmzip.store.journal import Journal
from tests.tiny_models import TEXT

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.ray

ROOT = str(Path(__file__).resolve().parent.parent)
BOOK = TEXT[:500].encode()
OPTIONS: dict[str, Any] = {
    "budget_bits": 40.0, "max_steps": 30, "preset": "fast", "context_tokens": 16,
}  # fmt: skip
HANDLED = (signal.SIGINT, signal.SIGTERM)

# The order of jobs, without Ray


class Pool:
    """Workers that take a turn at every wait; some are lost with a job, some start late."""

    def __init__(
        self, num_workers: int, *, lose: Sequence[int] = (), wrong: int = -1, late: int = 0,
        starts: float = float("inf"),
    ) -> None:  # fmt: skip
        """late: how many have not started before so many waits."""
        self.late, self.starts, self.waits = late, starts, 0
        self.queues: list[list[int]] = [[] for _ in range(num_workers)]
        self.lost, self.wrong = list(lose), wrong
        self.most = 0
        self.replaced: list[int] = []
        self.dead: set[int] = set()
        self.used: set[int] = set()

    def ready(self) -> list[int]:
        everybody = list(range(len(self.queues)))
        return everybody[self.late if self.waits < self.starts else 0 :]

    def hand(self, worker: int, job: int) -> tuple[int, int]:
        assert worker not in self.dead and worker in self.ready()
        self.queues[worker].append(job)
        self.used.add(worker)
        self.most = max(self.most, len(self.queues[worker]))
        return worker, job

    def wait(self, handles: Sequence[tuple[int, int]], seconds: float) -> list[tuple[int, int]]:
        self.waits += 1
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
    staff = Pool(3)
    found = list(run_jobs(staff, range(20)))
    assert sorted(found) == [(number, number * number) for number in range(20)]
    assert staff.most == 2


def test_nothing_more_is_handed_out_while_a_result_waits_to_be_taken() -> None:
    staff = Pool(2)
    results = run_jobs(staff, range(50))
    next(results)
    handed = sum(map(len, staff.queues))
    assert handed == 3  # of four, one is done; the next waits for the caller


def test_work_of_a_lost_worker_is_done_again() -> None:
    said: list[str] = []
    staff = Pool(2, lose=[3, 3, 5])
    found = list(run_jobs(staff, range(9), say=said.append))
    assert sorted(number for number, _ in found) == list(range(9))
    assert len(staff.replaced) == len(said) == 3
    assert said[0] == f"worker {staff.replaced[0] + 1} was lost; its work is done again"


def test_a_job_that_costs_one_worker_after_another_ends_the_run() -> None:
    staff = Pool(2, lose=[1] * MOST_TRIES)
    with pytest.raises(LlmzipError, match="4 workers were lost") as caught:
        list(run_jobs(staff, range(4)))
    assert caught.value.hint and len(staff.replaced) == MOST_TRIES - 1


def test_workers_that_do_not_start_are_given_nothing() -> None:
    staff = Pool(3, late=2)
    assert [number for number, _ in run_jobs(staff, range(9))] == list(range(9))
    assert staff.used == {2}
    late = Pool(3, late=2, starts=3)
    assert sorted(number for number, _ in run_jobs(late, range(20))) == list(range(20))
    assert late.used == {0, 1, 2}


def test_a_cluster_without_room_is_mentioned_once() -> None:
    said: list[str] = []
    staff = Pool(2, late=2, starts=200)
    assert len(list(run_jobs(staff, range(4), say=said.append))) == 4
    assert said == ["no worker has started yet: the cluster is busy, or has no room for one"]


def test_what_a_job_raises_ends_the_run() -> None:
    with pytest.raises(LlmzipError, match="wrong"):
        list(run_jobs(Pool(2, wrong=2), range(9)))


def test_a_cancelled_run_hands_nothing_out() -> None:
    cancel = threading.Event()
    cancel.set()
    staff = Pool(1)
    with pytest.raises(Interrupted):
        list(run_jobs(staff, range(3), cancel=cancel))
    assert staff.queues == [[]]


# What a cluster gains


def test_what_the_model_says_of_two_workers() -> None:
    watch = ray_scaling.Watch()
    watch.begun = {"measure": 1.0, "cram": 5.0, "verify": 30.0}
    watch.done = {"measure": [5.0], "cram": [11.0, 17.0, 23.0, 29.0], "verify": [33.0]}
    watch.seconds = 34.0
    assert watch.jobs() == [[4.0], [6.0] * 4, [3.0]]
    costs = replace(ray_scaling.DEFAULTS, startup=2.0)
    # The second has to start, then two groups each; the driver's own three seconds stay.
    assert ray_scaling.predict(watch, 2, costs) == 4 + 14 + 3 + 3
    assert ray_scaling.predict(watch, 1, costs) == 34


def test_workers_that_are_lost_cost_time_only() -> None:
    sound = ray_scaling.simulate(20, 1e6, ray_scaling.DEFAULTS)
    costs = replace(ray_scaling.DEFAULTS, hours_between_losses=1.0)
    lossy = ray_scaling.simulate(20, 1e6, costs)
    assert sound.lost == 0 and sound.busy > 0.8
    assert lossy.lost > 5 and lossy.wasted_seconds > 0 and lossy.seconds > sound.seconds


# On Ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two cores, whatever this machine has."""
    before = {number: signal.getsignal(number) for number in HANDLED}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_worker_niceness"] = "0"
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT}/scripts"}},
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
@pytest.mark.slow
def test_two_workers_of_which_one_is_killed(
    cluster: None, small_groups: None, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    own = CompressSettings(model=str(tiny_model("llama")), **OPTIONS)
    expected = compress_bytes(BOOK, own)
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
    with ray_workers(ClusterSettings(num_workers=2), say=said.append) as workers:
        assert (
            compress_bytes(
                BOOK, own, context=Context(workers=workers, journal=journal, on_progress=kill_one)
            )
            == expected
        )
        journal.remove()
        assert said[0] == "2 workers on the Ray cluster, 1 core each"
        assert sum(line.endswith("was lost; its work is done again") for line in said) == 1

        # Stopped in the middle, and gone on with by the same workers.
        cancel = threading.Event()
        journal = Journal.open(str(tmp_path / "y.part"))

        def stop(event: Progress) -> None:
            if event.stage == "cram" and event.chunks_done:
                cancel.set()

        with pytest.raises(Interrupted):
            compress_bytes(
                BOOK,
                own,
                context=Context(workers=workers, journal=journal, on_progress=stop, cancel=cancel),
            )
        assert journal.has_work
        assert (
            compress_bytes(BOOK, own, context=Context(workers=workers, journal=journal)) == expected
        )
        journal.remove()

        # An error of ours comes back as one.
        broken = CompressSettings(model=str(tiny_model("llama")), **OPTIONS)
        shared = _settings_with_another_digest(broken)
        with pytest.raises(LlmzipError, match="on a worker: .* is not the model of the run") as got:
            list(
                workers.run(
                    shared, "decode", [range(1)], common=(expected,), say=said.append, cancel=None
                )
            )
        assert got.value.exit_code == 5
    assert ray.is_initialized()  # it was not made by `ray_workers`


@pytest.mark.filterwarnings("default")
@pytest.mark.slow
def test_a_cluster_that_has_room_for_one_worker_of_two(
    cluster: None, small_groups: None, tiny_model: Callable[..., Path]
) -> None:
    own = CompressSettings(model=str(tiny_model("llama")), **OPTIONS)
    expected = compress_bytes(BOOK, own)
    somebody = ray.remote(num_cpus=1)(Somebody).remote()
    ray.get(somebody.is_here.remote())
    with ray_workers(ClusterSettings(num_workers=2)) as workers:
        assert compress_bytes(BOOK, own, context=Context(workers=workers)) == expected
    ray.kill(somebody)


@pytest.mark.filterwarnings("default")
@pytest.mark.slow
def test_the_model_beside_real_runs(
    cluster: None, small_groups: None, tiny_model: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    own = CompressSettings(model=str(tiny_model("llama")), **OPTIONS)
    ray_scaling.measure(BOOK[:200], [1, 2], own)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "the same bytes"
    assert "times as fast as one; the model says" in lines[-2]
    assert len(json.loads(lines[1])["done"]["measure"]) == 1


class Somebody:
    """Who takes part of the cluster."""

    def is_here(self) -> None: ...


def _settings_with_another_digest(own: CompressSettings) -> Any:
    from llmzip.codecs.cram.executor import WorkerSettings
    from llmzip.lm.devices import Numerics
    from llmzip.lm.zoo import resolve

    files = replace(resolve(str(own.model)), digest=bytes(16))
    return WorkerSettings(
        model=str(own.model), files=files, numerics=Numerics("cpu", "torch.float32"),
        min_margin=0.05, settings=own,
    )  # fmt: skip


def test_more_cores_than_there_are(cluster: None, tiny_model: Callable[..., Path]) -> None:
    own = CompressSettings(model=str(tiny_model("llama")), **OPTIONS)
    with ray_workers(ClusterSettings(cores=64)) as workers:
        with pytest.raises(SettingsError, match="no machine of the cluster has 64 cores"):
            compress_bytes(BOOK, own, context=Context(workers=workers))


@pytest.mark.parametrize("bad", [{"num_workers": 0}, {"cores": 0}, {"cores": 10**6}])
def test_numbers_of_workers_and_cores(bad: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="a number from 1"):
        ClusterSettings(**bad)


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match="needs the package ray") as caught:
        with ray_workers(ClusterSettings()):
            raise AssertionError
    assert caught.value.hint == "pip install ray"
