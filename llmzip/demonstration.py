"""A short text, sent into vectors and through the arithmetic coder, and back.

Owns the text and which codecs show it. Works in memory; writes no file. Called by `cli.demo`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from llmzip.codec import compress_bytes, decompress_bytes
from llmzip.config import Codec, CompressSettings, ComputeSettings, DecompressSettings
from llmzip.models import Models
from llmzip.progress import OnProgress

TEXT = b"""\
Every evening the old clockmaker wound the clocks in the window, one after another, and
listened until they all agreed. When a traveller asked him what time it was, he smiled and
said that it depended on which clock he trusted.
"""
CODECS: tuple[Codec, ...] = ("cram", "arith")


@dataclass(frozen=True, kw_only=True)
class Trip:
    """A text that went into a container and came back."""

    codec: Codec
    packed: bytes
    text: bytes  # decompressed; the codec has compared it with its hash
    compress_seconds: float
    decompress_seconds: float


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
    back = DecompressSettings(model=model, revision=revision, offline=offline, compute=compute)
    for codec in CODECS:
        quick: dict[str, Any] = {"preset": "fast"} if codec == "cram" else {"shared_mem": 0}
        started = time.monotonic()
        packed = compress_bytes(
            TEXT,
            replace(settings, codec=codec, **quick),
            models=models,
            on_progress=on_progress,
            cancel=cancel,
        )
        between = time.monotonic()
        text = decompress_bytes(packed, back, models=models, on_progress=on_progress, cancel=cancel)
        yield Trip(
            codec=codec,
            packed=packed,
            text=text,
            compress_seconds=between - started,
            decompress_seconds=time.monotonic() - between,
        )
