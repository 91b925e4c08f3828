"""Work in progress on disk: the finished part of a compression, for a later run to continue.

Owns the `.part` file beside an output: which work it belongs to, its records, its lock. Does not
know what the records mean.

The file is a magic number, then records, which are only ever appended and each synced. A record
starts with a u8 and two u32, the sizes of the three parts that follow: a name; bytes that are
*kept*; and a *state* (compressed with zstd), which replaces the previous state of the same name.
A CRC32 ends the record. It continues the CRC of the record before, so that no record is valid in
another's place. A torn or damaged record ends the valid part of the file. The first record says
which work the file belongs to. The last one, written before the output gets its name, identifies
the bytes of the finished output.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from zlib import crc32

import zstandard

from llmzip.errors import InputError, ResumeRefused
from llmzip.store.atomic import NEW_FILE, OLD_FILE, is_at, lock, sync_name, write_all
from llmzip.store.journal_records import CRC_BYTES, NEW, Contents, Place, difference, read_at

MAGIC = b"\x89CRMPART\r\n\x1a\n\x01"  # the last byte: layout of the records
_SIZES = struct.Struct("<BII")
_OWNER, _RUN = "owner", "run"
RESULT = "result"  # the name under which the caller identifies the finished output
_COMPACT_BYTES = 64 << 20  # a larger file that is mostly replaced states is written anew
_READ_BYTES = 1 << 22


Facts = Mapping[str, object]  # what the work depends on, as JSON values


class Journal:
    """The records of the work on one output. Locked until `close`, so that one run writes it."""

    def __init__(self, path: str, handle: int) -> None:
        self.path = path
        self._handle = handle
        self._contents = Contents()
        self.torn_bytes = 0  # of a torn end, which the first record of this run overwrites
        self._owner: Facts = {}  # empty: it belongs to no work yet
        self._is_begun = False  # whether this run has written to it

    @classmethod
    def open(cls, path: str) -> Journal:
        """The journal at `path`, new where there is none. Raises InputError where the file is no
        journal, cannot be written, or is written by another process."""
        try:
            handle = _open_locked(path)
            journal = cls(path, handle)
            try:
                journal._read()
                Path(path + NEW).unlink(missing_ok=True)  # of a run killed in `_compact`
            except BaseException:
                os.close(handle)
                raise
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error
        return journal

    @property
    def has_work(self) -> bool:
        """Whether it holds anything that a later run could continue from."""
        return bool(self._contents.kept.keys() - {_OWNER, _RUN, RESULT} or self._contents.states)

    @property
    def can_go_on(self) -> bool:
        """Whether a later run will find work in it, as the file has not been removed."""
        with suppress(OSError):
            return self.has_work and self._handle >= 0 and is_at(self._handle, self.path)
        return False

    def check(self, facts: Facts) -> None:
        """Raise ResumeRefused where the work in it depends on other values of these facts. A
        journal without work passes, and facts that only the journal has are not compared."""
        for key, value in facts.items() if self._owner and self.has_work else ():
            if self._owner.get(key) != value:
                why = difference(key, self._owner.get(key), value)
                raise ResumeRefused(
                    f"{self.path} holds work that this run cannot go on from: {why}. "
                    "Nothing was written.",
                    hint="--restart discards that work and starts anew, -o names another output",
                )

    def begin(self, facts: Facts, *, choice: str = "") -> str:
        """Continue the work in it, or start work that depends on these facts. Raises ResumeRefused.

        choice: what this run would choose where several choices are valid (numerics).
        Returns the choice that the work was begun with.
        """
        self.check(facts)
        if not self.has_work:
            self.restart()  # an earlier run began it, but has left no work
        if not self._owner:
            self._owner = {**facts, **({"choice": choice} if choice else {})}
            self.keep(_OWNER, json.dumps(self._owner, sort_keys=True).encode())
        self.keep(_RUN, json.dumps({"process": os.getpid()}).encode())
        return str(self._owner.get("choice", choice))

    def keep(self, name: str, kept: bytes, state: bytes = b"") -> None:
        """Add a record, which is on disk when this returns. state: replaces the previous state of
        this name.

        Raises InputError where it cannot be written; the records before it stay valid.
        """
        packed = zstandard.ZstdCompressor(level=1).compress(state) if state else b""
        try:
            if not self._is_begun:
                self._start_writing()
            self._append(name, kept, packed)
            os.fsync(self._handle)
            self._compact()
        except OSError as error:
            so_far = "the work so far is kept in it: " if self.can_go_on else ""
            raise InputError(
                f"cannot write {self.path}: {error.strerror}",
                hint=f"{so_far}make room, then run the same command again",
            ) from error

    def kept(self, name: str) -> list[bytes]:
        """All bytes that were kept under a name, in the order in which they were added."""
        return [self._load(place) for place in self._contents.kept.get(name, ())]

    def state(self, name: str) -> bytes:
        """The last state under a name; empty where there is none."""
        place = self._contents.states.get(name)
        if place is None:
            return b""
        try:
            return zstandard.ZstdDecompressor().decompress(self._load(place))
        except (zstandard.ZstdError, MemoryError) as error:
            raise self._not_a_journal() from error

    def close(self) -> None:
        """Close and unlock it. A file without work is removed, if that is possible."""
        if not self.has_work:
            with suppress(OSError):  # the next run finds that it holds no work
                self.remove()
        self._close_handle()

    def remove(self) -> None:
        """Remove the file, as the work is finished or not wanted, and close it. Raises OSError."""
        try:
            if self._handle >= 0 and is_at(self._handle, self.path):
                os.unlink(self.path)
                sync_name(self.path)
        finally:
            self._close_handle()

    def _close_handle(self) -> None:
        handle, self._handle = self._handle, -1
        if handle >= 0:
            with suppress(OSError):  # every record was synced when it was added
                os.close(handle)

    def restart(self) -> None:
        """Delete all of its content. Raises InputError."""
        try:
            os.ftruncate(self._handle, 0)
            os.fsync(self._handle)
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror}") from error
        self._contents, self._owner, self.torn_bytes = Contents(), {}, 0
        self._is_begun = False

    def _start_writing(self) -> None:
        os.ftruncate(self._handle, self._contents.end)  # records behind a torn one are never read
        if not self._contents.end:
            self._write(MAGIC)
            self._contents.end = len(MAGIC)
            sync_name(self.path)
        self._is_begun = True

    def _append(self, name: str, kept: bytes, state: bytes) -> None:
        found = self._contents
        head = _SIZES.pack(len(name.encode()), len(kept), len(state)) + name.encode()
        crc = crc32(state, crc32(kept, crc32(head, found.crc)))
        try:
            self._write(head + kept + state + crc.to_bytes(CRC_BYTES, "little"))
        except OSError:
            os.ftruncate(self._handle, found.end)
            raise
        found.add(name, found.end + len(head), (len(kept), len(state)), crc)

    def _write(self, data: bytes) -> None:
        os.lseek(self._handle, self._contents.end, os.SEEK_SET)
        write_all(self._handle, data)

    def _load(self, place: Place) -> bytes:
        try:
            return read_at(self._handle, place.offset, place.size)
        except OSError as error:
            raise InputError(f"cannot read {self.path}: {error.strerror}") from error

    def _read(self) -> None:
        size = os.fstat(self._handle).st_size
        start = read_at(self._handle, 0, min(size, len(MAGIC)))
        if not MAGIC.startswith(start):
            raise self._not_a_journal()
        if start == MAGIC:
            self._contents.end = len(MAGIC)
            while self._read_record(size):
                pass
        self.torn_bytes = size - self._contents.end
        owner = self.kept(_OWNER)
        try:
            self._owner = json.loads(owner[0]) if owner else {}
        except (ValueError, RecursionError) as error:
            raise self._not_a_journal() from error
        if not isinstance(self._owner, dict):
            raise self._not_a_journal()

    def _not_a_journal(self) -> InputError:
        return InputError(
            f"{self.path} is not unfinished work of this llmzip",
            hint="move it away, or choose another -o",
        )

    def _read_record(self, size: int) -> bool:
        """Whether a valid record starts where the last one ended."""
        found = self._contents
        body = found.end + _SIZES.size
        if body > size:
            return False
        name_bytes, kept_bytes, state_bytes = _SIZES.unpack(
            read_at(self._handle, found.end, _SIZES.size)
        )
        end = body + name_bytes + kept_bytes + state_bytes
        if end + CRC_BYTES > size:
            return False
        crc = found.crc
        for offset in range(found.end, end, _READ_BYTES):
            crc = crc32(read_at(self._handle, offset, min(_READ_BYTES, end - offset)), crc)
        if crc != int.from_bytes(read_at(self._handle, end, CRC_BYTES), "little"):
            return False
        name = read_at(self._handle, body, name_bytes).decode(errors="replace")
        found.add(name, body + name_bytes, (kept_bytes, state_bytes), crc)
        return True

    def _compact(self) -> None:
        """Write a large file anew without replaced states, if that halves it. Where the disk has no
        room for that, the file stays as it is."""
        if self._contents.end <= _COMPACT_BYTES:
            return
        places = [*self._contents.states.values(), *(place for _, place in self._contents.order)]
        if 2 * sum(place.size for place in places) > self._contents.end:
            return
        path = self.path + NEW
        with suppress(OSError):
            fresh = Journal(path, os.open(path, NEW_FILE, 0o600))
            try:
                fresh._copy(self)
                os.replace(path, self.path)
            except BaseException:
                os.close(fresh._handle)
                os.unlink(path)
                raise
            os.close(self._handle)
            self._handle, self._contents = fresh._handle, fresh._contents
        sync_name(self.path)

    def _copy(self, other: Journal) -> None:
        """Write all that another journal holds, except replaced states. Raises OSError."""
        lock(self._handle)
        self._start_writing()
        for name, place in other._contents.order:
            self._append(name, other._load(place), b"")
        for name, place in other._contents.states.items():
            self._append(name, b"", other._load(place))
        os.fsync(self._handle)


def _open_locked(path: str) -> int:
    """A handle of the file at `path`, new where there is none, and locked."""
    while True:
        if os.path.islink(path):
            raise InputError(f"{path} is a symbolic link", hint="move it away")
        try:
            handle = os.open(path, OLD_FILE)
        except FileNotFoundError:
            try:
                handle = os.open(path, NEW_FILE, 0o600)
            except FileExistsError:
                continue
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise InputError(f"{path} is not a file", hint="move it away")
            if not lock(handle):
                raise InputError(
                    f"{_writing_process(path, handle)} is writing {path}",
                    hint="wait for it, stop it, or choose another output with -o",
                )
            if is_at(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # another run has removed the file, or replaced it, before it was locked


def _writing_process(path: str, handle: int) -> str:
    """The process that has the file locked, as its last record of a run says."""
    reader = Journal(path, handle)
    reader._read()
    runs = reader.kept(_RUN)
    return f"process {json.loads(runs[-1])['process']}" if runs else "another llmzip"
