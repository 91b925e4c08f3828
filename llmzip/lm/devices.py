"""How torch computes: on which device, in which dtype, in how much memory, with which settings.

Owns every question whose answer depends on the kind of device, and torch's process-wide settings,
which are changed for a run and restored afterwards. Knows nothing of models.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch

from llmzip.errors import LimitExceeded, SettingsError

# Tokens of the first optimiser step, before its memory is measured.
_FIRST_STEP_TOKENS = {"cpu": 256, "cuda": 4096, "mps": 1024}
_PRODUCT = (128, 576, 1536)  # rows, inner size and columns of the matrix product that is timed
_MEMORY_SHARE = 0.8  # of the memory that is free when the engine starts
# Optimiser steps between two readings of the result, which make the host wait for the device.
_STEPS_PER_READING = {"cpu": 1, "cuda": 4, "mps": 4}


@dataclass(frozen=True)
class Numerics:
    """On what kind of device and in which dtype a model computes."""

    device_type: str  # "cpu", "cuda" or "mps"
    dtype: str  # as torch writes it, such as "torch.float32"

    @classmethod
    def of(cls, device: torch.device, dtype: torch.dtype) -> Numerics:
        return cls(device.type, str(dtype))

    @classmethod
    def from_text(cls, text: str) -> Numerics | None:
        """The inverse of `to_text`; None for any other text."""
        parts = text.split(" ")
        return cls(*parts) if len(parts) == 2 else None

    def to_text(self) -> str:
        """The form that a journal keeps, such as "cpu torch.float32"."""
        return f"{self.device_type} {self.dtype}"


def pick_device(name: str) -> torch.device:
    """The device for a setting; "auto" prefers CUDA, then MPS, then the CPU."""
    available: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    if name == "auto":
        return torch.device(next((kind for kind, check in available.items() if check()), "cpu"))
    if name in available and not available[name]():
        raise SettingsError(
            f"`device` {name}: no {name.upper()} device is available to this torch",
            settings=("device",),
            hint="use --device cpu",
        )
    return torch.device(name)


def fast_dtype(device: torch.device) -> torch.dtype:
    """The dtype to optimise in: bf16 where this machine multiplies it clearly faster than fp32. On
    a CPU this is measured, which takes about 100 ms."""
    if device.type == "cuda":
        return torch.bfloat16
    if device.type != "cpu":
        return torch.float32
    # In turn, so that another process that is busy for a moment does not decide for hours.
    rounds = [[_matmul_seconds(d) for d in (torch.float32, torch.bfloat16)] for _ in range(5)]
    fp32, bf16 = (min(found) for found in zip(*rounds, strict=True))
    return torch.bfloat16 if bf16 < 0.75 * fp32 else torch.float32


def matmul_rate(dtype: torch.dtype) -> float:
    """FLOP per second of a CPU's matrix products, measured as in `fast_dtype`."""
    return 2 * prod(_PRODUCT) / _matmul_seconds(dtype)


def _matmul_seconds(dtype: torch.dtype) -> float:
    rows, inner, columns = _PRODUCT
    a, w = torch.ones(rows, inner, dtype=dtype), torch.ones(columns, inner, dtype=dtype)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        a @ w.t()
        best = min(best, time.perf_counter() - start)
    return best


def first_step_tokens(device: torch.device) -> int:
    """The number of tokens, rows x positions, of the first optimiser step."""
    return _FIRST_STEP_TOKENS[device.type]


def steps_per_check(device: torch.device) -> int:
    """The number of optimiser steps between two readings of their result."""
    return _STEPS_PER_READING[device.type]


class MemoryGauge:
    """Measures the memory of an optimiser step on CUDA, and so how many tokens a step may have. On
    other devices the first number of tokens stays."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._room = 0
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            self._held = torch.cuda.memory_allocated(device)
            unused = torch.cuda.memory_reserved(device) - self._held
            self._room = int(_MEMORY_SHARE * (free + unused))
            torch.cuda.reset_peak_memory_stats(device)

    def step_tokens(self, tokens: int) -> int:
        """How many tokens a step may have, after steps of `tokens` tokens were run."""
        if self._room == 0:
            return tokens
        taken = max(1, torch.cuda.max_memory_allocated(self._device) - self._held)
        return max(tokens, tokens * self._room // taken)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device ran out of memory, so that a smaller batch may succeed."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower()


def out_of_memory_error(work: Callable[[], object], device: torch.device) -> RuntimeError | None:
    """Do `work`, and return the error where the device runs out of memory, else None. The tensors
    of the work and cached blocks are freed then, so that a smaller batch may fit."""
    try:
        work()
        return None
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        caught = error.with_traceback(None)  # a traceback would keep the tensors alive
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    return caught


def too_little_memory(what: str, *, hint: str = "") -> LimitExceeded:
    """The error for work whose smallest part needs too much memory. hint: another way out than the
    CPU."""
    return LimitExceeded(
        f"{what} takes more memory than this device has",
        hint=f"use --device cpu{', ' * bool(hint)}{hint}",
    )


def trim_heap(device: torch.device) -> None:
    """On a CPU, return unused blocks of the heap to the system. Otherwise those of phases that need
    different sizes add up."""
    if device.type == "cpu" and sys.platform.startswith("linux"):
        # Only glibc has it; other allocators return memory by themselves or not at all.
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


class _Run(NamedTuple):
    thread: int  # the identifier of the thread it runs in
    num_threads: int | None  # that it asks torch for


class _Saved(NamedTuple):
    """Torch's settings when the first run began."""

    num_threads: int
    dtype: torch.dtype
    precision: str | None  # of all fp32 products; None where the newer settings disagree with it
    backend_precisions: list[str]

    @classmethod
    def now(cls) -> _Saved:
        try:
            precision = torch.get_float32_matmul_precision()
        except RuntimeError:
            precision = None
        by_backend = [backend.fp32_precision for backend in _product_backends()]
        return cls(torch.get_num_threads(), torch.get_default_dtype(), precision, by_backend)

    def restore(self) -> None:
        if self.precision is not None:
            torch.set_float32_matmul_precision(self.precision)
        for backend, precision in zip(_product_backends(), self.backend_precisions, strict=True):
            backend.fp32_precision = precision
        torch.set_default_dtype(self.dtype)
        if torch.get_num_threads() != self.num_threads:
            torch.set_num_threads(self.num_threads)


def _product_backends() -> list[Any]:
    """The backends that have a precision setting of their own, since torch 2.9."""
    backends: Any = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):
        return []
    return [
        backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn,
        backends.mkldnn.matmul, backends.mkldnn.conv,
    ]  # fmt: skip


_settings_lock = threading.Lock()
_runs: list[_Run] = []  # active now
_saved: _Saved | None = None


@contextmanager
def borrowed_torch(num_threads: int | None) -> Iterator[None]:
    """Set torch to full fp32 precision, which the decoder relies on, to fp32 as the default dtype
    and, unless None, to a number of threads; restore everything afterwards.

    Precision and dtype belong to the process: of concurrent runs, the first saves them and the last
    restores them. The number of threads belongs to a thread, which starts with the number that was
    set last in any thread. So a run restores the number that its thread had before, or would have
    had without the concurrent runs. (A thread that first uses torch meanwhile, outside of llmzip,
    keeps the number it started with.)
    """
    global _saved
    run = _Run(thread=threading.get_ident(), num_threads=num_threads)
    with _settings_lock:
        own_threads = torch.get_num_threads()
        if not _runs:
            _saved = _Saved.now()
        assert _saved is not None
        is_outermost = all(each.thread != run.thread for each in _runs)
        if is_outermost and any(each.num_threads == own_threads for each in _runs):
            own_threads = _saved.num_threads  # this thread got its number from a concurrent run
            torch.set_num_threads(own_threads)
        _runs.append(run)
        torch.set_float32_matmul_precision("highest")
        for backend in _product_backends():
            backend.fp32_precision = "ieee"
        torch.set_default_dtype(torch.float32)
        if num_threads is not None:
            torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        with _settings_lock:
            _runs.remove(run)
            if num_threads is not None:
                torch.set_num_threads(own_threads)
            if not _runs:
                _saved.restore()
