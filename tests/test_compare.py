"""`llmzip compare`: the table, what is measured and what is a forecast, and when a model pays."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import llmzip
from llmzip.cli.compare import compare_table
from llmzip.cli.main import main
from llmzip.inspect import baselines as comparison
from llmzip.inspect.baselines import Contender, break_even_bytes, methods, others
from tests.tiny_models import TEXT

BOOK = TEXT[:600].encode()


def contender(name: str, num_bytes: int, **more: Any) -> Contender:
    return Contender(name=name, num_bytes=num_bytes, **more)


def test_others_give_the_data_back_and_are_timed() -> None:
    found = list(others(BOOK))
    assert [each.name for each in found] == [
        "gzip -9", "bzip2 -9", "xz -9e", "zstd -19", "brotli 11",
    ]  # fmt: skip
    for each in found:
        assert each.compress_seconds is not None and each.decompress_seconds is not None
        assert 0 < each.compress_seconds < 30 and 0 < each.decompress_seconds < 30
        assert 8 * each.num_bytes / len(BOOK) == each.bits_per_byte(len(BOOK)) < 8


def test_without_brotli(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "brotli", None)
    assert [method.name for method in methods()][-1] == "zstd -19"


def test_a_compressor_that_loses_bytes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = comparison._Method(name="bad", pack=lambda data: data, unpack=lambda data: data[1:])
    monkeypatch.setattr(comparison, "methods", lambda: [bad])
    with pytest.raises(AssertionError, match="bad does not give the data back"):
        list(others(BOOK))


def test_when_a_model_pays() -> None:
    rivals = [contender("a", 400), contender("b", 500)]
    ours = contender("ours", 200, is_ours=True)
    # 200 bytes are saved of every 1,000: of 5,000,000 it is a model of 1,000,000.
    assert break_even_bytes(ours, rivals, original_bytes=1000, model_bytes=1_000_000) == 5_000_000
    for size in (400, 401):
        same = contender("ours", size, is_ours=True)
        assert break_even_bytes(same, rivals, original_bytes=1000, model_bytes=1) is None
    assert break_even_bytes(ours, [], original_bytes=1000, model_bytes=1) is None


def test_the_table() -> None:
    found = [
        contender("llmzip --codec arith", 200, compress_seconds=3.0, decompress_seconds=75.4,
                  is_ours=True),
        contender("xz -9e", 400, compress_seconds=0.25, decompress_seconds=0.0041),
        contender("llmzip --preset balanced", 640, compress_seconds=4000.0, is_forecast=True,
                  is_ours=True),
    ]  # fmt: skip
    assert compare_table("book.txt", 1000, found, 270_000_000).splitlines() == [
        "book.txt: 1,000 bytes",
        "                          bytes  bits per byte  ratio  compress  decompress",
        "llmzip --codec arith        200           1.60   5.00    3.00 s        75 s",
        "xz -9e                      400           3.20   2.50    0.25 s      4.1 ms",
        "llmzip --preset balanced   ~640          ~5.12  ~1.56   ~67 min           -",
        "~ a forecast from a small part; the others were run once",
        "brotli is not installed: pip install brotli",
        "model not counted: 270.0 MB on disk, once for all files",
        "with the model counted, llmzip --codec arith is smaller than xz -9e from 1.4 GB of such "
        "text on",
    ]
    worse = compare_table("x", 1000, [found[1], found[2]], 9).splitlines()
    assert worse[-1] == "llmzip --preset balanced is not smaller than xz -9e: the model never pays"


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_bytes(BOOK)
    return tmp_path / "book.txt"


def test_the_command(
    book: Path, tiny_model: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    model = str(tiny_model("llama"))
    assert main(["compare", "book.txt", "--model", model, "--preset", "fast", "--json", "-q"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["schema"] == 1 and found["original_bytes"] == len(BOOK)
    assert found["model_bytes"] > 10_000
    by_name = {each["name"]: each for each in found["contenders"]}
    assert len(by_name) == 7
    sizes = [each["num_bytes"] for each in found["contenders"]]
    assert sizes == sorted(sizes)
    arith, cram = by_name["llmzip --codec arith"], by_name["llmzip --preset fast"]
    assert not arith["is_forecast"] and arith["decompress_seconds"] > 0
    assert cram["is_forecast"] and cram["decompress_seconds"] is None
    packed = llmzip.compress(BOOK, model=model, codec="arith")
    assert arith["num_bytes"] == len(packed)


def test_a_finished_file_takes_the_place_of_the_forecast(
    book: Path, tiny_model: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    model = str(tiny_model("llama"))
    assert main(["compress", "-q", "--codec", "arith", "--model", model, "book.txt"]) == 0
    size = Path("book.crm").stat().st_size
    assert main(["compare", "book.txt", "--crm", "book.crm", "--no-model"]) == 0
    rows = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert ["llmzip,", "book.crm", f"{size:,}"] in [row[:3] for row in rows]
    Path("other.txt").write_bytes(BOOK[1:])
    assert main(["compare", "other.txt", "--crm", "book.crm", "--no-model"]) == 1
    assert "book.crm is of another file" in capfd.readouterr().err
    assert main(["compare", "book.txt", "--crm", "missing.crm", "--no-model"]) == 1


def test_what_no_model_helps(book: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("zeros").write_bytes(bytes(5000))
    assert main(["compare", "zeros", "--model", "no/such", "--offline"]) == 0
    out = capfd.readouterr().out
    assert "llmzip, stored with zstd" in out and "model not counted" not in out
    Path("empty").write_bytes(b"")
    assert main(["compare", "empty"]) == 1
    assert main(["compare", "book.txt", "--model", "no/such", "--offline"]) == 5
    assert main(["compare", "missing.txt"]) == 1
