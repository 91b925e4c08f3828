"""How much time a run gives to making a file small: the presets.

Owns their figures and the rule by which a chunk has had enough steps. Knows nothing of batches. How
the figures were found: docs/LOG.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llmzip.codecs.cram.optimizer import StopRule
from llmzip.codecs.cram.signs import SignPlan, sign_plan
from llmzip.config import DEFAULT_MAX_PATCHES, Preset
from llmzip.store.vectors import RAW_BITS

_PATCH_BITS = 24.0  # what a patch takes in the container


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What a preset pays for smaller files. The first three are for vectors of 16 bits, the others
    for sign vectors."""

    # Share of the bits that one vector gains (cram.calibration) with which a chunk is filled. Steps
    # grow with it, so the time a token takes does; the number of vectors falls.
    load: float
    # Bits that must be saved for each token of a step: a chunk stops when its wrong tokens vanish
    # so slowly that patches are the cheaper way to be rid of them.
    step_price_bits: float
    # Left context that a chunk may see at most, in tokens: it lowers the surprisal, so that a
    # vector holds more tokens, but makes chunks wait for each other when they are decoded.
    longest_context_tokens: int
    sign_load: float  # the same share for vectors of one bit a dimension
    sign_context_tokens: int  # about so many; segments are made equally long
    sign_steps: int


EFFORTS: dict[Preset, Effort] = {
    "fast": Effort(
        load=0.4, step_price_bits=1.0, longest_context_tokens=0,
        sign_load=0.37, sign_context_tokens=1024, sign_steps=58,
    ),
    "balanced": Effort(
        load=1.0, step_price_bits=1.0, longest_context_tokens=0,
        sign_load=0.56, sign_context_tokens=1024, sign_steps=150,
    ),
    "small": Effort(
        load=1.8, step_price_bits=0.3, longest_context_tokens=256,
        sign_load=0.62, sign_context_tokens=2048, sign_steps=200,
    ),
}  # fmt: skip

# What a vector of b bits a dimension holds, of what one of very many holds: 1 - 2^(-rate b), from
# measurements with 1, 1.5 and 2 bits (docs/LOG.md).
_BITS_RATE = 0.73


def signs_of(preset: Preset, bits: int | None, max_steps: int | None) -> SignPlan | None:
    """How vectors come to `bits` signs a dimension (None: one); None where they are stored as they
    are."""
    if bits == RAW_BITS:
        return None
    steps = EFFORTS[preset].sign_steps
    return sign_plan(min(steps, max_steps or steps), bits=bits or 1)


def chunk_budget_bits(preset: Preset, plan: SignPlan | None, gain_bits: float) -> float:
    """Surprisal with which one vector is filled. gain_bits: of the model's calibration."""
    effort = EFFORTS[preset]
    if plan is None:
        return effort.load * gain_bits
    return effort.sign_load * gain_bits * held_share(plan.bits) / held_share(1)


def held_share(bits: float) -> float:
    """What a vector of so many bits a dimension holds, of what one of many does."""
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
