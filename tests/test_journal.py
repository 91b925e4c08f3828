"""The journal of a compression under way: what is kept, whose it is, and what damage leaves."""

from __future__ import annotations

import errno
import json
import os
import random
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from zlib import crc32

import pytest

from llmzip.errors import InputError, ResumeRefused
from llmzip.store import journal as journal_module
from llmzip.store.journal import MAGIC, RESULT, Journal

ROOT = Path(__file__).resolve().parent.parent
FACTS = {
    "input": {"bytes": 3, "hash": "ab"},
    "settings": {"seed": 0, "preset": "small", "budget_bits": 0.1, "shared_mem": None},
    "version": "1",
    "model": "m1",
}


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "book.crm.part")


def opened(path: str) -> closing[Journal]:
    return closing(Journal.open(path))


def record(crc: int, name: str, kept: bytes, state: bytes = b"") -> tuple[bytes, int]:
    """A record behind one whose CRC is `crc`, and its own CRC."""
    sizes = len(kept).to_bytes(4, "little") + len(state).to_bytes(4, "little")
    body = bytes([len(name.encode())]) + sizes + name.encode() + kept + state
    crc = crc32(body, crc)
    return body + crc.to_bytes(4, "little"), crc


def spelled(*records: tuple[str, bytes]) -> bytes:
    """A file of these records."""
    data, crc = MAGIC, 0
    for name, kept in records:
        more, crc = record(crc, name, kept)
        data += more
    return data


def make(path: str, *records: tuple[str, bytes] | tuple[str, bytes, bytes]) -> bytes:
    with opened(path) as journal:
        for each in records:
            journal.keep(*each)
    return Path(path).read_bytes()


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


# What is kept


def test_records_come_back_in_order(path: str) -> None:
    with opened(path) as journal:
        for index in range(40):
            journal.keep("even" if index % 2 == 0 else "odd", b"%d" % index)
        journal.keep("empty", b"")
        written = {name: journal.kept(name) for name in ("even", "odd", "empty", "none")}
    assert written["even"] == [b"%d" % index for index in range(0, 40, 2)]
    assert written["odd"] == [b"%d" % index for index in range(1, 40, 2)]
    assert written["empty"] == written["none"] == []
    with opened(path) as journal:
        assert {name: journal.kept(name) for name in written} == written
        journal.keep("odd", b"one more")
        assert journal.kept("odd") == [*written["odd"], b"one more"]
    with opened(path) as journal:
        assert journal.kept("odd")[-1] == b"one more"


def test_a_state_takes_the_place_of_the_one_before(path: str) -> None:
    with opened(path) as journal:
        journal.keep("work", b"a", b"first " * 1000)
        journal.keep("other", b"", b"theirs")
        journal.keep("work", b"b", b"second")
        journal.keep("work", b"c")  # no state: the last one stays
        assert journal.state("work") == b"second"
    with opened(path) as journal:
        assert journal.state("work") == b"second"
        assert journal.state("other") == b"theirs"
        assert journal.state("none") == b""
        assert journal.kept("work") == [b"a", b"b", b"c"]


def test_the_file_is_the_documented_one(path: str) -> None:
    assert make(path, ("a", b"xyz"), ("\u00fc", b"")) == spelled(("a", b"xyz"), ("\u00fc", b""))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    Path(path).write_bytes(spelled(("work", b"1"), ("work", b"2")))
    with opened(path) as journal:
        assert journal.kept("work") == [b"1", b"2"] and not journal.torn_bytes


def test_each_record_is_synced_before_keep_returns(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            synced.append(os.fstat(handle).st_size)
        real(handle)

    with opened(path) as journal:
        monkeypatch.setattr(os, "fsync", fsync)
        for index in range(3):
            journal.keep("work", b"x" * 100)
            assert synced[-1] == os.path.getsize(path) and len(synced) == index + 1


def test_looking_at_a_journal_does_not_change_it(path: str) -> None:
    data = make(path, ("work", b"abc", b"state"), ("work", b"def"))
    with opened(path) as journal:
        journal.check(FACTS)
        assert journal.has_work
    assert Path(path).read_bytes() == data
    Path(path).write_bytes(data[:-1])
    with opened(path) as journal:
        assert journal.torn_bytes
    assert Path(path).read_bytes() == data[:-1]


# Damage

RECORDS = [("first", b"1" * 7), ("second", b"2" * 5), ("first", b"3" * 9), ("third", b"4")]


def ends(records: list[tuple[str, bytes]]) -> list[int]:
    """Where the magic and each record end."""
    return [len(spelled(*records[:count])) for count in range(len(records) + 1)]


def contents(journal: Journal) -> list[bytes]:
    """All that is kept, in the order of `RECORDS`."""
    return sorted(
        (data for name in ("first", "second", "third") for data in journal.kept(name)),
        key=lambda data: data[0],
    )


def test_whatever_is_cut_off_the_records_before_it_stay(path: str) -> None:
    data = spelled(*RECORDS)
    for size in range(len(data) + 1):
        Path(path).write_bytes(data[:size])
        whole = max([end for end in ends(RECORDS) if end <= size], default=0)
        num_records = max(0, sum(end <= size for end in ends(RECORDS)) - 1)
        expected = [kept for _, kept in RECORDS[:num_records]]
        journal = Journal.open(path)
        assert contents(journal) == expected
        assert journal.torn_bytes == size - whole
        assert journal.has_work == bool(expected)
        journal.keep("third", b"9 goes on")
        journal.close()
        with opened(path) as journal:
            assert contents(journal) == [*expected, b"9 goes on"]
            assert journal.torn_bytes == 0


def test_what_is_torn_goes_with_the_first_record_after_it(path: str) -> None:
    Path(path).write_bytes(spelled(*RECORDS) + bytes(5000))
    with opened(path) as journal:
        journal.keep("third", b"9 goes on")
    assert Path(path).read_bytes() == spelled(*RECORDS, ("third", b"9 goes on"))


def test_a_flipped_bit_ends_the_file_there(path: str) -> None:
    data = spelled(*RECORDS)
    for position in range(len(MAGIC), len(data)):
        broken = bytearray(data)
        broken[position] ^= 1 << position % 8
        Path(path).write_bytes(broken)
        num_records = sum(end <= position for end in ends(RECORDS)) - 1
        with opened(path) as journal:
            assert contents(journal) == [kept for _, kept in RECORDS[:num_records]]
            assert journal.torn_bytes == len(data) - ends(RECORDS)[num_records]


@pytest.mark.parametrize(
    ("order", "num_good"),
    [
        ([0, 1, 2, 3], 4),
        ([0, 2, 1, 3], 1),  # swapped
        ([0, 1, 1, 2, 3], 2),  # doubled
        ([0, 1, 3], 2),  # one taken out
        ([1, 2, 3], 0),
        ([0, 1, 2, 3, 0], 4),  # an old one once more
    ],
)
def test_no_record_stands_in_another_place(path: str, order: list[int], num_good: int) -> None:
    places = ends(RECORDS)
    whole = spelled(*RECORDS)
    parts = [whole[first:last] for first, last in zip(places, places[1:], strict=False)]
    Path(path).write_bytes(MAGIC + b"".join(parts[index] for index in order))
    with opened(path) as journal:
        assert contents(journal) == [kept for _, kept in RECORDS[:num_good]]


def test_a_record_of_another_journal_does_not_count(path: str) -> None:
    one, other = spelled(("first", b"1 one")), spelled(("first", b"1 other"), ("third", b"4"))
    tail = other[len(spelled(("first", b"1 other"))) :]
    Path(path).write_bytes(one + tail)
    with opened(path) as journal:
        assert contents(journal) == [b"1 one"] and journal.torn_bytes == len(tail)


def test_sizes_beyond_the_file_are_torn(path: str) -> None:
    head = b"\x04" + b"\xff" * 8 + b"work"
    Path(path).write_bytes(spelled(("first", b"1")) + head + bytes(100))
    with opened(path) as journal:
        assert contents(journal) == [b"1"] and journal.torn_bytes == 113


def test_random_bytes_behind_the_magic_are_torn(path: str) -> None:
    chance = random.Random(3)
    for _ in range(200):
        junk = chance.randbytes(chance.randrange(60))
        Path(path).write_bytes(MAGIC + junk)
        with opened(path) as journal:
            assert not journal.has_work and journal.torn_bytes == len(junk)


@pytest.mark.parametrize("data", [b"text", b"\x89CRM\r\n\x1a\n" + bytes(9), MAGIC[:-1] + b"\x02"])
def test_a_file_that_is_no_journal_is_left_alone(path: str, data: bytes) -> None:
    Path(path).write_bytes(data)
    with pytest.raises(InputError, match="is not unfinished work of this llmzip") as caught:
        Journal.open(path)
    assert "move it away" in caught.value.hint
    assert Path(path).read_bytes() == data


@pytest.mark.parametrize(
    "records",
    [[("owner", b"no JSON")], [("owner", b"[]")], [("owner", b"5")], [("owner", b"\xff")]],
)
def test_an_owner_that_is_invalid_is_refused(path: str, records: list[tuple[str, bytes]]) -> None:
    Path(path).write_bytes(spelled(*records))
    with pytest.raises(InputError, match="is not unfinished work of this llmzip"):
        Journal.open(path)


def test_a_name_that_is_invalid_is_nobodys(path: str) -> None:
    head = b"\x01" + bytes(8) + b"\xff"
    Path(path).write_bytes(MAGIC + head + crc32(head).to_bytes(4, "little"))
    with opened(path) as journal:
        assert not journal.has_work and not journal.torn_bytes


def test_a_state_that_is_invalid_is_refused(path: str) -> None:
    more, _ = record(0, "work", b"", b"no zstd frame")
    Path(path).write_bytes(MAGIC + more)
    with (
        opened(path) as journal,
        pytest.raises(InputError, match="is not unfinished work of this llmzip"),
    ):
        journal.state("work")


# Whose work it is


def changed(key: str, **values: object) -> dict[str, object]:
    own = FACTS[key]
    assert isinstance(own, dict)
    return {**FACTS, key: {**own, **values}}


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (changed("input", hash="cd"), "it is of another input, or the input has changed since"),
        (changed("input", bytes=4), "it is of another input, or the input has changed since"),
        (changed("settings", seed=1), "other settings: seed was 0, is 1"),
        (changed("settings", seed=0.5), "other settings: seed was 0, is 0.5"),
        (changed("settings", new=True), "other settings: new was not given, is True"),
        (
            changed("settings", seed=2, preset="fast"),
            "other settings: preset was small, is fast, seed was 0, is 2",
        ),
        ({**FACTS, "version": "2"}, "the version is different"),
        ({**FACTS, "model": "m2"}, "the model is different"),
        ({**FACTS, "more": 1}, "the more is different"),
    ],
)
def test_other_facts_are_refused_with_the_reason(
    path: str, facts: dict[str, object], words: str
) -> None:
    with opened(path) as journal:
        journal.begin(FACTS)
        journal.keep("work", b"abc")
    data = Path(path).read_bytes()
    with opened(path) as journal:
        for refuse in (journal.check, journal.begin):
            with pytest.raises(ResumeRefused) as caught:
                refuse(facts)
            assert f"cannot go on from: {words}. Nothing was written." in str(caught.value)
            assert path in str(caught.value) and "--restart" in caught.value.hint
            assert caught.value.exit_code == 1
    assert Path(path).read_bytes() == data


def test_the_same_facts_go_on(path: str) -> None:
    with opened(path) as journal:
        journal.begin(FACTS)
        journal.keep("work", b"abc")
    with opened(path) as journal:
        journal.check({"input": FACTS["input"]})  # what is not named is not compared
        journal.check(FACTS)
        journal.begin(FACTS)
        journal.keep("work", b"def")
    with opened(path) as journal:
        assert journal.kept("work") == [b"abc", b"def"]
        assert [json.loads(data) for data in journal.kept("owner")] == [FACTS]
        assert len(journal.kept("run")) == 2


def test_a_journal_without_work_is_anyones(path: str) -> None:
    with opened(path) as journal:
        journal.check(FACTS)
        journal.check({"input": "anything"})
    with opened(path) as journal:
        journal.begin(FACTS)
        killed = Path(path).read_bytes()
    for size in (*range(0, len(killed), 23), len(killed)):  # killed before there was any work
        Path(path).write_bytes(killed[:size])
        with opened(path) as journal:
            journal.check({"input": "anything"})
            journal.begin({"input": "anything"})
            journal.keep("work", b"abc")
        with opened(path) as journal:
            journal.check({"input": "anything"})
            with pytest.raises(ResumeRefused):
                journal.check(FACTS)


def test_restart_drops_all(path: str) -> None:
    with opened(path) as journal:
        journal.begin(FACTS)
        journal.keep("work", b"abc", b"state")
    with open(path, "ab") as file:
        file.write(b"torn")
    with opened(path) as journal:
        assert journal.torn_bytes == 4
        journal.restart()
        assert not journal.has_work and journal.torn_bytes == 0
        assert journal.kept("work") == [] and journal.state("work") == b""
        assert os.path.getsize(path) == 0
        journal.begin(changed("input", hash="cd"))
        journal.keep("work", b"new")
    with opened(path) as journal:
        journal.check(changed("input", hash="cd"))
        assert journal.kept("work") == [b"new"]


def test_restart_after_writing(path: str) -> None:
    with opened(path) as journal:
        journal.keep("work", b"abc")
        journal.restart()
        journal.keep("work", b"new")
    assert Path(path).read_bytes() == spelled(("work", b"new"))


# The file itself


def test_close_takes_away_a_file_without_work(path: str, tmp_path: Path) -> None:
    Journal.open(path).close()
    assert names(tmp_path) == []
    journal = Journal.open(path)
    journal.begin(FACTS)  # says only whose work it would have been
    assert not journal.has_work
    journal.close()
    journal.close()
    assert names(tmp_path) == []


def test_the_mark_of_a_result_is_no_work(path: str, tmp_path: Path) -> None:
    """A run that needed no model has nothing else to keep."""
    with opened(path) as journal:
        journal.keep(RESULT, b"which bytes")
        assert not journal.has_work and journal.kept(RESULT) == [b"which bytes"]
    assert names(tmp_path) == []


@pytest.mark.parametrize("work", [(b"kept", b""), (b"", b"state")])
def test_close_leaves_a_file_with_work(
    path: str, tmp_path: Path, work: tuple[bytes, bytes]
) -> None:
    make(path, ("work", *work))
    assert names(tmp_path) == ["book.crm.part"]
    with opened(path) as journal:
        assert journal.has_work


def test_remove(path: str, tmp_path: Path) -> None:
    with opened(path) as journal:
        journal.keep("work", b"abc")
        journal.remove()
        journal.remove()
        assert names(tmp_path) == []


def test_remove_leaves_a_file_that_is_not_its_own(path: str) -> None:
    with opened(path) as journal:
        journal.keep("work", b"abc")
        os.unlink(path)
        journal.remove()
        journal = Journal.open(path)
        journal.keep("work", b"abc")
        os.unlink(path)
        Path(path).write_bytes(b"someone else's")
        journal.remove()
    assert Path(path).read_bytes() == b"someone else's"


def test_a_file_that_cannot_be_taken_away(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is unlocked all the same, and the next run finds no work in it."""

    real = os.unlink

    def refuse(name: str) -> None:
        if name == path:
            raise PermissionError(errno.EACCES, "Permission denied")
        real(name)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        journal = Journal.open(path)
        journal.begin(FACTS)
        journal.close()
        journal = Journal.open(path)
        with pytest.raises(PermissionError):
            journal.remove()
    with opened(path) as journal:
        assert not journal.has_work
        journal.begin(changed("settings", seed=1))


def test_restart_on_a_broken_disk(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    make(path, ("work", b"abc"))
    with opened(path) as journal:
        monkeypatch.setattr(os, "ftruncate", fail)
        with pytest.raises(InputError, match="cannot write .*Input/output error"):
            journal.restart()


def test_a_link_is_not_followed(path: str, tmp_path: Path) -> None:
    for target in ("precious", "nowhere"):
        (tmp_path / "precious").write_bytes(b"mine")
        os.symlink(tmp_path / target, path)
        with pytest.raises(InputError, match="book.crm.part is a symbolic link"):
            Journal.open(path)
        os.unlink(path)
    assert names(tmp_path) == ["precious"]
    assert (tmp_path / "precious").read_bytes() == b"mine"


@pytest.mark.parametrize("make_it", [os.mkfifo, os.mkdir], ids=["FIFO", "directory"])
def test_what_is_no_file_is_refused(path: str, make_it: Callable[[str], None]) -> None:
    make_it(path)
    mode = os.stat(path).st_mode
    with pytest.raises(InputError, match=r"is not a file|Is a directory"):
        Journal.open(path)
    assert os.stat(path).st_mode == mode


def test_a_directory_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write .*No such file"):
        Journal.open(str(tmp_path / "missing" / "book.part"))


# One run at a time


HOLD = """
import sys
from llmzip.store.journal import Journal
journal = Journal.open(sys.argv[1])
journal.begin({})
journal.keep("work", b"abc")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(path: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that writes the journal."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_another_process_that_writes_it_is_named(
    path: str, holder: subprocess.Popen[bytes]
) -> None:
    data = Path(path).read_bytes()
    with pytest.raises(InputError, match=f"process {holder.pid} is writing {path}") as caught:
        Journal.open(path)
    assert "-o" in caught.value.hint
    assert Path(path).read_bytes() == data
    holder.kill()  # what a process holds ends with it
    holder.wait()
    with opened(path) as journal:
        assert journal.kept("work") == [b"abc"]


def test_it_is_not_opened_twice_in_one_process(path: str) -> None:
    with opened(path) as journal:
        with pytest.raises(InputError, match="another llmzip is writing"):
            Journal.open(path)
        journal.begin(FACTS)
        with pytest.raises(InputError, match=f"process {os.getpid()} is writing"):
            Journal.open(path)
        journal.keep("work", b"abc")
    with opened(path) as journal:
        assert journal.kept("work") == [b"abc"]


def test_a_refused_open_leaks_no_handle(path: str) -> None:
    def num_handles() -> int:
        return len(os.listdir("/proc/self/fd"))

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("nowhere to count them")
    with opened(path):
        before = num_handles()
        with pytest.raises(InputError):
            Journal.open(path)
        assert num_handles() == before
    Path(path).write_bytes(b"text")
    before = num_handles()
    with pytest.raises(InputError):
        Journal.open(path)
    assert num_handles() == before


# Written anew


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are compacted when they are small already."""
    monkeypatch.setattr(journal_module, "_COMPACT_BYTES", 4000)


def fill(journal: Journal) -> tuple[list[bytes], bytes]:
    """Several times as much as is compacted; what should be in it then."""
    chance = random.Random(0)
    kept, state = [], b""
    for index in range(30):
        kept.append(b"%d" % index)
        state = chance.randbytes(500)
        journal.keep("work", kept[-1], state)
        if index % 10 == 0:
            journal.keep("rare", b"", b"%d" % index)
    return kept, state


def test_states_of_the_past_are_dropped(path: str, tmp_path: Path, soon: None) -> None:
    with opened(path) as journal:
        journal.begin(FACTS)
        kept, state = fill(journal)
        assert os.path.getsize(path) < 5000  # all states are 15000
        for look in (journal, None):
            if look is None:
                journal.close()
                look = Journal.open(path)
            assert look.kept("work") == kept and look.state("work") == state
            assert look.state("rare") == b"20"
            look.check(FACTS)
            with pytest.raises(ResumeRefused):
                look.check(changed("settings", seed=1))
        with pytest.raises(InputError, match="is writing"):
            Journal.open(path)
        look.keep("work", b"after it")
        look.close()
    with opened(path) as journal:
        assert journal.kept("work") == [*kept, b"after it"] and not journal.torn_bytes
    assert names(tmp_path) == ["book.crm.part"]


def test_it_stays_locked_all_the_time(
    path: str, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = 0
    real = os.replace

    def replace(source: str, target: str) -> None:
        nonlocal refused
        for move in (lambda: None, lambda: real(source, target)):
            move()
            with pytest.raises(InputError, match="is writing"):
                Journal.open(path)
            refused += 1

    monkeypatch.setattr(os, "replace", replace)
    with opened(path) as journal:
        fill(journal)
    assert refused >= 2


@pytest.mark.parametrize("broken", ["open", "fsync", "replace"])
def test_without_room_it_is_not_written_anew(
    path: str, tmp_path: Path, soon: None, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """It goes on in the file that it has."""
    failed = 0
    real, new = getattr(os, broken), path + journal_module.NEW

    def full(target: str | int, *more: object) -> object:
        nonlocal failed
        is_new = target == new or (isinstance(target, int) and os.path.exists(new))
        if is_new and (
            broken != "fsync" or os.path.sameopenfile(target, os.open(new, os.O_RDONLY))
        ):
            failed += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(target, *more)

    monkeypatch.setattr(os, broken, full)
    with opened(path) as journal:
        kept, state = fill(journal)
        assert journal.kept("work") == kept and journal.state("work") == state
    assert failed > 5 and os.path.getsize(path) > 15_000
    monkeypatch.undo()
    with opened(path) as journal:
        assert journal.kept("work") == kept and journal.state("work") == state
    assert names(tmp_path) == ["book.crm.part"]


def test_what_is_not_of_the_past_is_not_written_anew(path: str, soon: None) -> None:
    with opened(path) as journal:
        inode = os.stat(path).st_ino
        for index in range(20):
            journal.keep("work", bytes([index]) * 500)
        assert os.stat(path).st_ino == inode
        assert os.path.getsize(path) > 10_000


def test_a_leftover_of_a_run_that_was_killed_is_replaced(
    path: str, tmp_path: Path, soon: None
) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    for make_leftover in (
        lambda new: Path(new).write_bytes(MAGIC + b"half a record"),
        lambda new: os.symlink(precious, new),
    ):
        make_leftover(path + ".new")
        with opened(path) as journal:
            assert "book.crm.part.new" not in names(tmp_path)
            make_leftover(path + ".new")
        with opened(path) as journal:
            journal.restart()
            kept, state = fill(journal)
        with opened(path) as journal:
            assert journal.kept("work") == kept and journal.state("work") == state
        assert names(tmp_path) == ["book.crm.part", "precious"]
    assert precious.read_bytes() == b"mine"


# A full disk


class Disk:
    """Stands in for `os.write`: takes so many bytes more, then is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room: int | None = None  # None: as much as there is
        self._write = os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, handle: int, data: bytes) -> int:
        if self.room is None:
            return self._write(handle, data)
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self._write(handle, bytes(data)[: self.room])
        self.room -= taken
        return taken


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.mark.parametrize("room", [0, 1, 9, 12, 13, 30, 120])
def test_a_full_disk_leaves_what_was_there(path: str, disk: Disk, room: int) -> None:
    with opened(path) as journal:
        journal.keep("work", b"before", b"state")
        size = os.path.getsize(path)
        disk.room = room
        with pytest.raises(InputError, match="No space left") as caught:
            journal.keep("work", bytes(200), b"newer")
        assert "make room" in caught.value.hint
        assert os.path.getsize(path) == size
        assert journal.kept("work") == [b"before"] and journal.state("work") == b"state"
        disk.room = None
        journal.keep("work", b"after", b"newest")
    with opened(path) as journal:
        assert journal.kept("work") == [b"before", b"after"] and not journal.torn_bytes
        assert journal.state("work") == b"newest"


@pytest.mark.parametrize("room", [0, 5, len(MAGIC)])
def test_a_disk_that_is_full_at_once(path: str, tmp_path: Path, disk: Disk, room: int) -> None:
    with opened(path) as journal:
        disk.room = room
        with pytest.raises(InputError, match="No space left"):
            journal.begin(FACTS)
        disk.room = None
        journal.keep("work", b"after")
    with opened(path) as journal:
        assert journal.kept("work") == [b"after"] and not journal.torn_bytes
        disk.room = room
        journal.remove()
    assert names(tmp_path) == []


def test_a_disk_without_room_for_a_second_file(
    path: str, tmp_path: Path, soon: None, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing a file anew is to save room: where there is none, work goes on without."""
    real = os.open

    def refuse(name: str, *more: int) -> int:
        if name.endswith(".new"):
            disk.room = 100
        return real(name, *more)

    with opened(path) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refuse)
            journal.keep("work", b"a", random.Random(1).randbytes(3000))
            try:
                journal.keep("work", b"b", random.Random(2).randbytes(1500))
            except InputError as error:
                assert "No space left" in str(error)
        disk.room = None
        assert names(tmp_path) == ["book.crm.part"]
        assert journal.kept("work") == [b"a", b"b"]
        journal.keep("work", b"c", b"small")
    with opened(path) as journal:
        assert journal.kept("work") == [b"a", b"b", b"c"] and journal.state("work") == b"small"


def test_a_read_error_is_ours(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int, size: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    make(path, ("work", b"abc"))
    with opened(path) as journal:
        monkeypatch.setattr(os, "read", fail)
        with pytest.raises(InputError, match="cannot read .*Input/output error"):
            journal.kept("work")
