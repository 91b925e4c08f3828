"""Bytes that are safely on disk: files made, filled, synced and locked.

Owns the few calls whose order decides what a crash leaves behind. Knows nothing of what is written.
Called by `llmzip.store.journal` and `llmzip.cli.files`.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

try:
    import fcntl
except ImportError:  # not every platform has it; there, two runs are not kept apart
    fcntl = None  # type: ignore[assignment]

_PLAIN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_RDWR | _PLAIN
OLD_FILE = os.O_RDWR | _PLAIN | getattr(os, "O_NONBLOCK", 0)  # a FIFO in its place does not block
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_PIECE_BYTES = 1 << 24  # written at a time, so that a signal is seen in between


def write_all(handle: int, data: bytes) -> None:
    """Write all of it, however little the system takes at a time. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view[:_PIECE_BYTES]) :]


def sync_directory(directory: str) -> None:
    """Make names in a directory last, where the platform opens directories."""
    with suppress(OSError):  # the files themselves are synced
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def lock(handle: int) -> bool:
    """Take the file for this process until it closes it or ends; False: another one has it.

    On a file system without locks every process gets it.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _BUSY
    return True


def is_at(handle: int, path: str) -> bool:
    """Whether the open file still has this name."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False
