"""The everyday command line: several inputs, spellings, JSON lines, questions. A fake codec."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmzip.api import compress as real_codec
from llmzip.cli import progress
from llmzip.cli.commands import normalized
from llmzip.cli.inputs import Input, run_each
from llmzip.cli.main import main
from llmzip.cli.progress import Lines
from llmzip.cli.signals import stop_on_signals
from llmzip.codecs.context import Context
from llmzip.config import CompressSettings
from llmzip.errors import Interrupted
from llmzip.progress import ChunkEvent, Progress
from tests.fake_codec import TEXT, fake_codec

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def codec(monkeypatch: pytest.MonkeyPatch) -> Any:
    return fake_codec(monkeypatch)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes(TEXT + name.encode())
    return tmp_path


def names(directory: Path) -> list[str]:
    found = (path.relative_to(directory).as_posix() for path in directory.rglob("*"))
    return sorted(name for name in found if "." in name)


# Several inputs


def test_several_inputs_go_on_after_a_failure(
    place: Path, codec: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["compress", "a.txt", "missing.txt", "b.txt"]) == 1
    err = capfd.readouterr().err
    assert "error: cannot read missing.txt" in err and "b.txt → b.crm" in err
    (place / "b.crm").write_bytes(b"damaged")
    for name in ("a.txt", "b.txt"):
        os.unlink(name)
    assert main(["decompress", "a.crm", "b.crm"]) == 3  # the highest
    assert "error: b.crm: " in capfd.readouterr().err
    assert (place / "a.txt").read_bytes() == TEXT + b"a.txt" and not (place / "b.txt").exists()
    assert main(["test", "a.crm", "b.crm"]) == 3
    assert main(["info", "a.crm", "a.crm"]) == 0


def test_a_signal_stops_the_rest(place: Path, codec: Any) -> None:
    def stop(data: bytes, settings: object, *args: object, **more: object) -> bytes:
        codec.calls.append(settings)
        raise Interrupted("stopped", exit_code=143)

    codec.compress_bytes = stop
    assert main(["compress", "a.txt", "b.txt"]) == 143
    assert len(codec.calls) == 1


def test_one_output_is_for_one_input(place: Path, codec: Any) -> None:
    for options in (["-o", "x"], ["-c"], ["-o", "x", "--output-dir", "y"]):
        assert main(["compress", "a.txt", "b.txt", *options]) == 2
    assert main(["compress", "-c", "-o", "x", "a.txt"]) == 2
    assert codec.calls == []
    assert main(["compress", "-", "--output-dir", "y"]) == 2


def test_standard_output_takes_one_file_or_several_restored(
    place: Path, codec: Any, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["compress", "-c", "-q", "a.txt"]) == 0
    packed = capfdbinary.readouterr().out
    assert main(["compress", "-q", "a.txt", "b.txt"]) == 0
    assert (place / "a.crm").read_bytes() == packed
    assert main(["decompress", "-c", "-q", "a.crm", "b.crm"]) == 0
    assert capfdbinary.readouterr().out == TEXT + b"a.txt" + TEXT + b"b.txt"


def test_directories(place: Path, codec: Any, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("books/one.txt", "books/two.crm", "books/sub/three.txt", "books/.hidden",
                 "books/four.crm.part", "books/.git/five"):  # fmt: skip
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(TEXT)
    assert main(["compress", "books"]) == 1
    assert "-r takes what is in it" in capfd.readouterr().err
    assert main(["compress", "-r", "books", "a.txt", "--output-dir", "out"]) == 0
    assert names(place / "out") == ["a.crm", "books/one.crm", "books/sub/three.crm"]
    assert main(["decompress", "-r", "out", "--output-dir", "back"]) == 0
    assert names(place / "back") == [
        "out/a.txt", "out/books/one.txt", "out/books/sub/three.txt",
    ]  # fmt: skip
    assert main(["compress", "-r", "books"]) == 0
    assert (place / "books/sub/three.crm").exists()
    (place / "none").mkdir()
    assert main(["compress", "-r", "none"]) == 1
    assert "none has no files for this command in it" in capfd.readouterr().err


def test_a_fault_of_ours_does_not_stop_the_others(
    place: Path, codec: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    real = codec.compress_bytes

    def fail(data: bytes, *args: object, **more: object) -> bytes:
        if data.endswith(b"a.txt"):
            raise ZeroDivisionError
        return real(data, *args, **more)  # type: ignore[no-any-return]

    codec.compress_bytes = fail
    assert main(["--debug", "compress", "a.txt", "b.txt"]) == 1
    err = capfd.readouterr().err
    assert "error: a.txt: this should not have happened: ZeroDivisionError" in err
    assert "Traceback" in err and (place / "b.crm").exists()
    assert main(["compress", "-f", "a.txt", "b.txt"]) == 1
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("directory", [".", "../here", "..", "sub/..", "./"])
def test_results_stay_in_their_directory(place: Path, codec: Any, directory: str) -> None:
    (place / "here" / "sub").mkdir(parents=True)
    os.chdir(place / "here")
    Path("sub/one.txt").write_bytes(TEXT)
    Path("UPPER.CRM").write_bytes(TEXT)
    assert main(["compress", "-r", directory, "--output-dir", "../out/put"]) == 0
    found = names(place / "out")
    assert [name for name in found if name.endswith("sub/one.crm")] != []
    assert not any("UPPER" in name for name in found)
    assert {name.split("/")[0] for name in found} == {"put"}
    assert sorted(path.name for path in place.iterdir()) == ["a.txt", "b.txt", "here", "out"]


def test_inputs_that_would_become_one_file_are_refused(
    place: Path, codec: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    for folder in ("one", "two"):
        (place / folder).mkdir()
        (place / folder / "a.txt").write_bytes(folder.encode())
    command = ["compress", "-f", "--rm", "one/a.txt", "two/a.txt"]
    assert main([*command, "--output-dir", "out"]) == 2
    err = capfd.readouterr().err
    assert "one/a.txt and two/a.txt would both become out/a.txt.crm [exit 2]" in err
    assert main(["compress", "a.txt", "./a.txt"]) == 2
    assert codec.calls == []
    assert main(command) == 0
    for name in ("x.crm", "x.CRM"):
        (place / name).write_bytes((place / "one/a.crm").read_bytes())
    assert main(["decompress", "-f", "x.crm", "x.CRM"]) == 2
    assert main(["decompress", "-c", "x.crm", "x.CRM"]) == 0
    assert main(["compress", "--dry-run", "b.txt", "b.txt"]) == 0


def test_a_directory_that_cannot_be_read_is_told(
    place: Path, codec: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "books/closed").mkdir(parents=True)
    (place / "books/one.txt").write_bytes(TEXT)
    real = os.scandir

    def scan(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert main(["compress", "-r", "books"]) == 1
    err = capfd.readouterr().err
    assert "error: cannot read books/closed: " in err and "books/one.crm" in err


def test_several_inputs_load_one_model(
    tiny_model: Callable[..., Path], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmzip.lm import loaded as models

    loads = []
    real = models.load_for_compression
    monkeypatch.setattr(
        models, "load_for_compression", lambda *args, **more: loads.append(1) or real(*args, **more)
    )
    model = str(tiny_model("llama"))
    options = ["--model", model, "--budget-bits", "40", "--max-steps", "20", "--preset", "fast"]
    for name in ("a.txt", "b.txt"):
        (place / name).write_text(f"the old mill stands by the river {name}")
    assert main(["compress", *options, "--context", "0", "a.txt", "b.txt", "-q"]) == 0
    assert len(loads) == 1
    assert main(["test", "--full", "--model", model, "a.crm", "b.crm"]) == 0
    assert real_codec is sys.modules["llmzip.api.compress"]


# Removing the input


def test_the_input_goes_when_the_result_is_there(place: Path, codec: Any) -> None:
    assert main(["compress", "--rm", "a.txt"]) == 0
    assert names(place) == ["a.crm", "b.txt"]
    assert main(["decompress", "--rm", "a.crm"]) == 0
    assert names(place) == ["a.txt", "b.txt"]
    assert main(["compress", "-k", "a.txt"]) == 0 and (place / "a.txt").exists()


def test_the_input_stays_where_anything_is_wrong(
    place: Path, codec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["compress", "--rm", "-k", "a.txt"]) == 2
    assert main(["compress", "--rm", "-c", "a.txt"]) == 2
    (place / "a.crm").write_bytes(b"in the way")
    assert main(["compress", "--rm", "a.txt"]) == 1
    assert main(["compress", "--rm", "b.txt"]) == 0
    assert main(["decompress", "--rm", "--bytes", "0:3", "b.crm"]) == 2
    real = codec.compress_bytes

    def change(*args: object, **more: object) -> bytes:
        (place / "a.txt").write_bytes(b"another text")
        return real(*args, **more)  # type: ignore[no-any-return]

    codec.compress_bytes = change
    assert main(["compress", "--rm", "-f", "a.txt"]) == 0
    assert (place / "a.txt").read_bytes() == b"another text"
    os.mkfifo("pipe")
    threading.Thread(target=lambda: Path("pipe").write_bytes(TEXT)).start()
    assert main(["compress", "--rm", "pipe", "-o", "pipe.crm"]) == 0
    assert (place / "pipe").exists()


# Spellings


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["-d", "x.crm"], ["decompress", "x.crm"]),
        (["-t", "x"], ["test", "x"]),
        (["--list", "x"], ["info", "x"]),
        (["-z", "-9", "x"], ["compress", "--level=9", "x"]),
        (["compress", "-1", "--", "-9"], ["compress", "--level=1", "--", "-9"]),
        (["compress", "--ray", "x"], ["compress", "--ray=local", "x"]),
        (["compress", "--ray=auto", "x"], ["compress", "--ray=auto", "x"]),
        (["decompress", "-9"], ["decompress", "-9"]),
        (["-dc", "x"], ["decompress", "-c", "x"]),
        (["-zkf", "-3", "x"], ["compress", "-kf", "--level=3", "x"]),
        (["x", "-dc"], ["x", "-dc"]),
        (["compress", "-12"], ["compress", "-12"]),
        ([], []),
    ],
)
def test_spellings(given: list[str], meant: list[str]) -> None:
    assert normalized(given) == meant


LEVELS = {1: "fast", 3: "fast", 4: "balanced", 6: "balanced", 7: "small", 9: "small"}


@pytest.mark.parametrize(("level", "preset"), LEVELS.items())
def test_levels_are_presets(place: Path, codec: Any, level: int, preset: str) -> None:
    assert main(["-z", f"-{level}", "a.txt"]) == 0
    assert codec.calls == [CompressSettings(preset=preset)]  # type: ignore[arg-type]


def test_a_level_and_a_preset(place: Path, codec: Any) -> None:
    assert main(["compress", "-9", "--preset", "fast", "a.txt"]) == 2
    assert main(["compress", "--level", "10", "a.txt"]) == 2
    assert codec.calls == []


def test_threads(place: Path, codec: Any) -> None:
    assert main(["compress", "-T", "3", "a.txt"]) == 0
    assert main(["compress", "-T0", "b.txt"]) == 0
    assert [settings.compute.threads for settings in codec.calls] == [3, os.cpu_count()]


# JSON lines


def test_events_are_json_lines(
    place: Path, codec: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    real = codec.compress_bytes
    event = ChunkEvent(
        what="accepted", first_token=7, num_tokens=9, steps=31, mode="patched", num_patches=2,
        stored_bytes=160, min_margin=0.25,
    )  # fmt: skip

    def work(data: bytes, settings: object, context: Context, **more: object) -> bytes:
        found: bytes = real(data, settings, context, **more)
        context.report(Progress(stage="cram", chunks_done=1, chunks_total=2, chunk=event))
        return found

    codec.compress_bytes = work
    assert main(["compress", "--json", "a.txt", "missing", "b.txt"]) == 1
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert {line["schema"] for line in lines} == {1}
    told = [(line["file"], line["event"]) for line in lines]
    one = ["stage", "message", "stage", "chunk", "done"]
    assert told == [
        *(("a.txt", event) for event in one), ("missing", "error"),
        *(("b.txt", event) for event in one),
    ]  # fmt: skip
    chunk = lines[3]
    assert {name: chunk[name] for name in ("what", "mode", "num_patches", "min_margin")} == {
        "what": "accepted", "mode": "patched", "num_patches": 2, "min_margin": 0.25,
    }  # fmt: skip
    assert lines[5]["exit_code"] == 1 and lines[5]["message"].startswith("cannot read missing")
    # Every field is described.
    described = (ROOT / "docs" / "EVENTS.md").read_text()
    for line in lines:
        if line["event"] != "done":
            for name in line:
                assert f"`{name}`" in described, name


# How far it is


def test_a_log_gets_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert (progress.LINE_SECONDS, progress.VERBOSE_LINE_SECONDS) == (60.0, 30.0)
    lines = Lines(seconds=60.0)
    for seconds in range(0, 190, 10):
        now = 100.0 + seconds
        lines(Progress(stage="cram", chunks_done=seconds, chunks_total=200))
    told = capfd.readouterr().err.splitlines()
    assert [line.split("/")[0] for line in told] == ["cram  60", "cram  120", "cram  180"]


def test_errors_and_ends_are_json_lines_too(
    place: Path, codec: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    def last_line() -> dict[str, Any]:
        found = json.loads(capfd.readouterr().out.splitlines()[-1])
        assert isinstance(found, dict)
        return found

    def interrupted(*args: object, **more: object) -> bytes:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        raise AssertionError

    real, codec.compress_bytes = codec.compress_bytes, interrupted
    assert main(["compress", "--json", "a.txt"]) == 143
    assert last_line() == {
        "schema": 1, "event": "error", "file": "a.txt", "message": "nothing was written",
        "hint": "run the same command again", "exit_code": 143,
    }  # fmt: skip
    codec.compress_bytes = lambda *args, **more: 1 // 0
    assert main(["compress", "--json", "a.txt"]) == 1
    assert "ZeroDivisionError" in last_line()["message"]
    codec.compress_bytes = real
    assert main(["compress", "a.txt"]) == 0
    assert main(["decompress", "--json", "--output-dir", "out", "b.txt"]) == 1
    assert last_line()["message"] == "b.txt does not end in .crm"
    assert main(["decompress", "--json", "-o", "back", "a.crm"]) == 0
    done = last_line()
    assert (done["event"], done["file"], done["output"]) == ("done", "a.crm", "back")
    assert main(["compress", "--json", "-c", "missing"]) == 1
    assert capfd.readouterr().out == ""  # where the result was to go


def test_no_progress(place: Path, codec: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", "--no-progress", "-v", "a.txt"]) == 0
    err = capfd.readouterr().err
    assert "using a toy" in err and "a.txt → a.crm" in err
    assert not any(line.startswith("cram") for line in err.splitlines())


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal here")
def test_a_signal_asks_how_far_it_is(
    place: Path, codec: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    real = codec.compress_bytes

    def ask(data: bytes, settings: object, context: Context, **more: object) -> bytes:
        context.report(Progress(stage="cram", chunks_done=3, chunks_total=9))
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.01)
        found: bytes = real(data, settings, context, **more)
        return found

    codec.compress_bytes = ask
    assert main(["compress", "a.txt"]) == 0
    err = capfd.readouterr().err
    assert "cram  3/9 chunks" in err.splitlines() and "\n\n" not in err
    assert signal.getsignal(signal.SIGUSR1) == before
    with stop_on_signals():
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.01)
    assert capfd.readouterr().err == "nothing is under way yet\n"


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal here")
def test_a_question_between_two_files_ends_nothing(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def ask(one: Input) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)  # which ends a process that does not handle it
        time.sleep(0.01)

    before = signal.getsignal(signal.SIGUSR1)
    run_each([Input(path=name, relative=name) for name in ("a", "b")], ask)
    assert capfd.readouterr().err == "between two files\nbetween two files\n"
    assert signal.getsignal(signal.SIGUSR1) == before


ASKED_WITHOUT_STDERR = """
import os, signal, sys, time
from llmzip.cli.signals import stop_on_signals
assert sys.stderr is None
with open("other", "wb", buffering=0) as other, stop_on_signals() as stop:
    assert other.fileno() == 2
    stop.status = lambda: "cram  1/2 chunks"
    os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(0.01)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal here")
def test_no_answer_goes_into_another_file(place: Path) -> None:
    shell = 'exec "$0" -c "$1" 2>&-'
    done = subprocess.run(
        ["sh", "-c", shell, sys.executable, ASKED_WITHOUT_STDERR],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=30,
    )
    assert done.returncode == 0 and (place / "other").read_bytes() == b""


# The cluster's options


def test_options_of_the_cluster(place: Path, codec: Any) -> None:
    assert main(["compress", "--ray-workers", "2", "a.txt"]) == 2
    assert main(["compress", "--ray", "--ray-workers", "0", "a.txt"]) == 2
    assert codec.calls == []


def test_help_names_the_spellings() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "llmzip", "--help"], check=True, capture_output=True, text=True
    ).stdout
    assert "-z, -d, -t and -l are compress, decompress, test and info" in " ".join(found.split())
