"""Torch's process-wide settings, borrowed for one run and given back.

Owns thread count and the float32 matmul precision: the decode contract asks for full fp32. Knows
nothing of models. Called by `codec`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def borrowed_torch(threads: int | None) -> Iterator[None]:
    """Full fp32 products and, if asked, a thread count; both as before afterwards."""
    old_threads, old_precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.set_float32_matmul_precision(old_precision)
        if threads is not None:
            torch.set_num_threads(old_threads)
