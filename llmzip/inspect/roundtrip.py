"""A text that goes into a container and comes back, timed.

Owns the one way to do both with the same model and settings.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmzip.codecs.context import Context
from llmzip.config import Codec, CompressSettings, DecompressSettings

if TYPE_CHECKING:
    from llmzip.lm.cache import Models


@dataclass(frozen=True, kw_only=True)
class Trip:
    """How it went."""

    codec: Codec
    packed: bytes
    text: bytes  # decompressed; the codec has compared it with its hash
    compress_seconds: float
    decompress_seconds: float


def round_trip(
    data: bytes,
    settings: CompressSettings,
    context: Context,
    *,
    models: Models,
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
