"""The notebook and the shell session among the examples run to their ends, on the default model."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import llmzip

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.mark.real_model
def test_the_notebook_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    notebook = json.loads((EXAMPLES / "vectors.ipynb").read_text())
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        assert not cell.get("outputs"), "it is kept without outputs"
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    said = capsys.readouterr().out
    assert "mill.crm   .crm v1" in said and "tokens [" in said and "The mill stood where" in said
    assert len(names["small"]) < len(names["packed"])  # type: ignore[arg-type]


@pytest.mark.real_model
def test_vectors_recite_in_plain_transformers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    recite = importlib.import_module("recite")
    assert recite.main([]) == 0
    said = capsys.readouterr().out
    assert said.endswith("equal to the text\n") and "patched" not in said
    text = "".join(line for line in said.splitlines()[:-1] if not line.startswith("chunk "))
    assert text == recite.TEXT.decode()
    patched = tmp_path / "mill.crm"
    patched.write_bytes(llmzip.compress(recite.TEXT, preset="fast", bits=1, max_patches=0.5))
    assert llmzip.info(patched).num_patches > 0
    assert recite.main([str(patched)]) == 0
    assert "are patched" in capsys.readouterr().out


@pytest.mark.real_model
def test_the_session_runs() -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ended = subprocess.run(
        ["sh", str(EXAMPLES / "session.sh")],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
    )
    assert "The lighthouse at Carrow Point had been dark for eleven year\n" in ended.stdout
    assert "exit code 3" in ended.stdout and "exit code 1" in ended.stdout
    told = ended.stderr.splitlines()
    assert sum(line.endswith(", verified") for line in told) == 3
    assert "tale.txt is already there, and identical" in told
    assert "tale.crm is already there, made of tale.txt with the same model and settings" in told
    assert "error: tale.txt exists and differs from what tale.crm holds [exit 1]" in told
