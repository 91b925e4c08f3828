"""The work on one file, as data: what the user asked for, what the work is given, what came of it;
and what the work on several files shares.

Owns these types, which the commands and the frame around their work have in common, and when the
loaded model and the workers of a cluster are made. Does no work on files itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from llmzip.codecs.context import Context
from llmzip.config import ClusterSettings
from llmzip.progress import Progress

if TYPE_CHECKING:
    from typing_extensions import Self

    from llmzip.cluster.ray_workers import RayWorkers

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """What the user said about files and messages."""

    file: str
    output: str | None = None
    target: str | None = None  # default name of the result of a file
    force: bool = False
    restart: bool = False  # drop what an earlier run left
    remove: bool = False  # the input, once the result is safely on disk
    json: bool
    tells: bool = False  # with json: events are printed as they happen, not only the result
    quiet: bool
    verbose: bool
    watch: bool = False  # show a chunk under way, on a terminal
    figures: bool = True  # show figures of progress
    yes: bool = False  # do not ask, and do not refuse for want of memory


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What a job gives to its work. suffix: of the original's name, for the container to keep."""

    context: Context
    suffix: str = ""


Work: TypeAlias = Callable[[bytes, Tools], _Result]
OnRead: TypeAlias = Callable[[bytes], None]
# Takes an input's bytes, the path of an existing output and the suffix that the work would keep.
# Returns the bytes of the output if they are what the work would give, else a description of it.
Find: TypeAlias = Callable[[bytes, str, str], bytes | str]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a command does with one file.

    keeps_work: beside an output that is a file, what is done is kept until it is published.
    find: looks whether the result is there already; then there is no work.
    on_read: sees the input before the work.
    most_bytes: that the result of an input and the work kept may take.
    """

    work: Work[bytes]
    default_target: Callable[[str], str]
    is_binary: bool
    keeps_work: bool = False
    find: Find | None = None
    on_read: OnRead = lambda data: None
    most_bytes: Callable[[bytes], int] = lambda data: 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a job did. The names are ready to print."""

    source_name: str
    target_name: str
    source_data: bytes
    result: bytes
    seconds: float
    is_new: bool = True  # False: the result was already there


class Helpers:
    """The loaded model and the workers that the inputs of one run share.

    They are made when the first input needs them, and end with the run.
    """

    def __init__(self, *, keeps_models: bool, cluster: ClusterSettings | None = None) -> None:
        """keeps_models: keep loaded models for the next input. cluster: None: no workers."""
        self._keeps_models, self._cluster = keeps_models, cluster
        self._models: dict[str, Any] = {}
        self._workers: RayWorkers | None = None
        self._stack = ExitStack()

    def models(self) -> dict[str, Any]:
        """The cache of loaded models, as a keyword of the API; nothing where they are not kept."""
        if self._keeps_models and not self._models:
            from llmzip.lm.loaded import ModelCache

            self._models = {"models": ModelCache()}
        return self._models

    def context(self, tools: Tools) -> Context:
        """That of the work on one input, with the cluster, started at the first call."""
        if self._cluster is not None and self._workers is None:
            from llmzip.cluster.ray_workers import ray_workers

            def say(line: str) -> None:
                tools.context.report(Progress(stage="model", message=line))

            self._workers = self._stack.enter_context(ray_workers(self._cluster, say=say))
        return replace(tools.context, workers=self._workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
