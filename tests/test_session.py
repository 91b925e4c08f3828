"""One model for many inputs; torch's settings and the caller's own things stay as they were."""

from __future__ import annotations

import doctest
import inspect
import random
import signal
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

import pytest
import torch

import llmzip
from llmzip import models as models_module
from llmzip import options, session
from llmzip.errors import Interrupted, ModelMismatch, SettingsError
from llmzip.models import Models
from llmzip.progress import Progress
from tests.tiny_models import SHORT_TEXT

CRAM = {"budget_bits": 40.0, "max_steps": 20, "preset": "fast", "context_tokens": 0}
TEXTS = [
    b"the old mill stands by the river",
    b"and the water turns its wheel",
    b"",
    b"\x00\xff" * 9,
]


@pytest.fixture(scope="module")
def llama(tiny_model: Callable[..., Path]) -> str:
    return str(tiny_model("llama"))


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is loaded, in order."""
    seen: list[str] = []
    for name in ("open_workshop", "load_model"):
        real = getattr(models_module, name)

        def call(
            *args: object, name: str = name, real: Callable[..., object] = real, **more: object
        ) -> object:
            seen.append(name)
            return real(*args, **more)

        monkeypatch.setattr(models_module, name, call)
    return seen


def test_a_model_is_loaded_once(llama: str, loads: list[str]) -> None:
    with llmzip.Compressor(model=llama, **CRAM) as compressor:  # type: ignore[arg-type]
        packed = [compressor.compress(text) for text in TEXTS]
        assert loads == ["open_workshop"]
    assert packed == [llmzip.compress(text, model=llama, **CRAM) for text in TEXTS]  # type: ignore[arg-type]
    loads.clear()
    with llmzip.Decompressor(model=llama) as decompressor:
        assert [decompressor.decompress(each) for each in packed] == TEXTS
        assert decompressor.decompress(packed[0], span=(4, 7)) == b"old"
        first = decompressor.decompress(packed[0], chunks=(1, 1))
        assert TEXTS[0].startswith(first) and first
    assert loads == ["load_model"]


def test_what_needs_no_model_loads_none(loads: list[str]) -> None:
    with llmzip.Compressor(model="no/such") as compressor:
        packed = compressor.compress(bytes(range(256)))
    with llmzip.Decompressor() as decompressor:
        assert decompressor.decompress(packed) == bytes(range(256))
    assert loads == []


def test_another_model_takes_the_place_of_the_first(
    tiny_model: Callable[..., Path], loads: list[str]
) -> None:
    names = [str(tiny_model("llama")), str(tiny_model("opt"))]
    packed = [llmzip.compress(SHORT_TEXT, model=name, **CRAM) for name in names]  # type: ignore[arg-type]
    loads.clear()
    with llmzip.Decompressor(model=names[0]) as decompressor:
        assert decompressor.decompress(packed[0]) == SHORT_TEXT
        with pytest.raises(ModelMismatch):
            decompressor.decompress(packed[1])
        assert decompressor.decompress(packed[0]) == SHORT_TEXT
    assert loads.count("load_model") == 1


def test_a_workshop_decodes_too(llama: str, loads: list[str]) -> None:
    from llmzip import codec
    from llmzip.config import CompressSettings, DecompressSettings

    models = Models()
    own = CompressSettings(model=llama, **CRAM)  # type: ignore[arg-type]
    packed = codec.compress_bytes(SHORT_TEXT, own, models=models)
    found = codec.decompress_bytes(packed, DecompressSettings(model=llama), models=models)
    assert found == SHORT_TEXT and loads == ["open_workshop"]
    models.close()
    assert codec.compress_bytes(SHORT_TEXT, own, models=models) == packed
    assert loads == ["open_workshop"] * 2


def test_closed(llama: str) -> None:
    compressor, decompressor = llmzip.Compressor(model=llama), llmzip.Decompressor(model=llama)
    for each in (compressor, decompressor):
        assert not each.closed
        each.close()
        each.close()
        assert each.closed
        with pytest.raises(ValueError, match="is closed"):
            each.__enter__()
    with pytest.raises(ValueError, match="Compressor is closed"):
        compressor.compress(b"x")
    with pytest.raises(ValueError, match="Decompressor is closed"):
        decompressor.decompress(b"x")


@pytest.mark.parametrize("wrong", ["text", 3, None, ["x"]])
def test_only_bytes(wrong: object) -> None:
    for call in (
        llmzip.compress, llmzip.decompress, llmzip.Compressor().compress,
        llmzip.Decompressor().decompress,
    ):  # fmt: skip
        with pytest.raises(TypeError, match="llmzip takes bytes, not "):
            call(wrong)  # type: ignore[operator]


def test_settings_are_checked_at_once() -> None:
    with pytest.raises(SettingsError):
        llmzip.Compressor(bits=9)
    with pytest.raises(SettingsError):
        llmzip.Decompressor(perturb=-1.0)
    with pytest.raises(TypeError):
        llmzip.Compressor(colour="red")  # type: ignore[call-arg]
    with pytest.raises(SettingsError, match="do not go together"):
        llmzip.Decompressor().decompress(b"", span=(0, 1), chunks=(1, 1))


def test_the_keywords_are_those_of_the_functions() -> None:
    ours = {"data", "progress", "cancel", "span", "chunks"}
    for function, described in (
        (llmzip.compress, options.CompressOptions),
        (llmzip.decompress, options.DecompressOptions),
    ):
        names = set(inspect.signature(function).parameters) - ours
        assert names == set(get_type_hints(described))


class Global:
    """What belongs to the whole process."""

    def __init__(self) -> None:
        self.values = (
            torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(),
            torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled(),
            torch.random.get_rng_state().tolist(), random.getstate(),
            signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM),
            torch.is_inference_mode_enabled(),
        )  # fmt: skip


@pytest.mark.parametrize("end", ["good", "cancelled", "failed"])
def test_nothing_global_is_left_changed(
    llama: str, end: str, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("medium")
    torch.set_default_dtype(torch.float64)
    try:
        before = Global().values
        cancel = threading.Event()

        def watch(event: Progress) -> None:
            if event.stage == "cram" and end == "cancelled":
                cancel.set()
            if event.stage == "cram" and end == "failed":
                raise ZeroDivisionError

        call = lambda: llmzip.compress(  # noqa: E731
            SHORT_TEXT,
            model=llama,
            threads=1,
            progress=watch,
            cancel=cancel,
            **CRAM,  # type: ignore[arg-type]
        )
        if end == "good":
            assert llmzip.decompress(call(), model=llama, threads=1) == SHORT_TEXT
        else:
            with pytest.raises(Interrupted if end == "cancelled" else ZeroDivisionError):
                call()
        assert Global().values == before
    finally:
        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("highest")
        torch.set_default_dtype(torch.float32)
    assert capfd.readouterr() == ("", "")


def test_threads_share_one(llama: str) -> None:
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    found: dict[int, bytes] = {}
    with (
        llmzip.Compressor(model=llama, **CRAM) as compressor,  # type: ignore[arg-type]
        llmzip.Decompressor(model=llama, threads=2) as decompressor,
    ):

        def work(number: int) -> None:
            found[number] = decompressor.decompress(compressor.compress(TEXTS[number]))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(len(TEXTS))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [found[number] for number in range(len(TEXTS))] == TEXTS
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before


def test_stopped_from_another_thread(llama: str) -> None:
    cancel, begun = threading.Event(), threading.Event()

    def stop() -> None:
        begun.wait(60)
        cancel.set()

    thread = threading.Thread(target=stop)
    thread.start()
    with llmzip.Compressor(model=llama, budget_bits=40.0, max_steps=10_000, bits=16) as compressor:
        with pytest.raises(Interrupted):
            compressor.compress(SHORT_TEXT, progress=lambda event: begun.set(), cancel=cancel)
        thread.join()
        assert compressor.compress(b"") == llmzip.compress(b"")  # it goes on


@pytest.mark.parametrize("module", [llmzip, session], ids=lambda module: module.__name__)
def test_examples_in_docstrings(
    module: types.ModuleType, llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(module, extraglobs={"llmzip": llmzip, "model": llama})
    assert found.attempted > 3 and not found.failed


def test_importing_loads_nothing_heavy() -> None:
    import subprocess

    code = "import sys, llmzip; llmzip.Compressor; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"torch", "numpy", "transformers", "typer"} & set(loaded)
