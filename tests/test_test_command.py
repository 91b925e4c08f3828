"""`llmzip test`: what it says of sound and unsound files, how little it takes, and the limit on the
work that a file may ask for."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import llmzip
from llmzip.cli.main import main
from llmzip.codecs.arith import encoder as arith_encoding
from llmzip.errors import LimitExceeded
from llmzip.store import container as summary
from llmzip.store import opening as limits
from llmzip.store.arith_payload import ArithSegment
from llmzip.store.container import Container, parse_container, read_container, write_container
from llmzip.store.cram_payload import Chunk
from llmzip.store.header import CRC_BYTES
from llmzip.store.opening import END_MARK, check_work
from llmzip.store.original import content_hash
from llmzip.store.vectors import GridMem
from tests.containers import arith_container, cram_container, stored_container
from tests.held_text import KINDS, ORIGINAL, held
from tests.soak.files import reseal

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
GOLDEN = sorted(DATA.glob("v1_*.crm"))
TINY = (DATA / "v1_tiny.crm").read_bytes()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LLMZIP_MODEL", "LLMZIP_DEVICE", "LLMZIP_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("llama")


def run(data: bytes, *options: str) -> int:
    """The exit code of `llmzip test` on a file, beside which nothing appears."""
    Path("x.crm").write_bytes(data)
    code = main(["test", "x.crm", *options])
    assert os.listdir() == ["x.crm"]
    assert Path("x.crm").read_bytes() == data
    return code


# Structure alone


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_sound_files(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = path.read_bytes()
    assert run(data) == 0
    out, err = capfd.readouterr()
    assert out == ""
    report = llmzip.info(data)
    assert err.startswith(f"x.crm: sound, {report.original_bytes:,} bytes, ")
    assert err.endswith("; structure only, --full decodes\n")


@pytest.mark.parametrize(
    ("name", "held_as"),
    [
        ("v1_tiny", "4 chunks"),
        ("v1_coded", "4 chunks"),
        ("v1_arith", "2 segments"),
        ("v1_stored", "stored"),
    ],
)
def test_what_holds_the_text_is_said(
    name: str, held_as: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run((DATA / f"{name}.crm").read_bytes()) == 0
    assert f" bytes, {held_as}; structure only" in capfd.readouterr().err


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_damaged_files(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = path.read_bytes()
    for broken in (
        b"",
        b"text",
        data[:-1],
        data[: len(data) // 2],
        data + b"\0",
        *(
            data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]
            for place in range(12, len(data), max(1, len(data) // 10))
        ),
    ):
        assert run(broken) == 3
        assert "[exit 3]" in capfd.readouterr().err


def test_other_versions(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(TINY[:8] + b"\x09" + TINY[9:]) == 4
    assert "a newer llmzip may read this file" in capfd.readouterr().err


def test_files_that_cannot_be_read(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "missing"]) == 1
    assert main(["test", "."]) == 1
    assert main(["test"]) == 2
    assert main(["test", "x", "--salvage"]) == 2
    assert main(["test", "x", "-o", "out"]) == 2
    assert "cannot read missing" in capfd.readouterr().err


def test_large_originals(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(TINY, "--max-output", "30") == 0
    assert run(TINY, "--max-output", "29") == 7
    assert "raise the limit with --max-output" in capfd.readouterr().err


def test_structure_needs_no_model(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(TINY, "--model", "no/such-model", "--offline") == 0
    assert run(TINY, "--full", "--model", "./no-such-model") == 5
    assert "[exit 5]" in capfd.readouterr().err


def test_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(TINY, "--json", "-q") == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert json.loads(out) == {**llmzip.info(TINY).to_dict(), "tested": "structure"}
    assert run(TINY[:-1], "--json") == 3
    assert capfd.readouterr().out == ""


def test_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(TINY, "-q") == 0
    assert capfd.readouterr() == ("", "")
    assert run(TINY[:-1], "-q") == 3
    assert capfd.readouterr().err.startswith("error: ")


def test_stdin(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    for data, code in ((TINY, 0), (TINY[:-1], 3)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert main(["test", "-"]) == code
    assert capfd.readouterr().err.startswith("standard input: sound, 30 bytes, ")


def test_names_are_printable(capfd: pytest.CaptureFixture[str]) -> None:
    Path("a\x1b[2Jb").write_bytes(TINY)
    assert main(["test", "a\x1b[2Jb"]) == 0
    assert capfd.readouterr().err.startswith("a\\x1b[2Jb: sound")


# All of it


@pytest.mark.parametrize("kind", KINDS)
def test_full(kind: str, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = held(kind, model)
    assert run(data, "--full", "--model", str(model)) == 0
    out, err = capfd.readouterr()
    assert out == "" and err.startswith(f"x.crm: sound, {len(ORIGINAL)} bytes, ")
    assert err.endswith(", decoded and verified\n")
    assert run(data, "--full", "--model", str(model), "--json", "-q") == 0
    assert json.loads(capfd.readouterr().out)["tested"] == "full"


def test_full_of_a_stored_file_needs_no_model() -> None:
    assert run(stored(ORIGINAL), "--full", "--model", "./no-such-model") == 0


def test_what_the_structure_does_not_tell(
    model: Path, tiny_model: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """A wrong text behind right checksums, and another model."""
    data = held("raw", model)
    forged = write_container(replace(read_container(data), original_hash=bytes(32)))
    assert run(forged) == 0
    assert run(forged, "--full", "--model", str(model)) == 6
    other = str(tiny_model("llama", seed=1))
    assert run(data, "--full", "--model", other) == 5
    assert run(data, "--full") == 5  # a local model that only the file names
    assert "[exit 6]" in capfd.readouterr().err


def test_noise_is_for_all_of_an_arith_file(model: Path) -> None:
    assert run(held("arith", model), "--full", "--model", str(model), "--perturb", "0.5") == 0
    assert run(held("arith", model), "--full", "--model", str(model), "--perturb", "3000") == 6
    assert run(held("raw", model), "--full", "--model", str(model), "--perturb", "0.5") == 2


# What it takes

QUICK = """
import sys
from llmzip.cli.main import main
code = main()
heavy = {"torch", "transformers", "tokenizers", "safetensors", "rich"} & set(sys.modules)
print(code, *sorted(heavy), file=sys.stderr)
"""


def cpu_seconds(path: Path, tries: int) -> float:
    """The least processor time of `llmzip test` in a process of its own, start and all."""
    found = []
    for _ in range(tries):
        before = os.times()
        done = subprocess.run(
            [sys.executable, "-c", QUICK, "test", "-q", str(path)],
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            timeout=60,
        )
        after = os.times()
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"0\n")
        found.append(
            after.children_user - before.children_user
            + after.children_system - before.children_system
        )  # fmt: skip
    return min(found)


def stored(data: bytes) -> bytes:
    return write_container(stored_container(data, original_hash=content_hash(data)))


def crammed(num_chunks: int, *, bits: int, dim: int = 576) -> bytes:
    """Chunks as the default model makes them, of random vectors."""
    chance = np.random.default_rng(0)
    numbers = chance.standard_normal((num_chunks, 1, dim)).astype(np.float32)
    raw = (numbers.view(np.uint32) >> 16).astype(np.uint16)
    symbols = np.round(3 * numbers).clip(-20, 20).astype(np.int16)
    step = np.full(1, 0x3F80, dtype=np.uint16)
    chunks = tuple(
        Chunk(
            num_tokens=40,
            num_bytes=160,
            check=index & 0xFFFF,
            starts_segment=index % 8 == 0,
            patches=((3, index % 49152), (9, 7 * index % 49152)),
            mem=raw[index] if bits == 16 else GridMem(symbols=symbols[index], steps=step),
        )
        for index in range(num_chunks)
    )
    return write_container(cram_container(chunks, mem_dim=dim, bits=bits, context_tokens=256))


@pytest.mark.parametrize("kind", ["stored", "raw", "coded"])
def test_ten_megabytes_take_no_time(kind: str, tmp_path: Path) -> None:
    """And no torch: the import alone would take longer. 0.3 s on one core, 0.45 s for vectors."""
    path = tmp_path / "x.crm"
    made = {
        "stored": lambda: stored(np.random.default_rng(0).bytes(10_000_000)),
        "raw": lambda: crammed(8600, bits=16),
        "coded": lambda: crammed(37_100, bits=4),
    }
    path.write_bytes(made[kind]())
    assert 9_900_000 < path.stat().st_size < 10_100_000
    assert cpu_seconds(path, 2) < 1.0


def test_how_far_coded_vectors_are_read(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are decoded, and written once more to see whether they are the shortest spelling: small
    ones always, large ones with --full alone. The checksum is right here: the file was forged."""
    sound = crammed(40, bits=4, dim=64)
    forged = forged_vectors(sound)
    assert (run(sound), run(forged)) == (0, 3)
    assert capfd.readouterr().err.startswith("x.crm: sound, 6,400 bytes, 40 chunks; structure only")
    monkeypatch.setattr(summary, "MAX_CHECKED_CODED_BYTES", 1000)
    for data in (sound, forged):
        assert run(data, "--json") == 0
        out, err = capfd.readouterr()
        assert "a large file: checksums and tables only, --full decodes" in err
        assert json.loads(out)["tested"] == "checksums"
    assert run(forged, "--full") == 3
    assert run(sound[:-40] + bytes(20) + sound[-20:]) == 3


def forged_vectors(data: bytes) -> bytes:
    """A coded file with some of its vectors replaced by zeros, and its checksum made right."""
    end = len(data) - CRC_BYTES - len(END_MARK) - parse_container(data).sizes.planes["patches"]
    return reseal(data[: end - 400] + bytes(400) + data[end:])


# The limit on decoding


def test_the_limit_on_tokens() -> None:
    for size in (0, 1, 1000, 1 << 40):
        most = limits.TOKENS_OF_ANY_FILE + limits.TOKENS_PER_FILE_BYTE * size
        check_work(most, size)
        with pytest.raises(LimitExceeded, match=f"{most + 1} tokens .* the limit is {most}"):
            check_work(most + 1, size)
    for most in (0, 1, 1 << 50):  # whatever the size
        check_work(most, 10, most)
        with pytest.raises(LimitExceeded, match="--max-tokens|tokens to be decoded"):
            check_work(most + 1, 10, most)


def streams(*num_tokens: int, stream_bytes: int) -> bytes:
    """Segments of so many tokens."""
    segments = tuple(
        ArithSegment(
            num_tokens=number, num_bytes=number, check=0, num_lanes=1, stream=bytes(stream_bytes)
        )
        for number in num_tokens
    )
    return write_container(
        arith_container(segments, prefix_tokens=0, window_tokens=96, guard_code=1)
    )


@pytest.mark.parametrize(
    "data",
    [
        streams(1 << 24, stream_bytes=4096),
        streams(*[4000] * 60, stream_bytes=1),
        write_container(
            cram_container(
                [
                    Chunk(
                        num_tokens=65535,
                        num_bytes=65535,
                        check=0,
                        starts_segment=True,
                        patches=(),
                        mem=np.zeros((1, 1), dtype=np.uint16),
                    )
                ]
                * 50,
                mem_dim=1,
            )
        ),
    ],
    ids=["one segment", "many segments", "chunks"],
)  # fmt: skip
def test_more_tokens_than_a_file_may_ask_for(
    data: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    num_tokens = read_container(data).num_tokens
    most = limits.TOKENS_OF_ANY_FILE + limits.TOKENS_PER_FILE_BYTE * len(data)
    assert num_tokens > most
    Path("x.crm").write_bytes(data)
    began = time.process_time()
    for command in ("test", "decompress"):
        for options in ([], ["--max-tokens", str(num_tokens - 1)]):
            assert main([command, "x.crm", *options]) == 7
    assert time.process_time() - began < 4.0  # four runs
    err = capfd.readouterr().err
    assert f"asks for {num_tokens} tokens to be decoded, the limit is {most} [exit 7]" in err
    assert err.count("hint: raise the limit with --max-tokens if you trust this file") == 4
    more = ["--max-tokens", str(num_tokens)]
    assert main(["test", "x.crm", *more]) == 0
    assert main(["decompress", "x.crm", *more]) == 5  # on to the model, which is not here
    assert os.listdir() == ["x.crm"]


def test_the_default_limit_is_met_exactly() -> None:
    most = limits.TOKENS_OF_ANY_FILE + limits.TOKENS_PER_FILE_BYTE * len(
        streams(70_000, stream_bytes=1000)
    )
    for number, code in ((most, 0), (most + 1, 7)):
        data = streams(number, stream_bytes=1000)
        assert limits.TOKENS_OF_ANY_FILE + limits.TOKENS_PER_FILE_BYTE * len(data) == most
        assert run(data) == code


@pytest.mark.parametrize("number", ["-1", "x"])
def test_a_limit_that_is_none(number: str) -> None:
    assert run(TINY, f"--max-tokens={number}") == 2


def test_compress_writes_no_file_over_the_limit(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same few letters over and over take next to nothing, in zstd as well."""
    text = b"a " * 200
    monkeypatch.setattr(arith_encoding, "pack_stored", lambda data: bytes(1 << 20))
    monkeypatch.setattr(limits, "TOKENS_PER_FILE_BYTE", 0)
    monkeypatch.setattr(limits, "TOKENS_OF_ANY_FILE", 400)

    def compress() -> Container:
        packed = llmzip.compress(text, model=str(model), codec="arith", shared_mem=0)
        assert llmzip.decompress(packed, model=str(model)) == text
        assert run(packed, "-q") == 0
        return read_container(packed)

    assert compress().num_tokens == 400
    monkeypatch.setattr(limits, "TOKENS_OF_ANY_FILE", 399)
    assert not compress().needs_model


def test_what_repeats_itself_is_not_even_tried(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "no-such-model")
    for codec in ("arith", "auto", "cram"):
        packed = llmzip.compress(b"a " * 200_000, model=nowhere, codec=codec)  # type: ignore[arg-type]
        assert run(packed, "-q") == 0 and len(packed) < 200
