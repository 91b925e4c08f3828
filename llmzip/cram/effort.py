"""How much time a run gives to making a file small: the presets.

Owns their figures and the rule by which a chunk has had enough steps. Knows nothing of batches.
Called by `cram.engine` and `encoding`. How the figures were found: docs/LOG.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from llmzip.config import Preset
from llmzip.cram.optimizer import StopRule

PATCHES_PER_TOKEN = 1 / 8  # never more patches than this share of a chunk's tokens
_PATCH_BITS = 24.0  # what a patch takes in the container


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What a preset pays for smaller files."""

    # Share of the bits that one vector gains (cram.calibration) with which a chunk is filled. Steps
    # grow with it, so the time a token takes does; the number of vectors falls.
    load: float
    # Bits that must be saved for each token of a step: a chunk stops when its wrong tokens vanish
    # so slowly that patches are the cheaper way to be rid of them.
    step_price_bits: float
    # Left context that a chunk may see at most, in tokens: it lowers the surprisal, so that a
    # vector holds more tokens, but makes chunks wait for each other when they are decoded.
    longest_context_tokens: int


EFFORTS: dict[Preset, Effort] = {
    "fast": Effort(load=0.4, step_price_bits=1.0, longest_context_tokens=0),
    "balanced": Effort(load=1.0, step_price_bits=1.0, longest_context_tokens=0),
    "small": Effort(load=1.8, step_price_bits=0.3, longest_context_tokens=256),
}


def stop_rule(*, step_price_bits: float, max_steps: int, patches: int | None = None) -> StopRule:
    """The rule by which rows may stop.

    patches: wrong tokens at which a chunk stops at once, whatever more steps would bring; None:
    weigh them.
    """

    def may_stop(wrong: Tensor, falling: Tensor, tokens: Tensor, steps: Tensor) -> Tensor:
        if patches is None:
            few = wrong <= most_patches(tokens)
            cheap = few & (_PATCH_BITS * falling < step_price_bits * tokens)
        else:
            cheap = wrong <= patches
        return (wrong == 0) | cheap | (steps >= max_steps)

    return may_stop


def most_patches(tokens: Tensor) -> Tensor:
    """Patches that a chunk of so many tokens may have: one in eight, at least one, never all."""
    share = (tokens * PATCHES_PER_TOKEN).long().clamp(min=1)
    return share.minimum(tokens - 1)
