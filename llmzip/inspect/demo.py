"""A short text, sent through every codec and back.

Owns the text. Works in memory; writes no file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from llmzip.codecs.context import QUIET, Context
from llmzip.codecs.table import CODECS
from llmzip.config import CompressSettings, ComputeSettings
from llmzip.inspect.roundtrip import Trip, round_trip
from llmzip.lm.cache import Models

TEXT = b"""\
Every evening the old clockmaker wound the clocks in the window, one after another, and
listened until they all agreed. When a traveller asked him what time it was, he smiled and
said that it depended on which clock he trusted.
"""


def demonstrate(
    *,
    model: str | None = None,
    revision: str | None = None,
    offline: bool = False,
    compute: ComputeSettings,
    context: Context = QUIET,
) -> Iterator[Trip]:
    """One trip for each codec, the model loaded once. Raises LlmzipError."""
    models = Models()
    settings = CompressSettings(model=model, revision=revision, offline=offline, compute=compute)
    for name, codec in CODECS.items():
        own = replace(settings, codec=name, **codec.demo)  # type: ignore[arg-type]
        yield round_trip(TEXT, own, context, models=models)
