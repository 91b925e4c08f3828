"""The recipes in scripts/lab give commands that `llmzip lab` takes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from llmzip.cli.main import app
from tests.llmzip_in_path import llmzip_in_path

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts" / "lab"
RECIPES = sorted(path for path in SCRIPTS.glob("*.sh") if path.name != "common.sh")
STUDIES = {
    "capacity", "scaling", "entropy", "rate", "greedy", "geometry", "utilisation", "plan",
}  # fmt: skip


def environment(tmp_path: Path, script: str) -> dict[str, str]:
    """With a script in the place of llmzip, and the settings that recipes read."""
    own = {"TEXTS": "book.txt other.txt", "WORDS": "words.txt", "OUT": str(tmp_path / "out")}
    return {**llmzip_in_path(tmp_path, script), **own}


def run(recipe: Path, tmp_path: Path, stub: str) -> tuple[int, list[list[str]]]:
    """Exit code, and the commands, with a stub in the place of llmzip."""
    called = tmp_path / "called"
    env = environment(tmp_path, f'echo "$*" >> {called}\n{stub}')
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
    assert "geometry" not in studies, "what follows in its queue is not begun"
    assert "utilisation" in studies, "the other queue goes on"


def test_what_a_recipe_has_begun_ends_with_it(tmp_path: Path) -> None:
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    at_end = f"sleep 0.5; echo $2 >> {ended}; exit 143"
    script = f"trap '{at_end}' TERM\necho $2 >> {begun}\nsleep 10 & wait"
    recipe = ["bash", str(SCRIPTS / "smollm2-135m.sh")]
    with subprocess.Popen(
        recipe, env=environment(tmp_path, script), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as running:  # fmt: skip
        try:
            until = time.monotonic() + 20
            while not begun.exists() or len(begun.read_text().split()) < 2:
                assert time.monotonic() < until
                time.sleep(0.05)
            running.terminate()
            assert running.wait(20) == 130
        finally:
            running.kill()
    assert sorted(ended.read_text().split()) == ["capacity", "scaling"]
    assert sorted(begun.read_text().split()) == ["capacity", "scaling"]
