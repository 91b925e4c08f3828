"""The pages about the command line: complete, fresh, and sound for the tools that show them."""

from __future__ import annotations

import shutil
import subprocess

import make_cli_docs
import pytest
import typer
from make_cli_docs import MAN, MARKDOWN, Entry, Page, exit_codes, manual, markdown, pages

from llmzip import errors
from llmzip.cli.commands import ENTRIES
from llmzip.cli.main import app

FRESH = "run `python scripts/make_cli_docs.py` (make docs)"


@pytest.fixture(scope="module")
def found() -> list[Page]:
    return pages()


def test_both_pages_are_fresh(found):
    assert MARKDOWN.read_text(encoding="utf-8") == markdown(found), FRESH
    assert MAN.read_text(encoding="utf-8") == manual(found), FRESH


def test_a_stale_page_is_found_and_written_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make_cli_docs, "ROOT", tmp_path)
    monkeypatch.setattr(make_cli_docs, "MARKDOWN", tmp_path / "CLI.md")
    monkeypatch.setattr(make_cli_docs, "MAN", tmp_path / "llmzip.1")
    assert make_cli_docs.main([]) == 0 and make_cli_docs.main(["--check"]) == 0
    (tmp_path / "CLI.md").write_text("old")
    capsys.readouterr()
    assert make_cli_docs.main(["--check"]) == 1
    assert "stale: CLI.md" in capsys.readouterr().err
    assert (tmp_path / "CLI.md").read_text() == "old"
    assert make_cli_docs.main([]) == 0 and make_cli_docs.main(["--check"]) == 0


def test_every_command_and_option_is_on_both_pages(found):
    """Against the commands themselves: not by way of what the script made of them."""
    root = typer.main.get_command(app)
    context = typer.Context(root, info_name="llmzip")
    text, man = markdown(found), manual(found).replace(r"\-", "-")
    num_options = 0
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        assert f"\n## llmzip {name}\n" in text and f"\n.SS {name}\n" in man
        for param in command.params:
            if param.param_type_name == "option" and not param.hidden:
                num_options += 1
                for spelling in param.opts:
                    assert f"{spelling}" in text and f"{spelling}" in man
    assert num_options > 50
    assert [page.name for page in found][:2] == ["llmzip", "llmzip compress"]
    assert "llmzip lab capacity" in {page.name for page in found}
    for name in ENTRIES:
        assert f"llmzip {name}" in {page.name for page in found}


def test_defaults_and_variables_are_named(found):
    (seed,) = [
        each
        for page in found
        if page.name == "llmzip compress"
        for entries in page.sections.values()
        for each in entries
        if each.spelling.startswith("--seed")
    ]
    assert seed == Entry(spelling="--seed S", meaning="Seed of the starting vectors. [default: 0]")
    assert "environment: LLMZIP_MODEL" in markdown(found)
    assert "\\fBLLMZIP_DEVICE\\fR\nStands for \\-\\-device." in manual(found)


def test_exit_codes_are_those_of_the_errors():
    known = {
        getattr(errors, name).exit_code
        for name in vars(errors)
        if isinstance(getattr(errors, name), type) and hasattr(getattr(errors, name), "exit_code")
    }
    listed = [int(code) for code, _ in exit_codes()]
    assert set(listed) == {0, *known, 130, 143}
    assert listed == sorted(listed)


def test_roff_takes_nothing_for_a_request():
    page = Page(
        name="llmzip x", usage="llmzip x", paragraphs=(".br 'a' \\b ~",), sections={}, commands=()
    )
    lines = manual([page, page]).splitlines()
    assert "\\&.br \\(aqa\\(aq \\eb \\(ti" in lines


@pytest.mark.parametrize(
    "command", [["mandoc", "-Tlint", "-Wwarning"], ["groff", "-man", "-ww", "-Tutf8", "-z"]]
)
def test_the_manual_renders_without_warnings(command):
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} on this machine")
    done = subprocess.run([*command, str(MAN)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
