"""The command line: files, streams, messages, exit codes, signals. The codec is a fake one."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import stat
import subprocess
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import pytest

from llmzip import __version__, errors
from llmzip.cli import console
from llmzip.cli import model as model_command
from llmzip.cli.events import describe
from llmzip.cli.main import main
from llmzip.cli.preflight import time_text
from llmzip.cli.settings import seconds_of
from llmzip.config import CompressSettings, ComputeSettings, DecompressSettings
from llmzip.progress import Progress
from tests.fake_codec import FAKE_CODEC, MODULES, TEXT, fake_codec

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "tests" / "data" / "v1_tiny.crm"
ARITH = ROOT / "tests" / "data" / "v1_arith.crm"

DRIVER = f"""
import sys, types
fake = types.ModuleType("fake_codec")
exec({FAKE_CODEC!r}, fake.__dict__)
sys.modules.update(dict.fromkeys({MODULES!r}, fake))
from llmzip.cli.main import main
code = main()
assert "torch" not in sys.modules and "transformers" not in sys.modules
sys.exit(code)
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("LLMZIP_MODEL", "LLMZIP_DEVICE", "LLMZIP_DEBUG", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def codec(monkeypatch):
    return fake_codec(monkeypatch)


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "book.txt"
    path.write_bytes(TEXT)
    return path


def names(directory):
    return sorted(entry.name for entry in directory.iterdir())


def environment(**more):
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return {**inherited, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", **more}


def run(*arguments, data=b"", **more):
    return subprocess.run(
        [sys.executable, "-c", DRIVER, *arguments],
        input=data,
        capture_output=True,
        env=environment(**more),
        timeout=30,
    )


# --- files and streams


def test_roundtrip_through_default_names(book, codec, capfdbinary):
    assert main(["compress", "book.txt"]) == 0
    assert names(book.parent) == ["book.crm", "book.txt"]
    book.unlink()
    assert main(["decompress", "book.crm"]) == 0
    assert book.read_bytes() == TEXT
    out, err = capfdbinary.readouterr()
    assert out == b""
    assert "book.txt → book.crm  54 → " in err.decode()
    assert "book.crm → book.txt  " in err.decode()


def test_pipes_are_byte_clean_under_force_color():
    color = {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1", "TTY_COMPATIBLE": "1", "COLUMNS": "40"}
    packed = run("compress", "-", data=TEXT, **color)
    assert packed.returncode == 0
    assert packed.stdout.startswith(b"\x89CRM\r\n\x1a\n")
    back = run("decompress", "-", "-v", data=packed.stdout, **color)
    assert back.returncode == 0
    assert back.stdout == TEXT
    assert b"\x1b" not in packed.stderr + back.stderr
    assert b"using a toy" in packed.stderr  # said in logs, too


def test_quiet_says_nothing(book, codec, capfd):
    assert main(["compress", "-q", "book.txt"]) == 0
    assert main(["decompress", "-q", "book.crm", "-o", "back"]) == 0
    assert capfd.readouterr() == ("", "")


def test_output_to_stdout_keeps_the_directory_as_it_was(book, codec, capfdbinary):
    assert main(["compress", "-q", "book.txt", "-o", "-"]) == 0
    packed = capfdbinary.readouterr().out
    assert names(book.parent) == ["book.txt"]
    Path("x").write_bytes(packed)
    assert main(["decompress", "x", "-o", "-"]) == 0
    assert capfdbinary.readouterr().out == TEXT


def test_a_file_named_like_an_option(book, codec):
    book.rename("-x")
    assert main(["compress", "--", "-x"]) == 0
    assert names(book.parent) == ["-x", "-x.crm"]


@pytest.mark.parametrize(
    ("file", "output"), [("a.crm", "a"), ("A.CRM", "A"), ("a.b.crm", "a.b"), ("x.crm.crm", "x.crm")]
)
def test_decompress_strips_its_suffix(book, codec, file, output):
    book.rename("book")  # which has no suffix to be put back
    assert main(["compress", "book", "-o", file]) == 0
    assert main(["decompress", file]) == 0
    assert Path(output).read_bytes() == TEXT


@pytest.mark.parametrize("file", ["a.zip", "crm", ".crm", "./.crm"])
def test_decompress_of_another_suffix_asks_for_a_name(book, codec, capfd, file):
    assert main(["compress", "-q", "book.txt", "-o", file]) == 0
    assert main(["decompress", file]) == 1
    err = capfd.readouterr().err
    assert "does not end in .crm [exit 1]" in err
    assert "hint: name the output with -o" in err
    assert len(codec.calls) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["compress", "book.txt", "-o", "taken"],
        ["compress", "book.txt", "-o", "book.txt", "-f"],
        ["compress", "book.txt", "-o", "missing/out"],
        ["compress", "missing"],
        ["compress", "."],
        ["decompress", "taken", "-o", "taken", "-f"],
    ],
)
def test_refused_before_any_work(book, codec, capfd, arguments):
    Path("taken").write_bytes(b"old")
    assert main(arguments) == 1
    assert codec.calls == []
    assert names(book.parent) == ["book.txt", "taken"]
    assert Path("taken").read_bytes() == b"old"
    assert capfd.readouterr().err.startswith("error: ")


def test_force_keeps_the_old_file_until_success(book, codec, monkeypatch):
    old = Path("book.crm")
    old.write_bytes(b"old")
    real = codec.compress_bytes

    def fail(*args, **kwargs):
        assert old.read_bytes() == b"old"
        raise errors.IntegrityError("wrong text")

    codec.compress_bytes = fail
    assert main(["compress", "-f", "book.txt"]) == 6
    assert old.read_bytes() == b"old"
    codec.compress_bytes = real
    assert main(["compress", "-f", "book.txt"]) == 0
    assert old.read_bytes().startswith(b"\x89CRM")


def test_a_full_disk_behind_stdout_is_an_error():
    if not os.path.exists("/dev/full"):
        pytest.skip("no device that is always full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, "compress", "-q", "-"],
            input=TEXT,
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            timeout=30,
        )
    assert done.returncode == 1
    assert done.stderr == b"error: cannot write to standard output: No space left on device " + (
        b"[exit 1]\nhint: make room, or send it elsewhere with -o FILE\n"
    )


def test_a_stream_that_takes_little_at_a_time_gets_all(monkeypatch):
    class Slow(io.RawIOBase):
        taken = b""

        def write(self, block):
            self.taken += bytes(block[:7])
            return len(block[:7])

    slow = Slow()
    monkeypatch.setattr(sys, "stdout", types.SimpleNamespace(buffer=slow))
    console.write_stdout(TEXT)
    assert slow.taken == TEXT


def test_closed_streams_never_mix(book):
    command = f'"{sys.executable}" -c "$DRIVER" compress -o - book.txt'
    more = {"DRIVER": DRIVER}
    shell = {"shell": True, "env": environment(**more), "timeout": 30, "cwd": book.parent}
    no_stderr = subprocess.run(f"{command} 2>&-", capture_output=True, **shell)
    assert no_stderr.returncode == 0
    assert no_stderr.stdout.startswith(b"\x89CRM")
    assert b"bytes per byte" not in no_stderr.stdout and b"toy" not in no_stderr.stdout
    no_stdout = subprocess.run(f"{command} >&-", capture_output=True, **shell)
    assert no_stdout.returncode == 1
    assert b"standard output is closed [exit 1]" in no_stdout.stderr


# --- settings


def test_every_compress_option_reaches_the_codec(book, codec):
    options = "--model m/n --revision r --device cpu --mem 3 --bits 16 --context 5 --budget-bits 90"
    options += " --max-steps 7 --seed 8 --threads 2 --batch 4 --attention eager --offline"
    options += " --preset small --time-budget 1h30m --bf16-safe"
    assert main(["compress", "book.txt", *options.split()]) == 0
    compute = ComputeSettings(device="cpu", threads=2, batch=4, attention="eager")
    assert codec.calls == [
        CompressSettings(
            model="m/n",
            revision="r",
            num_mem=3,
            bits=16,
            context_tokens=5,
            budget_bits=90.0,
            max_steps=7,
            preset="small",
            time_budget_s=5400.0,
            bf16_safe=True,
            seed=8,
            offline=True,
            compute=compute,
        )
    ]


def test_every_option_of_the_arith_codec_reaches_the_codec(book, codec):
    options = "--codec auto --try-cram --shared-mem 2 --verify full --preset small"
    assert main(["compress", "book.txt", *options.split()]) == 0
    assert codec.calls == [
        CompressSettings(codec="auto", try_cram=True, shared_mem=2, verify="full", preset="small")
    ]


def test_every_decompress_option_reaches_the_codec(book, codec):
    assert main(["compress", "book.txt"]) == 0
    options = "--model m/n --revision r --device cpu --threads 2 --batch 4 --attention eager"
    options += " --offline --max-output 54 --max-tokens 9 --bytes 3:11 --perturb 0.5 -o back"
    assert main(["decompress", "book.crm", *options.split()]) == 0
    compute = ComputeSettings(device="cpu", threads=2, batch=4, attention="eager")
    assert codec.calls[1] == DecompressSettings(
        model="m/n",
        revision="r",
        max_output_bytes=54,
        max_tokens=9,
        span=(3, 11),
        perturb=0.5,
        offline=True,
        compute=compute,
    )


@pytest.mark.parametrize(("text", "chunks"), [("3-5", (3, 5)), ("7", (7, 7))])
def test_a_range_of_chunks_reaches_the_codec(book, codec, text, chunks):
    assert main(["compress", "book.txt"]) == 0
    assert main(["decompress", "book.crm", "--chunks", text, "-o", "back"]) == 0
    assert codec.calls[1] == DecompressSettings(chunks=chunks)


def test_defaults_are_those_of_the_settings(book, codec):
    assert main(["compress", "book.txt"]) == 0
    assert main(["decompress", "book.crm", "-o", "back"]) == 0
    assert codec.calls == [CompressSettings(), DecompressSettings()]


def test_environment_sets_model_and_device(book, codec, monkeypatch):
    monkeypatch.setenv("LLMZIP_MODEL", "some/where")
    monkeypatch.setenv("LLMZIP_DEVICE", "cpu")
    assert main(["compress", "book.txt"]) == 0
    assert main(["decompress", "book.crm", "-o", "back", "--device", "mps"]) == 0
    assert [settings.model for settings in codec.calls] == ["some/where"] * 2
    assert [settings.compute.device for settings in codec.calls] == ["cpu", "mps"]


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        (None, None),
        ("90", 90.0),
        ("0.5", 0.5),
        ("90s", 90.0),
        ("10m", 600.0),
        ("1.5h", 5400.0),
        ("1h30m", 5400.0),
        ("1h0m30s", 3630.0),
        ("2h5s", 7205.0),
    ],
)
def test_times_are_read(time, seconds):
    assert seconds_of(time) == seconds


@pytest.mark.parametrize(
    "time",
    [
        "",
        "h",
        "m10",
        "10 m",
        "10min",
        "1m1h",
        "1h30",
        "1e3",
        "-5",
        "+5",
        "nan",
        "inf",
        "1,5h",
        "٣s",
    ],
)
def test_what_is_no_time_is_refused(book, codec, capfd, time):
    assert main(["compress", "book.txt", f"--time-budget={time}"]) == 2
    error, hint = capfd.readouterr().err.splitlines()
    assert error == f"error: --time-budget: {time!r} is not a time [exit 2]"
    assert hint == "hint: write 90, 90s, 10m, 1.5h or 1h30m"
    assert codec.calls == []


# --- dry runs


def test_a_dry_run_writes_nothing_and_minds_no_output(book, codec, capfd):
    Path("book.crm").write_bytes(b"old")
    for output in ([], ["-o", "book.crm"], ["-o", "missing/out"], ["-o", "-"]):
        assert main(["compress", "--dry-run", "book.txt", *output]) == 0
        out, err = capfd.readouterr()
        size = 54 + 60
        forecast, note = out.splitlines()
        assert forecast.startswith("book.txt: about 14 min, 54 → about ")
        assert forecast.endswith(
            f" bits per byte), 146 vectors; xz -9e {size} ({8 * size / 54:.2f}) (model not counted)"
        )
        assert note == "forecast from 3 of 73 chunks; nothing was written"
        assert err == "using a toy\n"
    assert names(book.parent) == ["book.crm", "book.txt"]
    assert Path("book.crm").read_bytes() == b"old"
    assert codec.calls == [CompressSettings()] * 4


def test_a_dry_run_as_json(book, codec, capfd):
    arguments = ["compress", "--dry-run", "--json", "book.txt", "-o", "-", "--time-budget", "10m"]
    assert main(arguments) == 0
    fields = json.loads(capfd.readouterr().out)
    assert list(fields) == [
        "schema", "dry_run", "codec", "original_bytes", "container_bytes", "file_bits_per_byte",
        "seconds", "time_budget_s", "num_chunks", "num_vectors", "steps_a_chunk", "tried_chunks",
        "xz_9e_bytes", "xz_9e_bits_per_byte",
    ]  # fmt: skip
    assert (fields["schema"], fields["dry_run"], fields["original_bytes"]) == (1, True, 54)
    assert (fields["seconds"], fields["time_budget_s"], fields["num_chunks"]) == (852.0, 600.0, 73)
    assert names(book.parent) == ["book.txt"]


def test_a_dry_run_of_the_arith_codec_speaks_of_no_chunks(book, codec, capfd):
    assert main(["compress", "--dry-run", "--codec", "arith", "book.txt"]) == 0
    out = capfd.readouterr().out
    forecast, note = out.splitlines()
    assert forecast.startswith("book.txt: about 14 min, 54 → about ")
    assert " bits per byte), codec arith; xz -9e 114 (" in forecast
    assert note == "forecast from a small part of the text; nothing was written"
    assert not any(word in out for word in ("chunk", "vector", "step"))


@pytest.mark.parametrize(
    ("options", "left_out"),
    [
        ((), None),
        (("--try-cram",), "--try-cram"),
        (("--shared-mem", "--verify full"), "--shared-mem and --verify full"),
    ],
)
def test_a_dry_run_says_what_its_forecast_leaves_out(book, codec, capfd, options, left_out):
    codec.left_out = options
    assert main(["compress", "--dry-run", "--codec", "arith", "book.txt"]) == 0
    notes = [line for line in capfd.readouterr().out.splitlines() if line.startswith("note: ")]
    assert notes == ([f"note: the work of {left_out} is not in this forecast"] if left_out else [])


@pytest.mark.parametrize(
    ("options", "text", "name"),
    [
        ([], TEXT, "cram"),
        (["--codec", "arith"], TEXT, "arith"),
        (["--codec", "auto"], TEXT, "arith"),
        (["--codec", "arith"], b"", "stored"),
    ],
)
def test_a_dry_run_as_json_names_the_codec(book, codec, capfd, options, text, name):
    book.write_bytes(text)
    assert main(["compress", "--dry-run", "--json", "book.txt", *options]) == 0
    assert json.loads(capfd.readouterr().out)["codec"] == name


def test_a_dry_run_of_a_stream_is_quiet_if_asked(book, codec, capfd, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT)))
    assert main(["compress", "--dry-run", "-q", "-"]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("standard input: about 14 min, ") and err == ""


def test_a_dry_run_says_when_the_time_budget_is_too_short(book, codec, capfd):
    assert main(["compress", "--dry-run", "book.txt", "--time-budget", "10m"]) == 0
    assert "note: more than the time budget of 10 min; " in capfd.readouterr().out
    assert main(["compress", "--dry-run", "book.txt", "--time-budget", "1h"]) == 0
    assert "time budget" not in capfd.readouterr().out


def test_a_dry_run_of_an_empty_file(book, codec, capfd):
    book.write_bytes(b"")
    assert main(["compress", "--dry-run", "book.txt"]) == 0
    assert capfd.readouterr().out.startswith("book.txt: empty; the container takes ")
    assert main(["compress", "--dry-run", "--json", "book.txt"]) == 0
    assert json.loads(capfd.readouterr().out)["file_bits_per_byte"] is None


def test_failures_of_a_dry_run_have_their_exit_codes(book, codec, capfd):
    assert main(["compress", "--dry-run", "missing"]) == 1

    def fail(*args, **more):
        raise errors.ModelUnavailable("lost")

    codec.estimate_bytes = fail
    assert main(["compress", "--dry-run", "book.txt"]) == 5
    out, err = capfd.readouterr()
    assert out == "" and "lost [exit 5]" in err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (40.4, "40 s"),
        (89.9, "90 s"),
        (90.1, "2 min"),
        (852.0, "14 min"),
        (5399.0, "1 h 30 min"),
        (7200.0, "2 h"),
        (360_000.0, "100 h"),
    ],
)
def test_times_are_said_as_people_say_them(seconds, text):
    assert time_text(seconds) == text


# --- messages


def test_json_ends_with_one_object_on_stdout(book, codec, capfd):
    assert main(["compress", "--json", "book.txt"]) == 0
    fields = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (fields.pop("event"), fields.pop("file")) == ("done", "book.txt")
    assert fields.pop("output") == "book.crm"
    assert fields["schema"] == 1
    assert fields["original_bytes"] == len(TEXT)
    assert 0 <= fields["seconds"] < 30
    assert main(["decompress", "--json", "book.crm", "-o", "back"]) == 0
    restored = json.loads(capfd.readouterr().out.splitlines()[-1])
    own = {"event": "done", "file": "book.crm", "output": "back"}
    assert {**restored, "seconds": 0} == {**fields, **own, "seconds": 0}
    assert main(["info", "--json", "book.crm"]) == 0
    assert json.loads(capfd.readouterr().out) == {
        name: value for name, value in fields.items() if name not in ("seconds", "already_there")
    }


@pytest.mark.parametrize("arguments", [["book.txt", "-o", "-"], ["-"]])
def test_json_and_data_do_not_share_stdout(book, codec, capfdbinary, monkeypatch, arguments):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT)))
    assert main(["compress", "--json", *arguments]) == 2
    assert capfdbinary.readouterr().out == b""
    assert codec.calls == []


def test_the_summary_of_crammed_text(book, codec, capfd):
    codec.compress_bytes = lambda data, settings, *context, **more: TINY.read_bytes()
    book.write_bytes(bytes(30))  # as long as the original of the golden file
    assert main(["compress", "-v", "book.txt"]) == 0
    line, note, *report = capfd.readouterr().err.splitlines()
    size = TINY.stat().st_size
    assert line == (
        f"book.txt → book.crm  30 → {size} bytes ({8 * size / 30:.2f} bits per byte), 3 vectors"
        ", weakest margin 0.5; xz -9e 88 (23.47), zstd -19 38 (10.13) (model not counted)"
    )
    assert note.startswith(f"note: larger than the original by {size - 30} bytes: 16-bit vectors")
    assert report[0].startswith("book.crm   .crm v1")
    assert report[-1].startswith("seconds   ")


def test_the_summaries_of_an_arith_file(book, codec, capfd):
    codec.compress_bytes = lambda data, settings, *context, **more: ARITH.read_bytes()
    book.write_bytes(bytes(30))  # as long as the original of the golden file
    assert main(["compress", "--codec", "arith", "book.txt"]) == 0
    line, note = capfd.readouterr().err.splitlines()
    size = ARITH.stat().st_size
    assert line == (
        f"book.txt → book.crm  30 → {size} bytes ({8 * size / 30:.2f} bits per byte), "
        "codec arith, 2 shared vectors; xz -9e 88 (23.47), zstd -19 38 (10.13) (model not counted)"
    )
    assert note.startswith(f"note: larger than the original by {size - 30} bytes: header and ")
    codec.decompress_bytes = lambda data, settings, *context, **more: bytes(30)
    assert main(["decompress", "book.crm", "-o", "back"]) == 0
    assert capfd.readouterr().err == f"book.crm → back  {size} → 30 bytes, codec arith, verified\n"
    codec.decompress_bytes = lambda data, settings, *context, **more: bytes(4)
    assert main(["decompress", "book.crm", "--bytes", "3:7", "-o", "part"]) == 0
    assert capfd.readouterr().err == (
        f"book.crm → part  {size} → 4 of 30 bytes, codec arith, segments verified\n"
    )


def test_the_summary_names_a_codec_that_was_chosen(book, codec, capfd):
    codec.compress_bytes = lambda data, settings, *context, **more: TINY.read_bytes()
    book.write_bytes(bytes(30))
    assert main(["compress", "--codec", "auto", "--try-cram", "book.txt"]) == 0
    assert " bits per byte), codec cram, 3 vectors, " in capfd.readouterr().err


def test_a_part_of_a_stored_file(book, codec, capfd):
    assert main(["compress", "-q", "book.txt"]) == 0
    assert main(["decompress", "book.crm", "--bytes", "3:11", "-o", "part"]) == 0
    assert Path("part").read_bytes() == TEXT[3:11]
    assert capfd.readouterr().err.endswith(" → 8 of 54 bytes, verified\n")


def test_the_summary_explains_stored_and_empty_input(book, codec, capfd):
    assert main(["compress", "book.txt"]) == 0
    err = capfd.readouterr().err
    assert "stored with zstd, which does better here" in err
    assert "note: larger than the original by" in err
    assert "vectors" not in err and "margin" not in err and "model not counted" not in err
    book.write_bytes(b"")
    assert main(["compress", "-f", "book.txt"]) == 0
    assert "note: the input is empty" in capfd.readouterr().err
    assert main(["decompress", "book.crm", "-o", "back"]) == 0
    assert Path("back").read_bytes() == b""


def test_compressed_input_is_warned_about_and_compressed(book, codec, capfd):
    book.write_bytes(TINY.read_bytes())
    assert main(["compress", "book.txt"]) == 0
    assert "warning: the input is a .crm file already" in capfd.readouterr().err
    assert Path("book.crm").exists()


@pytest.mark.parametrize("name", ["a\x1b]0;title\x07b", "line\nbreak", "\u202etxt.exe"])
def test_names_never_reach_the_terminal_raw(book, codec, capfd, name):
    book.rename(name)
    assert main(["compress", "-v", name]) == 0
    (packed,) = set(names(book.parent)) - {name}
    assert main(["info", packed]) == 0
    Path(name).write_bytes(b"other")
    assert main(["compress", name]) == 1  # exists
    assert main(["compress", name + "missing"]) == 1
    out, err = capfd.readouterr()
    escaped = packed.encode("unicode_escape").decode()
    assert escaped in out and f"{escaped} exists" in err
    assert name not in out + err
    assert not any(not char.isprintable() for char in (out + err).replace("\n", ""))


def test_info_and_version_and_help(capfd, tmp_path):
    assert main(["info", str(TINY)]) == 0
    assert "4: 1 crammed, 2 patched, 1 literal" in capfd.readouterr().out
    assert main(["--version"]) == 0
    assert capfd.readouterr().out == f"llmzip {__version__}\n"
    assert main(["compress", "-h"]) == 0
    out, err = capfd.readouterr()
    assert "--budget-bits" in out and "LLMZIP_MODEL" in out and err == ""


def test_help_has_a_section_for_each_codec(capfd):
    assert main(["compress", "--help"]) == 0
    out = capfd.readouterr().out
    head, arith = out.split("\nArith codec:\n")
    arith, cramming = arith.split("\nCramming:\n")
    for option, section in (
        ("--codec ", head), ("--dry-run ", head), ("--batch ", head), ("--help ", head),
        ("--shared-mem ", head), ("--verify ", arith), ("--try-cram ", arith),
        ("--mem ", cramming), ("--bits ", cramming), ("--max-patches ", cramming),
        ("--context ", cramming), ("--budget-bits ", cramming), ("--max-steps ", cramming),
        ("--preset ", cramming), ("--time-budget ", cramming), ("--bf16-safe ", cramming),
    ):  # fmt: skip
        assert f"  {option}" in section or f", {option}" in section, option
    assert main(["decompress", "--help"]) == 0
    head, arith = capfd.readouterr().out.split("\nArith codec:\n")
    assert "  --bytes " in head and "  --perturb " in arith


def test_info_of_an_arith_file(capfd):
    assert main(["info", str(ARITH)]) == 0
    assert "\nsegments  2 of about 10 tokens, 3 lanes in all" in capfd.readouterr().out
    assert main(["info", "--json", str(ARITH)]) == 0
    assert json.loads(capfd.readouterr().out)["arith"]["num_lanes"] == 3


def test_info_reads_stdin(capfd, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TINY.read_bytes())))
    assert main(["info", "-"]) == 0
    assert capfd.readouterr().out.startswith("standard input   .crm v1   30 → ")


def test_tracebacks_are_for_debugging_only(book, codec, capfd, monkeypatch):
    codec.compress_bytes = lambda *args, **more: 1 // 0
    assert main(["compress", "book.txt"]) == 1
    err = capfd.readouterr().err
    assert err.startswith("error: this should not have happened: ZeroDivisionError")
    assert "Traceback" not in err and "hint: llmzip --debug" in err
    assert main(["--debug", "compress", "book.txt"]) == 1
    assert "Traceback" in capfd.readouterr().err
    assert main(["compress", "book.txt"]) == 1
    assert "Traceback" not in capfd.readouterr().err
    monkeypatch.setenv("LLMZIP_DEBUG", "1")
    assert main(["compress", "book.txt"]) == 1
    assert "Traceback" in capfd.readouterr().err


# --- exit codes


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError("lost"), 1),
        (OSError(5, "lost"), 1),
        (ZeroDivisionError("lost"), 1),
        (errors.SettingsError("lost"), 2),
        (errors.Corrupt("lost"), 3),
        (errors.UnsupportedVersion("lost"), 4),
        (errors.ModelUnavailable("lost"), 5),
        (errors.ModelMismatch("lost", expected="a", got="b"), 5),
        (errors.IntegrityError("lost"), 6),
        (errors.LimitExceeded("lost"), 7),
        (errors.Interrupted("lost"), 130),
        (errors.Interrupted("lost", exit_code=143), 143),
    ],
)
def test_each_error_has_one_line_and_its_exit_code(book, codec, capfd, error, code):
    def fail(*args, **more):
        raise error

    codec.compress_bytes = fail
    assert main(["compress", "book.txt"]) == code
    lines = capfd.readouterr().err.splitlines()
    assert len([line for line in lines if "lost" in line]) == 1
    assert lines[0].endswith(f"lost [exit {code}]")
    assert lines[0].startswith("interrupted: " if code > 100 else "error: ")
    assert names(book.parent) == ["book.txt"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["compress"],
        ["compress", "book.txt", "--no-such-option"],
        ["compress", "book.txt", "--device", "toaster"],
        ["compress", "book.txt", "--mem", "many"],
        ["compress", "book.txt", "--mem", "0"],
        ["compress", "book.txt", "--preset", "best"],
        ["compress", "book.txt", "--time-budget", "0"],
        ["compress", "book.txt", "--dry-run", "--preset", "Small"],
        ["compress", "book.txt", "--codec", "zip"],
        ["compress", "book.txt", "--codec", "arith", "--mem", "2"],
        ["compress", "book.txt", "--codec", "arith", "--try-cram"],
        ["compress", "book.txt", "--shared-mem", "1", "--bits", "16"],
        ["compress", "book.txt", "--verify", "full"],
        ["compress", "book.txt", "--codec", "arith", "--verify", "twice"],
        ["decompress", "x.crm", "--bytes", "5"],
        ["decompress", "x.crm", "--bytes", "7:5"],
        ["decompress", "x.crm", "--bytes=-1:5"],
        ["decompress", "x.crm", "--chunks", "5-3"],
        ["decompress", "x.crm", "--chunks", "0"],
        ["decompress", "x.crm", "--chunks", "1", "--bytes", "0:1"],
        ["decompress", "x.crm", "--chunks", "1", "--salvage"],
        ["decompress", "x.crm", "--max-tokens=-1"],
        ["decompress", "x.crm", "--perturb=-1"],
        ["decompress", "x.crm", "--batch", "0"],
        ["no-such-command"],
    ],
)
def test_wrong_usage_exits_with_2(book, codec, capfd, arguments):
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == "" and err != "" and "Traceback" not in err
    assert codec.calls == []


def test_damage_version_and_limit_through_info(book, codec, capfd):
    whole = TINY.read_bytes()
    for data, code in ((b"text", 3), (whole[:-1], 3), (whole[:8] + b"\x09" + whole[9:], 4)):
        Path("x.crm").write_bytes(data)
        assert main(["info", "x.crm"]) == code
        assert main(["decompress", "x.crm"]) == code
        assert f"[exit {code}]" in capfd.readouterr().err
    Path("x.crm").write_bytes(whole)
    assert main(["info", "x.crm", "--max-output", "29"]) == 7
    assert main(["decompress", "x.crm", "--max-output", "29"]) == 7
    assert not Path("x").exists()


# --- signals


def start(book, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        cwd=book.parent,
    )
    return process


def wait_for(stream, words):
    """Read lines until one has `words`. The tests' processes end by themselves after 20 s."""
    for line in stream:
        if words in line:
            return
    raise AssertionError(f"{words!r} was never said")


def finish(process):
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err.decode()


def test_a_signal_ends_a_dry_run(book):
    book.write_bytes(b"slow text")
    process = start(book, "compress", "--dry-run", "book.txt")
    wait_for(process.stderr, b"using a toy")
    process.send_signal(signal.SIGINT)
    returncode, out, err = finish(process)
    assert (returncode, out) == (130, b"")
    assert "interrupted: nothing was written [exit 130]" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_work_with_nothing_written(book, number, code):
    book.write_bytes(b"slow text")
    Path("book.crm").write_bytes(b"old")
    process = start(book, "compress", "-f", "book.txt")
    wait_for(process.stderr, b"using a toy")
    began = time.monotonic()
    process.send_signal(number)
    returncode, out, err = finish(process)
    assert (returncode, out) == (code, b"")
    assert time.monotonic() - began < 5
    assert f"interrupted: nothing was written [exit {code}]" in err
    assert "hint: run the same command again" in err
    assert names(book.parent) == ["book.crm", "book.txt"]
    assert Path("book.crm").read_bytes() == b"old"


def test_a_second_interrupt_does_not_wait_for_the_step(book):
    book.write_bytes(b"stuck text")
    process = start(book, "compress", "book.txt")
    wait_for(process.stderr, b"using a toy")
    time.sleep(0.3)  # and on to the work itself
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None  # one is not enough for a step that does not look
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(timeout=10) == 130  # by itself it would go on for 20 seconds
    finally:
        process.kill()
        finish(process)
    assert names(book.parent) == ["book.txt"]


def test_an_interrupt_while_waiting_for_input(book):
    process = start(book, "compress", "-", "-o", "out")
    wait_for_reading(process)
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(timeout=10) == 130  # while its input is still open
    finally:
        process.kill()
        _, _, err = finish(process)
    assert "interrupted: nothing was written" in err and "Traceback" not in err
    assert names(book.parent) == ["book.txt"]


def wait_for_reading(process):
    """Feed stdin until the process takes it: from then on it is reading."""
    block = bytes(1 << 16)
    handle = process.stdin.fileno()
    os.set_blocking(handle, False)
    sent = 0
    while sent < 4 * len(block):  # more than a pipe holds
        select.select([], [handle], [], 20)
        sent += os.write(handle, block)
    time.sleep(0.5)  # to drain the pipe and block: a signal in between waits for the next byte


def test_a_failure_after_a_signal_counts_as_the_signal(book, codec, capfd):
    def fail(data, settings, context, **more):
        context.report(Progress(stage="cram"))  # from here on there is something to lose
        os.kill(os.getpid(), signal.SIGTERM)
        assert context.cancel.wait(5)
        raise errors.ModelUnavailable("the fetch died of the same signal")

    codec.compress_bytes = fail
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert main(["compress", "book.txt"]) == 143
    assert "died" not in capfd.readouterr().err
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_signal_at_the_very_end_still_publishes_nothing(book, codec):
    real = codec.compress_bytes

    def late(data, settings, context, **more):
        packed = real(data, settings, context, **more)
        os.kill(os.getpid(), signal.SIGINT)
        assert context.cancel.wait(5)
        return packed

    codec.compress_bytes = late
    assert main(["compress", "book.txt"]) == 130
    assert names(book.parent) == ["book.txt"]


def test_ignored_signals_stay_ignored(book, codec):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        real = codec.compress_bytes

        def interrupted(data, settings, context, **more):
            os.kill(os.getpid(), signal.SIGINT)
            return real(data, settings, context, **more)

        codec.compress_bytes = interrupted
        assert main(["compress", "book.txt"]) == 0
    finally:
        signal.signal(signal.SIGINT, before)


# --- work that is kept

PART = "book.crm.part"


@pytest.fixture
def long_book(book):
    book.write_bytes(b"long text, of three chunks")
    return book


def fail_after(codec, number):
    """The work fails when so many chunks are on disk."""

    def fail(done):
        if done == number:
            raise errors.ModelUnavailable("lost")

    codec.on_chunk = fail


def test_a_failed_run_is_gone_on_from(long_book, codec, capfd):
    fail_after(codec, 2)
    assert main(["compress", "book.txt"]) == 5
    assert names(long_book.parent) == [PART, "book.txt"]
    note, error, _ = capfd.readouterr().err.splitlines()[1:]
    assert note == f"note: 2 of 3 chunks are kept in {PART}; the same command continues from there"
    assert error == "error: lost [exit 5]"
    done = []
    codec.on_chunk = done.append
    assert main(["compress", "book.txt"]) == 0
    assert done == [3]
    assert names(long_book.parent) == ["book.crm", "book.txt"]
    err = capfd.readouterr().err
    assert "resumed: 2 of 3 chunks were finished before\n" in err and "note: 2 of" not in err
    assert codec.journals == [PART] * 2
    assert main(["decompress", "book.crm", "-o", "back"]) == 0
    assert Path("back").read_bytes() == long_book.read_bytes()


def test_a_failure_before_there_is_work_leaves_nothing(long_book, codec, capfd):
    def fail(*args, **more):
        raise errors.ModelUnavailable("lost")

    codec.compress_bytes = fail
    assert main(["compress", "book.txt"]) == 5
    assert names(long_book.parent) == ["book.txt"]
    assert capfd.readouterr().err.startswith("error: lost [exit 5]\nhint: ")


def test_restart_starts_anew(long_book, codec, capfd):
    fail_after(codec, 2)
    assert main(["compress", "book.txt"]) == 5
    done = []
    codec.on_chunk = done.append
    assert main(["compress", "book.txt", "--restart"]) == 0
    assert done == [1, 2, 3]
    assert "resumed" not in capfd.readouterr().err
    assert names(long_book.parent) == ["book.crm", "book.txt"]
    assert main(["compress", "-f", "book.txt", "--restart"]) == 0  # nothing to discard


@pytest.mark.parametrize(
    ("options", "text", "why"),
    [
        ([], b"long text, another one", "it is of another input, or the input has changed since"),
        (["--seed", "7"], None, "other settings: seed was 0, is 7"),
    ],
)
def test_work_of_another_run_is_refused(long_book, codec, capfd, options, text, why):
    fail_after(codec, 2)
    assert main(["compress", "book.txt"]) == 5
    capfd.readouterr()
    kept = Path(PART).read_bytes()
    long_book.write_bytes(text or long_book.read_bytes())
    codec.on_chunk = lambda done: None
    assert main(["compress", "book.txt", *options]) == 1
    error, hint = capfd.readouterr().err.splitlines()[1:]
    assert error == (
        f"error: {PART} holds work that this run cannot go on from: {why}. Nothing was written. "
        "[exit 1]"
    )
    assert hint == "hint: --restart discards that work and starts anew, -o names another output"
    assert Path(PART).read_bytes() == kept
    assert main(["compress", "book.txt", *options, "--restart"]) == 0
    assert names(long_book.parent) == ["book.crm", "book.txt"]


def test_another_output_is_other_work(long_book, codec):
    fail_after(codec, 1)
    assert main(["compress", "book.txt"]) == 5
    codec.on_chunk = lambda done: None
    assert main(["compress", "book.txt", "--seed", "7", "-o", "other"]) == 0
    assert names(long_book.parent) == [PART, "book.txt", "other"]


def test_work_that_is_invalid_does_not_go_on(long_book, codec, capfd):
    """The same command would fail in the same way: only the hint tells what to do."""
    fail_after(codec, 2)
    assert main(["compress", "book.txt"]) == 5
    capfd.readouterr()

    def fail(*args, **more):
        raise errors.Corrupt("the work is invalid", hint="--restart discards it")

    codec.compress_bytes = fail
    assert main(["compress", "book.txt"]) == 3
    assert capfd.readouterr().err == (
        "error: the work is invalid [exit 3]\nhint: --restart discards it\n"
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_says_how_to_go_on(long_book, number, code):
    long_book.write_bytes(b"long slow text")
    long_book.rename("my book.txt")
    process = start(long_book, "compress", "my book.txt", "--seed", "3")
    wait_for(process.stderr, b"waiting")
    process.send_signal(number)
    returncode, out, err = finish(process)
    assert (returncode, out) == (code, b"")
    assert err.splitlines() == [
        f"interrupted: 2 of 3 chunks are kept in my book.crm.part [exit {code}]",
        "hint: resume: llmzip compress 'my book.txt' --seed 3",
    ]
    assert names(long_book.parent) == ["my book.crm.part", "my book.txt"]
    again = start(long_book, "compress", "my book.txt", "--seed", "3")
    returncode, _, err = finish(again)
    assert returncode == 0
    assert "resumed: 2 of 3 chunks were finished before" in err
    assert names(long_book.parent) == ["my book.crm", "my book.txt"]


def test_one_run_at_a_time(long_book):
    long_book.write_bytes(b"long slow text")
    process = start(long_book, "compress", "book.txt")
    wait_for(process.stderr, b"waiting")
    returncode, _, err = finish(start(long_book, "compress", "book.txt"))
    process.send_signal(signal.SIGINT)
    finish(process)
    assert returncode == 1
    error, hint = err.splitlines()
    assert error == f"error: process {process.pid} is writing {PART} [exit 1]"
    assert hint == "hint: wait for it, stop it, or choose another output with -o"
    assert Path(PART).exists()


def test_work_on_stdin_with_a_named_output_goes_on(book, codec, capfd, monkeypatch):
    def compress():
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"long text")))
        return main(["compress", "-", "-o", "out.crm"])

    fail_after(codec, 1)
    assert compress() == 5
    assert names(book.parent) == ["book.txt", "out.crm.part"]
    codec.on_chunk = lambda done: None
    assert compress() == 0
    assert "resumed: 1 of 3 chunks" in capfd.readouterr().err
    assert names(book.parent) == ["book.txt", "out.crm"]


@pytest.mark.parametrize("output", [["-o", "-"], ["-o", os.devnull]])
def test_what_goes_to_a_stream_is_not_kept(long_book, codec, capfdbinary, output):
    assert main(["compress", "book.txt", *output]) == 0
    assert codec.journals == [None]
    assert names(long_book.parent) == ["book.txt"]
    assert not os.path.exists(os.devnull + ".part")


def test_decompress_keeps_nothing(long_book, codec, monkeypatch):
    assert main(["compress", "book.txt"]) == 0

    def fail(*args, **more):
        assert names(long_book.parent) == ["book.crm", "book.txt"]
        raise errors.IntegrityError("lost")

    codec.decompress_bytes = fail
    assert main(["decompress", "book.crm", "-o", "back"]) == 6
    assert names(long_book.parent) == ["book.crm", "book.txt"]


def test_torn_work_is_told(long_book, codec, capfd):
    for options in ([], ["-q"]):
        fail_after(codec, 2)
        assert main(["compress", "book.txt", *options]) == 5
        with open(PART, "ab") as file:
            file.write(b"half a record")
        capfd.readouterr()
        codec.on_chunk = lambda done: None
        assert main(["compress", "book.txt", *options]) == 0
        note = f"note: the last 13 bytes of {PART} are torn\n"
        assert (note in capfd.readouterr().err) == (not options)
        os.unlink("book.crm")


def test_a_part_that_is_not_ours_is_left_alone(long_book, codec, capfd):
    Path(PART).write_bytes(b"someone else's")
    assert main(["compress", "book.txt"]) == 1
    assert f"error: {PART} is not unfinished work of this llmzip [exit 1]" in capfd.readouterr().err
    assert main(["compress", "book.txt", "--restart"]) == 1
    assert codec.calls == []
    assert Path(PART).read_bytes() == b"someone else's"


def test_a_part_that_cannot_be_removed(long_book, codec, capfd, monkeypatch):
    """As of a run that was killed between its last two steps: the output is there already."""
    real = os.unlink

    def refuse(path, *args, **more):
        if str(path).endswith(".part"):
            raise PermissionError(1, "Operation not permitted")
        real(path, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        assert main(["compress", "book.txt"]) == 0
    assert f"warning: cannot remove {PART}: Operation not permitted" in capfd.readouterr().err
    assert names(long_book.parent) == ["book.crm", PART, "book.txt"]
    packed = Path("book.crm").read_bytes()
    assert main(["compress", "book.txt"]) == 0
    assert names(long_book.parent) == ["book.crm", "book.txt"]
    assert Path("book.crm").read_bytes() == packed
    assert "book.crm is already there" in capfd.readouterr().err
    assert main(["compress", "book.txt", "--seed", "1"]) == 1  # it is a file that is in the way


@pytest.mark.parametrize("way", ["written", "replaced", "touched"])
def test_an_input_that_changes_meanwhile_is_told(long_book, codec, capfd, way):
    before = long_book.read_bytes()

    def change(done):
        if done != 2:
            return
        if way == "written":
            long_book.write_bytes(before + b" and more")
        elif way == "replaced":
            Path("new").write_bytes(before)
            os.replace("new", "book.txt")
        else:
            os.utime(long_book, (1, 2))

    codec.on_chunk = change
    assert main(["compress", "book.txt"]) == 0
    warning = "warning: book.txt has changed; the result is of what it was when read\n"
    assert warning in capfd.readouterr().err
    assert main(["decompress", "book.crm", "-o", "back"]) == 0
    assert Path("back").read_bytes() == before


def test_an_input_that_is_gone_or_the_same_is_no_news(long_book, codec, capfd):
    assert main(["compress", "book.txt"]) == 0
    codec.on_chunk = lambda done: long_book.unlink(missing_ok=True)
    assert main(["compress", "-f", "book.txt"]) == 0
    assert "warning" not in capfd.readouterr().err


# --- terminals


def on_terminal(book, *arguments, **more):
    """What a run with stderr on a terminal shows there."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment(COLUMNS="100", **more),
        cwd=book.parent,
    )
    os.close(theirs)
    shown = b""
    try:
        while block := os.read(ours, 1 << 16):
            shown += block
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(ours)
    assert process.communicate(timeout=30)[0] == b""
    assert process.returncode == 0
    return shown


def test_progress_is_drawn_on_a_terminal(book):
    shown = on_terminal(book, "compress", "book.txt", TERM="xterm")
    assert b"\x1b[" in shown and b"0/2 chunks" in shown
    assert b"using a toy" in shown and b"book.crm  54" in shown


def test_no_color_leaves_the_colours_out(book):
    def colours(shown):
        return b"\x1b[3" in shown or b"\x1b[9" in shown

    assert colours(on_terminal(book, "compress", "book.txt", TERM="xterm-256color"))
    plain = on_terminal(book, "compress", "-f", "book.txt", TERM="xterm-256color", NO_COLOR="1")
    assert b"0/2 chunks" in plain and not colours(plain)


def test_a_dumb_terminal_gets_lines_and_quiet_gets_none(book):
    shown = on_terminal(book, "compress", "book.txt", TERM="dumb")
    assert b"\x1b" not in shown and b"cram  0/2 chunks" in shown
    assert on_terminal(book, "compress", "-fq", "book.txt", TERM="xterm") == b""


def test_the_words_of_a_progress_line():
    event = Progress(
        stage="cram",
        chunks_done=12,
        chunks_total=34,
        tokens_right=512,
        tokens_total=6000,
        bytes_done=1000,
        bytes_total=4000,
        output_bytes=9876,
    )
    assert describe(event, seconds=100.0) == (
        "12/34 chunks  512/6,000 tokens  10 bytes/s  5:00 left  9,876 bytes so far"
    )
    assert describe(event, seconds=20_000.0).split("  ")[2:4] == ["0.1 bytes/s", "16:40:00 left"]
    assert describe(event, seconds=0.0).count("/s") == 0
    assert describe(Progress(stage="measure"), seconds=1.0) == ""
    in_room = {
        73: "12/34 chunks  512/6,000 tokens  10 bytes/s  5:00 left  9,876 bytes so far",
        72: "12/34 chunks  512/6,000 tokens  10 bytes/s  5:00 left",
        52: "12/34 chunks  512/6,000 tokens  5:00 left",
        40: "12/34 chunks  5:00 left",
        3: "12/34 chunks",
    }
    for width, text in in_room.items():
        assert describe(event, seconds=100.0, width=width) == text


def test_time_left_counts_chunks_that_are_half_done():
    event = Progress(
        stage="cram", chunks_done=1, chunks_total=34, tokens_right=900, tokens_total=6000,
        bytes_done=100, bytes_total=4000, output_bytes=72, work_done=0.25, min_margin=0.0503,
    )  # fmt: skip
    words = "25 %  1/34 chunks  900/6,000 tokens  10 bytes/s  5:00 left  72 bytes so far"
    assert describe(event, seconds=100.0) == f"{words}  margin 0.05"
    assert describe(event, seconds=100.0, width=80) == words
    again = replace(event, work_kept=0.2, bytes_kept=90)
    assert "2.0 bytes/s  25:00 left" in describe(again, seconds=100.0)
    assert "left" not in describe(replace(event, work_done=1.0), seconds=100.0)


@pytest.mark.parametrize("stage", ["measure", "code", "verify"])
def test_a_pass_over_all_tokens_shows_tokens_and_bytes(stage):
    event = Progress(
        stage=stage, tokens_right=250, tokens_total=1000, bytes_done=1000, bytes_total=4000
    )
    assert describe(event, seconds=2.0) == "250/1,000 tokens  500 bytes/s  0:06 left"


def test_shared_vectors_take_steps_not_tokens():
    event = Progress(stage="share", tokens_right=12, tokens_total=36)
    assert describe(event, seconds=5.0) == "12/36 steps"


def test_decoding_streams_shows_segments_and_a_rate_before_the_first_is_done():
    event = Progress(
        stage="decode", chunks_total=3, tokens_right=250, tokens_total=1000, bytes_total=4000
    )
    assert describe(event, seconds=2.0) == (
        "0/3 segments  250/1,000 tokens  500 bytes/s  0:06 left"
    )
    alone = replace(event, chunks_total=1)
    assert describe(alone, seconds=2.0).startswith("250/1,000 tokens  500 bytes/s")
    crammed = replace(event, tokens_right=0, tokens_total=0, bytes_done=2000)
    assert describe(crammed, seconds=2.0) == "0/3 chunks  1,000 bytes/s  0:02 left"


# --- models


@pytest.fixture
def zoo(monkeypatch, tmp_path):
    calls = []

    def answer(name):
        def call(model, **more):
            calls.append((name, model, more.get("revision"), more.get("allow_fetch")))
            if "report" in more:
                more["report"]("fetching\x1b[2J 93 MB")
            return types.SimpleNamespace(
                model_id=model, revision="abc", path=tmp_path, digest=bytes(16)
            )

        return call

    for name in ("pull", "verify", "resolve"):
        monkeypatch.setattr(model_command.zoo, name, answer(name))
    return calls


def test_model_commands(zoo, capfd, monkeypatch, tmp_path):
    monkeypatch.setenv("LLMZIP_MODEL", "not/for-these")
    assert main(["model", "pull", "a/b", "--revision", "r"]) == 0
    out, err = capfd.readouterr()
    assert out == f"a/b at abc, digest {'00' * 16}, in {tmp_path}\n"
    assert err == "fetching\\x1b[2J 93 MB\n"
    assert main(["model", "verify"]) == 0
    capfd.readouterr()
    assert main(["model", "path"]) == 0
    assert capfd.readouterr().out == f"{tmp_path}\n"
    default = model_command.zoo.DEFAULT_MODEL
    assert zoo == [
        ("pull", "a/b", "r", None),
        ("verify", default, None, None),
        ("resolve", default, None, False),
    ]


def test_an_interrupted_pull(zoo, capfd, monkeypatch):
    def pull(*args, **more):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr(model_command.zoo, "pull", pull)
    assert main(["model", "pull"]) == 143
    assert "interrupted: the model was not fetched [exit 143]" in capfd.readouterr().err


def test_model_list_names_the_default(capfd, monkeypatch, tmp_path):
    monkeypatch.setenv("LLMZIP_CACHE", str(tmp_path))
    assert main(["model", "list"]) == 0
    out = capfd.readouterr().out
    assert out.startswith("smollm2-135m-text  (default)  ") and "MB on disk" in out


# --- start-up


@pytest.mark.parametrize("arguments", [["--help"], ["info", str(TINY)], ["compress", "--help"]])
def test_start_up_loads_no_model_library_and_is_quick(arguments):
    code = (
        "import sys, time; from llmzip.cli.main import main; code = main()\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'safetensors', 'rich', 'zstandard'}\n"
        "print(code, *sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    seconds = []
    for _ in range(2):
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            env=environment(),
            text=True,
            timeout=30,
        )
        seconds.append(time.monotonic() - began)
    allowed = "0 zstandard" if arguments[0] == "info" else "0"
    assert done.stderr.strip() == allowed
    assert done.stdout != ""
    assert min(seconds) < 1.5  # about 0.2 and 0.4 on an idle machine; torch alone takes longer


def test_python_dash_m(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "llmzip", "info", str(tmp_path / "missing")],
        capture_output=True,
        env=environment(),
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"error: cannot read ")


def test_the_result_is_a_regular_file_with_the_inputs_mode(book, codec):
    os.chmod(book, 0o640)
    os.utime(book, (1, 2))
    assert main(["compress", "book.txt"]) == 0
    made = os.stat("book.crm")
    assert stat.S_ISREG(made.st_mode) and stat.S_IMODE(made.st_mode) == 0o640
    assert made.st_mtime == 2
