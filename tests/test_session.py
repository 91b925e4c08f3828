"""One model for many inputs; torch's settings and the caller's own things stay as they were."""

from __future__ import annotations

import doctest
import inspect
import io
import logging
import os
import random
import re
import signal
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch

import llmzip
from llmzip.api import open as fileobjects
from llmzip.api import options
from llmzip.api import sessions as session
from llmzip.codecs.arith import encoder as arith_encoding
from llmzip.errors import Interrupted, ModelMismatch, SettingsError
from llmzip.lm import loaded as models_module
from llmzip.lm.devices import borrowed_torch
from llmzip.lm.loaded import ModelCache
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
    under_way: list[str] = []
    for name in ("load_for_compression", "load_model"):
        real = getattr(models_module, name)

        def call(
            *args: object, name: str = name, real: Callable[..., object] = real, **more: object
        ) -> object:
            if not under_way:  # the one load calls the other
                seen.append(name)
            under_way.append(name)
            try:
                return real(*args, **more)
            finally:
                under_way.pop()

        monkeypatch.setattr(models_module, name, call)
    return seen


def test_a_model_is_loaded_once(llama: str, loads: list[str]) -> None:
    with llmzip.Compressor(model=llama, **CRAM) as compressor:  # type: ignore[arg-type]
        packed = [compressor.compress(text) for text in TEXTS]
        assert loads == ["load_for_compression"]
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
    from llmzip.api.compress import compress_bytes
    from llmzip.api.decompress import decompress_bytes
    from llmzip.config import CompressSettings, DecompressSettings

    models = ModelCache()
    own = CompressSettings(model=llama, **CRAM)  # type: ignore[arg-type]
    packed = compress_bytes(SHORT_TEXT, own, models=models)
    found = decompress_bytes(packed, DecompressSettings(model=llama), models=models)
    assert found == SHORT_TEXT and loads == ["load_for_compression"]
    models.close()
    assert compress_bytes(SHORT_TEXT, own, models=models) == packed
    assert loads == ["load_for_compression"] * 2


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
    for kind in (llmzip.Compressor, llmzip.Decompressor):
        for name in ("colour", "span", "compute", "progress"):
            with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
                kind(**{name: None})  # type: ignore[arg-type]
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


def the_process() -> list[object]:
    """What belongs to all of it."""
    return [
        torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(),
        torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled(),
        torch.is_inference_mode_enabled(), torch.random.get_rng_state().tolist(),
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark,
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32,
        np.random.get_state()[1].tolist(), random.getstate(),  # type: ignore[index]
        signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM),
        dict(os.environ), list(warnings.filters), list(logging.root.handlers), logging.root.level,
        os.getcwd(), sys.getrecursionlimit(),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def both(llama: str) -> dict[str, bytes]:
    """`SHORT_TEXT` by each codec."""
    with pytest.MonkeyPatch.context() as patch:
        # A random model predicts worse than zstd: keep its container all the same.
        patch.setattr(arith_encoding, "pack_stored", lambda data: bytes(1 << 20))
        arith = llmzip.compress(SHORT_TEXT, model=llama, codec="arith", shared_mem=0)
    assert llmzip.info(arith).codec == "arith"
    return {"cram": llmzip.compress(SHORT_TEXT, model=llama, **CRAM), "arith": arith}  # type: ignore[arg-type]


@pytest.mark.parametrize("end", ["good", "cancelled", "failed"])
@pytest.mark.parametrize("codec", ["cram", "arith"])
@pytest.mark.parametrize("what", ["compress", "decompress", "open"])
def test_nothing_global_is_left_changed(
    llama: str,
    both: dict[str, bytes],
    what: str,
    codec: str,
    end: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    cancel = threading.Event()
    stages = {"measure", "cram", "code", "verify", "decode"}
    more = {"model": llama, "threads": 1, "cancel": cancel}

    def watch(event: Progress) -> None:
        assert torch.get_float32_matmul_precision() == "highest" and torch.get_num_threads() == 1
        if event.stage in stages and end == "cancelled":
            cancel.set()
        if event.stage in stages and end == "failed":
            raise ZeroDivisionError

    def call() -> bytes:
        if what == "compress":
            own = CRAM if codec == "cram" else {"codec": "arith", "shared_mem": 0}
            return llmzip.compress(SHORT_TEXT, progress=watch, **more, **own)  # type: ignore[arg-type]
        if what == "decompress":
            return llmzip.decompress(both[codec], progress=watch, **more)  # type: ignore[arg-type]
        with llmzip.open(io.BytesIO(both[codec]), progress=watch, **more) as file:  # type: ignore[call-overload]
            return bytes(file.read())

    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("medium")
    torch.set_default_dtype(torch.float64)
    try:
        before = the_process()
        if end == "good":
            assert what == "compress" or call() == SHORT_TEXT
            assert what != "compress" or llmzip.decompress(call(), model=llama) == SHORT_TEXT
        else:
            with pytest.raises(Interrupted if end == "cancelled" else ZeroDivisionError):
                call()
        assert the_process() == before
    finally:
        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("highest")
        torch.set_default_dtype(torch.float32)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="an older torch"
)
@pytest.mark.parametrize("where", ["cuda.matmul", "cudnn.conv", "mkldnn.matmul"])
def test_precision_set_the_newer_way_is_full_meanwhile(
    llama: str, both: dict[str, bytes], where: str
) -> None:
    """Torch tells nothing of the older setting then."""
    module, kind = where.split(".")
    setting = getattr(getattr(torch.backends, module), kind)
    kinds = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul]  # type: ignore[attr-defined]
    own = setting.fp32_precision
    setting.fp32_precision = "tf32"
    before = [each.fp32_precision for each in kinds]
    seen: set[str] = set()
    try:
        back = llmzip.decompress(
            both["cram"], model=llama,
            progress=lambda event: seen.update(each.fp32_precision for each in kinds),
        )  # fmt: skip
        assert back == SHORT_TEXT
        assert seen == {"ieee"}
        assert [each.fp32_precision for each in kinds] == before
    finally:
        setting.fp32_precision = own


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


def test_threads_that_begin_together_load_one_model(
    both: dict[str, bytes], llama: str, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ModelCache.__init__

    def slow(self: ModelCache) -> None:
        time.sleep(0.2)
        real(self)

    monkeypatch.setattr(ModelCache, "__init__", slow)
    found: list[bytes] = []
    with llmzip.Decompressor(llama) as decompressor:
        threads = [
            threading.Thread(target=lambda: found.append(decompressor.decompress(both["cram"])))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [SHORT_TEXT] * 3 and loads == ["load_model"]


@pytest.fixture
def held(llama: str) -> Iterator[tuple[llmzip.Compressor, threading.Event, threading.Event]]:
    """A compressor that is at work in another thread until the first event is set, and then sets
    the second."""
    begun, go, goes_on = threading.Event(), threading.Event(), threading.Event()

    def wait(event: Progress) -> None:
        if not begun.is_set():
            begun.set()
            go.wait(20)
            goes_on.set()

    compressor = llmzip.Compressor(llama, **CRAM)  # type: ignore[arg-type]
    thread = threading.Thread(target=lambda: compressor.compress(SHORT_TEXT, progress=wait))
    thread.start()
    assert begun.wait(60)
    yield compressor, go, goes_on
    go.set()
    thread.join()


def test_who_waits_for_a_turn_may_be_stopped(
    held: tuple[llmzip.Compressor, threading.Event, threading.Event],
) -> None:
    compressor, _, goes_on = held
    cancel = threading.Event()
    threading.Timer(0.2, cancel.set).start()
    with pytest.raises(Interrupted):
        compressor.compress(SHORT_TEXT, cancel=cancel)
    assert not goes_on.is_set()


def test_closing_waits_for_the_call_under_way(
    held: tuple[llmzip.Compressor, threading.Event, threading.Event],
) -> None:
    compressor, go, _ = held
    errors: list[str] = []

    def another() -> None:
        try:
            compressor.compress(SHORT_TEXT)
        except ValueError as error:
            errors.append(str(error))

    waiting, closing = threading.Thread(target=another), threading.Thread(target=compressor.close)
    waiting.start()
    time.sleep(0.2)
    closing.start()
    closing.join(0.2)
    assert closing.is_alive() and compressor.closed
    go.set()
    closing.join(60)
    waiting.join(60)
    assert errors == ["this Compressor is closed"]
    assert compressor._models is not None and compressor._models._loaded is None  # nothing is kept


def test_runs_side_by_side_leave_no_thread_the_count_of_another() -> None:
    torch.set_num_threads(2)
    inside, go = threading.Event(), threading.Event()
    counts: dict[str, list[int]] = {"asks": [], "does not": []}

    def asks() -> None:
        with borrowed_torch(1):
            inside.set()
            go.wait(60)
            counts["asks"].append(torch.get_num_threads())
        counts["asks"].append(torch.get_num_threads())

    def does_not() -> None:
        inside.wait(60)
        with borrowed_torch(None):
            with borrowed_torch(3):
                counts["does not"].append(torch.get_num_threads())
            counts["does not"].append(torch.get_num_threads())
        go.set()
        first.join(60)
        counts["does not"].append(torch.get_num_threads())

    first, second = threading.Thread(target=asks), threading.Thread(target=does_not)
    try:
        first.start()
        second.start()
        first.join(60)
        second.join(60)
        assert counts == {"asks": [1, 2], "does not": [3, 2, 2]}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


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
        assert llmzip.decompress(compressor.compress(b"")) == b""  # it goes on


MODULES = [llmzip, session, fileobjects, llmzip.fsspec, llmzip.numcodecs, llmzip.zarr]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_examples_in_docstrings(
    module: types.ModuleType, llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(module, extraglobs={"llmzip": llmzip, "model": llama})
    assert found.attempted >= 2 and not found.failed


def test_the_example_in_the_readme(
    llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).resolve().parent.parent / "README.md").read_text()
    (example,) = re.findall(r"^```python\n(import llmzip\n.*?)^```", text, re.M | re.S)
    for name in ("compress", "decompress", "open", "Compressor", "Decompressor"):
        more = CRAM if name == "compress" else {}
        monkeypatch.setattr(llmzip, name, partial(getattr(llmzip, name), model=llama, **more))
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_bytes(SHORT_TEXT)
    Path("book.crm").write_bytes(llmzip.compress(SHORT_TEXT))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        exec(compile(example, "README.md", "exec"), {})
    assert SHORT_TEXT.decode() in capsys.readouterr().out


def test_importing_loads_nothing_heavy() -> None:
    import subprocess

    code = "import sys, llmzip; llmzip.Compressor; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"torch", "numpy", "transformers", "typer"} & set(loaded)
