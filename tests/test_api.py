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
from llmzip.codecs.arith import encoder as arith_encoding
from llmzip.codecs.arith import segments
from llmzip.config import CompressSettings, ComputeSettings, DecompressSettings
from llmzip.inspect.report import Report, read_report
from tests.fake_codec import MODULES
from tests.tiny_models import TEXT

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "tests" / "data" / "v1_tiny.crm"
BOOK = TEXT.encode()


@pytest.fixture
def codec(monkeypatch):
    fake = types.ModuleType("fake_codec")
    fake.calls = []

    def call(data, settings, context):
        fake.calls.append((data, settings, context.on_progress, context.cancel))
        return b"result"

    fake.compress_bytes = fake.decompress_bytes = call
    for name in MODULES:
        monkeypatch.setitem(sys.modules, name, fake)
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
        codec="auto",
        try_cram=True,
        shared_mem=4,
        verify="full",
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
        codec="auto",
        try_cram=True,
        shared_mem=4,
        verify="full",
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
        span=(2, 5),
        perturb=0.5,
        offline=True,
        progress=print,
        cancel=cancel,
    )
    settings = DecompressSettings(
        model="m/n",
        revision="r",
        max_output_bytes=10,
        span=(2, 5),
        perturb=0.5,
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


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_mem": 0}, "`num_mem` is a number"),
        ({"codec": "zip"}, "`codec` is one of cram, arith, auto"),
        ({"codec": "arith", "try_cram": True}, "`try_cram` goes with `codec` auto"),
        ({"try_cram": True}, "`try_cram` goes with `codec` auto"),
        ({"codec": "arith", "num_mem": 2}, "none of the options of cramming"),
        ({"codec": "auto", "preset": "small"}, "none of the options of cramming"),
        ({"codec": "arith", "time_budget_s": 9.0}, "none of the options of cramming"),
        ({"shared_mem": 1, "bits": 16}, "does not go with 16 `bits`"),
        ({"verify": "full"}, "goes with `codec` arith or auto"),
        ({"codec": "arith", "shared_mem": 17}, "`shared_mem` is a number from 0 to 16"),
        ({"codec": "arith", "verify": "twice"}, "`verify` is quick or full"),
    ],
)
def test_settings_are_checked_before_the_work(codec, settings, words):
    with pytest.raises(llmzip.SettingsError, match=words):
        llmzip.compress(b"text", **settings)
    assert codec.calls == []


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"bits": 9}, ("bits",)),
        ({"max_patches": float("nan")}, ("max_patches",)),
        ({"time_budget_s": float("inf")}, ("time_budget_s",)),
        ({"threads": 0}, ("threads",)),
        ({"codec": "`bits`"}, ("codec",)),
        ({"shared_mem": 1, "bits": 16}, ("shared_mem", "bits")),
        ({"verify": "full"}, ("verify", "codec")),
    ],
)
def test_an_error_has_the_names_of_its_settings(codec, settings, names):
    with pytest.raises(llmzip.SettingsError) as caught:
        llmzip.compress(b"text", **settings)
    assert caught.value.settings == names
    assert all(f"`{name}`" in str(caught.value) for name in names)


@pytest.mark.parametrize("settings", [{"span": (5, 3)}, {"span": (-1, 2)}, {"perturb": -0.1}])
def test_decompress_settings_are_checked_before_the_work(codec, settings):
    with pytest.raises(llmzip.SettingsError):
        llmzip.decompress(b"packed", **settings)
    assert codec.calls == []


# --- the arith codec, on a tiny model


@pytest.fixture(scope="module")
def llama(tiny_model):
    return str(tiny_model("llama"))


@pytest.fixture(scope="module")
def packed(llama):
    """`BOOK` in three segments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "_SEGMENT_BYTES", 300)
        return llmzip.compress(BOOK, model=llama, codec="arith")


def test_an_arith_round_trip(llama, packed):
    report = llmzip.info(packed)
    assert (report.codec, report.num_segments) == ("arith", 3)
    assert len(packed) < len(BOOK)
    assert llmzip.decompress(packed, model=llama) == BOOK
    assert llmzip.decompress(packed, model=llama, batch=1, threads=1, attention="eager") == BOOK


def test_verify_in_full_decodes_a_text_of_any_length(llama):
    def stages(verify):
        told = []
        found = llmzip.compress(
            BOOK, model=llama, codec="arith", verify=verify, progress=told.append
        )
        return found, [event.chunks_total > 0 for event in told if event.stage == "verify"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arith_encoding, "_FULLY_VERIFIED_TOKENS", 10)
        (quick, by_replay), (full, by_decoding) = stages("quick"), stages("full")
    assert quick == full
    assert by_replay and not any(by_replay)  # streams read back, segment by segment
    assert by_decoding and all(by_decoding)


def test_a_span_decodes_no_more_than_its_segments(llama, packed):
    num_tokens = llmzip.info(packed).num_tokens
    for span in ((0, 10), (310, 400), (len(BOOK) - 1, len(BOOK))):
        told = []
        part = llmzip.decompress(packed, model=llama, span=span, progress=told.append)
        assert part == BOOK[slice(*span)]
        assert 0 < told[-1].tokens_total <= num_tokens / 2
    for span in ((0, len(BOOK)), (200, 600), (40, 40)):
        assert llmzip.decompress(packed, model=llama, span=span) == BOOK[slice(*span)]


def test_a_span_beyond_the_end_is_refused(llama, packed):
    with pytest.raises(llmzip.SettingsError, match=f"the original has {len(BOOK)} bytes"):
        llmzip.decompress(packed, model=llama, span=(0, len(BOOK) + 1))


def test_a_span_of_a_stored_text():
    stored = llmzip.compress(bytes(range(256)))
    assert llmzip.info(stored).codec == "stored"
    assert llmzip.decompress(stored, span=(3, 9)) == bytes(range(3, 9))


def test_noise_within_the_guard_changes_nothing_and_much_more_is_found_out(llama, packed):
    assert llmzip.decompress(packed, model=llama, perturb=0.9) == BOOK
    with pytest.raises(llmzip.IntegrityError, match="segment 1 of 3"):
        llmzip.decompress(packed, model=llama, perturb=5000.0)


def test_perturb_needs_an_arith_file():
    with pytest.raises(llmzip.SettingsError, match="`perturb` needs a file of the arith codec"):
        llmzip.decompress(TINY.read_bytes(), perturb=0.5)


def test_shared_vectors_as_many_as_asked_for(llama):
    found = llmzip.compress(BOOK, model=llama, codec="arith", shared_mem=1)
    assert llmzip.info(found).arith.num_shared_vectors == 1
    assert llmzip.decompress(found, model=llama) == BOOK
    without = llmzip.compress(BOOK, model=llama, codec="arith", shared_mem=0)
    assert llmzip.info(without).arith.num_shared_vectors == 0


def test_auto_with_try_cram_is_no_larger_than_either(llama):
    data = BOOK[:350]
    cram = {"num_mem": 2, "budget_bits": 40.0, "max_steps": 20, "context_tokens": 0}
    both = llmzip.compress(data, model=llama, codec="auto", try_cram=True, **cram)
    either = [
        llmzip.compress(data, model=llama, codec="cram", **cram),
        llmzip.compress(data, model=llama, codec="arith"),
    ]
    assert len(both) == min(map(len, either))
    assert llmzip.decompress(both, model=llama) == data


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
