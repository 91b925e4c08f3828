"""The recipes in scripts/lab give commands that `llmzip lab` takes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from llmzip.cli.main import app

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts" / "lab"
RECIPES = sorted(path for path in SCRIPTS.glob("*.sh") if path.name != "common.sh")
STUDIES = {
    "capacity", "scaling", "entropy", "rate", "greedy", "geometry", "utilisation", "plan",
}  # fmt: skip


def run(recipe: Path, tmp_path: Path, stub: str) -> tuple[int, list[list[str]]]:
    """Exit code, and the commands, with a stub in the place of llmzip."""
    called = tmp_path / "called"
    bin_path = tmp_path / "bin"
    bin_path.mkdir()
    program = bin_path / "llmzip"
    program.write_text(f'#!/bin/sh\necho "$*" >> {called}\n{stub}\n')
    program.chmod(0o755)
    env = {
        **os.environ,
        "PATH": f"{bin_path}{os.pathsep}{os.environ['PATH']}",
        "TEXTS": "book.txt other.txt", "WORDS": "words.txt", "OUT": str(tmp_path / "out"),
    }  # fmt: skip
    ended = subprocess.run(["bash", str(recipe)], env=env, capture_output=True, check=False)
    return ended.returncode, [line.split() for line in called.read_text().splitlines()]


def parsed(arguments: Sequence[str]) -> dict[str, Any]:
    """What a command of the lab understands. Raises click's usage errors."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("llmzip", list(arguments), resilient_parsing=True)
    lab = group.get_command(context, "lab")
    command = lab.get_command(context, arguments[1])
    found: dict[str, Any] = command.make_context(arguments[1], list(arguments[2:])).params
    return found


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_commands_are_understood(recipe: Path, tmp_path: Path) -> None:
    code, commands = run(recipe, tmp_path, "")
    assert code == 0 and commands
    outs = [parsed(arguments)["out"] for arguments in commands]
    assert len(set(outs)) == len(outs), "every study has a folder of its own"
    if recipe.stem == "smollm2-135m":
        assert {arguments[1] for arguments in commands} == STUDIES


def test_a_study_that_fails_is_told(tmp_path: Path) -> None:
    code, commands = run(SCRIPTS / "smollm2-135m.sh", tmp_path, '[ "$2" != greedy ] || exit 3')
    assert code == 3
    studies = [arguments[1] for arguments in commands]
    assert "geometry" not in studies, "what follows in its lane is not begun"
    assert studies.count("plan") == 2, "the other lane goes on"
