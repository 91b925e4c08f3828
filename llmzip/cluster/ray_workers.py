"""Workers on a Ray cluster.

Owns how they are started, reached and ended: one for each GPU where the work is begun on one, else
one for so many cores. Knows nothing of what is done with results. Needs the extra `ray`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from llmzip.cluster.pool import WorkerLost, run_jobs
from llmzip.cluster.worker import Worker
from llmzip.codecs.cram.executor import WorkerSettings
from llmzip.config import LOCAL_CLUSTER, ClusterSettings
from llmzip.errors import InputError, LlmzipError, SettingsError

_CORES_A_WORKER = 4  # more make a step little faster; fewer hold the model more often

Say: TypeAlias = Callable[[str], None]
_Task: TypeAlias = tuple[str, tuple[Any, ...]]  # a method of `Worker`, and what it is given


@contextmanager
def ray_workers(settings: ClusterSettings, *, say: Say = lambda line: None) -> Iterator[RayWorkers]:
    """Workers on the cluster until the block ends. Raises SettingsError without Ray, InputError
    for a cluster that does not answer."""
    try:
        import ray
    except ImportError as error:
        raise SettingsError("--ray needs the package ray", hint="pip install ray") from error
    if ray.is_initialized():  # the caller's own: it stays
        yield RayWorkers(ray, settings, say)
        return
    # Neither a line from Ray's own log, nor its handler of signals, nor figures sent anywhere; and
    # workers of this machine are to work as this process would.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    where = {} if settings.address == LOCAL_CLUSTER else {"address": settings.address}
    with _own_signals():
        try:
            ray.init(**where, include_dashboard=None if where else False, log_to_driver=False,
                     configure_logging=True, logging_level="ERROR")  # fmt: skip
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"no Ray cluster at {settings.address}: {str(error).splitlines()[0]}",
                hint="ray start --head starts one; --ray alone uses this machine",
            ) from error
    try:
        yield RayWorkers(ray, settings, say)
    finally:
        with _own_signals():
            ray.shutdown()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Handlers of signals as before afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class RayWorkers:
    """The workers of one run. Loads models once for all files."""

    def __init__(self, ray: Any, settings: ClusterSettings, say: Say) -> None:
        self._ray, self._settings, self._say = ray, settings, say
        self._pool: _RayPool | None = None

    def run(
        self,
        shared: WorkerSettings,
        name: str,
        tasks: Sequence[Any],
        *,
        common: Sequence[Any] = (),
        say: Say,
        cancel: threading.Event | None,
    ) -> Iterator[tuple[int, Any]]:
        """See `codecs.context.Workers`."""
        sent = [self._ray.put(each) for each in (shared, *common)]  # once for all tasks
        jobs = [(name, (*sent, task)) for task in tasks]
        if self._pool is None:
            on_gpus = shared.numerics.device_type == "cuda"
            self._pool = _RayPool(self._ray, _shape(self._ray, self._settings, on_gpus=on_gpus))
            self._say(self._pool.describe())
        try:
            yield from run_jobs(self._pool, jobs, say=say, cancel=cancel)
        except BaseException:  # workers that may be in the middle of something go
            self._pool.dismiss()
            self._pool = None
            raise


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """How a cluster is divided."""

    num_workers: int
    cores: float
    gpus: int  # of each worker


def _shape(ray: Any, settings: ClusterSettings, *, on_gpus: bool) -> _Shape:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if on_gpus:
        most = sum(int(node.get("GPU", 0)) for node in nodes)
        if not most:
            raise SettingsError("the work was begun on a GPU, and the cluster has none")
        return _Shape(num_workers=min(settings.num_workers or most, most), cores=1, gpus=1)
    total = sum(int(node.get("CPU", 0)) for node in nodes)
    largest = max((int(node.get("CPU", 0)) for node in nodes), default=0)
    if not largest:
        raise SettingsError("the cluster has no processor to spare")
    cores = settings.cores or min(_CORES_A_WORKER, largest)
    if settings.num_workers and not settings.cores:
        cores = max(1, min(cores, total // settings.num_workers))
    most = sum(int(node.get("CPU", 0)) // cores for node in nodes)
    if not most:
        raise SettingsError(f"no machine of the cluster has {cores} cores")
    return _Shape(num_workers=min(settings.num_workers or most, most), cores=cores, gpus=0)


class _RayPool:
    """Actors, by numbers."""

    def __init__(self, ray: Any, shape: _Shape) -> None:
        self._ray, self._shape = ray, shape
        self._kind = ray.remote(num_cpus=shape.cores, num_gpus=shape.gpus, max_restarts=0)(_Actor)
        self._actors: dict[int, Any] = {}
        self._coming: dict[Any, int] = {}  # what says that a worker has started
        for worker in range(shape.num_workers):
            self.replace(worker)

    def describe(self) -> str:
        each = "one GPU" if self._shape.gpus else f"{self._shape.cores:g} cores"
        number = self._shape.num_workers
        workers = "1 worker" if number == 1 else f"{number} workers"
        return f"{workers} on the Ray cluster, {each} each".replace(" 1 cores", " 1 core")

    def ready(self) -> Collection[int]:
        coming = list(self._coming)
        if coming:
            started, _ = self._ray.wait(coming, num_returns=len(coming), timeout=0)
            for each in started:
                del self._coming[each]
        return self._actors.keys() - set(self._coming.values())

    def hand(self, worker: int, job: _Task) -> Any:
        name, arguments = job
        return self._actors[worker].do.remote(name, *arguments)

    def wait(self, handles: Sequence[Any], seconds: float) -> Sequence[Any]:
        done, _ = self._ray.wait(list(handles or self._coming), num_returns=1, timeout=seconds)
        return list(done) if handles else []

    def result(self, handle: Any) -> Any:
        lost = self._ray.exceptions
        try:
            found = self._ray.get(handle)
        except (lost.RayActorError, lost.WorkerCrashedError, lost.OutOfMemoryError) as error:
            raise WorkerLost from error
        if isinstance(found, _Failure):
            failure = LlmzipError(f"on a worker: {found.message}", hint=found.hint)
            failure.exit_code = found.exit_code
            raise failure
        return found

    def dismiss(self) -> None:
        """End all workers, whatever they are at."""
        for actor in self._actors.values():
            with suppress(Exception):  # it may be gone already
                self._ray.kill(actor)

    def replace(self, worker: int) -> None:
        actor = self._kind.remote(None if self._shape.gpus else int(self._shape.cores))
        self._actors[worker] = actor
        self._coming[actor.is_here.remote()] = worker


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """An error of ours, on its way back: exceptions with settings of their own do not travel."""

    message: str
    hint: str
    exit_code: int


class _Actor:
    """A worker's process."""

    def __init__(self, threads: int | None) -> None:
        with suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to answer
        self._worker = Worker(threads=threads)

    def is_here(self) -> None:
        """Ends when the process has started."""

    def do(self, name: str, *arguments: Any) -> Any:
        """What the worker's method of this name gives."""
        try:
            return getattr(self._worker, name)(*arguments)
        except LlmzipError as error:
            return _Failure(message=str(error), hint=error.hint, exit_code=error.exit_code)
