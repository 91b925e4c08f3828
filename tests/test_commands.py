"""The table of commands, how little is imported for it, and completion in the shell."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from llmzip import config
from llmzip.cli import names
from llmzip.cli.commands import ENTRIES
from llmzip.cli.main import app, main
from llmzip.cli.settings import option_name
from tests.llmzip_in_path import llmzip_in_path

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "tests" / "data" / "v1_tiny.crm"
HEAVY = {"torch", "transformers", "matplotlib", "jinja2", "ray", "safetensors", "tokenizers"}
# Measured: 168 with typer 0.29. A module of ours that imports a room too many adds dozens.
MOST_MODULES_OF_HELP = 230
MOST_CPU_SECONDS_OF_HELP = 0.3


def modules_after(*arguments: str) -> set[str]:
    """What is imported once the command line has run."""
    code = (
        "import sys; from llmzip.cli.main import main; main(sys.argv[1:]); "
        "print('\\nmodules', *sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "LLMZIP_DEBUG"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    return set(done.stdout.rpartition("\nmodules ")[2].split())


def test_help_imports_next_to_nothing():
    found = modules_after("--help")
    assert "llmzip.cli.main" in found
    assert not {name.split(".")[0] for name in found} & {*HEAVY, "numpy", "rich", "pydantic"}
    assert not {f"llmzip.cli.{name}" for name in ENTRIES} & found
    assert len(found) < MOST_MODULES_OF_HELP


@pytest.mark.parametrize("command", ["info", "test"])
def test_looking_at_a_file_imports_no_more_than_the_container(command):
    found = modules_after(command, str(TINY))
    assert "llmzip.store.container" in found
    assert not {name.split(".")[0] for name in found} & {*HEAVY, "rich"}
    others = {f"llmzip.cli.{name}" for name in ENTRIES if name not in ("compress", command)}
    assert not others & found


def test_help_takes_little_time():
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "llmzip", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < MOST_CPU_SECONDS_OF_HELP


@pytest.mark.parametrize(
    ("name", "kind"),
    [("compress", config.CompressSettings), ("decompress", config.DecompressSettings)],
)
def test_every_setting_has_an_option(name, kind):
    root = typer.main.get_command(app)
    command = root.get_command(typer.Context(root, info_name="llmzip"), name)
    options = {spelling for each in command.params for spelling in each.opts}
    declared = {option_name(each) for each in config.declared(kind).values()}
    assert len(declared) == len(config.declared(kind))
    assert declared <= options


def test_every_entry_has_its_command_and_a_line_that_fits(capfd):
    assert main(["--help"]) == 0
    out = capfd.readouterr().out
    root = typer.main.get_command(app)
    context = typer.Context(root, info_name="llmzip")
    assert root.list_commands(context) == list(ENTRIES)
    for name, summary in ENTRIES.items():
        assert root.get_command(context, name).name == name
        assert f"  {name} " in out and f" {summary}\n" in out
        assert main([name, "--help"]) == 0
        assert f"Usage: llmzip {name} " in capfd.readouterr().out
    assert root.get_command(context, "nothing") is None


def test_a_name_that_is_nearly_right_is_suggested(capfd):
    assert main(["decompres", "x"]) == 2
    assert "'decompress'" in capfd.readouterr().err


def test_words_and_names_of_models():
    assert names.any_of("auto|cpu|cuda")("c") == ["cpu", "cuda"]
    assert names.model_names("smol") == ["smollm2-135m-text", "smollm2-135m"]
    assert names.model_names("x") == []


def test_files_to_decompress(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert names.crm_files("") == []
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").touch()
    assert names.crm_files("") == []  # the shell goes on by itself
    (tmp_path / "a.crm").touch()
    assert names.crm_files("") == ["a.crm", "sub/"]
    assert names.crm_files("b") == []
    (tmp_path / "sub" / "[c].crm").touch()
    assert names.crm_files("sub/") == []  # needs quotes, which the shell knows how to set
    (tmp_path / "sub" / "[c].crm").rename(tmp_path / "sub" / "c.crm")
    assert names.crm_files("sub/c") == ["sub/c.crm"]


BASH = """
source "$1"
COMP_WORDS=("${@:2}")
COMP_CWORD=$(( $# - 2 ))
_llmzip_completion llmzip
echo "${COMPREPLY[*]}"
"""


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """Completes a line in bash, by the script that llmzip itself prints."""
    folder = tmp_path_factory.mktemp("completion")
    (folder / "book.crm").touch()
    (folder / "book.txt").touch()
    own = llmzip_in_path(folder, f'exec "{sys.executable}" -m llmzip "$@"')
    environment = {**own, "PYTHONPATH": str(ROOT)}
    script = folder / "completion.bash"
    shown = subprocess.run(
        ["llmzip"], capture_output=True, text=True, check=True,
        env={**environment, "_LLMZIP_COMPLETE": "source_bash"},
    )  # fmt: skip
    script.write_text(shown.stdout)

    def complete(*line: str) -> list[str]:
        done = subprocess.run(
            ["bash", "--norc", "-c", BASH, "bash", str(script), *line],
            capture_output=True, text=True, check=True, env=environment, cwd=folder,
        )  # fmt: skip
        return done.stdout.split()

    return complete


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (("llmzip", "deco"), ["decompress"]),
        (("llmzip", "lab", "cap"), ["capacity"]),
        (("llmzip", "compress", "--try"), ["--try-cram"]),
        (("llmzip", "compress", "--preset", "b"), ["balanced"]),
        (("llmzip", "decompress", "bo"), ["book.crm"]),
        (("llmzip", "compress", "bo"), []),  # the shell's own files
    ],
)
def test_bash_completes(shell, line, wanted):
    assert shell(*line) == wanted


@pytest.mark.parametrize("name", ["zsh", "fish"])
def test_other_shells_complete(name, tmp_path):
    def run(**variables: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "llmzip"],
            capture_output=True, text=True, check=True,
            env={**os.environ, **variables},
        ).stdout  # fmt: skip

    script = run(_LLMZIP_COMPLETE=f"source_{name}")
    assert f"complete_{name}" in script
    answer = run(
        _LLMZIP_COMPLETE=f"complete_{name}",
        _TYPER_COMPLETE_ARGS="llmzip decomp",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )
    assert "decompress" in answer
