"""Input files and streams: opening and reading them, and their names in error messages.

Owns what may be read, how much, and the check that it does not change meanwhile. Knows nothing of
containers.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import BinaryIO

from llmzip.cli.names import partner
from llmzip.cli.startup import check_path
from llmzip.errors import (
    MEMORY_HINT,
    FormatError,
    InputError,
    IntegrityError,
    LimitExceeded,
    ModelMismatch,
    NotACrmFile,
)
from llmzip.lm.memory import free_ram_bytes

STDIO = "-"
_PART_BYTES = 1 << 22
_MEMORY_SHARE = 0.4  # of free memory for an input, which is copied once, and the work needs more


@dataclass(frozen=True, kw_only=True)
class Source:
    """An opened input. `path` is None for a stream: stdin, a FIFO, a device."""

    name: str
    path: str | None
    stream: BinaryIO
    status: os.stat_result | None  # None for a stream in memory

    def read(self) -> bytes:
        """All bytes of the input. Raises InputError, also for a file that changes meanwhile, and
        LimitExceeded for an input that is too large for the free memory."""
        try:
            data = self._read_all()
        except OSError as error:
            raise InputError(f"cannot read {self.name}: {error.strerror}") from error
        with suppress(OSError):
            # Status is compared with status, never with the bytes read: the size of files in /proc
            # and /sys is not the number of bytes that they give.
            changed = self.has_changed() or self._is_other(os.fstat(self.stream.fileno()))
            if self.path is not None and changed:
                raise InputError(f"{self.name} changed while it was read", hint="try again")
        return data

    def _read_all(self) -> bytes:
        """Read part by part, as a device may have no end."""
        room = free_ram_bytes()
        parts: list[bytes] = []
        size = 0
        while part := self.stream.read(_PART_BYTES):
            parts.append(part)
            size += len(part)
            if room is not None and size > _MEMORY_SHARE * room:
                raise LimitExceeded(
                    f"{self.name} has more than {size >> 20:,} MiB, which is too much for the "
                    "memory that is free",
                    hint=MEMORY_HINT,
                )
        return b"".join(parts)

    def has_changed(self) -> bool:
        """Whether the file's name now leads to another file, or to a changed one, than was opened.
        False for a stream, and where there is no such file any more."""
        if self.path is None:
            return False
        try:
            return self._is_other(os.stat(self.path))
        except OSError:
            return False

    def _is_other(self, now: os.stat_result) -> bool:
        return self.status is not None and _state(now) != _state(self.status)

    def close(self) -> None:
        if self.name != STDIO:
            self.stream.close()


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def open_source(file: str) -> Source:
    """Open an input, `-` for stdin. Opening a FIFO waits for its writer. Raises InputError."""
    if file == STDIO:
        if sys.stdin is None:
            raise InputError("standard input is closed", hint="name a file")
        stream: BinaryIO = sys.stdin.buffer
    else:
        check_path(file)
        try:
            stream = open(file, "rb")
        except OSError as error:
            hint = "-r takes what is in it"
            if not os.path.isdir(file):
                hint = partner(file) or "check the name"
            raise InputError(f"cannot read {file}: {error.strerror}", hint=hint) from error
    if stream.isatty():
        if file != STDIO:
            stream.close()
        raise InputError(
            "data is not read from a terminal", hint="name a file, or send the data through a pipe"
        )
    try:
        status = os.fstat(stream.fileno())
    except OSError as error:
        if file != STDIO:
            stream.close()
            raise InputError(f"cannot read {file}: {error.strerror}") from error
        status = None
    is_file = file != STDIO and status is not None and stat.S_ISREG(status.st_mode)
    return Source(name=file, path=file if is_file else None, stream=stream, status=status)


@contextmanager
def naming(file: str) -> Iterator[None]:
    """Put the file's name into errors about its content."""
    try:
        yield
    except (FormatError, IntegrityError, LimitExceeded, ModelMismatch) as error:
        name = "standard input" if file == STDIO else file
        if name not in str(error):
            error.args = (f"{name}: {error}", *error.args[1:])
        if isinstance(error, NotACrmFile) and (hint := partner(file)):
            error.hint = hint
        raise
