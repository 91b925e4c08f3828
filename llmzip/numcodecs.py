"""The codec "llmzip" of numcodecs: chunks of arrays of text, as in zarr's format 2.

    >>> from llmzip.numcodecs import Llmzip
    >>> codec = Llmzip(model=model)
    >>> bytes(codec.decode(codec.encode(b"It was the best of times.")))
    b'It was the best of times.'

numcodecs finds it by itself, by an entry point, when an array names it. Owns what is kept of a
codec's settings with an array, and the models that stay loaded from one chunk to the next.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar

from numcodecs.abc import Codec
from numcodecs.compat import ensure_bytes, ensure_contiguous_ndarray, ndarray_copy

import llmzip
from llmzip.config import Codec as CodecName
from llmzip.config import Preset


class Llmzip(Codec):  # type: ignore[misc]
    """A chunk as a `.crm` container.

    Takes settings of `llmzip.compress`, of which `codec` is "arith" here if none is named: an array
    has many chunks, and vectors take minutes for each. A chunk that is no text is stored with zstd.
    """

    codec_id: ClassVar[str] = "llmzip"

    def __init__(
        self,
        codec: CodecName = "arith",
        model: str | None = None,
        preset: Preset = "balanced",
    ) -> None:
        """Raises SettingsError when the first chunk is encoded, for settings that there are not."""
        self.codec, self.model, self.preset = codec, model, preset

    def encode(self, buf: Any) -> bytes:
        """The container of a contiguous buffer's bytes. Raises LlmzipError; TypeError for an array
        of objects, ValueError for one that is not contiguous."""
        data = ensure_contiguous_ndarray(buf)
        compressor = _compressor(self.codec, self.model, self.preset)
        return compressor.compress(memoryview(data).cast("B"))

    def decode(self, buf: Any, out: Any = None) -> Any:
        """The bytes that were encoded, in `out` if there is one. Raises LlmzipError."""
        data = ensure_bytes(buf)
        if out is not None:
            out = ensure_contiguous_ndarray(out)
        return ndarray_copy(_decompressor(self.model).decompress(data), out)


@lru_cache(maxsize=1)
def _compressor(codec: CodecName, model: str | None, preset: Preset) -> llmzip.Compressor:
    return llmzip.Compressor(model, codec=codec, preset=preset)


@lru_cache(maxsize=1)
def _decompressor(model: str | None) -> llmzip.Decompressor:
    return llmzip.Decompressor(model)
