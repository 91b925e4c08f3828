"""Bytes that are safely on disk: files made, filled, synced and locked.

Owns the few calls whose order decides what a crash leaves behind. Knows nothing of what is written.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from contextlib import suppress

try:
    import fcntl
except ImportError:  # not every platform has it; there, two runs are not kept apart
    fcntl = None  # type: ignore[assignment]

_PLAIN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_RDWR | _PLAIN
OLD_FILE = os.O_RDWR | _PLAIN | getattr(os, "O_NONBLOCK", 0)  # a FIFO in its place does not block
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_HERE, _NO_REPLACE, _EXCLUSIVE = -100, 1, 4  # AT_FDCWD, RENAME_NOREPLACE, RENAME_EXCL
_NOT_KNOWN = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
_PIECE_BYTES = 1 << 24  # written at a time, so that a signal is seen in between


def write_all(handle: int, data: bytes) -> None:
    """Write all of it, however little the system takes at a time. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view[:_PIECE_BYTES]) :]


def rename_new(before: str, after: str) -> bool:
    """Rename, but never to a name that exists: that raises FileExistsError. False: this system has
    no way to do that. Raises OSError."""
    names = os.fsencode(before), os.fsencode(after)
    if sys.platform == "linux":
        call, arguments = "renameat2", (_HERE, names[0], _HERE, names[1], _NO_REPLACE)
    elif sys.platform == "darwin":
        call, arguments = "renamex_np", (*names, _EXCLUSIVE)
    else:
        return False
    function = getattr(ctypes.CDLL(None, use_errno=True), call, None)
    if function is None:
        return False
    if function(*arguments) == 0:
        return True
    error = ctypes.get_errno()
    if error in _NOT_KNOWN:
        return False
    raise OSError(error, os.strerror(error), before, None, after)


def name_new(before: str, after: str) -> None:
    """Give a file the name `after`, or raise FileExistsError: never the place of another file. It
    may keep its old name, too. Raises OSError."""
    try:
        os.link(before, after)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links; if that is not the cause, this fails, too
        if rename_new(before, after):
            return
        os.close(os.open(after, NEW_FILE, 0o600))
        try:
            os.replace(before, after)
        except BaseException:
            os.unlink(after)
            raise


def directory_of(path: str) -> str:
    """The directory that a file is in."""
    return os.path.dirname(path) or os.curdir


def sync_name(path: str) -> None:
    """Make what has this name, or that nothing has, last: where the platform opens directories."""
    with suppress(OSError):  # the files themselves are synced
        handle = os.open(directory_of(path), os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_file(path: str) -> None:
    """Make a file that somebody else has written, and its name, last."""
    with suppress(OSError):
        handle = os.open(path, OLD_FILE)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    sync_name(path)


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
