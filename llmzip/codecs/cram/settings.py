"""What the cram engine is told.

Owns its settings. Knows nothing of how they are followed.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmzip.codecs.cram.rounding import GridPlan
from llmzip.config import DEFAULT_MAX_PATCHES


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How the engine spends its time. Nothing here changes what is exact."""

    num_mem: int
    max_steps: int
    seed: int
    context_tokens: int  # left context that no chunk exceeds, not even the second half of one
    min_margin: float  # logits by which every unpatched token must lead
    step_price_bits: float  # see `effort`
    patches: int | None = None  # stop as soon as so few tokens are wrong, whatever steps cost
    max_patches: float = DEFAULT_MAX_PATCHES  # share of a chunk's tokens
    grid: GridPlan | None = None  # None: vectors are stored as bf16
    batch_tokens: int | None = (
        None  # vectors and tokens of one step; None: what the device has room for
    )
    deadline: float | None = None  # of `time.monotonic`; chunks not finished by then are left
