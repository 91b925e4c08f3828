"""What a model computes with: its form in a journal, and devices that are not there."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from llmzip.errors import SettingsError
from llmzip.lm.devices import Numerics, out_of_memory_error, pick_device


def test_numerics_in_a_journal() -> None:
    numerics = Numerics.of(torch.device("cuda", 0), torch.bfloat16)
    assert numerics == Numerics("cuda", "torch.bfloat16")
    assert numerics.to_text() == "cuda torch.bfloat16"
    assert Numerics.from_text("cuda torch.bfloat16") == numerics


@pytest.mark.parametrize("text", ["", "cpu", "cpu torch.float32 1", "cpu  torch.float32"])
def test_text_that_is_no_numerics(text: str) -> None:
    assert Numerics.from_text(text) is None


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SettingsError, match=f"`device` {name}: no {name.upper()} device"):
        pick_device(name)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")


def test_the_fastest_device_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")


def test_only_a_lack_of_memory_is_caught() -> None:
    def fail(message: str) -> None:
        raise RuntimeError(message)

    cpu = torch.device("cpu")
    assert out_of_memory_error(lambda: None, cpu) is None
    error = out_of_memory_error(lambda: fail("MPS backend out of memory"), cpu)
    assert error is not None and error.__traceback__ is None
    with pytest.raises(RuntimeError, match="another"):
        out_of_memory_error(lambda: fail("another"), cpu)


def test_memory_is_measured_without_torch() -> None:
    code = (
        "import sys, llmzip.lm.memory as m; m.free_ram_bytes(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
