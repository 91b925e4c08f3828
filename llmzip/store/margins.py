"""Margins of logits as a file keeps them: a byte each.

Owns that scale. Knows nothing of what has a margin.
"""

from __future__ import annotations

import math


def margin_code(margin: float | None) -> int:
    """A margin in logits as one byte, rounded down. Code 1 also stands for all that is smaller."""
    if margin is None:
        return 0
    code = max(1, min(255, 128 + math.floor(16 * math.log2(margin)))) if margin > 0 else 1
    # log2 may be off by an ulp: decide by the decoded values, so that code -> value -> code holds.
    while code < 255 and margin_value(code + 1) <= margin:
        code += 1
    while code > 1 and margin_value(code) > margin:
        code -= 1
    return code


def margin_value(code: int) -> float:
    """The margin in logits that a code of 1..255 stands for."""
    return float(2.0 ** ((code - 128) / 16))
