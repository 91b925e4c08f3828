"""Work in progress on disk: what is done of a compression, so that a run that was stopped goes on.

Owns the `.part` file beside an output: whose work it is, its records, its lock. Does not know what
a record says.

The file is a magic, then records, only ever appended and each synced. A record is a u8 and two u32,
the sizes of what follows: a name, bytes that are *kept*, bytes of a *state* that takes the place of
the state before it under that name (zstd). A CRC32 ends it, which goes on from the record before,
so that no record can stand in another's place. What is torn or damaged ends the file there. The
first record says whose work it is; the last one, written before the output gets its name, which
bytes get it.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Mapping
from contextlib import suppress
from zlib import crc32

import zstandard

from llmzip.errors import InputError, ResumeRefused
from llmzip.store.atomic import NEW_FILE, OLD_FILE, is_at, lock, sync_name, write_all
from llmzip.store.journal_records import NEW, Contents, Place, difference, note, read_at

MAGIC = b"\x89CRMPART\r\n\x1a\n\x01"  # the last byte: layout of the records
_SIZES = struct.Struct("<BII")
_CRC_BYTES = 4
_OWNER, _RUN = "owner", "run"
RESULT = "result"  # a name for what tells the finished bytes
_COMPACT_BYTES = 64 << 20  # a larger file that is mostly states of the past is written anew
_READ_BYTES = 1 << 22


Facts = Mapping[str, object]  # of what the work depends on: JSON values


class Journal:
    """The records of one output's work. Locked until it is closed: one run at a time writes it."""

    def __init__(self, path: str, handle: int) -> None:
        self.path = path
        self._handle = handle
        self._contents = Contents()
        self.torn_bytes = 0  # dropped at the end when it was opened
        self._owner: Facts = {}  # empty: nobody's
        self._is_begun = False  # something was written by this run

    @classmethod
    def open(cls, path: str) -> Journal:
        """The journal at `path`, new where there is none. Raises InputError for what is no journal,
        and where another process writes it."""
        try:
            handle = _locked(path)
            journal = cls(path, handle)
            try:
                journal._read()
                _take_away(path + NEW)  # of a run that was killed there; the lock is ours
            except BaseException:
                os.close(handle)
                raise
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error
        return journal

    @property
    def has_work(self) -> bool:
        """Whether anything is in it that a later run would go on from."""
        kept = self._contents.kept.keys() - {_OWNER, _RUN, RESULT}
        return bool(kept or self._contents.states)

    @property
    def can_go_on(self) -> bool:
        """Whether a later run will find work in it: nobody has taken it away."""
        with suppress(OSError):
            return self.has_work and self._handle >= 0 and is_at(self._handle, self.path)
        return False

    def check(self, facts: Facts) -> None:
        """Raise ResumeRefused unless the work in it depends on just these facts; those that it has
        and `facts` has not are not compared. A journal without work is anyone's."""
        for key, value in facts.items() if self._owner and self.has_work else ():
            if self._owner.get(key) != value:
                why = difference(key, self._owner.get(key), value)
                raise ResumeRefused(
                    f"{self.path} holds work that this run cannot go on from: {why}. "
                    "Nothing was written.",
                    hint="--restart discards that work and starts anew, -o names another output",
                )

    def begin(self, facts: Facts, *, choice: str = "") -> str:
        """Go on with the work in it, or start work that depends on these facts. Raises
        ResumeRefused.

        choice: what this run would choose where the outcome varies. Returns what the work was begun
        with.
        """
        self.check(facts)
        if not self.has_work:
            self.restart()  # whoever began it has left nothing
        if not self._owner:
            self._owner = {**facts, **({"choice": choice} if choice else {})}
            self.keep(_OWNER, json.dumps(self._owner, sort_keys=True).encode())
        self.keep(_RUN, json.dumps({"process": os.getpid()}).encode())
        return str(self._owner.get("choice", choice))

    def keep(self, name: str, kept: bytes, state: bytes = b"") -> None:
        """Add a record; it is on disk when this returns. state: takes the place of the one before.

        Raises InputError where the disk does not take it; all before it stays.
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
        """What was kept under a name, in order."""
        return [self._load(place) for place in self._contents.kept.get(name, ())]

    def state(self, name: str) -> bytes:
        """The last state under a name; empty: there is none."""
        place = self._contents.states.get(name)
        if place is None:
            return b""
        try:
            return zstandard.ZstdDecompressor().decompress(self._load(place))
        except (zstandard.ZstdError, MemoryError) as error:
            raise self._foreign() from error

    def close(self) -> None:
        """Unlock it. A file without work is taken away, if that can be done."""
        if not self.has_work:
            with suppress(OSError):  # the next run knows that it holds nothing
                self.remove()
        self._let_go()

    def remove(self) -> None:
        """Take the file away: the work is done, or is not wanted. Raises OSError."""
        try:
            if self._handle >= 0 and is_at(self._handle, self.path):
                os.unlink(self.path)
                sync_name(self.path)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        handle, self._handle = self._handle, -1
        if handle >= 0:
            with suppress(OSError):  # what counts was synced
                os.close(handle)

    def restart(self) -> None:
        """Drop all that is in it. Raises InputError."""
        try:
            os.ftruncate(self._handle, 0)
            os.fsync(self._handle)
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror}") from error
        self._contents, self._owner, self.torn_bytes = Contents(), {}, 0
        self._is_begun = False

    def _start_writing(self) -> None:
        os.ftruncate(self._handle, self._contents.end)  # what is torn would end all that follows
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
            self._write(head + kept + state + crc.to_bytes(_CRC_BYTES, "little"))
        except OSError:
            os.ftruncate(self._handle, found.end)
            raise
        note(found, name, found.end + len(head), len(kept), len(state))
        found.end += len(head) + len(kept) + len(state) + _CRC_BYTES
        found.crc = crc

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
            raise self._foreign()
        if start == MAGIC:
            self._contents.end = len(MAGIC)
            while self._read_record(size):
                pass
        self.torn_bytes = size - self._contents.end
        owner = self.kept(_OWNER)
        try:
            self._owner = json.loads(owner[0]) if owner else {}
        except (ValueError, RecursionError) as error:
            raise self._foreign() from error
        if not isinstance(self._owner, dict):
            raise self._foreign()

    def _foreign(self) -> InputError:
        return InputError(
            f"{self.path} is not work of this llmzip", hint="move it away, or choose another -o"
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
        if end + _CRC_BYTES > size:
            return False
        crc = found.crc
        for offset in range(found.end, end, _READ_BYTES):
            crc = crc32(read_at(self._handle, offset, min(_READ_BYTES, end - offset)), crc)
        if crc != int.from_bytes(read_at(self._handle, end, _CRC_BYTES), "little"):
            return False
        name = read_at(self._handle, body, name_bytes).decode(errors="replace")
        note(found, name, body + name_bytes, kept_bytes, state_bytes)
        found.end, found.crc = end + _CRC_BYTES, crc
        return True

    def _compact(self) -> None:
        """Write a large file anew without the states of the past, if that halves it and there is
        room; where there is none it only stays as large."""
        if self._contents.end <= _COMPACT_BYTES:
            return
        live = sum(place.size for _, place in self._contents.order)
        live += sum(place.size for place in self._contents.states.values())
        if 2 * live > self._contents.end:
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
        """Write what another one holds, all of it but the states of the past. Raises OSError."""
        lock(self._handle)
        self._start_writing()
        for name, place in other._contents.order:
            self._append(name, other._load(place), b"")
        for name, place in other._contents.states.items():
            self._append(name, b"", other._load(place))
        os.fsync(self._handle)


def _locked(path: str) -> int:
    """The opened file, locked and still at its path."""
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
                    f"{_writer(path, handle)} is writing {path}",
                    hint="wait for it, stop it, or choose another output with -o",
                )
            if is_at(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # it was finished, or written anew, in between


def _take_away(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _writer(path: str, handle: int) -> str:
    """Who has it locked, as far as the file tells."""
    reader = Journal(path, handle)
    reader._read()
    runs = reader.kept(_RUN)
    return f"process {json.loads(runs[-1])['process']}" if runs else "another llmzip"
