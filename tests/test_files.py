"""Publishing and its refusals: nothing lost, nothing half written, nothing left behind."""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
from contextlib import closing
from dataclasses import replace

import pytest

from llmzip.cli import files
from llmzip.cli.files import plan_target, publish
from llmzip.cli.sources import open_source
from llmzip.errors import InputError
from llmzip.store import atomic as disk
from llmzip.store.atomic import lock

RESULT = b"\x00result\xff" * 1000


def add_suffix(path: str) -> str:
    return path + ".crm"


def plan(source, output=None, *, force=False, is_binary=True):
    return plan_target(source, output, default=add_suffix, force=force, is_binary=is_binary)


def convert(file, output=None, *, force=False):
    with closing(open_source(str(file))) as source:
        publish(plan(source, output, force=force), RESULT, source)


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_bytes(b"text")
    return path


def names(directory):
    return sorted(entry.name for entry in directory.iterdir())


def test_publish_writes_all_and_leaves_nothing_else(book):
    convert(book)
    assert book.with_name("book.txt.crm").read_bytes() == RESULT
    assert names(book.parent) == ["book.txt", "book.txt.crm"]


def test_mode_and_time_come_from_the_input(book):
    os.chmod(book, 0o6751)
    os.utime(book, ns=(1_000_000_000_000_000_000, 1_234_567_890_123_456_789))
    convert(book)
    made = os.stat(f"{book}.crm")
    assert stat.S_IMODE(made.st_mode) == 0o751  # without setuid and setgid
    assert made.st_mtime_ns == 1_234_567_890_123_456_789


def test_another_group_gets_no_more_than_everybody(book, monkeypatch):
    os.chmod(book, 0o664)

    def refuse(handle, uid, gid):
        raise PermissionError(errno.EPERM, "not allowed")

    monkeypatch.setattr(os, "fchown", refuse)
    convert(book)
    assert stat.S_IMODE(os.stat(f"{book}.crm").st_mode) == 0o644


def test_the_temporary_file_is_private_until_it_is_published(book, monkeypatch):
    os.chmod(book, 0o644)
    seen = []
    real = disk.write_all

    def look(handle, data):
        seen.append(stat.S_IMODE(os.fstat(handle).st_mode))
        real(handle, data)

    monkeypatch.setattr(disk, "write_all", look)
    convert(book)
    assert seen == [0o600]


def test_a_stream_gets_the_usual_mode(tmp_path, monkeypatch):
    reader, writer = os.pipe()
    os.close(writer)
    before = os.umask(0o027)
    try:
        with os.fdopen(reader, "r") as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            convert("-", str(tmp_path / "out"))
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640


def test_an_existing_output_is_refused_when_planning(book):
    book.with_name("book.txt.crm").write_bytes(b"old")
    with closing(open_source(str(book))) as source, pytest.raises(InputError, match="exists"):
        plan(source)
    assert book.with_name("book.txt.crm").read_bytes() == b"old"


@pytest.mark.parametrize("has_links", [True, False])
def test_an_output_that_appears_during_the_work_survives(book, monkeypatch, has_links):
    if not has_links:
        monkeypatch.setattr(os, "link", refuse_links)
    late = book.with_name("book.txt.crm")
    with closing(open_source(str(book))) as source:
        target = plan(source)
        late.write_bytes(b"someone else's")
        with pytest.raises(InputError, match="appeared meanwhile"):
            publish(target, RESULT, source)
    assert late.read_bytes() == b"someone else's"
    assert names(book.parent) == ["book.txt", "book.txt.crm"]


@pytest.mark.parametrize("has_links", [True, False])
def test_an_output_that_appears_with_the_same_bytes_will_do(book, monkeypatch, has_links):
    if not has_links:
        monkeypatch.setattr(os, "link", refuse_links)
    late = book.with_name("book.txt.crm")
    with closing(open_source(str(book))) as source:
        target = plan(source)
        late.write_bytes(RESULT)
        inode = late.stat().st_ino
        publish(target, RESULT, source)
    assert late.stat().st_ino == inode
    assert names(book.parent) == ["book.txt", "book.txt.crm"]


def test_a_file_that_is_there_may_be_looked_at_first(book):
    """It is neither refused nor replaced, and what else is wrong is said at once."""
    made = book.with_name("book.txt.crm")
    made.write_bytes(RESULT)
    asked = {"default": add_suffix, "force": False, "is_binary": True, "may_exist": True}
    with closing(open_source(str(book))) as source:
        target = plan_target(source, None, **asked)
        assert target.exists and not target.replace and made.read_bytes() == RESULT
        with pytest.raises(InputError, match="is the input itself"):
            plan_target(source, str(book), **asked)
    with closing(open_source(str(book))) as source:  # a stream is not read first
        stream = replace(source, path=None)
        with pytest.raises(InputError, match="exists"):
            plan_target(stream, str(made), **asked)


@pytest.fixture
def left(book):
    """The private file of another run, while it is published."""
    found = []

    def look(handle):
        found.extend(set(names(book.parent)) - {"book.txt", "book.txt.crm"})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", look)
        convert(book, force=True)
    (name,) = set(found)
    book.with_name("book.txt.crm").unlink()
    return book.with_name(name)


def test_what_a_killed_run_left_is_taken_away(book, left):
    assert left.name.startswith(".llmzip-") and left.name.endswith(".tmp")
    for step in (convert, convert_forced, fail_to_plan):
        left.write_bytes(b"half")
        step(book)
        assert names(book.parent) == ["book.txt", "book.txt.crm"]
    assert book.with_name("book.txt.crm").read_bytes() == RESULT


def convert_forced(book):
    convert(book, force=True)


def fail_to_plan(book):
    """The output has two names where a run was killed between giving it one and taking one."""
    with pytest.raises(InputError, match="exists"):
        convert(book)


def test_what_another_run_is_writing_is_left_alone(book, left):
    left.write_bytes(b"half")
    with open(left, "rb") as file:
        assert lock(file.fileno())
        with pytest.raises(InputError, match="another llmzip is writing") as error:
            convert(book)
        assert left.read_bytes() == b"half"
        assert "wait for it" in error.value.hint
    convert(book)
    assert names(book.parent) == ["book.txt", "book.txt.crm"]


def test_a_link_in_the_place_of_the_private_file_is_not_followed(book, left):
    precious = book.with_name("precious")
    precious.write_bytes(b"mine")
    left.symlink_to(precious)
    with pytest.raises(InputError, match="cannot write into"):
        convert(book)
    assert precious.read_bytes() == b"mine" and left.is_symlink()


def test_two_outputs_do_not_share_a_private_file(book, left):
    left.write_bytes(b"half")
    with open(left, "rb") as file:
        assert lock(file.fileno())
        convert(book, str(book.with_name("other")))
    assert book.with_name("other").read_bytes() == RESULT


def refuse_links(*args, **kwargs):
    raise PermissionError(errno.EPERM, "no hard links here")


@pytest.mark.parametrize("can_rename", [True, False])
def test_publish_without_hard_links(book, monkeypatch, can_rename):
    monkeypatch.setattr(os, "link", refuse_links)
    if not can_rename:
        monkeypatch.setattr(disk, "rename_exclusively", lambda name, path: False)
    convert(book)
    assert book.with_name("book.txt.crm").read_bytes() == RESULT
    assert names(book.parent) == ["book.txt", "book.txt.crm"]


def test_a_failed_rename_takes_its_placeholder_along(book, monkeypatch):
    def fail(*args):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(os, "link", refuse_links)
    monkeypatch.setattr(disk, "rename_exclusively", lambda name, path: False)
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match="broken disk"):
        convert(book)
    assert names(book.parent) == ["book.txt"]


@pytest.mark.parametrize("step", ["write", "fsync", "replace", "fchmod"])
def test_force_keeps_the_old_file_whatever_fails(book, monkeypatch, step):
    old = book.with_name("book.txt.crm")
    old.write_bytes(b"old")

    def fail(*args):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(InputError, match="no space left"):
        convert(book, force=True)
    monkeypatch.undo()
    assert old.read_bytes() == b"old"
    assert names(book.parent) == ["book.txt", "book.txt.crm"]


def test_a_stop_in_mid_write_leaves_nothing(book, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        convert(book)
    assert names(book.parent) == ["book.txt"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("given", [b"", RESULT[:-1], b"\x01" + RESULT[1:], RESULT[:-1] + b"\x01"])
def test_a_disk_that_gives_back_other_bytes(book, monkeypatch, force, given):
    old = book.with_name("book.txt.crm")
    if force:
        old.write_bytes(b"old")
    left = [given]

    def read(handle, size):
        part, left[0] = left[0][:size], left[0][size:]
        return part

    monkeypatch.setattr(os, "read", read)
    with pytest.raises(InputError, match="the disk gives back other bytes than were written"):
        convert(book, force=force)
    monkeypatch.undo()
    assert names(book.parent) == ["book.txt"] + ["book.txt.crm"] * force
    assert not force or old.read_bytes() == b"old"


def test_all_is_read_back_however_large(book, monkeypatch):
    monkeypatch.setattr(files, "_READ_BYTES", 7)
    convert(book)
    assert book.with_name("book.txt.crm").read_bytes() == RESULT


def test_force_replaces_an_old_file(book):
    old = book.with_name("book.txt.crm")
    old.write_bytes(b"old")
    convert(book, force=True)
    assert old.read_bytes() == RESULT


def test_force_does_not_write_through_a_link(book, tmp_path):
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    (tmp_path / "out").symlink_to(precious)
    with pytest.raises(InputError, match="symbolic link"):
        convert(book, str(tmp_path / "out"), force=True)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="symbolic link"):
        convert(book, str(tmp_path / "dangling"), force=True)
    assert precious.read_bytes() == b"mine"
    assert "nowhere" not in names(tmp_path)


@pytest.mark.parametrize("way", ["itself", "dotted", "symlink", "hard link", "link to directory"])
def test_the_input_is_never_the_output(book, way):
    output = book.parent / "other.txt"
    if way == "itself":
        output = book
    elif way == "dotted":
        output = f"{book.parent}/./../{book.parent.name}/book.txt"
    elif way == "symlink":
        output.symlink_to(book)
    elif way == "hard link":
        output.hardlink_to(book)
    else:
        (book.parent / "loop").symlink_to(book.parent)
        output = book.parent / "loop" / "book.txt"
    with pytest.raises(InputError, match="is the input itself"):
        convert(book, str(output), force=True)
    assert book.read_bytes() == b"text"


def test_redirected_stdin_counts_as_the_input_too(book, monkeypatch):
    with book.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(InputError, match="is the input itself"):
            convert("-", str(book), force=True)
    assert book.read_bytes() == b"text"


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("missing/out", "cannot write into .*missing: No such file"),
        ("folder", "is a directory"),
        ("book.txt/out", "Not a directory"),
        ("n" * 300, "File name too long"),
    ],
)
def test_impossible_outputs_are_refused_when_planning(book, output, words):
    (book.parent / "folder").mkdir()
    with closing(open_source(str(book))) as source, pytest.raises(InputError, match=words):
        plan(source, str(book.parent / output), force=True)
    assert names(book.parent) == ["book.txt", "folder"]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a directory nobody can write")
def test_a_directory_without_room_for_files_is_refused_when_planning(book):
    with closing(open_source(str(book))) as source:
        with pytest.raises(InputError, match="cannot write into /proc"):
            plan(source, "/proc/out")


def test_a_device_is_written_and_not_replaced(book, tmp_path):
    before = os.stat(os.devnull)
    convert(book, os.devnull, force=True)
    after = os.stat(os.devnull)
    assert stat.S_ISCHR(after.st_mode)
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)


def test_a_fifo_is_written_as_a_stream(book, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    got = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
    reader.start()
    convert(book, str(fifo))
    reader.join(10)
    assert got == [RESULT]
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_fifo_is_read_like_stdin(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(b"from a pipe"))
    writer.start()
    with closing(open_source(str(fifo))) as source:
        assert source.path is None
        assert plan(source).path is None  # stdout, not fifo.crm
        assert source.read() == b"from a pipe"
    writer.join(10)
    assert names(tmp_path) == ["fifo"]


def test_inputs_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="Is a directory") as error:
        open_source(str(tmp_path))
    assert "-r" in error.value.hint
    with pytest.raises(InputError, match="No such file"):
        open_source(str(tmp_path / "missing"))


def test_an_input_that_changes_while_it_is_read(book):
    with closing(open_source(str(book))) as source:
        with open(book, "ab") as file:
            file.write(b" and more")
        with pytest.raises(InputError, match="book.txt changed while it was read") as error:
            source.read()
        assert error.value.hint == "try again"


@pytest.mark.parametrize(
    ("change", "has_changed"),
    [
        (lambda book: None, False),
        (lambda book: book.chmod(0o600), False),
        (lambda book: book.unlink(), False),
        (lambda book: book.write_bytes(b"tex"), True),
        (lambda book: book.write_bytes(b"TEXT"), True),
        (lambda book: os.utime(book, (1, 2)), True),
        (lambda book: (book.unlink(), book.write_bytes(b"text")), True),
    ],
    ids=["nothing", "mode", "gone", "shorter", "other bytes", "time", "another file"],
)
def test_changes_of_the_input(book, change, has_changed):
    os.utime(book, (3, 4))
    with closing(open_source(str(book))) as source:
        assert source.read() == b"text"
        change(book)
        assert source.has_changed() == has_changed


def test_terminals_are_neither_read_nor_filled(book, monkeypatch):
    ours, theirs = os.openpty()
    try:
        name = os.ttyname(theirs)
        with pytest.raises(InputError, match="not read from a terminal"):
            open_source(name)
        with closing(open_source(str(book))) as source:
            with pytest.raises(InputError, match="is a terminal"):
                plan(source, name)
            assert plan(source, name, is_binary=False).is_stream
            with os.fdopen(os.dup(theirs), "w") as terminal:
                monkeypatch.setattr(sys, "stdout", terminal)
                with pytest.raises(InputError, match="not written to a terminal"):
                    plan(source, "-")
                assert plan(source, "-", is_binary=False).path is None
                monkeypatch.undo()
    finally:
        os.close(ours)
        os.close(theirs)
