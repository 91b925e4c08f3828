"""Output files: what may be written, and how a result is published.

Owns the checks made before any work, and publishing: a result is whole, synced and read back under
a temporary name before it gets its own, and no other file is lost. Knows nothing of containers.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from llmzip.cli.console import write_stdout
from llmzip.cli.sources import STDIO, Source
from llmzip.cli.startup import check_path
from llmzip.errors import InputError
from llmzip.store.atomic import directory_of, new_file, remove_stale, sync_name, write_all

_READ_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a result goes. path: None for stdout. is_stream: it is written to directly, without a
    temporary file. exists: there is a file already, which is left alone."""

    path: str | None
    replace: bool
    is_stream: bool
    exists: bool = False

    @property
    def name(self) -> str:
        return STDIO if self.path is None else self.path


def plan_target(
    source: Source,
    output: str | None,
    *,
    default: Callable[[str], str],
    force: bool,
    is_binary: bool,
    may_exist: bool = False,
) -> Target:
    """Decide where the result goes, and refuse now what would fail after the work.

    default: makes the path of the output from that of the input. may_exist: an existing output is
    not refused, so that it can be compared with the input first. Raises InputError.
    """
    path = output
    if path is None:
        path = STDIO if source.path is None else default(source.path)
    if path == STDIO:
        if is_binary and sys.stdout is not None and sys.stdout.isatty():
            raise InputError(
                "compressed data is not written to a terminal", hint="use -o FILE, or redirect it"
            )
        return Target(path=None, replace=False, is_stream=True)
    check_path(path)
    status = _status(path)
    if status is not None and (stat.S_ISCHR(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
        _refuse_terminal(path, status, is_binary)
        return Target(path=path, replace=False, is_stream=True)
    try:
        if status is not None:
            remove_stale(path)  # left by a run that was killed after it had published
            _refuse_existing(path, status, source)
            if not force and may_exist and source.path is not None:
                return Target(path=path, replace=False, is_stream=False, exists=True)
            if not force:
                raise already_there(path)
        with new_file(path, is_locked=True):
            pass  # now it is known that a file can be made there
    except OSError as error:
        raise InputError(
            f"cannot write into {directory_of(path)}: {error.strerror}",
            hint="make that directory, or choose another place with -o or --output-dir",
        ) from error
    return Target(path=path, replace=force, is_stream=False)


def publish(target: Target, data: bytes, source: Source) -> None:
    """Write `data` to `target`, all of it or nothing. Raises InputError.

    The new file gets mode and time from a source that is a file. On a stream, part of the data may
    have been sent when writing fails.
    """
    if target.path is None:
        write_stdout(data)
        return
    try:
        if target.is_stream:
            with open(target.path, "wb", buffering=0) as stream:
                write_all(stream.fileno(), data)
        else:
            _publish_file(target.path, data, source, replace=target.replace)
    except FileExistsError as error:
        if _holds(target.path, data):
            sync_name(target.path)  # the run that wrote it may have been killed before it did
            return
        raise InputError(
            f"{target.path} appeared meanwhile; it was left alone", hint="use -f to replace it"
        ) from error
    except OSError as error:
        raise InputError(f"cannot write {target.path}: {error.strerror}") from error


def _publish_file(path: str, data: bytes, source: Source, *, replace: bool) -> None:
    with new_file(path, is_locked=True) as file:
        file.write(data)
        _copy_status(file.handle, file.temporary, source)
        file.sync()
        _check_written(file.handle, data, path)
        file.publish(replace=replace)


def _check_written(handle: int, data: bytes, path: str) -> None:
    """Raise InputError unless the file reads back as `data`."""
    view = memoryview(data)
    os.lseek(handle, 0, os.SEEK_SET)
    while view:
        part = os.read(handle, min(len(view), _READ_BYTES))
        if not part or part != view[: len(part)]:
            raise InputError(f"{path}: the disk gives back other bytes than were written")
        view = view[len(part) :]


def _holds(path: str, data: bytes) -> bool:
    """Whether the content of the file is exactly `data`."""
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_size == len(data) and file.read() == data
    except OSError:
        return False


def _copy_status(handle: int, path: str, source: Source) -> None:
    if source.path is None or source.status is None:
        mask = os.umask(0o077)
        os.umask(mask)
        mode = 0o666 & ~mask
    else:
        mode = source.status.st_mode & 0o777  # no setuid, setgid, sticky
        if hasattr(os, "fchown"):
            mode = _copy_owner(handle, source.status, mode)
        times = (source.status.st_atime_ns, source.status.st_mtime_ns)
        os.utime(handle if os.utime in os.supports_fd else path, ns=times)
    if hasattr(os, "fchmod"):
        os.fchmod(handle, mode)


def _copy_owner(handle: int, status: os.stat_result, mode: int) -> int:
    """Copy owner and group as far as allowed, and return the mode. Where the group cannot be
    copied, the file's group gets only the rights that all users have."""
    with suppress(OSError):
        os.fchown(handle, status.st_uid, -1)
    try:
        os.fchown(handle, -1, status.st_gid)
    except OSError:
        mode &= ~0o070 | (mode & 0o007) << 3
    return mode


def _status(path: str) -> os.stat_result | None:
    """The status of what is at `path`, following links but dangling ones; None for nothing."""
    try:
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            with suppress(FileNotFoundError):
                found = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    return found


def already_there(path: str, what: str = "") -> InputError:
    """The error for an output that exists. what: a description of it, where one is known."""
    return InputError(
        f"{path} exists{f' and {what}' if what else ''}",
        hint="use -f to replace it, or -o for another name",
    )


def _refuse_existing(path: str, status: os.stat_result, source: Source) -> None:
    """Refuse an output that no file may replace, not even with -f."""
    if source.status is not None and os.path.samestat(status, source.status):
        raise InputError(f"{path} is the input itself", hint="choose another output with -o")
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a directory", hint="--output-dir names one for the results")
    if os.path.islink(path):
        raise InputError(f"{path} is a symbolic link", hint="name the file itself, or remove it")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is not a file", hint="choose another output with -o")


def _refuse_terminal(path: str, status: os.stat_result, is_binary: bool) -> None:
    if not is_binary or not stat.S_ISCHR(status.st_mode):
        return
    try:
        handle = os.open(path, os.O_WRONLY | getattr(os, "O_NOCTTY", 0))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    try:
        if os.isatty(handle):
            raise InputError(f"{path} is a terminal", hint="use -o FILE for compressed data")
    finally:
        os.close(handle)
