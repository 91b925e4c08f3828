"""Torch's process-wide settings, borrowed for one run and given back.

Owns thread count, the precision of fp32 products on every kind of device (the decode contract asks
for all of it) and the default dtype. Runs in several threads share the latter two: the first finds
out how they were, the last puts them back. A thread count is of one thread, which begins with the
one named last in any: each run gives its own thread back what it had, or would have had without the
runs beside it. (Not so a thread that first uses torch meanwhile, without llmzip: it keeps the count
it began with.) Knows nothing of models.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class _Run:
    thread: int  # which it is in
    threads: int | None  # asked for


@dataclass(frozen=True, kw_only=True)
class _Precision:
    """Of fp32 products: by torch's older setting, which is for all, and by its newer ones."""

    overall: str | None  # None: the newer ones say otherwise, and torch does not tell
    by_kind: list[str]

    @classmethod
    def now(cls) -> _Precision:
        try:
            overall = torch.get_float32_matmul_precision()
        except RuntimeError:
            overall = None
        return cls(overall=overall, by_kind=[kind.fp32_precision for kind in _kinds_of_product()])

    def restore(self) -> None:
        if self.overall is not None:
            torch.set_float32_matmul_precision(self.overall)
        for kind, precision in zip(_kinds_of_product(), self.by_kind, strict=True):
            kind.fp32_precision = precision


def _kinds_of_product() -> list[Any]:
    """Those that have a setting of their own, since torch 2.9."""
    backends: Any = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):
        return []
    return [
        backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn,
        backends.mkldnn.matmul, backends.mkldnn.conv,
    ]  # fmt: skip


def _full_precision() -> None:
    torch.set_float32_matmul_precision("highest")
    for kind in _kinds_of_product():
        kind.fp32_precision = "ieee"


_lock = threading.Lock()
_runs: list[_Run] = []  # under way
# Threads, precision and dtype when the first began.
_before: tuple[int, _Precision, torch.dtype] | None = None


@contextmanager
def borrowed_torch(threads: int | None) -> Iterator[None]:
    """Full fp32 products, fp32 where no dtype is named and, if asked, a thread count; all as before
    once no run is left."""
    global _before
    run = _Run(thread=threading.get_ident(), threads=threads)
    with _lock:
        num_threads = torch.get_num_threads()
        if not _runs:
            _before = num_threads, _Precision.now(), torch.get_default_dtype()
        assert _before is not None
        is_outermost = all(each.thread != run.thread for each in _runs)
        if is_outermost and any(each.threads == num_threads for each in _runs):
            num_threads = _before[0]  # this thread has its count from a run beside it
            torch.set_num_threads(num_threads)
        _runs.append(run)
        _full_precision()
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
                _before[1].restore()
                torch.set_default_dtype(_before[2])
                if torch.get_num_threads() != _before[0]:
                    torch.set_num_threads(_before[0])
