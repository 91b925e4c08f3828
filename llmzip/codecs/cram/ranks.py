"""Tokens named by their rank among the model's logits, only where noise cannot change it.

Owns both directions: the name of a token, and the token of a name. Knows nothing of chunks.
"""

from __future__ import annotations

from torch import Tensor

from llmzip.store.residual import MAX_RANK, Ranked


def rank_of(logits: Tensor, token: int, guard: float) -> Ranked | None:
    """The name of a token, or None where it is ranked too low.

    A name is a group of neighbours in the order of the logits, with gaps of at least `guard` before
    and after it, and a place in it by id: noise below half of that moves no token across a gap, and
    the order inside does not count. logits: [V].
    """
    values, ids = logits.topk(min(MAX_RANK + 1, len(logits)))
    found = (ids == token).nonzero()
    if not len(found):
        return None
    place = int(found[0, 0])
    is_gap = (values[:-1] - values[1:] >= guard).tolist()  # after the token of this rank
    first = place
    while first > 0 and not is_gap[first - 1]:
        first -= 1
    last = place
    while last < len(is_gap) and not is_gap[last]:
        last += 1
    if last == len(is_gap):  # no gap where the group must end
        return None
    group = sorted(ids[first : last + 1].tolist())
    return Ranked(skip=first, size=len(group), index=group.index(token))


def token_at(logits: Tensor, name: Ranked) -> int:
    """The token of a name. logits: [V]. A name that this vocabulary has no token for gives 0; the
    chunk then fails its check."""
    if name.skip + name.size > len(logits):
        return 0
    ids = logits.topk(name.skip + name.size).indices[name.skip :]
    return int(ids.sort().values[name.index])
