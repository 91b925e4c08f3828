"""A model loaded once for many inputs.

Owns the two classes of the public API that keep a model. Prints nothing, handles no signals, and
leaves torch's settings as they were.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, TypeVar

from llmzip.api.options import bytes_of, compress_settings, decompress_settings
from llmzip.codecs.context import context_of
from llmzip.config import CompressSettings, DecompressSettings
from llmzip.errors import SettingsError

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from llmzip.api.options import BytesLike, CompressKeywords, DecompressKeywords
    from llmzip.lm.loaded import ModelCache
    from llmzip.progress import OnProgress

_Settings = TypeVar("_Settings", CompressSettings, DecompressSettings)


class _Session(Generic[_Settings]):
    """Settings, and the model once it was needed."""

    def __init__(self, settings: _Settings) -> None:
        self._settings: _Settings = settings
        self._making = threading.Lock()  # threads that begin together get the same models
        self._models: ModelCache | None = None
        self._is_closed = False

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def close(self) -> None:
        """Let go of the model, once the call under way has ended. Closing twice does no harm."""
        with self._making:
            self._is_closed = True
        if self._models is not None:
            self._models.close()

    @contextmanager
    def _turn(self, cancel: threading.Event | None) -> Iterator[ModelCache]:
        """The models, for one call at a time. Raises ValueError once it is closed, Interrupted."""
        with self._making:
            self._check_open()
            if self._models is None:
                from llmzip.lm.loaded import ModelCache

                self._models = ModelCache()
        with self._models.locked(cancel):
            self._check_open()  # it may have been closed meanwhile
            yield self._models

    def _check_open(self) -> None:
        if self._is_closed:
            raise ValueError(f"this {type(self).__name__} is closed")

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Compressor(_Session[CompressSettings]):
    """Compresses one input after another with the same settings; the model is loaded once.

    Takes the settings of `llmzip.compress`. Threads may share one: they work in turn.

        >>> with llmzip.Compressor(model=model, codec="arith") as compressor:
        ...     packed = [compressor.compress(text) for text in (b"Once.", b"Upon a time.")]
        >>> [llmzip.decompress(each, model=model) for each in packed]
        [b'Once.', b'Upon a time.']
    """

    def __init__(self, model: str | None = None, **options: Unpack[CompressKeywords]) -> None:
        """Raises SettingsError for settings that do not go together."""
        super().__init__(compress_settings({"model": model, **options}))

    def compress(
        self,
        data: BytesLike,
        *,
        progress: OnProgress | None = None,
        cancel: threading.Event | None = None,
    ) -> bytes:
        """As `llmzip.compress`. Raises ValueError once it is closed."""
        whole = bytes_of(data)
        with self._turn(cancel) as models:
            from llmzip.api.compress import compress_bytes

            context = context_of(progress, cancel)
            return compress_bytes(whole, self._settings, context, models=models)


class Decompressor(_Session[DecompressSettings]):
    """Decompresses one container after another; the model is kept until one is of another model,
    so that no two are in memory.

    Takes the settings of `llmzip.decompress` but for `span` and `chunks`, which are given for each
    container. Threads may share one: they work in turn.

        >>> packed = llmzip.compress(b"It was the best of times.", model=model, codec="arith")
        >>> with llmzip.Decompressor(model=model) as decompressor:
        ...     decompressor.decompress(packed, span=(7, 15))
        b'the best'
    """

    def __init__(self, model: str | None = None, **options: Unpack[DecompressKeywords]) -> None:
        """Raises SettingsError."""
        super().__init__(decompress_settings({"model": model, **options}))

    def decompress(
        self,
        data: BytesLike,
        *,
        span: tuple[int, int] | None = None,
        chunks: tuple[int, int] | None = None,
        progress: OnProgress | None = None,
        cancel: threading.Event | None = None,
    ) -> bytes:
        """As `llmzip.decompress`. Raises ValueError once it is closed."""
        whole = bytes_of(data)
        if span is not None and chunks is not None:
            raise SettingsError("span and chunks do not go together")
        settings = replace(self._settings, span=span, chunks=chunks)
        with self._turn(cancel) as models:
            from llmzip.api.decompress import decompress_bytes

            return decompress_bytes(whole, settings, context_of(progress, cancel), models=models)
