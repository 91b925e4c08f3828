"""The codecs by name, and the choice among them.

Owns the table, how a codec from elsewhere comes into it, and "auto", which takes the smallest of
several containers and stores nothing of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from llmzip.codecs.arith.codec import ArithCodec
from llmzip.codecs.base import Codec, Draft, Encoder, Estimate, Source
from llmzip.codecs.context import Context
from llmzip.codecs.cram.codec import CramCodec
from llmzip.config import EXTRA_CODECS, CompressSettings
from llmzip.errors import SettingsError
from llmzip.lm.loaded import LoadedModel
from llmzip.store.payload import PayloadFields
from llmzip.store.payloads import PAYLOADS


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


CODECS: dict[str, Codec] = {"cram": CramCodec(), "arith": ArithCodec()}
_CHOICES: dict[str, Encoder] = {"auto": Auto(CODECS["arith"], [CODECS["cram"]])}


def register(codec: Codec, fields: type[PayloadFields]) -> None:
    """Add a codec from elsewhere, and what the header of its files says; their names agree."""
    assert codec.name == fields.codec, "a file names its codec by its payload"
    CODECS[codec.name], PAYLOADS[codec.name] = codec, fields
    EXTRA_CODECS.append(codec.name)


def encoder_named(name: str) -> Encoder:
    """A codec, or a choice among them. Raises SettingsError."""
    found = _CHOICES.get(name) or CODECS.get(name)
    if found is None:
        known = ", ".join([*CODECS, *_CHOICES])
        raise SettingsError(f"`codec` is one of {known}, not {name!r}", settings=("codec",))
    return found
