"""The everyday command line: several inputs, spellings, JSON lines, questions. A fake codec."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llmzip import codec as real_codec
from llmzip.cli import preflight, progress
from llmzip.cli.main import main
from llmzip.cli.preflight import consider, size_text
from llmzip.cli.progress import Lines
from llmzip.cli.signals import stop_on_signals
from llmzip.cli.spellings import in_our_words
from llmzip.config import CompressSettings
from llmzip.errors import InputError, Interrupted, LimitExceeded
from llmzip.memory import free_bytes, needed_bytes
from llmzip.progress import ChunkEvent, Outlook, Progress
from tests.test_cli import FAKE_CODEC, TEXT

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def codec(monkeypatch: pytest.MonkeyPatch) -> Any:
    fake: Any = types.ModuleType("llmzip.codec")
    exec(FAKE_CODEC, fake.__dict__)
    monkeypatch.setitem(sys.modules, "llmzip.codec", fake)
    return fake


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
    assert "error: cannot read missing.txt" in err and "b.txt → b.txt.crm" in err
    (place / "b.txt.crm").write_bytes(b"damaged")
    for name in ("a.txt", "b.txt"):
        os.unlink(name)
    assert main(["decompress", "a.txt.crm", "b.txt.crm"]) == 3  # the highest
    assert "error: b.txt.crm: " in capfd.readouterr().err
    assert (place / "a.txt").read_bytes() == TEXT + b"a.txt" and not (place / "b.txt").exists()
    assert main(["test", "a.txt.crm", "b.txt.crm"]) == 3
    assert main(["info", "a.txt.crm", "a.txt.crm"]) == 0


def test_a_signal_stops_the_rest(place: Path, codec: Any) -> None:
    def stop(data: bytes, settings: object, **more: object) -> bytes:
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
    assert (place / "a.txt.crm").read_bytes() == packed
    assert main(["decompress", "-c", "-q", "a.txt.crm", "b.txt.crm"]) == 0
    assert capfdbinary.readouterr().out == TEXT + b"a.txt" + TEXT + b"b.txt"


def test_directories(place: Path, codec: Any, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("books/one.txt", "books/two.crm", "books/sub/three.txt", "books/.hidden",
                 "books/four.txt.crm.part", "books/.git/five"):  # fmt: skip
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(TEXT)
    assert main(["compress", "books"]) == 1
    assert "pack it with tar first" in capfd.readouterr().err
    assert main(["compress", "-r", "books", "a.txt", "--output-dir", "out"]) == 0
    assert names(place / "out") == ["a.txt.crm", "books/one.txt.crm", "books/sub/three.txt.crm"]
    assert main(["decompress", "-r", "out", "--output-dir", "back"]) == 0
    assert names(place / "back") == [
        "out/a.txt", "out/books/one.txt", "out/books/sub/three.txt",
    ]  # fmt: skip
    assert main(["compress", "-r", "books"]) == 0
    assert (place / "books/sub/three.txt.crm").exists()
    (place / "none").mkdir()
    assert main(["compress", "-r", "none"]) == 1
    assert "none has no files for this in it" in capfd.readouterr().err


def test_several_inputs_load_one_model(
    tiny_model: Callable[..., Path], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmzip import models

    loads = []
    real = models.open_workshop
    monkeypatch.setattr(
        models, "open_workshop", lambda *args, **more: loads.append(1) or real(*args, **more)
    )
    model = str(tiny_model("llama"))
    options = ["--model", model, "--budget-bits", "40", "--max-steps", "20", "--preset", "fast"]
    for name in ("a.txt", "b.txt"):
        (place / name).write_text(f"the old mill stands by the river {name}")
    assert main(["compress", *options, "--context", "0", "a.txt", "b.txt", "-q"]) == 0
    assert len(loads) == 1
    assert main(["test", "--full", "--model", model, "a.txt.crm", "b.txt.crm"]) == 0
    assert real_codec is sys.modules["llmzip.codec"]


# Removing the input


def test_the_input_goes_when_the_result_is_there(place: Path, codec: Any) -> None:
    assert main(["compress", "--rm", "a.txt"]) == 0
    assert names(place) == ["a.txt.crm", "b.txt"]
    assert main(["decompress", "--rm", "a.txt.crm"]) == 0
    assert names(place) == ["a.txt", "b.txt"]
    assert main(["compress", "-k", "a.txt"]) == 0 and (place / "a.txt").exists()


def test_the_input_stays_where_anything_is_wrong(
    place: Path, codec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["compress", "--rm", "-k", "a.txt"]) == 2
    assert main(["compress", "--rm", "-c", "a.txt"]) == 2
    (place / "a.txt.crm").write_bytes(b"in the way")
    assert main(["compress", "--rm", "a.txt"]) == 1
    assert main(["compress", "--rm", "b.txt"]) == 0
    assert main(["decompress", "--rm", "--bytes", "0:3", "b.txt.crm"]) == 2
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
        (["compress", "-12"], ["compress", "-12"]),
        ([], []),
    ],
)
def test_spellings(given: list[str], meant: list[str]) -> None:
    assert in_our_words(given) == meant


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

    def work(data: bytes, settings: object, *, on_progress: Any, **more: object) -> bytes:
        found: bytes = real(data, settings, on_progress=on_progress, **more)
        on_progress(Progress(stage="cram", chunks_done=1, chunks_total=2, chunk=event))
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


def test_no_progress(place: Path, codec: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", "--no-progress", "-v", "a.txt"]) == 0
    err = capfd.readouterr().err
    assert "using a toy" in err and "a.txt → a.txt.crm" in err
    assert not any(line.startswith("cram") for line in err.splitlines())


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal here")
def test_a_signal_asks_how_far_it_is(
    place: Path, codec: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    real = codec.compress_bytes

    def ask(data: bytes, settings: object, *, on_progress: Any, **more: object) -> bytes:
        on_progress(Progress(stage="cram", chunks_done=3, chunks_total=9))
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.01)
        found: bytes = real(data, settings, on_progress=on_progress, **more)
        return found

    codec.compress_bytes = ask
    assert main(["compress", "a.txt"]) == 0
    assert "cram  3/9 chunks" in capfd.readouterr().err.splitlines()
    assert signal.getsignal(signal.SIGUSR1) == before
    with stop_on_signals():
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.01)
    assert capfd.readouterr().err == "nothing is under way yet\n"


# What lies ahead


@contextmanager
def nothing_to_pause() -> Iterator[None]:
    yield


def test_too_little_memory_is_refused_unless_it_is_wanted() -> None:
    outlook = Outlook(needs_bytes=3_200_000_000, free_bytes=900_000_000)
    with pytest.raises(LimitExceeded, match="needs about 3.2 GB of memory, 900.0 MB are") as caught:
        consider(outlook, yes=False, paused=nothing_to_pause)
    assert caught.value.exit_code == 7 and "-y" in caught.value.hint
    consider(outlook, yes=True, paused=nothing_to_pause)
    consider(Outlook(needs_bytes=3, free_bytes=None), yes=False, paused=nothing_to_pause)
    consider(Outlook(needs_bytes=3, free_bytes=3), yes=False, paused=nothing_to_pause)


def test_a_long_run_is_told_where_nobody_can_answer(capfd: pytest.CaptureFixture[str]) -> None:
    consider(Outlook(seconds=600.0), yes=False, paused=nothing_to_pause)
    assert capfd.readouterr().err == ""
    consider(Outlook(seconds=4200.0), yes=False, paused=nothing_to_pause)
    assert capfd.readouterr().err == "this will take about 70 min\n"
    consider(Outlook(seconds=4200.0), yes=True, paused=nothing_to_pause)
    assert capfd.readouterr().err == ""


def test_the_outlook_reaches_the_shell(
    place: Path, codec: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    real = codec.compress_bytes

    def work(data: bytes, settings: object, *, on_outlook: Any, **more: object) -> bytes:
        on_outlook(Outlook(needs_bytes=9, free_bytes=1))
        return real(data, settings, **more)  # type: ignore[no-any-return]

    codec.compress_bytes = work
    assert main(["compress", "a.txt"]) == 7
    assert names(place) == ["a.txt", "b.txt"]
    assert main(["compress", "-y", "a.txt"]) == 0


ASKING = f"""
import sys, types
fake = types.ModuleType("llmzip.codec")
exec({FAKE_CODEC!r}, fake.__dict__)
real = fake.compress_bytes
def work(data, settings, *, on_outlook, **more):
    from llmzip.progress import Outlook
    on_outlook(Outlook(seconds=5000.0))
    return real(data, settings, **more)
fake.compress_bytes = work
sys.modules["llmzip.codec"] = fake
from llmzip.cli.main import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("answer", "code"),
    [(b"\n", 0), (b"what\nyes\n", 0), (b"n\n", 130), (b"\x03", 130), (b"\x04", 130)],
)
def test_a_terminal_is_asked(place: Path, answer: bytes, code: int) -> None:
    process, terminal = pty.fork()
    if process == 0:
        os.environ["PYTHONPATH"] = str(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", ASKING, "compress", "a.txt"])
    said = b""
    with suppress_end():
        while b"[Y/n]" not in said:
            said += os.read(terminal, 1024)
    os.write(terminal, answer)
    with suppress_end():
        while part := os.read(terminal, 1024):
            said += part
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == code, said
    assert b"this will take about 83 min; go on? [Y/n]" in said
    assert (place / "a.txt.crm").exists() == (code == 0)
    if answer == b"n\n":
        assert b"declined; nothing was written [exit 130]" in said


@contextmanager
def suppress_end() -> Iterator[None]:
    """The end of a terminal is an error on some systems."""
    try:
        yield
    except OSError:
        pass


def test_no_room_on_the_disk(place: Path, codec: Any, monkeypatch: pytest.MonkeyPatch,
                             capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    usage = shutil.disk_usage(place)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    assert main(["compress", "a.txt"]) == 1
    assert re.search(r"has 1\.0 MB left; the result may take 1\.0 MB", capfd.readouterr().err)
    assert codec.calls == []
    assert main(["compress", "-q", "a.txt", "-o", "/dev/null"]) == 0  # a stream has no end

    def silent(path: str) -> None:
        raise OSError

    monkeypatch.setattr(shutil, "disk_usage", silent)
    assert main(["compress", "a.txt"]) == 0
    assert preflight.InputError is InputError


def test_sizes_are_said_as_people_say_them() -> None:
    assert [size_text(n) for n in (0, 999, 1000, 2_340_000, 5 * 10**9)] == [
        "0 bytes", "999 bytes", "1.0 KB", "2.3 MB", "5.0 GB",
    ]  # fmt: skip


def test_memory_follows_the_models_size(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    import torch

    from llmzip.lm.zoo import resolve

    files = resolve(str(tiny_model("llama")))
    less, more = (needed_bytes(files, optimises=each) for each in (False, True))
    assert less is not None and more is not None and 0 < less < more
    from dataclasses import replace

    assert needed_bytes(replace(files, path=tmp_path), optimises=True) is None
    (tmp_path / "x.safetensors").write_bytes(b"\x01")
    assert needed_bytes(replace(files, path=tmp_path), optimises=True) is None
    if Path("/proc/meminfo").exists():
        free = free_bytes(torch.device("cpu"))
        assert free is not None and 1 << 20 < free < 1 << 50


# The cluster's options


def test_options_of_the_cluster(place: Path, codec: Any) -> None:
    assert main(["compress", "--ray-workers", "2", "a.txt"]) == 2
    assert main(["compress", "--ray", "--ray-workers", "0", "a.txt"]) == 2
    assert codec.calls == []


def test_help_names_the_spellings() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "llmzip", "--help"], check=True, capture_output=True, text=True
    ).stdout
    assert "-d, -t and -l are decompress, test and info" in " ".join(found.split())
