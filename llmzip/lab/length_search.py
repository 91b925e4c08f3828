"""How much of a text its vectors can hold: the search for the longest exact length.

Owns which length is tried next. Knows nothing of how vectors are found.

Lengths grow by a share each time, from vectors that already hold the front of the text (as in
Progressive Cramming, Tarasov et al. 2026, where they grow by a token), and are halved between the
longest that was exact and the shortest that was not. What fails from random vectors only says where
not to begin: it may well be held from vectors that hold its front.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

GROWTH = 1.4
RESOLUTION = 0.04  # of the length: the search ends when the next longer one is so near


@dataclass(kw_only=True)
class Growth:
    """The search on one text."""

    first_tokens: int  # length to begin with, from random vectors; 0: none is left
    most_tokens: int  # that the text has
    resolution: float = RESOLUTION
    exact_tokens: int = 0  # longest length that was exact
    failed_tokens: int | None = None  # shortest one that was not

    @property
    def next_tokens(self) -> int | None:
        """The length to be tried; None: the search is over."""
        exact, failed = self.exact_tokens, self.failed_tokens
        if not exact:
            return self.first_tokens or None
        if failed is None:
            if exact >= self.most_tokens:
                return None
            return min(max(exact + 1, math.ceil(GROWTH * exact)), self.most_tokens)
        if failed - exact <= max(1, int(self.resolution * exact)):
            return None
        return (exact + failed) // 2

    @property
    def is_cut_off(self) -> bool:
        """Whether the text ended before the vectors were full."""
        return self.failed_tokens is None and self.exact_tokens >= self.most_tokens

    def report(self, num_tokens: int, *, is_exact: bool) -> None:
        """What came of the length that was tried."""
        if is_exact:
            self.exact_tokens = max(self.exact_tokens, num_tokens)
        elif not self.exact_tokens:
            self.first_tokens = num_tokens // 2
        else:
            self.failed_tokens = min(self.failed_tokens or num_tokens, num_tokens)


def front_tokens(bits: Sequence[float], wanted_bits: float) -> int:
    """Tokens of a front that has no more than so many bits; 1 at least."""
    return max(1, sum(total <= wanted_bits for total in accumulate(bits)))
