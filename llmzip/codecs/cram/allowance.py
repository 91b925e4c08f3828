"""Patches shared by the chunks of a group: what some leave over, others may have.

Owns that balance, and the finished chunks that wait for it. Knows nothing of how chunks are
crammed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from llmzip.codecs.cram.tasks import Crammed


@dataclass(kw_only=True)
class Allowance:
    """The patches of a group. share: of all tokens, those that may be patched."""

    spare: float = 0.0  # patches that accepted chunks have left over
    held: list[Crammed] = field(default_factory=list)  # with more than their share

    def take(self, chunk: Crammed, share: float) -> bool:
        """Whether a chunk is accepted at once; else it is held until the group's end. One patch may
        always be, if any may."""
        excess = _excess(chunk, share)
        if excess > 0 and not (share and len(chunk.patches) == 1 < chunk.task.num_tokens):
            self.held.append(chunk)
            return False
        self.spare += max(0.0, -excess)
        return True

    def settle(self, share: float) -> tuple[list[Crammed], list[Crammed]]:
        """The held chunks that are accepted after all, as many as there can be, and the others."""
        accepted: list[Crammed] = []
        held = sorted(self.held, key=lambda chunk: (_excess(chunk, share), chunk.task.place))
        self.held = []
        while held and _excess(held[0], share) <= self.spare and _has_use(held[0]):
            self.spare -= _excess(held[0], share)
            accepted.append(held.pop(0))
        return accepted, held

    def release(self) -> list[Crammed]:
        """The held chunks, whatever is left over: there is no time to cram their tokens anew."""
        held, self.held = self.held, []
        return [chunk for chunk in held if _has_use(chunk)]


def _excess(chunk: Crammed, share: float) -> float:
    return len(chunk.patches) - share * chunk.task.num_tokens


def _has_use(chunk: Crammed) -> bool:
    """Whether the vectors hold any token."""
    return len(chunk.patches) < chunk.task.num_tokens
