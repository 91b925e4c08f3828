"""The codecs by name.

Owns the table. A codec from elsewhere is added by its name; its payload goes into the table of
`store.payloads`.
"""

from __future__ import annotations

from llmzip.codecs.arith.codec import ArithCodec
from llmzip.codecs.auto import Auto
from llmzip.codecs.base import Codec, Encoder
from llmzip.codecs.cram.codec import CramCodec
from llmzip.errors import SettingsError

CODECS: dict[str, Codec] = {"cram": CramCodec(), "arith": ArithCodec()}
_CHOICES: dict[str, Encoder] = {"auto": Auto(CODECS["arith"], [CODECS["cram"]])}


def encoder_named(name: str) -> Encoder:
    """A codec, or a choice among them. Raises SettingsError."""
    found = _CHOICES.get(name) or CODECS.get(name)
    if found is None:
        known = ", ".join([*CODECS, *_CHOICES])
        raise SettingsError(f"--codec is one of {known}, not {name!r}")
    return found
