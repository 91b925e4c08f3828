"""`.crm` files that are written as Python file objects.

Owns how what was written is compressed and appears: whole, under its name, or not at all.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO

from llmzip.api.options import bytes_of
from llmzip.store.atomic import NEW_FILE, directory_of, name_new, sync_name, write_all

if TYPE_CHECKING:
    from types import TracebackType

    from llmzip.api.options import BytesLike, Where
    from llmzip.codecs.context import Context
    from llmzip.config import CompressSettings


class CrmWriter(io.BufferedIOBase):
    """Takes bytes, and compresses them when it is closed."""

    def __init__(
        self,
        file: Where,
        kind: str,
        settings: CompressSettings,
        context: Context,
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

    def _check_path(self) -> None:
        """What would fail at the end fails now."""
        if os.path.isdir(self._path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self._path)
        if self._kind == "x" and os.path.lexists(self._path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self._path)
        if os.path.exists(self._path) and not os.access(self._path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), self._path)
        if not _is_special(self._path):
            with _temporary(os.path.realpath(self._path), 0o600):
                pass

    def _publish(self) -> None:
        from llmzip.api.compress import compress_bytes

        packed = compress_bytes(b"".join(self._parts), self._settings, self._context)
        if self._stream is not None:
            _write_stream(self._stream, packed)
        elif self._kind == "x":
            _write_file(self._path, packed, is_new=True)
        elif _is_special(self._path):
            with open(self._path, "wb") as stream:
                stream.write(packed)
        else:  # a link goes on to lead to the file
            _write_file(os.path.realpath(self._path), packed, is_new=False)


def _is_special(path: str) -> bool:
    """Whether it is a device, a FIFO or the like, which keeps its place."""
    return os.path.exists(path) and not os.path.isfile(path)


def _write_stream(stream: BinaryIO, data: bytes) -> None:
    """Write all of it, however little the stream takes at a time."""
    view = memoryview(data)
    while view:
        taken = stream.write(view)
        view = view[len(view) if taken is None else taken :]


def _write_file(path: str, data: bytes, *, is_new: bool) -> None:
    """A file with these bytes, which are on disk when it gets its name. One in whose place it
    comes leaves it its mode and, where that is allowed, its owner. Raises OSError."""
    old = None
    with suppress(FileNotFoundError):
        old = None if is_new else os.stat(path)
    with _temporary(path, 0o666 if old is None else 0o600) as (file, name):
        write_all(file.fileno(), data)
        if old is not None and hasattr(os, "fchown"):
            with suppress(OSError):
                os.fchown(file.fileno(), old.st_uid, old.st_gid)
            os.fchmod(file.fileno(), old.st_mode & 0o777)
        os.fsync(file.fileno())
        file.close()
        if is_new:
            name_new(name, path)
        else:
            os.replace(name, path)
    sync_name(path)


@contextmanager
def _temporary(path: str, mode: int) -> Iterator[tuple[io.FileIO, str]]:
    """A new file beside `path`, gone when the block ends unless it was renamed. mode: less what the
    process withholds from new files."""
    name = os.path.join(directory_of(path), f".llmzip-{os.urandom(8).hex()}.tmp")
    file = io.FileIO(os.open(name, NEW_FILE, mode), "r+")
    try:
        yield file, name
    finally:
        file.close()
        with suppress(FileNotFoundError):
            os.unlink(name)
