"""What the shell looks at before a long run: memory, room on the disk, time, and who is asked."""

from __future__ import annotations

import os
import pty
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llmzip.cli.main import main
from llmzip.cli.preflight import consider, size_text
from llmzip.codecs.context import Context
from llmzip.errors import LimitExceeded
from llmzip.lm import memory
from llmzip.lm.memory import free_bytes, needed_bytes
from llmzip.lm.zoo import resolve
from llmzip.progress import Forecast
from tests.fake_codec import FAKE_CODEC, MODULES, TEXT, fake_codec
from tests.test_cli import ROOT


@pytest.fixture
def codec(monkeypatch: pytest.MonkeyPatch) -> Any:
    return fake_codec(monkeypatch)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_bytes(TEXT)
    return tmp_path


@contextmanager
def nothing_to_pause() -> Iterator[None]:
    yield


def goes_on(outlook: Forecast, *, yes: bool = False, quiet: bool = False) -> bool:
    return consider(outlook, yes=yes, quiet=quiet, paused=nothing_to_pause)


def test_too_little_memory_is_refused_unless_it_is_wanted() -> None:
    outlook = Forecast(needs_bytes=3_200_000_000, free_bytes=900_000_000)
    with pytest.raises(LimitExceeded, match="needs about 3.2 GB of memory, 900.0 MB are") as caught:
        goes_on(outlook)
    assert caught.value.exit_code == 7 and "-y" in caught.value.hint
    assert goes_on(outlook, yes=True)
    assert goes_on(Forecast(needs_bytes=3, free_bytes=None))
    assert goes_on(Forecast(needs_bytes=3, free_bytes=3))


def test_a_long_run_is_told_where_nobody_can_answer(capfd: pytest.CaptureFixture[str]) -> None:
    assert goes_on(Forecast(seconds=600.0))
    assert capfd.readouterr().err == ""
    assert goes_on(Forecast(seconds=4200.0))
    assert capfd.readouterr().err == "this will take about 70 min\n"
    assert goes_on(Forecast(seconds=4200.0), yes=True)
    assert goes_on(Forecast(seconds=4200.0), quiet=True)
    assert capfd.readouterr().err == ""


def test_the_outlook_reaches_the_shell(
    place: Path, codec: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    real = codec.compress_bytes

    def work(data: bytes, settings: object, context: Context, **more: object) -> bytes:
        context.forecast(Forecast(needs_bytes=9, free_bytes=1))
        return real(data, settings, context, **more)  # type: ignore[no-any-return]

    codec.compress_bytes = work
    assert main(["compress", "a.txt"]) == 7
    assert os.listdir(place) == ["a.txt"]
    assert "hint: close something" in capfd.readouterr().err
    assert main(["compress", "-y", "a.txt"]) == 0


def test_decoding_is_looked_at_too(place: Path, codec: Any) -> None:
    assert main(["compress", "a.txt"]) == 0
    real = codec.decompress_bytes

    def work(data: bytes, settings: object, context: Context, **more: object) -> bytes:
        context.forecast(Forecast(needs_bytes=9, free_bytes=1))
        return real(data, settings, context, **more)  # type: ignore[no-any-return]

    codec.decompress_bytes = work
    for command in (["decompress", "-o", "back"], ["test", "--full"]):
        assert main([*command, "a.crm"]) == 7
        assert main([*command, "-y", "a.crm"]) == 0
    assert (place / "back").read_bytes() == TEXT


ASKING = f"""
import sys, types
fake = types.ModuleType("fake_codec")
exec({FAKE_CODEC!r}, fake.__dict__)
real = fake.compress_bytes
def work(data, settings, context, **more):
    from llmzip.progress import Forecast
    if data.startswith(b"long"):
        context.journal.begin({{"settings": "these"}})
        context.journal.keep("chunks", b"x")
    context.forecast(Forecast(seconds=5000.0))
    return real(data, settings, context, **more)
fake.compress_bytes = work
sys.modules.update(dict.fromkeys({MODULES!r}, fake))
from llmzip.cli.main import main
sys.exit(main())
"""


@contextmanager
def until_it_ends() -> Iterator[None]:
    """The end of a terminal is an error on some systems."""
    try:
        yield
    except OSError:
        pass


def at_a_terminal(driver: str, *arguments: str, answer: bytes = b"") -> tuple[int, str]:
    """The exit code, and what a terminal shows: of a run that is answered when it asks."""
    process, terminal = pty.fork()
    if process == 0:
        os.environ["PYTHONPATH"] = str(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", driver, *arguments])
    said = b""
    with until_it_ends():
        while part := os.read(terminal, 1024):
            said += part
            if answer and b"[Y/n]" in said:
                os.write(terminal, answer)
                answer = b""
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), said.decode()


@pytest.mark.parametrize(
    ("answer", "code"),
    [(b"\n", 0), (b"what\nyes\n", 0), (b"n\n", 130), (b"\x03", 130), (b"\x04", 130)],
)
def test_a_terminal_is_asked(place: Path, answer: bytes, code: int) -> None:
    found, said = at_a_terminal(ASKING, "compress", "a.txt", answer=answer)
    assert found == code, said
    assert "this will take about 83 min; go on? [Y/n]" in said
    assert (place / "a.crm").exists() == (code == 0)
    assert ("interrupted: nothing was written [exit 130]" in said) == (code == 130)
    assert ("note: --preset fast" in said) == (answer in (b"n\n", b"\x04"))


@pytest.mark.parametrize("answer", [b"n\n", b"\x03"])
def test_work_outlives_a_no(place: Path, answer: bytes) -> None:
    (place / "a.txt").write_bytes(b"long " + TEXT)
    code, said = at_a_terminal(ASKING, "compress", "a.txt", answer=answer)
    assert code == 130
    assert "interrupted: the work so far is kept in a.crm.part [exit 130]" in said
    assert "hint: resume: llmzip compress a.txt" in said
    assert (place / "a.crm.part").exists()


def test_a_terminal_is_not_asked_for_nothing(place: Path) -> None:
    code, said = at_a_terminal(ASKING, "compress", "-y", "a.txt")
    assert code == 0 and "83 min" not in said


IN_THE_BACKGROUND = f"""
import os, signal, sys
process = os.fork()
if process:
    _, status = os.waitpid(process, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        os.kill(process, signal.SIGKILL)
        sys.exit(99)
    sys.exit(os.waitstatus_to_exitcode(status))
os.setpgid(0, 0)
{ASKING}
"""


def test_a_job_in_the_background_is_told_and_goes_on(place: Path) -> None:
    code, said = at_a_terminal(IN_THE_BACKGROUND, "compress", "a.txt")
    assert code == 0, said
    assert "this will take about 83 min\r\n" in said and "[Y/n]" not in said
    assert (place / "a.crm").exists()


def test_no_room_on_the_disk(
    place: Path, codec: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    usage, room = shutil.disk_usage(place), 1 << 20
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=room))
    assert main(["compress", "a.txt"]) == 7
    assert "has 1.0 MB left; the result may take 1.0 MB" in capfd.readouterr().err
    assert codec.calls == [] and os.listdir(place) == ["a.txt"]
    assert main(["compress", "-q", "a.txt", "-o", "/dev/null"]) == 0  # a stream has no end
    assert main(["compress", "-y", "a.txt"]) == 0
    room += 2 * len(TEXT)
    assert main(["compress", "a.txt", "-o", "b.crm"]) == 0
    assert main(["compress", "--bits", "16", "a.txt", "-o", "c.crm"]) == 7
    capfd.readouterr()

    def silent(path: str) -> None:
        raise OSError

    monkeypatch.setattr(shutil, "disk_usage", silent)
    assert main(["compress", "a.txt", "-o", "d.crm"]) == 0


def test_room_for_what_is_restored(
    place: Path, codec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["compress", "a.txt"]) == 0
    usage, room = shutil.disk_usage(place), (1 << 20) + len(TEXT)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=room))
    assert main(["decompress", "a.crm", "-o", "b"]) == 0
    room -= 1
    assert main(["decompress", "a.crm", "-o", "c"]) == 7
    assert main(["decompress", "a.crm", "-o", "c", "--bytes", "1:20"]) == 0
    assert main(["decompress", "a.crm", "-o", "d", "-y"]) == 0
    (place / "no.crm").write_bytes(TEXT)
    room = 1 << 20
    assert main(["decompress", "no.crm"]) == 3  # what is no file of ours says so itself


def test_sizes_are_said_as_people_say_them() -> None:
    assert [size_text(n) for n in (0, 999, 1000, 2_340_000, 5 * 10**9)] == [
        "0 bytes", "999 bytes", "1.0 KB", "2.3 MB", "5.0 GB",
    ]  # fmt: skip


def test_memory_follows_the_models_size(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    files = resolve(str(tiny_model("llama")))
    less, more = (needed_bytes(files, optimises=each) for each in (False, True))
    assert less is not None and more is not None and 0 < less < more
    assert needed_bytes(replace(files, path=tmp_path), optimises=True) is None
    (tmp_path / "x.safetensors").write_bytes(b"\x01")
    assert needed_bytes(replace(files, path=tmp_path), optimises=True) is None


MB = 1 << 20


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, object], None]:
    """Writes a file of a system of one's own: one with 800 MB free and no limits."""
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "sys")

    def write(name: str, content: object) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")

    write("proc/meminfo", f"MemTotal: 9 kB\nMemAvailable: {800 << 10} kB")
    return write


def free_memory() -> int | None:
    return free_bytes(torch.device("cpu"))


def test_free_memory_is_what_the_system_says(system: Callable[[str, object], None]) -> None:
    assert free_memory() == 800 * MB
    system("proc/meminfo", "nothing that we know")
    assert free_memory() is None
    assert free_bytes(torch.device("meta")) is None


def test_free_memory_is_what_the_groups_leave(system: Callable[[str, object], None]) -> None:
    system("proc/self/cgroup", "0::/user/job")
    for group, limit, use in (("", "max", 0), ("user", 700 * MB, 200 * MB), ("user/job", "max", 0)):
        system(f"sys/{group}/memory.max", limit)
        system(f"sys/{group}/memory.current", use)
        system(f"sys/{group}/memory.stat", f"anon 3\ninactive_file {100 * MB}")
    assert free_memory() == 600 * MB  # by the group above
    system("sys/user/job/memory.max", 50 * MB)
    system("sys/user/job/memory.current", 400 * MB)
    assert free_memory() == 0


def test_groups_of_the_old_kind(system: Callable[[str, object], None]) -> None:
    system("proc/self/cgroup", "4:cpu,memory:/job\n3:cpuset:/\n0::/")
    system("sys/memory/job/memory.limit_in_bytes", 500 * MB)
    system("sys/memory/job/memory.usage_in_bytes", 480 * MB)
    system("sys/memory/job/memory.stat", f"inactive_file 1\ntotal_inactive_file {30 * MB}")
    system("sys/memory/memory.limit_in_bytes", 2**63 - 4096)
    system("sys/memory/memory.usage_in_bytes", 480 * MB)
    system("sys/memory/memory.stat", "cache 0")
    assert free_memory() == 50 * MB
