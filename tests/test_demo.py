"""`llmzip demo`: a round trip that shows itself and leaves nothing."""

from __future__ import annotations

import os

import pytest

from llmzip.cli import demo as demo_module
from llmzip.cli import preflight
from llmzip.cli.main import main
from llmzip.errors import Interrupted
from llmzip.inspect import demo as demonstration

TEXT = b"the mill stands by the river and the water turns its wheel all day"


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("LLMZIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LLMZIP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def test_the_text_comes_back_and_nothing_is_left(tiny_model, capfd, monkeypatch, tmp_path):
    monkeypatch.setattr(demonstration, "TEXT", TEXT)
    assert main(["demo", "--model", str(tiny_model("llama")), "--threads", "1", "--offline"]) == 0
    out = capfd.readouterr().out
    assert out.count(f"  | {TEXT.decode()}\n") == 2
    assert out.endswith("identical, byte for byte\n")
    assert "numbers" in out and "what the model wrote, from " in out
    for name in ("the text", "xz -9e", "zstd -19", "llmzip, vectors", "llmzip --codec arith"):
        assert f"\n{name} " in out
    assert os.listdir(tmp_path / "here") == []


def test_a_text_that_is_not_the_same_is_said_to_be_another():
    trips = [
        demonstration.Trip(
            codec=codec, packed=packed, text=text, compress_seconds=1.0, decompress_seconds=1.0
        )
        for codec, packed, text in (("cram", stored(), TEXT), ("arith", stored(), b"another"))
    ]
    assert "NOT identical" in demo_module._result(TEXT, trips)
    assert "identical, byte for byte" in demo_module._result(TEXT, trips[:1])


def stored() -> bytes:
    from llmzip.store.stored import pack_stored

    return pack_stored(TEXT)


def test_offline_refuses_a_model_that_is_not_here(capfd):
    assert main(["demo", "--offline"]) == 5
    assert "llmzip model pull smollm2-135m-text (fetches 93 MB, once)" in capfd.readouterr().err


class Terminal:
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("answer", [True, False])
def test_before_a_model_is_fetched_one_is_asked(answer, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(preflight.os, "isatty", lambda number: True)
    monkeypatch.setattr(preflight.sys, "stdin", Terminal())
    monkeypatch.setattr(demo_module, "agrees", lambda line: asked.append(line) or answer)
    if answer:
        demo_module._ask_for_model("smollm2-135m-text", is_allowed=False)
    else:
        with pytest.raises(Interrupted):
            demo_module._ask_for_model("smollm2-135m-text", is_allowed=False)
    question = "the model smollm2-135m-text is not on this machine; fetch 93 MB, once? [Y/n] "
    assert asked == [question]


def test_nobody_is_asked_with_yes_without_a_terminal_or_for_another_model(monkeypatch):
    def ask(line):
        raise AssertionError(line)

    monkeypatch.setattr(demo_module, "agrees", ask)
    monkeypatch.setattr(preflight.os, "isatty", lambda number: False)
    demo_module._ask_for_model("smollm2-135m-text", is_allowed=False)
    monkeypatch.setattr(preflight.os, "isatty", lambda number: True)
    monkeypatch.setattr(preflight.sys, "stdin", Terminal())
    demo_module._ask_for_model("smollm2-135m-text", is_allowed=True)
    demo_module._ask_for_model("another", is_allowed=False)
