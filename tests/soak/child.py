"""Runs part of a campaign in a process of its own, so that its memory can be told apart.

Owns the call across the border: `in_child("tests.soak.damage", "read_golden", seed=1)` gives what
the function of that name returns there.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.soak.outcome import Outcome, died

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """That of this process, with one thread and this project's packages."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def in_child(module: str, function: str, *, timeout_s: float, **options: Any) -> list[Outcome]:
    """What `module.function(**options)` returns in a new process; a failure is an outcome, too."""
    name = f"{function} of {module.rpartition('.')[2]}"
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "outcomes.json"
        command = [sys.executable, "-m", __name__, str(path), module, function, json.dumps(options)]
        try:
            done = subprocess.run(
                command,
                cwd=directory,
                env=environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return [died(name, f"{name}: not done after {timeout_s:.0f} s")]
        if done.returncode or not path.exists():
            last = done.stderr.decode(errors="replace").strip()[-2000:]
            return [died(name, f"{name}: exit code {done.returncode}: {last}")]
        return [from_json(fields) for fields in json.loads(path.read_text())]


def from_json(fields: Mapping[str, Any]) -> Outcome:
    """The inverse of `asdict` and JSON."""
    return Outcome(**{**fields, "notes": tuple(fields["notes"])})


def _main(path: str, module: str, function: str, options: str) -> None:
    outcomes = getattr(importlib.import_module(module), function)(**json.loads(options))
    Path(path).write_text(json.dumps([asdict(outcome) for outcome in outcomes]))


if __name__ == "__main__":
    _main(*sys.argv[1:])
