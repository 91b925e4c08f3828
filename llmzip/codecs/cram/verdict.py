"""What becomes of chunks that have had their steps: they are accepted, held, sent back, split or
stored token by token.

Owns these decisions. Nothing is accepted before `certify` has found it right and safe, with the
vectors as they will be stored. Knows nothing of batches or files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from llmzip.codecs.context import Context
from llmzip.codecs.cram.allowance import Allowance
from llmzip.codecs.cram.certify import certify
from llmzip.codecs.cram.checkpoint import OnTask
from llmzip.codecs.cram.presets import most_patched
from llmzip.codecs.cram.slots import Decoded, Slot, as_stored
from llmzip.codecs.cram.tasks import Contexts, Crammed, EngineSettings, Task, split
from llmzip.codecs.token_odds import TokenOdds
from llmzip.lm.model import FrozenLM

_CERTIFIED_TOGETHER = {"cpu": 1, "cuda": 64, "mps": 8}  # a context each in memory
LITERAL_TOKENS = 8  # a stubborn chunk this short is stored token by token
ATTEMPTS = 2  # at signs, each from another random start
_NEAR = 2.5  # times the share of tokens that may be patched: another start may help


class Judge:
    """Certifies finished chunks with `lm`, whose numerics are the decoder's."""

    def __init__(
        self,
        lm: FrozenLM,
        contexts: Contexts,
        settings: EngineSettings,
        *,
        on_task: OnTask,
        context: Context,
        token_odds: TokenOdds | None,
    ) -> None:
        """token_odds: where patched tokens are coded by the model."""
        self._lm, self._contexts, self._settings = lm, contexts, settings
        self._on_task, self._context = on_task, context
        self._token_odds = token_odds

    @torch.no_grad()
    def outcomes(
        self, slots: Sequence[Slot], allowance: Allowance
    ) -> Iterator[Crammed | Task | Slot]:
        """Certify finished chunks. Wrong and unsafe tokens become patches. Of a chunk that the
        allowance holds, nothing comes yet."""
        self._context.check()  # once: what is noted of some of them is not noted again
        size = _CERTIFIED_TOGETHER[self._lm.device.type]
        for first in range(0, len(slots), size):
            yield from self._certified(slots[first : first + size], allowance)

    def _certified(
        self, slots: Sequence[Slot], allowance: Allowance
    ) -> Iterator[Crammed | Task | Slot]:
        stored = [as_stored(slot.mem) for slot in slots]
        certificates = certify(
            self._lm, self._contexts.before([slot.task for slot in slots]), torch.stack(stored),
            [slot.task.ids for slot in slots], wanted=self._settings.min_margin,
            token_odds=self._token_odds,
        )  # fmt: skip
        for mem, slot, each in zip(stored, slots, certificates, strict=True):
            found = Decoded(
                mem=mem, margins=each.margins, weak=self._weak(each.margins), odds=each.odds
            )
            if slot.signs is None:
                yield from self._verdict(slot, found)
                continue
            chunk = allowance.take(found.crammed(slot), self._settings.max_patches)
            if chunk is not None:
                yield chunk

    def settle(self, allowance: Allowance) -> Iterator[Crammed | Task]:
        """What becomes of the chunks that the allowance holds, when no others are left. Another
        random start takes no bits, a split takes those of a vector."""
        settled = allowance.settle(self._settings.max_patches, attempts=ATTEMPTS, near=_NEAR)
        yield from settled.accepted
        for chunk in settled.again:
            self._on_task("refused", chunk.task, chunk.steps)
            failures = chunk.task.failures + 1
            yield replace(chunk.task, steps_so_far=chunk.steps, failures=failures)
        for chunk in settled.given_up:
            yield from self._given_up(chunk.task, chunk.steps)

    def _weak(self, margins: Sequence[float]) -> list[int]:
        """Positions of the tokens that are not safe."""
        wanted = self._settings.min_margin
        return [position for position, margin in enumerate(margins) if not margin >= wanted]

    def _verdict(self, slot: Slot, found: Decoded) -> Iterator[Crammed | Task | Slot]:
        task = slot.task
        if len(found.weak) <= most_patched(task.num_tokens, self._settings.max_patches):
            yield found.crammed(slot)
        elif slot.step < self._settings.max_steps:
            self._on_task("refused", task, slot.step)
            yield replace(task, warm_mem=slot.mem, steps_so_far=slot.step)
        else:
            yield from self._given_up(task, slot.step)

    def _given_up(self, task: Task, steps: int) -> Iterator[Crammed | Task]:
        """A chunk that has had all of its steps and does not fit: split, or, if it is short, every
        token by itself, without vectors."""
        if task.num_tokens > LITERAL_TOKENS:
            self._on_task("split", task, steps)
            yield from split(task, context_tokens=self._settings.context_tokens)
        else:
            patches = tuple(enumerate(task.ids))
            yield Crammed(task=task, mem=None, patches=patches, min_margin=None, steps=steps)
