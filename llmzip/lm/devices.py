"""Where a model runs: the device, its fastest dtype, its memory.

Owns every question whose answer depends on the kind of device. Knows nothing of models.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from math import prod
from typing import cast

import torch

from llmzip.errors import LimitExceeded, SettingsError

# Tokens of one optimiser step when nothing better is known.
_FIRST_STEP_TOKENS = {"cpu": 256, "cuda": 4096, "mps": 1024}
_PRODUCT = (128, 576, 1536)  # rows, inner size and columns of the product that is timed
_MEMORY_SHARE = 0.8  # of the memory that is free when the engine starts
# Optimiser steps between two looks at the result: a look makes the host wait for the device.
_STEPS_A_LOOK = {"cpu": 1, "cuda": 4, "mps": 4}


def pick_device(name: str) -> torch.device:
    """The device that a setting names; "auto" takes CUDA, then MPS, then the CPU."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError(
            "--device cuda: no CUDA device is available to this torch", hint="use --device cpu"
        )
    if name == "mps" and not torch.backends.mps.is_available():
        raise SettingsError(
            "--device mps: no MPS device is available to this torch", hint="use --device cpu"
        )
    return torch.device(name)


def fast_dtype(device: torch.device) -> torch.dtype:
    """The dtype to optimise in: bf16 where this machine multiplies it clearly faster than fp32
    (takes about 50 ms)."""
    if device.type == "cuda":
        return torch.bfloat16
    if device.type != "cpu":
        return torch.float32
    seconds = {dtype: _matmul_seconds(dtype) for dtype in (torch.float32, torch.bfloat16)}
    return (
        torch.bfloat16 if seconds[torch.bfloat16] < 0.75 * seconds[torch.float32] else torch.float32
    )


def matmul_rate(dtype: torch.dtype) -> float:
    """FLOP a second of a CPU's matrix products, as `fast_dtype` measures them."""
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


def _find_trim() -> Callable[[int], int] | None:
    """glibc's `malloc_trim`; other allocators give memory back by themselves or not at all."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return cast("Callable[[int], int]", ctypes.CDLL(None).malloc_trim)
    except (OSError, AttributeError):
        return None


_TRIM = _find_trim()


def first_step_tokens(device: torch.device) -> int:
    """Rows x positions that an optimiser step may start with."""
    return _FIRST_STEP_TOKENS[device.type]


def steps_a_look(device: torch.device) -> int:
    """Optimiser steps to take before the host asks how they went."""
    return _STEPS_A_LOOK[device.type]


class MemoryGauge:
    """What an optimiser step takes of an accelerator's memory, and so how many tokens fit.

    On a CPU, whose memory belongs to everyone, the first size stays.
    """

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
        """How many tokens a step may have, after steps of `tokens` have run."""
        if self._room == 0:
            return tokens
        taken = max(1, torch.cuda.max_memory_allocated(self._device) - self._held)
        return max(tokens, tokens * self._room // taken)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device ran out of memory; after a smaller batch it may do."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower()


def out_of_room(work: Callable[[], object], device: torch.device) -> RuntimeError | None:
    """Do work. Where the device runs out of memory, what it said, to be raised from or dropped: the
    work's tensors are let go of and cached blocks given back, so that less of it finds room."""
    try:
        work()
        return None
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        said = error.with_traceback(None)  # which would hold on to the tensors
    empty_cache(device)
    return said


def no_room(what: str, *, hint: str = "") -> LimitExceeded:
    """The error of work whose smallest part does not fit a device. hint: a way beside the CPU."""
    return LimitExceeded(
        f"{what} takes more memory than this device has",
        hint=f"use --device cpu{', ' * bool(hint)}{hint}",
    )


def trim_heap(device: torch.device) -> None:
    """On a CPU, give blocks back that are held but not used: between phases of work that need
    different sizes, they would only add up. An accelerator's own cache does without."""
    if device.type == "cpu" and _TRIM is not None:
        _TRIM(0)


def empty_cache(device: torch.device) -> None:
    """After an accelerator ran out of memory, give its cached blocks back, so that a smaller batch
    finds room; it waits for the device and makes the next allocations slow."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
