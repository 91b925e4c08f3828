"""How much time a run gives to making a file small: the presets.

Owns their figures and the rule by which a chunk has had enough steps. Knows nothing of batches. How
the figures were found: docs/LOG.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llmzip.codecs.cram.optimizer import StopRule
from llmzip.codecs.cram.rounding import GridPlan
from llmzip.codecs.cram.signs import SignPlan, sign_plan
from llmzip.config import DEFAULT_MAX_PATCHES, Preset

_PATCH_BITS = 24.0  # what a patch takes in the container


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What a preset pays for smaller files. The first three are for vectors of 16 bits, the others
    for vectors on a grid."""

    # Share of the bits that one vector gains (cram.calibration) with which a chunk is filled. Steps
    # grow with it, so the time a token takes does; the number of vectors falls.
    load: float
    # Bits that must be saved for each token of a step: a chunk stops when its wrong tokens vanish
    # so slowly that patches are the cheaper way to be rid of them.
    step_price_bits: float
    # Left context that a chunk may see at most, in tokens: it lowers the surprisal, so that a
    # vector holds more tokens, but makes chunks wait for each other when they are decoded.
    longest_context_tokens: int
    grid_bits: float  # of a coordinate, where the user names none
    grid_load: float  # share of what a vector of so many bits holds
    grid_context_tokens: int
    free_steps: int  # see `rounding.GridPlan`
    fixing_steps: int
    total_steps: int
    # Surprisal with which a sign vector is filled at first, as a share of the bits that one of 16
    # bits gains.
    sign_load: float
    sign_context_tokens: int
    sign_steps: int


EFFORTS: dict[Preset, Effort] = {
    "fast": Effort(
        load=0.4, step_price_bits=1.0, longest_context_tokens=0,
        grid_bits=3.0, grid_load=0.6, grid_context_tokens=128,
        free_steps=30, fixing_steps=24, total_steps=60,
        sign_load=0.45, sign_context_tokens=512, sign_steps=60,
    ),
    "balanced": Effort(
        load=1.0, step_price_bits=1.0, longest_context_tokens=0,
        grid_bits=2.0, grid_load=1.0, grid_context_tokens=384,
        free_steps=40, fixing_steps=40, total_steps=110,
        sign_load=0.52, sign_context_tokens=1024, sign_steps=150,
    ),
    "small": Effort(
        load=1.8, step_price_bits=0.3, longest_context_tokens=256,
        grid_bits=1.6, grid_load=1.25, grid_context_tokens=1024,
        free_steps=60, fixing_steps=96, total_steps=420,
        sign_load=0.64, sign_context_tokens=1024, sign_steps=500,
    ),
}  # fmt: skip

# What a vector of b bits a coordinate holds, of what it gains in the short calibration: measured
# on the default model at 1.5 and 2 bits (docs/LOG.md), and what one of many bits holds at most.
_MOST_HELD, _BITS_RATE = 1.7, 0.73
_LAST_STEP = 3  # times a plan's total: a chunk that does not fit by then is split
_LAST_SIGN_STEP = 1.5  # the same for signs


def grid_plan(
    preset: Preset, bits: int | None, max_steps: int | None
) -> GridPlan | SignPlan | None:
    """How vectors come to a grid of `bits` bits (None: the preset's); None where they are stored
    as they are."""
    if bits == 16:
        return None
    effort = EFFORTS[preset]
    if bits == 1:
        last = int(_LAST_SIGN_STEP * effort.sign_steps) if max_steps is None else max_steps
        return sign_plan(steps=effort.sign_steps, last_step=last)
    last = _LAST_STEP * effort.total_steps if max_steps is None else max_steps
    third = max(1, last // 3)  # room for the first pass, however few steps there are
    return GridPlan(
        bits=effort.grid_bits if bits is None else float(bits),
        free_steps=min(effort.free_steps, third),
        fixing_steps=min(effort.fixing_steps, third),
        total_steps=min(effort.total_steps, last),
        last_step=last,
    )


def chunk_budget_bits(preset: Preset, plan: GridPlan | SignPlan | None, gain_bits: float) -> float:
    """Surprisal with which one vector is filled. gain_bits: of the model's calibration."""
    effort = EFFORTS[preset]
    if plan is None:
        return effort.load * gain_bits
    if isinstance(plan, SignPlan):
        return effort.sign_load * gain_bits
    return effort.grid_load * _MOST_HELD * gain_bits * held_share(plan.bits)


def held_share(bits: float) -> float:
    """What a vector of so many bits a coordinate holds, of what one of many does."""
    return float(1 - 2.0 ** (-_BITS_RATE * bits))


def stop_rule(
    *,
    step_price_bits: float,
    max_steps: int,
    patches: int | None = None,
    max_patches: float = DEFAULT_MAX_PATCHES,
) -> StopRule:
    """The rule by which rows may stop. patches: wrong tokens at which a chunk stops at once,
    whatever more steps would bring; None: weigh them."""

    def may_stop(wrong: Tensor, falling: Tensor, tokens: Tensor, steps: Tensor) -> Tensor:
        if patches is None:
            few = wrong <= most_patches(tokens, max_patches)
            cheap = few & (_PATCH_BITS * falling < step_price_bits * tokens)
        else:
            cheap = wrong <= patches
        return (wrong == 0) | cheap | (steps >= max_steps)

    return may_stop


def most_patches(tokens: Tensor, max_patches: float = DEFAULT_MAX_PATCHES) -> Tensor:
    """Patches that a chunk of so many tokens may have: a share of them, at least one unless the
    share is 0, never all."""
    share = (tokens * max_patches).long().clamp(min=1 if max_patches else 0)
    return share.minimum(tokens - 1)


def most_patched(num_tokens: int, max_patches: float) -> int:
    """`most_patches` of one chunk."""
    return int(most_patches(torch.tensor(num_tokens), max_patches))
