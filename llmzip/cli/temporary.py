"""The private file that a result is written to before it has its name.

Owns where it lies, its lock, and what becomes of one that a killed run left.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from io import FileIO

from llmzip.errors import InputError
from llmzip.store.atomic import NEW_FILE, OLD_FILE, directory_of, is_at, lock


@contextmanager
def temporary(target: str) -> Iterator[tuple[FileIO, str]]:
    """A new private file beside the target, gone when the block ends (unless it was renamed).

    It always has the same name, so that one left by a run that was killed is found and taken away.
    """
    path = temporary_name(target)
    file = FileIO(_own(path), "r+")
    try:
        yield file, path
    finally:
        with suppress(FileNotFoundError):
            if file.closed or is_at(file.fileno(), path):
                os.unlink(path)
        file.close()


def temporary_name(target: str) -> str:
    """Where the temporary file of a target lies."""
    mark = blake2b(os.path.basename(target).encode(errors="surrogateescape"), digest_size=8)
    return os.path.join(directory_of(target), f".llmzip-{mark.hexdigest()}.tmp")


def _own(path: str) -> int:
    """A new file that is locked and has this name."""
    while True:
        try:
            handle = os.open(path, NEW_FILE, 0o600)
        except FileExistsError:
            take_away_stale(path)
            continue
        if lock(handle) and is_at(handle, path):
            return handle
        os.close(handle)  # another run was quicker


def take_away_stale(path: str) -> None:
    """Remove a temporary file that no run has locked. Raises InputError for one that is in use."""
    try:
        handle = os.open(path, OLD_FILE)
    except FileNotFoundError:
        return
    try:
        if not lock(handle):
            raise InputError(
                f"another llmzip is writing {path}", hint="wait for it, or stop it, and try again"
            )
        if is_at(handle, path):
            os.unlink(path)
    finally:
        os.close(handle)
