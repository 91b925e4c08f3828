"""A model loaded once for many inputs.

Owns the two classes of the public API that keep a model. Prints nothing, handles no signals, and
leaves torch's settings as they were. Called by `llmzip`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Generic, TypeVar

from llmzip.config import CompressSettings, DecompressSettings
from llmzip.errors import SettingsError
from llmzip.options import bytes_of, compress_settings, decompress_settings

if TYPE_CHECKING:
    import threading
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from llmzip.models import Models
    from llmzip.options import BytesLike, CompressOptions, DecompressOptions
    from llmzip.progress import OnProgress

_Settings = TypeVar("_Settings", CompressSettings, DecompressSettings)


class _Session(Generic[_Settings]):
    """Settings, and the model once it was needed."""

    def __init__(self, settings: _Settings) -> None:
        self._settings: _Settings = settings
        self._models: Models | None = None
        self._is_closed = False

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def close(self) -> None:
        """Let go of the model. Closing twice does no harm."""
        self._is_closed = True
        if self._models is not None:
            self._models.close()

    def _open(self) -> Models:
        """The models. Raises ValueError once it is closed."""
        if self._is_closed:
            raise ValueError(f"this {type(self).__name__} is closed")
        if self._models is None:
            from llmzip.models import Models

            self._models = Models()
        return self._models

    def __enter__(self) -> Self:
        if self._is_closed:
            raise ValueError(f"this {type(self).__name__} is closed")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Compressor(_Session[CompressSettings]):
    """Compresses one input after another with the same settings; the model is loaded once.

    Takes the keywords of `llmzip.compress`. Threads may share one: they work in turn.

        >>> with llmzip.Compressor(model=model, codec="arith") as compressor:
        ...     packed = [compressor.compress(text) for text in (b"Once.", b"Upon a time.")]
        >>> [llmzip.decompress(each, model=model) for each in packed]
        [b'Once.', b'Upon a time.']
    """

    def __init__(self, **options: Unpack[CompressOptions]) -> None:
        """Raises SettingsError for settings that do not go together."""
        super().__init__(compress_settings(options))

    def compress(
        self,
        data: BytesLike,
        *,
        progress: OnProgress | None = None,
        cancel: threading.Event | None = None,
    ) -> bytes:
        """As `llmzip.compress`. Raises ValueError once it is closed."""
        whole, models = bytes_of(data), self._open()
        from llmzip.codec import compress_bytes

        return compress_bytes(
            whole, self._settings, models=models, on_progress=progress, cancel=cancel
        )


class Decompressor(_Session[DecompressSettings]):
    """Decompresses one container after another; a model is loaded once, as long as they are of the
    same one.

    Takes the keywords of `llmzip.decompress` but for `span` and `chunks`, which are given for each
    container. Threads may share one: they work in turn.

        >>> packed = llmzip.compress(b"It was the best of times.", model=model, codec="arith")
        >>> with llmzip.Decompressor(model=model) as decompressor:
        ...     decompressor.decompress(packed, span=(7, 15))
        b'the best'
    """

    def __init__(self, **options: Unpack[DecompressOptions]) -> None:
        """Raises SettingsError."""
        super().__init__(decompress_settings(options))

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
        whole, models = bytes_of(data), self._open()
        if span is not None and chunks is not None:
            raise SettingsError("span and chunks do not go together")
        from llmzip.codec import decompress_bytes

        settings = replace(self._settings, span=span, chunks=chunks)
        return decompress_bytes(whole, settings, models=models, on_progress=progress, cancel=cancel)
