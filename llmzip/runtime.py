"""Torch's process-wide settings, borrowed for one run and given back.

Owns thread count, the float32 matmul precision (the decode contract asks for full fp32) and the
default dtype. Runs in several threads share the latter two: the first finds out how they were, the
last puts them back. A thread count is of one thread, which begins with the one named last in any:
each run gives its own thread back what it had, or would have had without the runs beside it. (Not
so a thread that first uses torch meanwhile, without llmzip: it keeps the count it began with.)
Knows nothing of models. Called by `codec`, `lab` and `cluster`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class _Run:
    thread: int  # which it is in
    threads: int | None  # asked for


_lock = threading.Lock()
_runs: list[_Run] = []  # under way
# Threads, precision and dtype when the first began.
_before: tuple[int, str, torch.dtype] = (0, "", torch.float32)


@contextmanager
def borrowed_torch(threads: int | None) -> Iterator[None]:
    """Full fp32 products, fp32 where no dtype is named and, if asked, a thread count; all as before
    once no run is left."""
    global _before
    run = _Run(thread=threading.get_ident(), threads=threads)
    with _lock:
        num_threads = torch.get_num_threads()
        if not _runs:
            _before = (
                num_threads,
                torch.get_float32_matmul_precision(),
                torch.get_default_dtype(),
            )
        is_outermost = all(each.thread != run.thread for each in _runs)
        if is_outermost and any(each.threads == num_threads for each in _runs):
            num_threads = _before[0]  # this thread has its count from a run beside it
            torch.set_num_threads(num_threads)
        _runs.append(run)
        torch.set_float32_matmul_precision("highest")
        torch.set_default_dtype(torch.float32)
        if threads is not None:
            torch.set_num_threads(threads)
    try:
        yield
    finally:
        with _lock:
            _runs.remove(run)
            if threads is not None:
                torch.set_num_threads(num_threads)
            if not _runs:
                torch.set_float32_matmul_precision(_before[1])
                torch.set_default_dtype(_before[2])
                if torch.get_num_threads() != _before[0]:
                    torch.set_num_threads(_before[0])
