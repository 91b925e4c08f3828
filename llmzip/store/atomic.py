"""Files that are written whole or not at all, and the few calls that this rests on.

Owns the private temporary file beside an output, the order of write, fsync and rename that decides
what a crash leaves behind, the fsync of a directory, and locks. Knows nothing of what is written.

`new_file` is for callers that add steps of their own before the file gets its name; `write_file` is
for all others.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

from llmzip.errors import InputError

try:
    import fcntl
except ImportError:  # not every platform has it; there, two runs are not kept apart
    fcntl = None  # type: ignore[assignment]

_PLAIN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_RDWR | _PLAIN
OLD_FILE = os.O_RDWR | _PLAIN | getattr(os, "O_NONBLOCK", 0)  # a FIFO in its place does not block
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_AT_FDCWD, _RENAME_NOREPLACE, _RENAME_EXCL = -100, 1, 4  # as <fcntl.h> and <stdio.h> have them
_NOT_SUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
_PIECE_BYTES = 1 << 24  # written at a time, so that a signal is seen in between


class NewFile:
    """A private file beside `path`, which it replaces or becomes with `publish`."""

    def __init__(self, path: str, temporary: str, handle: int, *, is_locked: bool) -> None:
        self.path = path  # the name that it gets
        self.temporary = temporary  # the name that it has until then
        self.handle = handle
        self.is_published = False
        self._is_locked = is_locked

    def write(self, data: bytes) -> None:
        """Append all of `data`. Raises OSError."""
        write_all(self.handle, data)

    def sync(self) -> None:
        """Return when what was written is on disk. Raises OSError."""
        os.fsync(self.handle)

    def publish(self, *, replace: bool) -> None:
        """Give the file its name. replace: instead of a file that has it; otherwise such a file
        stays, and FileExistsError is raised. Raises OSError."""
        # A lock has to last until the temporary name is gone. Windows renames no open file.
        if not self._is_locked or os.name == "nt":
            self.close()
        if replace:
            os.replace(self.temporary, self.path)
        else:
            rename_to_new_name(self.temporary, self.path)
        self.is_published = True

    def close(self) -> None:
        """Close the file, once. Raises OSError."""
        handle, self.handle = self.handle, -1
        if handle >= 0:
            os.close(handle)

    def remove_temporary(self) -> None:
        """Remove the temporary name and close the file; after `publish` without hard links, or with
        `replace`, the name is already gone. Raises OSError."""
        try:
            # Where another program has removed the file, the name may belong to another run.
            if self.handle < 0 or is_at(self.handle, self.temporary):
                Path(self.temporary).unlink(missing_ok=True)
        finally:
            self.close()


@contextmanager
def new_file(path: str, *, mode: int = 0o600, is_locked: bool = False) -> Iterator[NewFile]:
    """A new empty file in the directory of `path`, under a temporary name; removed when the block
    ends, unless it was published. Then its directory is synced, so that the name outlives a crash.

    mode: of the file, less the process's umask. is_locked: the temporary name depends on `path`
    alone, so that a later run finds and removes a file that a killed run has left, and the file is
    locked, so that two runs that write `path` at once do not disturb each other: the second one
    gets an InputError. Otherwise the name is random. Raises OSError.
    """
    if is_locked:
        name = _fixed_name(path)
        handle = _open_locked(name, mode)
    else:
        name = os.path.join(directory_of(path), f".llmzip-{os.urandom(8).hex()}.tmp")
        handle = os.open(name, NEW_FILE, mode)
    file = NewFile(path, name, handle, is_locked=is_locked)
    try:
        yield file
    finally:
        file.remove_temporary()
    if file.is_published:
        sync_name(path)


def write_file(path: str | Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file with these bytes, which are on disk when it gets its name: whole or not at all.

    replace: instead of an old file, whose mode the new one takes over and, where that is allowed,
    its owner. Otherwise FileExistsError is raised where `path` exists. A file that replaces none
    gets the usual mode. Raises OSError.
    """
    path, old = os.fspath(path), None
    with suppress(FileNotFoundError):
        old = os.stat(path) if replace else None
    with new_file(path, mode=0o666 if old is None else 0o600) as file:
        file.write(data)
        if old is not None and hasattr(os, "fchown"):
            with suppress(OSError):
                os.fchown(file.handle, old.st_uid, old.st_gid)
            os.fchmod(file.handle, old.st_mode & 0o777)
        file.sync()
        file.publish(replace=replace)


def write_cache(path: Path, data: bytes) -> None:
    """Write a file of a cache, and make its directory. One that cannot be written costs time, never
    a result."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, data)


def remove_stale(path: str) -> None:
    """Remove the temporary file that a killed run has left of `new_file(path, is_locked=True)`.
    Raises InputError where a run is still writing it, OSError."""
    _remove_unlocked(_fixed_name(path))


def _fixed_name(path: str) -> str:
    mark = blake2b(os.path.basename(path).encode(errors="surrogateescape"), digest_size=8)
    return os.path.join(directory_of(path), f".llmzip-{mark.hexdigest()}.tmp")


def _open_locked(name: str, mode: int) -> int:
    """A handle of a new file that is locked and has this name."""
    while True:
        try:
            handle = os.open(name, NEW_FILE, mode)
        except FileExistsError:
            _remove_unlocked(name)
            continue
        if lock(handle) and is_at(handle, name):
            return handle
        os.close(handle)  # between open and lock, another run took it for a stale file


def _remove_unlocked(name: str) -> None:
    try:
        handle = os.open(name, OLD_FILE)
    except FileNotFoundError:
        return
    try:
        if not lock(handle):
            raise InputError(
                f"another llmzip is writing {name}", hint="wait for it, or stop it, and try again"
            )
        if is_at(handle, name):
            os.unlink(name)
    finally:
        os.close(handle)


def write_all(handle: int, data: bytes) -> None:
    """Write all of `data`, however little the system takes at a time. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view[:_PIECE_BYTES]) :]


def rename_to_new_name(before: str, after: str) -> None:
    """Give a file the name `after`, which no file has yet, or raise FileExistsError. It may keep
    its old name, too. Raises OSError."""
    try:
        os.link(before, after)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links; if that is not the cause, this fails, too
        if not rename_exclusively(before, after):
            os.close(os.open(after, NEW_FILE, 0o600))
            try:
                os.replace(before, after)
            except BaseException:
                os.unlink(after)
                raise


def rename_exclusively(before: str, after: str) -> bool:
    """Rename with the system call that refuses a name that exists: FileExistsError. Returns False
    where this system has no such call. Raises OSError."""
    names = os.fsencode(before), os.fsencode(after)
    if sys.platform == "linux":
        call = "renameat2"
        arguments = (_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE)
    elif sys.platform == "darwin":
        call, arguments = "renamex_np", (*names, _RENAME_EXCL)
    else:
        return False
    function = getattr(ctypes.CDLL(None, use_errno=True), call, None)
    if function is None or function(*arguments) == 0:
        return function is not None
    error = ctypes.get_errno()
    if error in _NOT_SUPPORTED:
        return False
    raise OSError(error, os.strerror(error), before, None, after)


def directory_of(path: str) -> str:
    """The directory that a file is in."""
    return os.path.dirname(path) or os.curdir


def sync_directory(path: str | Path) -> None:
    """Make the names in a directory outlive a crash; nothing on Windows, which opens no
    directories. Raises OSError."""
    if sys.platform != "win32":
        _sync(path, os.O_RDONLY)


def sync_name(path: str) -> None:
    """Make the creation, renaming or removal of `path` outlive a crash, as far as the file system
    can; no error where it cannot, as the content of the files is synced before."""
    with suppress(OSError):
        sync_directory(directory_of(path))


def sync_file(path: str) -> None:
    """Make a file that another program has written, and its name, outlive a crash, as far as the
    file system can."""
    with suppress(OSError):
        _sync(path, OLD_FILE)
    sync_name(path)


def _sync(path: str | Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock(handle: int) -> bool:
    """Lock an open file until it is closed or the process ends. False: another process has it.

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
