"""The notebook among the examples runs from top to bottom, on the default model."""

from __future__ import annotations

import json
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
