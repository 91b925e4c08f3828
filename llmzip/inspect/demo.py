"""A short text, sent into vectors and through the arithmetic coder, and back.

Owns the text and which codecs show it. Works in memory; writes no file.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from llmzip.config import Codec, CompressSettings, ComputeSettings
from llmzip.inspect.roundtrip import Trip, round_trip
from llmzip.lm.cache import Models
from llmzip.progress import OnProgress

TEXT = b"""\
Every evening the old clockmaker wound the clocks in the window, one after another, and
listened until they all agreed. When a traveller asked him what time it was, he smiled and
said that it depended on which clock he trusted.
"""
CODECS: tuple[Codec, ...] = ("cram", "arith")


def demonstrate(
    *,
    model: str | None = None,
    revision: str | None = None,
    offline: bool = False,
    compute: ComputeSettings,
    on_progress: OnProgress | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[Trip]:
    """One trip for each codec, the model loaded once. Raises LlmzipError."""
    models = Models()
    settings = CompressSettings(model=model, revision=revision, offline=offline, compute=compute)
    for codec in CODECS:
        # So short a text would be stored, had nobody said how many bits vectors are to have.
        quick: dict[str, Any] = {"shared_mem": 0}
        if codec == "cram":
            quick = {"preset": "fast", "bits": 3}
        own = replace(settings, codec=codec, **quick)
        yield round_trip(TEXT, own, models=models, on_progress=on_progress, cancel=cancel)
