"""The same kernels launched again and again as one: CUDA graphs.

Owns capture, replay, and the switch that leaves both out. Does not know what a function computes.
Kernels are those that the function launches by itself, so that results are the same with graphs and
without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from llmzip.lm.devices import is_out_of_memory

_WARM_UPS = 2  # runs before the capture: libraries make their plans and workspaces in the first


class _Switch:
    """Whether functions run on fixed buffers, and whether they are captured there."""

    # Off for good once a capture has failed: what one function needs, others do too.
    uses_graphs = True
    # On devices without graphs, too: the same buffers, and a call in the place of a replay.
    without_capture = False


def uses_graphs(device: torch.device) -> bool:
    """Whether functions should be given fixed buffers on this device."""
    return _Switch.uses_graphs and (device.type == "cuda" or _Switch.without_capture)


@contextmanager
def graphs(*, on: bool = True, without_capture: bool = False) -> Iterator[None]:
    """For a while, use graphs or not. without_capture: fixed buffers on every device."""
    before = (_Switch.uses_graphs, _Switch.without_capture)
    _Switch.uses_graphs, _Switch.without_capture = on, without_capture
    try:
        yield
    finally:
        _Switch.uses_graphs, _Switch.without_capture = before


class CaptureFailed(Exception):
    """The function cannot run as a graph here; it runs without one."""


class Replay:
    """A function that reads and writes tensors which stay where they are. On CUDA its kernels are
    recorded once, then launched together; elsewhere it is called."""

    def __init__(self, function: Callable[[], None], device: torch.device) -> None:
        """Runs the function a few times, so that callers set what it changes afterwards. Raises
        CaptureFailed."""
        self._function = function
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda" and not _Switch.without_capture:
            try:
                self._graph = _captured(function, device)
            except RuntimeError as error:
                # Too little memory for this one: a smaller one may do.
                _Switch.uses_graphs = is_out_of_memory(error)
                raise CaptureFailed(str(error)) from error

    def run(self) -> None:
        """Run it once more."""
        if self._graph is None:
            self._function()
        else:
            self._graph.replay()


def _captured(function: Callable[[], None], device: torch.device) -> torch.cuda.CUDAGraph:
    with torch.cuda.device(device):
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                function()
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads of this process may use the device meanwhile.
        with torch.cuda.graph(
            graph, pool=_pool(device), stream=aside, capture_error_mode="thread_local"
        ):
            function()
    return graph


@cache
def _pool(device: torch.device) -> Any:
    """Memory for what is in between, the same for all graphs: they never run side by side."""
    with torch.cuda.device(device):
        return torch.cuda.graph_pool_handle()
