"""Torch's process-wide settings, borrowed for one run and given back.

Owns thread count, the float32 matmul precision (the decode contract asks for full fp32) and the
default dtype. Runs in several threads share them: the first finds out how they were, the last puts
them back. Knows nothing of models. Called by `codec`, `lab` and `cluster`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_num_runs = 0
# Threads, precision and dtype when the first began.
_before: tuple[int, str, torch.dtype] = (0, "", torch.float32)


@contextmanager
def borrowed_torch(threads: int | None) -> Iterator[None]:
    """Full fp32 products, fp32 where no dtype is named and, if asked, a thread count; all as before
    once no run is left."""
    global _num_runs, _before
    with _lock:
        if not _num_runs:
            _before = (
                torch.get_num_threads(),
                torch.get_float32_matmul_precision(),
                torch.get_default_dtype(),
            )
        _num_runs += 1
        torch.set_float32_matmul_precision("highest")
        torch.set_default_dtype(torch.float32)
        outer = torch.get_num_threads()
        if threads is not None:
            torch.set_num_threads(threads)
    try:
        yield
    finally:
        with _lock:
            _num_runs -= 1
            if threads is not None:
                torch.set_num_threads(outer)
            if not _num_runs:
                torch.set_float32_matmul_precision(_before[1])
                torch.set_default_dtype(_before[2])
                if torch.get_num_threads() != _before[0]:
                    torch.set_num_threads(_before[0])
