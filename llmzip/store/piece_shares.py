"""What single pieces take of a plane that holds all of them.

Owns the weights by which a plane's bits are dealt out to its chunks. Does not know the file.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from llmzip.store.residual import Patch
from llmzip.store.vectors import GridMem, MemBits

_ID_BITS, _RANK_BITS = 15.0, 3.0  # of a patch that names its token by id, by rank: usual figures


def vector_weights(mems: Sequence[MemBits | GridMem | None]) -> list[float]:
    """In proportion to what each chunk's vectors take: symbols by how rare they are in the file."""
    counts: Counter[int] = Counter()
    own = [
        Counter(mem.symbols.flatten().tolist()) if isinstance(mem, GridMem) else None
        for mem in mems
    ]
    for each in own:
        counts.update(each or {})
    total = sum(counts.values())
    weights = []
    for mem, symbols in zip(mems, own, strict=True):
        if symbols is not None:
            weights.append(sum(n * -math.log2(counts[s] / total) for s, n in symbols.items()))
        else:
            weights.append(0.0 if mem is None else float(16 * mem.size))  # type: ignore[union-attr]
    return weights


def patch_weight(patches: Sequence[Patch], num_tokens: int) -> float:
    """In proportion to what a chunk's patches take: a place and a name each."""
    if not patches:
        return 0.0
    names = sum(_ID_BITS if isinstance(token, int) else _RANK_BITS for _, token in patches)
    return names + math.log2(max(2, math.comb(num_tokens, len(patches))))


def shares(weights: Sequence[float], plane_bytes: int) -> list[float]:
    """The bits of a plane in proportion to the weights; nothing for each where all are 0."""
    whole = sum(weights)
    return [8 * plane_bytes * weight / whole if whole else 0.0 for weight in weights]
