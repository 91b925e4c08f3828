"""The notebook and the shell session among the examples run to their ends, on the default model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.mark.real_model
def test_the_notebook_runs(capsys: pytest.CaptureFixture[str]) -> None:
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
