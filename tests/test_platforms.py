"""Systems that lack what POSIX has: Windows and macOS, by stand-ins that take the calls away."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from llmzip.cli import signals, startup
from llmzip.cli.main import main
from llmzip.inspect import environment
from llmzip.store import atomic
from llmzip.store.atomic import new_file, rename_exclusively, sync_directory, write_file
from tests.fake_codec import TEXT, fake_codec

# What Python has on POSIX alone, or on Linux alone.
_MISSING = (
    "fchown", "fchmod", "chown", "getuid", "geteuid", "sysconf", "sched_getaffinity", "sync",
)  # fmt: skip
_SIGNALS = ("SIGUSR1", "SIGHUP", "SIGINFO", "SIGWINCH")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, as far as it can be had here."""
    for name in _MISSING:
        monkeypatch.delattr(os, name, raising=False)
    for name in _SIGNALS:
        monkeypatch.delattr(signal, name, raising=False)
    monkeypatch.setattr(atomic, "fcntl", None)
    monkeypatch.setattr(atomic, "_PLAIN", 0)


def no_links(*names: Any, **more: Any) -> None:
    raise OSError("no hard links here")


def test_files_are_written(bare: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    for replace, text in ((False, b"one"), (True, b"two")):
        write_file(path, text, replace=replace)
        assert path.read_bytes() == text
    with pytest.raises(FileExistsError):
        write_file(path, b"three", replace=False)
    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(atomic, "rename_exclusively", lambda before, after: False)
    write_file(tmp_path / "b", b"four", replace=False)
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "b", b"five", replace=False)
    assert (tmp_path / "b").read_bytes() == b"four"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b"]


def test_a_system_without_such_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"")
    monkeypatch.setattr(sys, "platform", "win32")
    assert not rename_exclusively(str(tmp_path / "a"), str(tmp_path / "b"))
    sync_directory(tmp_path / "nowhere")  # directories cannot be opened there: nothing is tried


def test_windows_closes_a_file_before_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed_at_rename = []
    rename = os.replace

    def replace(before: str, after: str) -> None:
        try:
            os.fstat(file.handle)
            closed_at_rename.append(False)
        except OSError:
            closed_at_rename.append(True)
        rename(before, after)

    with new_file(str(tmp_path / "a")) as file:
        file.write(b"text")
        monkeypatch.setattr(os, "replace", replace)
        monkeypatch.setattr(os, "name", "nt")
        file.publish(replace=True)
        monkeypatch.undo()
    assert closed_at_rename == [True] and (tmp_path / "a").read_bytes() == b"text"


def test_commands_work(
    bare: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    fake_codec(monkeypatch)
    book = tmp_path / "book.txt"
    book.write_bytes(TEXT)
    assert main(["compress", str(book)]) == 0
    book.unlink()
    assert main(["decompress", str(book.with_suffix(".crm"))]) == 0
    assert book.read_bytes() == TEXT
    assert "Traceback" not in capfd.readouterr().err


def test_only_the_signals_that_there_are_count(bare: None) -> None:
    with signals.stop_on_signals() as stop:
        assert not stop.cancel.is_set()


def test_figures_that_a_system_does_not_give(bare: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert startup._sample() is None
    assert environment.total_memory_bytes() is None
    assert environment.usable_cores() == (os.cpu_count() or 1)
