"""The public functions: what they pass on, what they take, and what importing them costs."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import threading
import types
from dataclasses import fields
from pathlib import Path

import pytest

import llmzip
from llmzip.config import CompressSettings, ComputeSettings, DecompressSettings
from llmzip.report import Report, read_report

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "tests" / "data" / "v1_tiny.crm"


@pytest.fixture
def codec(monkeypatch):
    fake = types.ModuleType("llmzip.codec")
    fake.calls = []

    def call(data, settings, *, on_progress, cancel):
        fake.calls.append((data, settings, on_progress, cancel))
        return b"result"

    fake.compress_bytes = fake.decompress_bytes = call
    monkeypatch.setitem(sys.modules, "llmzip.codec", fake)
    return fake


def test_compress_passes_every_setting_on(codec):
    cancel = threading.Event()
    result = llmzip.compress(
        b"text",
        model="m/n",
        revision="r",
        device="cpu",
        num_mem=2,
        bits=16,
        context_tokens=3,
        budget_bits=99.0,
        max_steps=5,
        preset="fast",
        time_budget_s=60.0,
        bf16_safe=True,
        seed=6,
        threads=1,
        batch=7,
        attention="eager",
        offline=True,
        progress=print,
        cancel=cancel,
    )
    settings = CompressSettings(
        model="m/n",
        revision="r",
        num_mem=2,
        bits=16,
        context_tokens=3,
        budget_bits=99.0,
        max_steps=5,
        preset="fast",
        time_budget_s=60.0,
        bf16_safe=True,
        seed=6,
        offline=True,
        compute=ComputeSettings(device="cpu", threads=1, batch=7, attention="eager"),
    )
    assert result == b"result"
    assert codec.calls == [(b"text", settings, print, cancel)]


def test_decompress_passes_every_setting_on(codec):
    cancel = threading.Event()
    result = llmzip.decompress(
        b"packed",
        model="m/n",
        revision="r",
        device="cpu",
        threads=1,
        batch=7,
        attention="eager",
        max_output_bytes=10,
        offline=True,
        progress=print,
        cancel=cancel,
    )
    settings = DecompressSettings(
        model="m/n",
        revision="r",
        max_output_bytes=10,
        offline=True,
        compute=ComputeSettings(device="cpu", threads=1, batch=7, attention="eager"),
    )
    assert result == b"result"
    assert codec.calls == [(b"packed", settings, print, cancel)]


def test_defaults_are_those_of_the_settings(codec):
    llmzip.compress(b"")
    llmzip.decompress(b"")
    assert [call[1] for call in codec.calls] == [CompressSettings(), DecompressSettings()]


@pytest.mark.parametrize("name", ["compress", "decompress"])
def test_no_setting_is_out_of_reach(name):
    settings = {"compress": CompressSettings, "decompress": DecompressSettings}[name]
    known = {field.name for kind in (settings, ComputeSettings) for field in fields(kind)}
    parameters = set(inspect.signature(getattr(llmzip, name)).parameters)
    assert parameters == known - {"compute"} | {"data", "progress", "cancel"}


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_are_taken_and_become_bytes(codec, kind):
    llmzip.compress(kind(b"text"))
    llmzip.decompress(kind(b"text"))
    assert [(type(call[0]), call[0]) for call in codec.calls] == [(bytes, b"text")] * 2
    assert llmzip.info(kind(TINY.read_bytes())).original_bytes == 30


@pytest.mark.parametrize("name", ["compress", "decompress"])
@pytest.mark.parametrize("data", ["text", 5, None])
def test_what_is_not_bytes_is_refused(codec, name, data):
    with pytest.raises(TypeError, match="takes bytes, not"):
        getattr(llmzip, name)(data)
    assert codec.calls == []


def test_settings_are_checked_before_the_work(codec):
    with pytest.raises(llmzip.SettingsError):
        llmzip.compress(b"text", num_mem=0)
    assert codec.calls == []


def test_info_takes_a_path_or_bytes():
    report = read_report(TINY.read_bytes())
    assert llmzip.info(TINY) == llmzip.info(str(TINY)) == llmzip.info(TINY.read_bytes()) == report
    assert isinstance(report, llmzip.Report) and llmzip.Report is Report
    with pytest.raises(FileNotFoundError):
        llmzip.info("no such file")
    with pytest.raises(llmzip.NotACrmFile):
        llmzip.info(b"no such file")


def test_every_public_name_exists_and_every_error_is_public():
    assert all(hasattr(llmzip, name) for name in llmzip.__all__)
    assert sorted(llmzip.__all__) == llmzip.__all__
    kinds = {
        name
        for name, kind in vars(llmzip.errors).items()
        if isinstance(kind, type) and issubclass(kind, llmzip.LlmzipError)
    }
    assert kinds <= set(llmzip.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        llmzip.no_such_name  # noqa: B018


def test_the_version_is_that_of_the_package():
    written = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert written is not None and written[1] == llmzip.__version__


def test_importing_loads_nothing_heavy():
    code = (
        "import sys, llmzip\n"
        "heavy = {'torch', 'transformers', 'numpy', 'zstandard', 'typer', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "[]\n"
