"""`.crm` behind fsspec, pandas, numcodecs and zarr: the real libraries call llmzip."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numcodecs
import numpy as np
import pandas as pd
import pytest
from fsspec.compression import available_compressions
from numcodecs.tests import common

import llmzip
import llmzip.fsspec
from llmzip.numcodecs import Llmzip
from tests.tiny_models import TEXT

zarr = pytest.importorskip("zarr", minversion="3", reason="needs Python 3.11")

LINES = [TEXT[place : place + 36] for place in range(0, 288, 36)]
TABLE = "name,place\nInes,Carrow Point\nthe skipper,the bay\n"


@pytest.fixture(scope="module")
def llama(tiny_model: Callable[..., Path]) -> str:
    return str(tiny_model("llama"))


@pytest.fixture
def registered(llama: str) -> Iterator[None]:
    options = {"model": llama, "device": "cpu"}
    llmzip.fsspec.register(reading=options, writing={**options, "codec": "arith"})
    yield
    fsspec.compression.compr.pop("crm")
    fsspec.utils.compressions.pop("crm")


# --- fsspec


def test_fsspec_does_not_know_it_by_itself() -> None:
    assert "crm" not in available_compressions()


def test_text_through_fsspec(registered: None, tmp_path: Path, llama: str) -> None:
    path = tmp_path / "book.crm"
    with fsspec.open(path, "wt", compression="infer", newline="") as file:
        file.write(TEXT[:300])
    assert llmzip.decompress(path.read_bytes(), model=llama) == TEXT[:300].encode()
    with fsspec.open(path, "rt", compression="infer", newline="") as file:
        assert file.read() == TEXT[:300]
    with fsspec.open(path, "rb", compression="crm") as file:
        file.seek(7)
        assert file.read(9) == TEXT[7:16].encode()
        assert list(file) == TEXT[16:300].encode().splitlines(keepends=True)
    with fsspec.open(path, "rb", compression=None) as file:
        assert file.read(4) == path.read_bytes()[:4]


def test_every_file_system(registered: None) -> None:
    with fsspec.open("memory://shelf/book.crm", "wb", compression="infer") as file:
        file.write(TEXT[:200].encode())
    (found,) = fsspec.open_files("memory://shelf/*.crm", "rb", compression="infer")
    with found as file:
        assert file.read() == TEXT[:200].encode()


def test_pandas_through_fsspec(registered: None, tmp_path: Path) -> None:
    path = tmp_path / "table.csv.crm"
    with fsspec.open(path, "wt", compression="infer") as file:
        pd.read_csv(pd.io.common.StringIO(TABLE)).to_csv(file, index=False)
    with fsspec.open(path, "rt", compression="infer") as file:
        found = pd.read_csv(file)
    assert found.to_csv(index=False) == TABLE


def test_the_last_registration_counts(registered: None, tmp_path: Path, llama: str) -> None:
    llmzip.fsspec.register(reading={"model": llama, "max_output_bytes": 10})
    path = tmp_path / "book.crm"
    path.write_bytes(llmzip.compress(TEXT[:300].encode(), model=llama, codec="arith"))
    with pytest.raises(llmzip.LimitExceeded):
        fsspec.open(path, "rb", compression="infer").open()


def test_damage_is_told(registered: None, tmp_path: Path) -> None:
    path = tmp_path / "book.crm"
    path.write_bytes(b"no container")
    with pytest.raises(llmzip.NotACrmFile):
        fsspec.open(path, "rb", compression="infer").open()


# --- numcodecs, by its own checks

ARRAYS = [
    np.frombuffer(TEXT[:256].encode(), dtype="S1"),
    np.array(LINES, dtype="S60").reshape(2, 4),
    np.array(LINES, dtype="U40").reshape(2, 4, order="F"),
    np.arange(1000, dtype="i4"),
    np.linspace(1000, 1001, 1000, dtype="f8").reshape(100, 10, order="F"),
    np.random.default_rng(0).integers(0, 2**60, size=1000, dtype="u8").view("M8[ns]"),
    np.array([b"a", b"bb", b"ccc"] * 100).reshape(10, 30),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_chunks_come_back(array: np.ndarray[Any, Any], llama: str) -> None:
    common.check_encode_decode(array, Llmzip(model=llama))


def test_numcodecs_checks(llama: str) -> None:
    codec = Llmzip(model=llama)
    common.check_config(codec)
    assert repr(codec) == f"Llmzip(codec='arith', model={llama!r}, preset='balanced')"
    common.check_err_encode_object_buffer(codec)
    common.check_err_decode_object_buffer(codec)
    with pytest.raises(TypeError):
        codec.encode(["foo", "bar"])
    with pytest.raises(ValueError):
        codec.encode(np.arange(1000, dtype="i4")[::2])
    assert codec == Llmzip(model=llama) != Llmzip() and codec != "llmzip"


def test_numcodecs_finds_it() -> None:
    """By the entry point, in a process that has not imported it."""
    config = {"id": "llmzip", "codec": "cram", "preset": "small"}
    code = f"import numcodecs; print(numcodecs.get_codec({config!r}).get_config())"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == str({**config, "model": None}).replace(
        "'preset': 'small', 'model': None", "'model': None, 'preset': 'small'"
    )


def test_the_settings_are_used(llama: str) -> None:
    text = TEXT[:300].encode()
    crammed = Llmzip(codec="cram", model=llama, preset="fast").encode(text)
    assert llmzip.info(crammed).codec in ("cram", "stored")
    with pytest.raises(llmzip.SettingsError):
        Llmzip(codec="zip", model=llama).encode(text)  # type: ignore[arg-type]
    with pytest.raises(llmzip.LlmzipError):
        Llmzip(model=llama).decode(b"no container")


# --- zarr


@pytest.mark.filterwarnings("ignore:The data type", "ignore:The codec")  # no specification yet
@pytest.mark.parametrize("dtype", ["string", "S40"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_array_of_text(zarr_format: int, dtype: str, tmp_path: Path, llama: str) -> None:
    from llmzip.zarr import LlmzipCodec

    codec = Llmzip(model=llama) if zarr_format == 2 else LlmzipCodec(model=llama)
    written = zarr.create_array(
        tmp_path / "lines.zarr", shape=(8,), dtype=dtype, chunks=(4,), compressors=[codec],
        zarr_format=zarr_format,
    )  # fmt: skip
    lines = LINES if dtype == "string" else [line.encode() for line in LINES]
    written[:] = np.array(lines)
    assert written[:].tolist() == lines
    code = (
        "import zarr, warnings; warnings.simplefilter('ignore');"
        f"print(ascii(zarr.open_array({str(tmp_path / 'lines.zarr')!r}, mode='r')[:].tolist()))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ascii(lines)
    kept = tmp_path / "lines.zarr" / (".zarray" if zarr_format == 2 else "zarr.json")
    assert "llmzip" in kept.read_text() and json.loads(kept.read_text())


def test_zarr_keeps_the_settings(llama: str) -> None:
    from llmzip.zarr import LlmzipCodec

    codec = LlmzipCodec(codec="cram", model=llama, preset="small")
    assert LlmzipCodec.from_dict(json.loads(json.dumps(codec.to_dict()))) == codec
    with pytest.raises(ValueError, match="gzip"):
        LlmzipCodec.from_dict({"name": "gzip"})


def test_they_are_parts_of_the_package() -> None:
    code = "import llmzip; print(llmzip.numcodecs.Llmzip.codec_id, llmzip.fsspec.SUFFIX)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "llmzip crm\n"
    assert isinstance(numcodecs.get_codec({"id": "llmzip"}), Llmzip)
