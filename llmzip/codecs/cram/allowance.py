"""Patches shared by the chunks of a group: what some leave over, others may have.

Owns that balance, the finished chunks that wait for it, and which of them are tried again. Knows
nothing of how chunks are crammed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from llmzip.codecs.cram.tasks import Crammed


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What becomes of held chunks."""

    accepted: list[Crammed]
    again: list[Crammed]  # get another attempt, and stay held: the better one counts
    given_up: list[Crammed]


@dataclass(kw_only=True)
class Allowance:
    """The patches of a group. share: of all tokens, those that may be patched."""

    spare: float = 0.0  # patches that accepted chunks have left over
    held: list[Crammed] = field(default_factory=list)  # with more than their share

    def take(self, chunk: Crammed, share: float) -> Crammed | None:
        """The chunk, or an earlier and better attempt at it, if it is accepted at once; None if it
        is held until the group's end. One patch may always be, if any may."""
        attempts = [chunk] + [each for each in self.held if each.task.key == chunk.task.key]
        self.held = [each for each in self.held if each.task.key != chunk.task.key]
        best = min(attempts, key=lambda each: len(each.patches))
        best = replace(best, task=chunk.task, steps=chunk.steps)  # those of all attempts
        excess = _excess(best, share)
        if excess > 0 and not (share and len(best.patches) == 1 < best.task.num_tokens):
            self.held.append(best)
            return None
        self.spare += max(0.0, -excess)
        return best

    def settle(self, share: float, *, attempts: int, near: float) -> Settled:
        """What becomes of the held chunks when no others are left: all are accepted if together
        they are within the allowance. Else some of the worst, as many as it is likely to take, get
        another attempt, or are given up after so many or with more than `near` times their share of
        patches."""
        given_up = [each for each in self.held if not _has_use(each)]
        held = [each for each in self.held if _has_use(each)]
        held.sort(key=lambda each: (-_excess(each, share), each.task.place))
        over = sum(_excess(each, share) for each in held) - self.spare
        if over <= 0:
            self.spare, self.held = -over, []
            return Settled(accepted=held, again=[], given_up=given_up)
        again: list[Crammed] = []
        usual = over / len(held)
        for each in held:
            if over <= 0:
                break
            if len(each.patches) > near * max(1.0, share * each.task.num_tokens):
                given_up.append(each)
                over -= len(each.patches)
            elif each.task.failures < attempts - 1:
                again.append(each)
                over -= max(1.0, (_excess(each, share) - usual) / 2)
        if not again and over > 0:
            for each in sorted(self._left(given_up), key=lambda each: -len(each.patches)):
                if over > 0:
                    given_up.append(each)
                    over -= len(each.patches)
        self.held = self._left(given_up)
        return Settled(accepted=[], again=again, given_up=given_up)

    def _left(self, given_up: Sequence[Crammed]) -> list[Crammed]:
        gone = {id(each) for each in given_up}
        return [each for each in self.held if id(each) not in gone]

    def release(self) -> list[Crammed]:
        """The held chunks, whatever is left over: there is no time to cram their tokens anew."""
        held, self.held = self.held, []
        return [chunk for chunk in held if _has_use(chunk)]


def _excess(chunk: Crammed, share: float) -> float:
    return len(chunk.patches) - share * chunk.task.num_tokens


def _has_use(chunk: Crammed) -> bool:
    """Whether the vectors hold any token."""
    return len(chunk.patches) < chunk.task.num_tokens
