"""How much one mem vector of a model holds, measured once per model and remembered.

Owns the calibration behind the default budget. Knows nothing of containers. Called by `codec`.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from llmzip.cram.chunking import plan_segments
from llmzip.cram.optimizer import probe_gain_bits
from llmzip.lm.model import FrozenLM

# Share of the gain that a chunk is filled with. Steps grow with the load, so the time for a token
# does; the vectors' bytes shrink with it. At 0.75 the default model (gain 293 bits) mostly needs
# 15 to 35 steps a chunk (docs/LOG.md).
LOAD = 0.75
PROBE_STEPS = 32
_PROBE_TOKENS = 64
_LOWEST_BITS = 48.0

_PASSAGE = (
    "The ferry left at half past six, while the lamps along the quay were still lit. Anna had "
    "counted the coins twice before she bought the ticket, and now she stood at the rail with her "
    "collar up and watched the town grow small. Nobody had come to see her off, which was what "
    "she had asked for. The harbour master raised two fingers from his chair, as he did for every "
    "boat, and went back to his newspaper."
)


def budget_of_gain(gain_bits: float, *, num_mem: int) -> float:
    """Surprisal that a chunk of `num_mem` vectors should hold, from what one vector gains."""
    return max(_LOWEST_BITS, LOAD * gain_bits * num_mem)


def remembered_gain_bits(
    lm: FrozenLM, ids: list[int], *, start_id: int | None, cache: Path
) -> float:
    """`measure_gain_bits`, measured once and kept in the file `cache`.

    ids: tokens of `probe_text()`. Measuring takes as long as PROBE_STEPS steps on 64 tokens.
    """
    gain_bits = _recall(cache)
    if gain_bits is None:
        gain_bits = measure_gain_bits(lm, ids, start_id=start_id)
        _remember(cache, gain_bits)
    return gain_bits


def probe_text() -> bytes:
    """The passage that calibration crams."""
    return _PASSAGE.encode()


def measure_gain_bits(lm: FrozenLM, ids: list[int], *, start_id: int | None) -> float:
    """Bits by which one vector lowers the passage's cross-entropy in PROBE_STEPS steps.

    Without left context; at least 1, for models that a vector cannot steer at all.
    """
    ids = ids[:_PROBE_TOKENS]
    whole = next(
        plan_segments(lm, ids, start_id=start_id, context_tokens=0, budget_bits=float("inf"))
    )
    return max(1.0, probe_gain_bits(lm, whole, steps=PROBE_STEPS))


def _recall(cache: Path) -> float | None:
    try:
        gain = json.loads(cache.read_text("utf-8"))["gain_bits"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a damaged cache is measured anew
    return float(gain) if isinstance(gain, (int, float)) and 0 < gain < 1e6 else None


def _remember(cache: Path, gain_bits: float) -> None:
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=cache.parent, delete=False) as file:
            json.dump({"gain_bits": gain_bits, "steps": PROBE_STEPS}, file)
        os.replace(file.name, cache)
    except OSError:
        pass  # an unwritable cache costs time, never a result
