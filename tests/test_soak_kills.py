"""Killed and stopped runs: nothing lost, the same bytes in the end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from llmzip.api import existing
from llmzip.config import CompressSettings
from llmzip.store.journal import Journal
from tests.soak.child import in_child
from tests.soak.outcome import Outcome, table
from tests.soak.parts import MAGIC, Record, num_chunks, read_part, work_names, write_part

if not sys.platform.startswith("linux"):
    pytest.skip("runs are forked, and /proc tells of them: Linux", allow_module_level=True)

from tests.soak import faults, journals, kills
from tests.soak.scenes import INPUT, PART, RAW, SAVES, Lost, Wrong, look, workplace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return kills.run(seed=1, full=False)


def test_nothing_is_lost_and_no_byte_is_wrong(outcomes: list[Outcome]) -> None:
    assert all(outcome.is_clean for outcome in outcomes), table(outcomes)


def test_every_way_to_end_early_was_tried(outcomes: list[Outcome]) -> None:
    cases: dict[str, int] = {}
    for outcome in outcomes:
        cases[outcome.name] = cases.get(outcome.name, 0) + outcome.cases
    assert cases["random kills"] == 15
    assert cases["kills at system calls"] > 100
    assert cases["power cuts"] > 50
    assert cases["signals at system calls"] > 10 and cases["signals at stages"] > 10
    assert cases["damaged journals read"] > 500
    rest = ("second runs", "damaged journals", "journals refused", "journals forged")
    assert all(cases[name] >= 3 for name in rest)


def test_every_setting_that_binds_is_changed() -> None:
    names = {field.name for field in fields(CompressSettings)}
    assert set(journals.OPTIONS) == names - set(existing.NOT_BINDING)


def test_the_verdict_sees_what_is_wrong() -> None:
    assert in_child(__name__, "see_what_is_wrong", timeout_s=300) == []


def see_what_is_wrong() -> list[Outcome]:
    """Each mistake that a run could make with its files. In a process that may fork."""
    with workplace() as place:
        plain = place.undisturbed(RAW)
        assert plain.num_chunks > 10 and plain.calls.count(f"fsync {PART}") > 6
        compacted = place.undisturbed(SAVES)
        assert f"replace {PART}.new" in compacted.calls and compacted.data == plain.data
        with place.directory(RAW) as directory:
            assert not look(directory, RAW, plain).is_complete
            with pytest.raises(Lost, match="3 chunks were done, 0 are left"):
                look(directory, RAW, plain, told=3)
            final = directory / RAW.final
            for wrong in (b"", plain.data[:-1], plain.data + b"\0"):
                final.write_bytes(wrong)
                with pytest.raises(Wrong):
                    look(directory, RAW, plain)
            final.write_bytes(plain.data)
            assert look(directory, RAW, plain, told=3).is_complete
        at = plain.calls.index(f"fsync {PART}")
        with place.directory(RAW) as directory:
            ended = place.start(RAW, directory, around=faults.kill(at, "before")).end()
            assert ended.was_killed and ended.logged("call") == plain.calls[: at + 1]
            assert sorted(path.name for path in directory.iterdir()) == [PART, INPUT]
    return []


def test_the_second_reading_of_a_journal(tmp_path: Path) -> None:
    path = tmp_path / PART
    journal = Journal.open(str(path))
    journal.begin({"input": {"bytes": 3}})
    journal.keep("plan", b"cut")
    journal.keep("chunks", b"", b"state")
    journal.close()
    data = path.read_bytes()
    records = read_part(data)
    assert [record.name for record in records] == ["owner", "run", "plan", "chunks"]
    assert records[2].kept == b"cut" and records[3].state and not records[3].kept
    assert work_names(data) == ["plan", "chunks"] and num_chunks(data) == 0
    assert write_part(records) == data
    assert read_part(data[:-1]) == records[:3] and read_part(b"x" + data) == []
    forged = [*records[:2], Record(name="plan", kept=b"CUT", state=b"", start=0, end=0)]
    path.write_bytes(write_part(forged))
    journal = Journal.open(str(path))
    assert journal.kept("plan") == [b"CUT"] and not journal.torn_bytes
    journal.close()
    assert data.startswith(MAGIC)


def test_only_calls_on_the_directory_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched, elsewhere = tmp_path / "watched", tmp_path / "elsewhere"
    watched.mkdir()
    elsewhere.mkdir()
    for name in (*faults.CHANGING, *faults.LOOKING):
        if hasattr(os, name):
            monkeypatch.setattr(os, name, getattr(os, name))  # to be undone
    seen: list[str] = []

    def around(call: faults.Call, go: Callable[[], object]) -> object:
        seen.append(str(call))
        return go()

    faults.install(watched, around, note=False)
    for directory in (elsewhere, watched):
        handle = os.open(directory / "file", os.O_CREAT | os.O_RDWR)
        os.write(handle, b"data")
        os.fsync(handle)
        os.close(handle)
        os.link(directory / "file", directory / "link")
        os.unlink(directory / "file")
    handle = os.open(watched, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
    assert seen == [
        "create file", "write file", "fsync file", "link file", "unlink file", "fsync .",
    ]  # fmt: skip
