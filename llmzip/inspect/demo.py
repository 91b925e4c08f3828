"""A text that goes into a container and comes back, timed; and a short one that is shown.

Owns the one way to do both with the same model and settings. Works in memory; writes no file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from llmzip.codecs.context import Context
from llmzip.codecs.table import CODECS
from llmzip.config import Codec, CompressSettings, DecompressSettings
from llmzip.lm.loaded import ModelCache


@dataclass(frozen=True, kw_only=True)
class Trip:
    """How it went."""

    codec: Codec
    packed: bytes
    text: bytes  # decompressed; the codec has compared it with its hash
    compress_seconds: float
    decompress_seconds: float


def round_trip(
    data: bytes, settings: CompressSettings, context: Context, *, models: ModelCache
) -> Trip:
    """There and back, with one load of the model. Raises LlmzipError."""
    from llmzip.api.compress import compress_bytes
    from llmzip.api.decompress import decompress_bytes

    back = DecompressSettings(
        model=settings.model, revision=settings.revision, max_output_bytes=len(data),
        offline=settings.offline, compute=settings.compute,
    )  # fmt: skip
    started = time.perf_counter()
    packed = compress_bytes(data, settings, context, models=models)
    between = time.perf_counter()
    text = decompress_bytes(packed, back, context, models=models)
    return Trip(
        codec=settings.codec,
        packed=packed,
        text=text,
        compress_seconds=between - started,
        decompress_seconds=time.perf_counter() - between,
    )


TEXT = b"""\
Every evening the old clockmaker wound the clocks in the window, one after another, and
listened until they all agreed. When a traveller asked him what time it was, he smiled and
said that it depended on which clock he trusted.
"""


def demonstrate(settings: CompressSettings, context: Context) -> Iterator[Trip]:
    """One trip for each codec, the model loaded once. Raises LlmzipError."""
    models = ModelCache()
    for name, codec in CODECS.items():
        own = replace(settings, codec=name, **codec.demo)  # type: ignore[arg-type]
        yield round_trip(TEXT, own, context, models=models)
