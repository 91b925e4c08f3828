"""`.crm` files as Python file objects.

Owns `llmzip.open`: reading anywhere, decoding no more than that takes, and writing a file that
appears once it is whole. Called by `llmzip`.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from llmzip.errors import IntegrityError
from llmzip.options import bytes_of, compress_settings, decompress_settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import TypeAlias

    from llmzip.config import CompressSettings, DecompressSettings
    from llmzip.models import Models
    from llmzip.options import BytesLike

    Where: TypeAlias = str | os.PathLike[str] | BinaryIO

_MODES = ("r", "w", "x")
# A segment of an arith file is decoded in one go. One of a crammed file takes as long alone as
# beside seven others, so those that follow are decoded, too, once reading goes on.
_SEGMENTS_AHEAD = 8


def open_crm(
    file: Where,
    mode: str,
    *,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
    options: dict[str, Any],
) -> IO[Any]:
    """See `llmzip.open`."""
    kind, is_text = mode.replace("t", "").replace("b", ""), "t" in mode
    if kind not in _MODES or len(mode) > 2 or mode not in (kind, f"{kind}b", f"{kind}t"):
        raise ValueError(f"invalid mode: {mode!r}")
    if not is_text and (encoding, errors, newline) != (None, None, None):
        raise ValueError("encoding, errors and newline are for text mode")
    if not isinstance(file, (str, os.PathLike)) and not (
        hasattr(file, "read") or hasattr(file, "write")
    ):
        raise TypeError("file is a path, or an object with read or write")
    if kind == "r":
        raw = CrmReader(file, decompress_settings(options))  # type: ignore[arg-type]
        found: Any = io.BufferedReader(raw)
    else:
        found = CrmWriter(file, kind, compress_settings(options))  # type: ignore[arg-type]
    if not is_text:
        return found  # type: ignore[no-any-return]
    return _TextFile(found, encoding, errors, newline)


class CrmReader(io.RawIOBase):
    """The original of a container, decoded as far as it is read."""

    def __init__(self, file: Where, settings: DecompressSettings) -> None:
        """Reads the container, which is small, whole. Raises OSError, FormatError,
        LimitExceeded."""
        from llmzip.pieces import Layout
        from llmzip.store.container import read_container
        from llmzip.store.limits import check_work

        data, self.name = _read_all(file)
        self.mode = "rb"
        container = read_container(data, max_output_bytes=settings.max_output_bytes)
        check_work(container.num_tokens, len(data), settings.max_tokens)
        self._container, self._layout, self._settings = container, Layout.of(container), settings
        self._texts: list[bytes | None] = [None] * self._layout.num_pieces
        self._is_checked = False  # against the hash of the whole
        self._models: Models | None = None
        self._place = 0

    def readable(self) -> bool:
        self._check_open()
        return True

    def seekable(self) -> bool:
        self._check_open()
        return True

    def tell(self) -> int:
        self._check_open()
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """A place beyond the end is its own end, as in `lzma`."""
        self._check_open()
        starts = {
            os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._container.original_bytes,
        }  # fmt: skip
        if whence not in starts:
            raise ValueError(f"invalid whence: {whence}")
        if whence == os.SEEK_SET and offset < 0:
            raise ValueError(f"negative seek value {offset}")
        self._place = max(0, min(starts[whence] + offset, self._container.original_bytes))
        return self._place

    def readinto(self, buffer: Any) -> int:
        self._check_open()
        view = memoryview(buffer).cast("B")
        data = self._bytes(len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        self._check_open()
        return self._bytes(self._container.original_bytes)

    def close(self) -> None:
        if not self.closed:
            self._texts = []
            if self._models is not None:
                self._models.close()
        super().close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def _bytes(self, size: int) -> bytes:
        """The next bytes, `size` at most."""
        from llmzip.pieces import restore

        first, last = self._place, min(self._place + size, self._container.original_bytes)
        if first >= last:
            return b""
        self._decode(self._layout.wanted(first, last))
        if not self._is_checked and all(text is not None for text in self._texts):
            restore(self._container, self._texts)  # the hash of the whole
            self._is_checked = True
        data = restore(self._container, self._texts, (first, last))
        self._place = last
        return data

    def _decode(self, wanted: range) -> None:
        """See that the texts of pieces are here: whole segments, which take no longer."""
        missing = [index for index in wanted if self._texts[index] is None]
        if not missing:
            return
        from llmzip.codec import decode_pieces
        from llmzip.models import Models

        starts = self._starts()
        first = max(start for start in starts if start <= missing[0])
        after = [start for start in starts if start > missing[-1]]
        goes_on = first > 0 and self._texts[first - 1] is not None
        ahead = _SEGMENTS_AHEAD - 1 if goes_on and self._container.arith is None else 0
        last = [*after, len(self._texts)][min(ahead, len(after))]
        self._models = self._models or Models()
        found = decode_pieces(
            self._container, self._settings, wanted=range(first, last), models=self._models
        )
        for index in range(first, last):
            if found[index] is not None:
                self._texts[index] = found[index]
        for index in missing:
            if self._texts[index] is None:
                raise IntegrityError(
                    f"{self._layout.noun} {index + 1} of {len(self._texts)} decodes to different "
                    "text",
                    hint='the file is intact but decodes to other text here; try device="cpu"',
                )

    def _starts(self) -> Sequence[int]:
        """The first piece of each segment."""
        if self._container.arith is not None:
            return range(len(self._texts))
        chunks = self._container.chunks
        return [index for index, chunk in enumerate(chunks) if chunk.starts_segment]


class CrmWriter(io.BufferedIOBase):
    """Takes bytes, and compresses them when it is closed."""

    def __init__(self, file: Where, kind: str, settings: CompressSettings) -> None:
        """kind: w or x. Raises OSError where the file cannot be written."""
        self.mode = f"{kind}b"
        self._settings, self._kind = settings, kind
        self._parts: list[bytes] = []
        self._size = 0
        self._stream: BinaryIO | None = None
        self._path = ""
        if isinstance(file, (str, os.PathLike)):
            self._path = self.name = os.fspath(file)
            if os.path.isdir(self._path):
                raise IsADirectoryError(f"{self._path} is a directory")
            if kind == "x" and os.path.lexists(self._path):
                raise FileExistsError(f"{self._path} exists")
            with _temporary(self._path):  # what would fail at the end fails now
                pass
        else:
            self._stream = file
            self.name = getattr(file, "name", "")

    def writable(self) -> bool:
        self._check_open()
        return True

    def write(self, data: BytesLike) -> int:  # type: ignore[override]
        self._check_open()
        part = bytes_of(data)
        self._parts.append(part)
        self._size += len(part)
        return len(part)

    def tell(self) -> int:
        self._check_open()
        return self._size

    def discard(self) -> None:
        """Close it, and write nothing."""
        self._parts, self._stream, self._path = [], None, ""
        super().close()

    def close(self) -> None:
        """Compress and write. Raises LlmzipError, OSError; then nothing was written."""
        if self.closed:
            return
        try:
            if self._stream is not None or self._path:
                self._publish()
        finally:
            self._parts = []
            super().close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close() if kind is None else self.discard()

    def __del__(self) -> None:
        with suppress(Exception):  # one that nobody closed: nothing appears behind one's back
            self.discard()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def _publish(self) -> None:
        from llmzip.codec import compress_bytes

        packed = compress_bytes(b"".join(self._parts), self._settings)
        if self._stream is not None:
            self._stream.write(packed)
            return
        with _temporary(self._path) as file:
            file.write(packed)
            file.flush()
            os.fsync(file.fileno())
            mask = os.umask(0o077)
            os.umask(mask)
            os.chmod(file.name, 0o666 & ~mask)
            if self._kind == "x":
                os.link(file.name, self._path)  # never in the place of another file
            else:
                os.replace(file.name, self._path)


class _TextFile(io.TextIOWrapper):
    """Text in front of one of the above. What fails inside a `with` block leaves no file."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None and isinstance(self.buffer, CrmWriter):
            self.buffer.discard()
        else:
            self.close()


@contextmanager
def _temporary(path: str) -> Iterator[Any]:
    """A new file beside `path`, gone when the block ends unless it was renamed."""
    directory = os.path.dirname(path) or os.curdir
    with tempfile.NamedTemporaryFile(
        prefix=".llmzip-", suffix=".tmp", dir=directory, delete=False
    ) as file:
        try:
            yield file
        finally:
            with suppress(FileNotFoundError):
                os.unlink(file.name)


def _read_all(file: Where) -> tuple[bytes, str]:
    """The bytes and the name of a file; one that was given stays open."""
    if isinstance(file, (str, os.PathLike)):
        path = os.fspath(file)
        with open(path, "rb") as opened:
            return opened.read(), path
    return file.read(), str(getattr(file, "name", ""))
