"""What several inputs of one run share: the loaded model, the workers of a cluster.

Owns when they are made, not before the first input that needs them, and that they end with the run.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from llmzip.config import ClusterSettings
from llmzip.progress import Progress

if TYPE_CHECKING:
    from typing_extensions import Self

    from llmzip.cli.work import Tools


class Helpers:
    """Keywords for the codec's functions."""

    def __init__(self, *, keeps_models: bool, executor: ClusterSettings | None = None) -> None:
        """keeps_models: there are several inputs. executor: None: this process does the work."""
        self._keeps_models, self._cluster_settings = keeps_models, executor
        self._models: dict[str, Any] = {}
        self._executor: dict[str, Any] = {}
        self._stack = ExitStack()

    def models(self) -> dict[str, Any]:
        """The models, where they are kept for the next input."""
        if self._keeps_models and not self._models:
            from llmzip.lm.cache import Models

            self._models = {"models": Models()}
        return self._models

    def executor(self, tools: Tools) -> dict[str, Any]:
        """The executor, if there is to be one; started at the first call."""
        if self._cluster_settings is not None and not self._executor:
            from llmzip.cluster.ray_executor import ray_executor

            def say(line: str) -> None:
                tools.on_progress(Progress(stage="model", message=line))

            found = self._stack.enter_context(ray_executor(self._cluster_settings, say=say))
            self._executor = {"executor": found}
        return self._executor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
