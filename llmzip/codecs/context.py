"""What every call of a run carries beside its data and its settings.

Owns the one object for it. Knows nothing of what the calls do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from llmzip.progress import Forecast, OnForecast, OnProgress, Progress, check_cancelled

if TYPE_CHECKING:
    from llmzip.store.journal import Journal


class Workers(Protocol):
    """Processes elsewhere that have, or can load, the same model."""

    def run(
        self,
        shared: Any,
        name: str,
        tasks: Sequence[Any],
        *,
        common: Sequence[Any] = (),
        say: Callable[[str], None],
        cancel: threading.Event | None,
    ) -> Iterator[tuple[int, Any]]:
        """The number and the result of each task, as they are done, each by a worker's method
        `name(shared, *common, task)`. shared: the settings of the run. say: takes words for
        people. Raises what a task raises, Interrupted."""


def _ignore(event: Progress) -> None:
    """Nobody listens."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """Who is told of a run, what may end it, and where its work is kept."""

    on_progress: OnProgress = _ignore
    on_forecast: OnForecast | None = None
    cancel: threading.Event | None = None  # once set, the run ends with Interrupted
    # Where finished work is kept, and that of an earlier run is found; its owner removes it once
    # the result is safe.
    journal: Journal | None = None
    deadline: float | None = None  # of `time.monotonic`; what is not crammed by then is stored
    workers: Workers | None = None  # cram and decode instead of this process, to the same bits

    def report(self, event: Progress) -> None:
        """Send a progress event."""
        self.on_progress(event)

    def say(self, message: str, progress: Progress) -> None:
        """Send words for people, with the figures of `progress`."""
        self.on_progress(replace(progress, message=message))

    def forecast(self, forecast: Forecast) -> None:
        """Send a forecast; whoever takes it may raise to end the run."""
        if self.on_forecast is not None:
            self.on_forecast(forecast)

    def check(self) -> None:
        """Raise Interrupted where the run is to end."""
        check_cancelled(self.cancel)


QUIET = Context()  # nobody is told, and nothing ends the run


def context_of(progress: OnProgress | None, cancel: threading.Event | None) -> Context:
    """That of a call of the public functions, by their keywords."""
    return Context(on_progress=progress or _ignore, cancel=cancel)
