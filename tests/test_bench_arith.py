"""`scripts/bench.py size` on the arith codec: whole commands, beside what others make."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench
import bench_arith
import bench_published
import bench_size
import bench_tables
import pytest
from typer.testing import CliRunner

from llmzip.config import CompressSettings, ComputeSettings
from llmzip.errors import IntegrityError
from llmzip.inspect.report import read_report
from llmzip.store.cram_figures import CramFigures
from llmzip.store.stored import pack_stored

TEXT = b"the old mill stands by the river, and the water turns its wheel"
MIB = 1 << 20
REPORT = replace(
    read_report(pack_stored(TEXT)),
    container_bytes=21,
    payload=CramFigures(num_tokens=17),
    model_id="a-model",
    model_digest="ab" * 16,
)
SAMPLE = bench_arith.ArithSample(
    report=REPORT,
    compress=bench_arith.CommandSample(seconds=4.0, peak_bytes=7_000_000),
    decompress=bench_arith.CommandSample(seconds=8.0, peak_bytes=6_000_000),
    threads=1,
    bf16_flops=1e9,
)
CRAM = bench_size.SizeSample(
    report=replace(REPORT, container_bytes=700),
    information=bench_size.Information(surprisal_bits=9.0, gain_bits=0.0, unpatched_gain_bits=0.0),
    crammed_bytes=len(TEXT),
    compress_seconds=1.0,
    decompress_seconds=1.0,
    threads=1,
    bf16_flops=1e9,
)
WINDOW = bench_size.WindowSample(
    surprisal_bits=63.0, num_bytes=len(TEXT), num_tokens=17, window_tokens=2048, seconds=1.0
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, list[str]]]:
    """`bench.py size` on a text with samples at hand; its stdout, and the jobs that it ran."""
    jobs: list[str] = []
    samples = {"arith_job": SAMPLE, "size_job": CRAM, "window_job": WINDOW}

    def alone(job: Callable[..., Any], data: bytes, *_: object) -> Any:
        jobs.append(job.__name__)
        return samples[job.__name__]

    monkeypatch.setattr(bench, "_alone", alone)
    file = tmp_path / "one.txt"
    file.write_bytes(TEXT)

    def call(*more: str, exit_code: int = 0) -> tuple[str, list[str]]:
        jobs.clear()
        result = CliRunner().invoke(bench.app, ["size", "--text", str(file), *more])
        assert result.exit_code == exit_code, result.output
        return result.stdout if not exit_code else result.output, jobs

    return call


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """`TEXT` in the place of alice29.txt."""
    rows = bench_published.PUBLISHED[bench_published.ALICE29_SHA256]
    monkeypatch.setattr(bench_published, "PUBLISHED", {hashlib.sha256(TEXT).hexdigest(): rows})


def test_arith_alone_unless_cram_is_asked_for(run: Callable[..., tuple[str, list[str]]]) -> None:
    assert run()[1] == ["arith_job"]
    assert run("--codecs", "arith,cram", "--presets", "fast,small")[1] == [
        "arith_job", "window_job", "size_job", "size_job",
    ]  # fmt: skip
    assert run("--codecs", "cram")[1] == ["window_job"] + ["size_job"] * 3


@pytest.mark.parametrize(
    "options",
    [
        ["--presets", "fast"],
        ["--bits", "2"],
        ["--mem", "2"],
        ["--codecs", "cram", "--presets", ""],
        ["--codecs", ""],
        ["--codecs", "auto"],
    ],
)
def test_options_that_fit_nothing_are_refused(
    run: Callable[..., tuple[str, list[str]]], options: list[str]
) -> None:
    _, jobs = run(*options, exit_code=2)
    assert jobs == []


def test_figures_in_json(run: Callable[..., tuple[str, list[str]]], published: None) -> None:
    result = json.loads(run("--json")[0])
    assert result["model"] == "a-model" and result["cram"] is None
    (text,) = result["texts"]
    assert (text["bytes"], text["tokens"], text["presets"]) == (len(TEXT), 17, {})
    assert text["arith"] == {
        "bytes": 21,
        "bits_per_byte": 8 * 21 / len(TEXT),
        "needs_model": True,
        "is_verified": True,
        "tokens": 17,
        "compress_seconds": 4.0,
        "compress_bytes_per_second": len(TEXT) / 4,
        "compress_peak_bytes": 7_000_000,
        "decompress_seconds": 8.0,
        "decompress_bytes_per_second": len(TEXT) / 8,
        "decompress_peak_bytes": 6_000_000,
    }
    assert [row["bits_per_byte"] for row in text["published"]] == [1.142, 0.918]
    cut = json.loads(run("--json", "--bytes", str(len(TEXT) - 1))[0])
    assert cut["texts"][0]["published"] == []


def test_table_of_arith(run: Callable[..., tuple[str, list[str]]], published: None) -> None:
    lines = run()[0].rstrip("\n").split("\n")
    heads = next(line for line in lines if "bits/byte" in line)
    row = next(line for line in lines if line.startswith("llmzip arith   "))
    assert len(row) == len(heads)
    assert row.split() == "llmzip arith 21 2.667 4.0 s 15.8 7 8.0 s 7.9 6".split()
    figures = [line for line in lines if "(published)" in line]
    assert [line.split()[-1] for line in figures] == ["1.142", "0.918"]
    assert sum(line.startswith("published, ") and "https://" in line for line in lines) == 2
    end = heads.index("bits/byte") + len("bits/byte")
    for line in [row, *figures]:
        assert line[:end].split()[-1] in {"2.667", "1.142", "0.918"}


def test_nothing_is_published_of_another_text(run: Callable[..., tuple[str, list[str]]]) -> None:
    assert "published" not in run()[0]


def test_published_figures_hold_together() -> None:
    for row in bench_published.PUBLISHED[bench_published.ALICE29_SHA256]:
        assert row.source.startswith("https://")
        if row.bytes is not None:
            assert 8 * row.bytes / 152_089 == pytest.approx(row.bits_per_byte, abs=5e-4)


def test_both_codecs_in_one_summary() -> None:
    text = bench_tables.text_summary("one.txt", TEXT, {"arith": SAMPLE, "small": CRAM}, WINDOW)
    assert text["arith"] == SAMPLE.to_dict() and text["presets"] == {"small": CRAM.to_dict()}
    assert text["model_window_bits_per_byte"] == pytest.approx(1.0)


def test_a_text_kept_without_the_model_says_so() -> None:
    sample = replace(SAMPLE, report=read_report(pack_stored(TEXT)))
    text = bench_tables.text_summary("one.txt", TEXT, {"arith": sample}, None)
    lines = bench_tables.size_lines(
        {**bench_tables.size_setup(CompressSettings(), [sample]), "texts": [text]}
    )
    assert lines[0].startswith("no model needed")
    assert any(line.startswith("llmzip arith (stored) ") for line in lines)


def test_peak_is_the_command_s_own() -> None:
    held = bytearray(b"x") * (256 * MIB)  # by this process
    small = _child("pass")
    large = _child(f"bytearray(b'x') * {128 * MIB}")
    assert len(held) > small["peak_bytes"] + 128 * MIB
    assert small["peak_bytes"] + 100 * MIB < large["peak_bytes"] < 256 * MIB
    assert large["seconds"] > 0


def test_a_command_that_fails_gives_no_sample() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        _child("raise SystemExit(7)")
    assert caught.value.returncode == 7
    assert caught.value.stdout == b""


def _child(code: str) -> dict[str, Any]:
    command = [sys.executable, str(bench_arith.CHILD), sys.executable, "-c", code]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def test_a_text_that_does_not_come_back_is_no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    def command(name: str, source: str, _: str, target: str, *more: str) -> None:
        Path(target).write_bytes(Path(source).read_bytes() + b"?" * (name == "decompress"))

    monkeypatch.setattr(bench_arith, "run_command", command)
    with pytest.raises(IntegrityError):
        bench_arith.arith_job(TEXT, CompressSettings())


def test_the_commands_on_a_text(tiny_model: Callable[..., Path]) -> None:
    settings = CompressSettings(
        model=str(tiny_model("llama")), compute=ComputeSettings(device="cpu", threads=1)
    )
    sample = bench_arith.arith_job(4 * TEXT, settings)
    assert sample.report.original_bytes == 4 * len(TEXT)
    assert sample.threads == 1
    for part in (sample.compress, sample.decompress):
        assert part.seconds > 0.1 and part.peak_bytes > 50 * MIB
