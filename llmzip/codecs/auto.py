"""The choice among codecs: whichever of their containers is smallest.

Owns which candidates there are. Stores nothing of its own: a file says what it was made with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from llmzip.codecs.base import Codec, Draft, Encoder, Estimate, Source
from llmzip.codecs.context import Context
from llmzip.config import CompressSettings
from llmzip.lm.loaded import LoadedModel


class Auto(Encoder):
    """The first codec always, the others where the settings ask for them."""

    name: ClassVar[str] = "auto"

    def __init__(self, first: Codec, others: Sequence[Codec]) -> None:
        self._first, self._others = first, others

    def check(self, settings: CompressSettings, context: Context) -> None:
        for codec in self._candidates(settings):
            codec.check(settings, context)

    def encode(
        self, source: Source, loaded: LoadedModel, settings: CompressSettings, context: Context
    ) -> Draft:
        drafts = [
            codec.encode(source, loaded, settings, context) for codec in self._candidates(settings)
        ]
        return drafts[0] if len(drafts) == 1 else min(drafts, key=lambda draft: draft.num_bytes)

    def estimate(
        self, source: Source, loaded: LoadedModel, settings: CompressSettings, context: Context
    ) -> Estimate:
        """That of the first codec."""
        return self._first.estimate(source, loaded, settings, context)

    def _candidates(self, settings: CompressSettings) -> list[Codec]:
        return [self._first, *(self._others if settings.try_cram else ())]
