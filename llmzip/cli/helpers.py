"""What several inputs of one run share: the loaded model, the workers of a cluster.

Owns when they are made, not before the first input that needs them, and that they end with the run.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmzip.config import ClusterSettings
from llmzip.progress import Progress

if TYPE_CHECKING:
    from typing_extensions import Self

    from llmzip.cli.work import Tools
    from llmzip.cluster.ray_workers import RayWorkers
    from llmzip.codecs.context import Context


class Helpers:
    """What the codec's functions are given beside an input."""

    def __init__(self, *, keeps_models: bool, cluster: ClusterSettings | None = None) -> None:
        """keeps_models: there are several inputs. cluster: None: this process does the work."""
        self._keeps_models, self._cluster_settings = keeps_models, cluster
        self._models: dict[str, Any] = {}
        self._workers: RayWorkers | None = None
        self._stack = ExitStack()

    def models(self) -> dict[str, Any]:
        """The models, where they are kept for the next input."""
        if self._keeps_models and not self._models:
            from llmzip.lm.cache import Models

            self._models = {"models": Models()}
        return self._models

    def context(self, tools: Tools) -> Context:
        """That of the work on one input; with the workers of a cluster, if there are to be some,
        which are started at the first call."""
        if self._cluster_settings is not None and self._workers is None:
            from llmzip.cluster.ray_workers import ray_workers

            def say(line: str) -> None:
                tools.context.report(Progress(stage="model", message=line))

            found = ray_workers(self._cluster_settings, say=say)
            self._workers = self._stack.enter_context(found)
        return replace(tools.context, workers=self._workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
