"""`.crm` files that are written as Python file objects.

Owns how what was written is compressed and appears: whole, under its name, or not at all.
"""

from __future__ import annotations

import errno
import io
import os
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

from llmzip.api.options import bytes_of
from llmzip.store.atomic import new_file, write_file

if TYPE_CHECKING:
    from llmzip.api.options import BytesLike, Where
    from llmzip.codecs.context import Context
    from llmzip.config import CompressSettings


class CrmWriter(io.BufferedIOBase):
    """Takes bytes, and compresses them when it is closed."""

    def __init__(
        self, file: Where, kind: str, settings: CompressSettings, context: Context
    ) -> None:
        """kind: w or x. Raises OSError where the file cannot be written."""
        self.mode = f"{kind}b"
        self._settings, self._kind = settings, kind
        self._context = context
        self._parts: list[bytes] = []
        self._size = 0
        self._stream: BinaryIO | None = None
        self._path = ""
        if isinstance(file, (str, os.PathLike)):
            self._path = self.name = os.fspath(file)
            self._check_path()
        else:
            self._stream = file
            self.name = getattr(file, "name", "")

    def writable(self) -> bool:
        self._check_open()
        return True

    def readable(self) -> bool:
        self._check_open()
        return False

    def seekable(self) -> bool:
        self._check_open()
        return False

    def write(self, data: BytesLike) -> int:
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
        """Compress and write. Raises LlmzipError, OSError; then nothing was written, but for a part
        that a stream may have taken."""
        if self.closed:
            return
        try:
            if self._stream is not None or self._path:
                self._publish()
        finally:
            self._parts = []
            super().close()

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.close() if kind is None else self.discard()

    def __del__(self) -> None:
        with suppress(Exception):  # a file that was never closed is not written
            self.discard()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def _check_path(self) -> None:
        """Raise the OSErrors now with which `close` would fail after the work."""
        if os.path.isdir(self._path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self._path)
        if self._kind == "x" and os.path.lexists(self._path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self._path)
        if os.path.exists(self._path) and not os.access(self._path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), self._path)
        if not _is_special(self._path):
            with new_file(os.path.realpath(self._path)):
                pass  # now it is known that a file can be made there

    def _publish(self) -> None:
        from llmzip.api.compress import compress_bytes

        packed = compress_bytes(b"".join(self._parts), self._settings, self._context)
        if self._stream is not None:
            _write_stream(self._stream, packed)
        elif self._kind == "x":
            write_file(self._path, packed, replace=False)
        elif _is_special(self._path):
            with open(self._path, "wb") as stream:
                stream.write(packed)
        else:  # of a link, the file it leads to is replaced, not the link
            write_file(os.path.realpath(self._path), packed)


def _is_special(path: str) -> bool:
    """Whether it is a device, a FIFO or the like, which is written to and not replaced."""
    return os.path.exists(path) and not os.path.isfile(path)


def _write_stream(stream: BinaryIO, data: bytes) -> None:
    """Write all of it, however little the stream takes at a time."""
    view = memoryview(data)
    while view:
        taken = stream.write(view)
        view = view[len(view) if taken is None else taken :]
