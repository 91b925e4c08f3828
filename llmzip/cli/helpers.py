"""What several inputs of one run share: the loaded model, the workers of a cluster.

Owns when they are made, not before the first input that needs them, and that they end with the run.
Called by `cli.compress`, `cli.decompress` and `cli.test`.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from llmzip.config import CrewSettings
from llmzip.progress import Progress

if TYPE_CHECKING:
    from typing_extensions import Self

    from llmzip.cli.job import Tools


class Helpers:
    """Keywords for the codec's functions."""

    def __init__(self, *, keeps_models: bool, crew: CrewSettings | None = None) -> None:
        """keeps_models: there are several inputs. crew: None: this process does the work."""
        self._keeps_models, self._crew_settings = keeps_models, crew
        self._models: dict[str, Any] = {}
        self._crew: dict[str, Any] = {}
        self._stack = ExitStack()

    def models(self) -> dict[str, Any]:
        """The models, where they are kept for the next input."""
        if self._keeps_models and not self._models:
            from llmzip.models import Models

            self._models = {"models": Models()}
        return self._models

    def crew(self, tools: Tools) -> dict[str, Any]:
        """The crew, if there is to be one; started at the first call."""
        if self._crew_settings is not None and not self._crew:
            from llmzip.cluster.ray_crew import ray_crew

            def say(line: str) -> None:
                tools.on_progress(Progress(stage="model", message=line))

            found = self._stack.enter_context(ray_crew(self._crew_settings, say=say))
            self._crew = {"crew": found}
        return self._crew

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
