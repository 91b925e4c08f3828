"""Faults of the system, made in this process: a kill, a torn write, a signal, an error.

Owns which calls of `os` count, and what a fault does at one of them. Knows no campaign. Installed
in a child of `forks` before its command runs, never taken out again. Needs Linux.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

# "create" is an `open` that may make a file.
CHANGING = ("create", "write", "fsync", "ftruncate", "rename", "replace", "link", "unlink")
LOOKING = (
    "open", "read", "lseek", "fstat", "lstat", "stat", "close", "utime", "fchmod", "fchown",
)  # fmt: skip
_write, _readlink = os.write, os.readlink


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of `os` on a file of the watched directory."""

    index: int  # of those that count, from 0
    name: str
    path: str  # base name of the file; "." is the directory
    arguments: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.path}"


# Does a call, or what takes its place. The second argument does the real one.
Around = Callable[[Call, Callable[[], Any]], Any]


def install(
    directory: Path, around: Around, *, names: Sequence[str] = CHANGING, note: bool = True
) -> None:
    """Let `around` do every such call on a file in `directory` from now on.

    note: write each to the child's log (see `forks`) before it is done.
    """
    root, indices = os.path.realpath(directory), count()

    def base_name(place: Any) -> str | None:
        """Of a path or an open file in the directory; None: it is elsewhere."""
        if isinstance(place, int):
            place = _readlink(f"/proc/self/fd/{place}").removesuffix(" (deleted)")
        place = os.path.normpath(os.path.join(root, os.fspath(place)))
        if place == root:
            return "."
        return os.path.basename(place) if os.path.dirname(place) == root else None

    def wrap(function: str) -> None:
        real = getattr(os, function)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            name = function
            if function == "open" and arguments[1] & os.O_CREAT:
                name = "create"
            try:
                path = base_name(arguments[0]) if name in names else None
            except OSError:  # an open file that is none
                path = None
            if path is None:
                return real(*arguments, **options)
            call = Call(index=next(indices), name=name, path=path, arguments=arguments)
            if note:
                log(f"call {call}")
            return around(call, lambda: real(*arguments, **options))

        for able in (os.supports_fd, os.supports_dir_fd, os.supports_follow_symlinks):
            if real in able:
                able.add(wrapped)
        setattr(os, function, wrapped)

    for function in {"open" if name == "create" else name for name in names}:
        wrap(function)


_log_handle = -1


def log_to(handle: int) -> None:
    """Where `log` writes."""
    global _log_handle
    _log_handle = handle


def log(line: str) -> None:
    """Tell the campaign something; it is read even after a kill."""
    if _log_handle >= 0:
        _write(_log_handle, line.encode() + b"\n")


def undisturbed(call: Call, go: Callable[[], Any]) -> Any:
    """No fault."""
    return go()


def kill(at: int, when: str) -> Around:
    """The end of the process `before`, `after` or within (`torn`) call `at`. A torn write writes
    half."""

    def around(call: Call, go: Callable[[], Any]) -> Any:
        if call.index != at:
            return go()
        try:
            if when == "after":
                go()
            elif when == "torn":
                _write_half(call)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)

    return around


def send(at: int, number: int, times: int = 1) -> Around:
    """A signal to the process before call `at`, and again before those that follow."""

    def around(call: Call, go: Callable[[], Any]) -> Any:
        if at <= call.index < at + times:
            signal_at = time.monotonic()
            os.kill(os.getpid(), number)
            log(f"signal {signal_at}")
        return go()

    return around


def fail(at: int, error: int, when: str = "before") -> Around:
    """An error at call `at`. torn: half of a write is done. A file that fails to close is closed
    nevertheless."""

    def around(call: Call, go: Callable[[], Any]) -> Any:
        if call.index != at:
            return go()
        if when == "torn":
            _write_half(call)
        elif call.name == "close":
            go()
        raise OSError(error, os.strerror(error))

    return around


def lie(call: Call, go: Callable[[], Any]) -> Any:
    """A disk that keeps another bit than it was given in each write of a private file."""
    if call.name != "write" or not call.path.endswith(".tmp"):
        return go()
    handle, data = call.arguments
    other = bytearray(data)
    other[len(other) // 2] ^= 4
    return _write(handle, other)


def little(call: Call, go: Callable[[], Any]) -> Any:
    """A system that reads and writes a few bytes at a time."""
    if call.name == "write":
        handle, data = call.arguments
        return _write(handle, memoryview(data)[: max(1, len(data) // 3)])
    if call.name == "read":
        handle, size = call.arguments
        return os.pread(handle, 0, 0) if not size else _read_some(handle, size)
    return go()


def _read_some(handle: int, size: int) -> bytes:
    place = os.lseek(handle, 0, os.SEEK_CUR)
    data = os.pread(handle, max(1, size // 3), place)
    os.lseek(handle, len(data), os.SEEK_CUR)
    return data


def _write_half(call: Call) -> None:
    if call.name == "write":
        handle, data = call.arguments
        _write(handle, memoryview(data)[: len(data) // 2])
