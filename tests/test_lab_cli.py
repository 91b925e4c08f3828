"""`llmzip lab` as a user runs it: every study on tiny models of all architectures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmzip.cli.main import main
from llmzip.lab.folder import Row, read_rows
from tests.tiny_models import ARCHITECTURES, TEXT

ROOT = Path(__file__).resolve().parent.parent
QUICK = ["--texts", "2", "--steps", "9", "--patience", "5", "--device", "cpu"]
# The study's own options, and the purposes of its rows.
STUDIES: dict[str, tuple[list[str], set[str]]] = {
    "capacity": (["--random"], {"growth", "capacity", "bin"}),
    "scaling": (["--mem", "1,2"], {"growth", "capacity"}),
    "entropy": (["--random"], {"chunk"}),
    "utilisation": ([], {"growth", "capacity", "bin"}),
    "lengths": (["--random"], {"growth", "capacity"}),
    "greedy": ([], {"greedy"}),
    "rate": (["--bits", "16,4,1", "--mem", "1,2"], {"growth", "capacity"}),
    "geometry": ([], {"solution", "path", "pair", "interpolation", "neighbour"}),
    "plan": (["--search"], {"stretch", "growth", "capacity", "trial"}),
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LLMZIP_MODEL", "LLMZIP_DEVICE", "LLMZIP_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text(TEXT)


def lab(study: str, model: Path, *more: str) -> int:
    own, _ = STUDIES[study]
    return main(
        ["lab", study, "book.txt", "--model", str(model), "--out", study, *own, *QUICK, *more]
    )


_LONG = ("rate", "geometry", "plan")


@pytest.mark.parametrize(
    "arch",
    ["llama", *(pytest.param(arch, marks=pytest.mark.slow) for arch in ARCHITECTURES[1:])],
)
@pytest.mark.parametrize(
    "study",
    [pytest.param(study, marks=pytest.mark.slow) if study in _LONG else study for study in STUDIES],
)
def test_every_study_on_every_architecture(
    study: str, arch: str, tiny_model: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    assert lab(study, tiny_model(arch), "--json") == 0
    out, err = capfd.readouterr()
    summary = json.loads(out)
    assert summary["study"] == study and summary["tables"] and summary["versions"]["torch"]
    rows = read_rows(Path(study))
    assert {row["purpose"] for row in rows} <= STUDIES[study][1]
    assert rows and all(row["model"] == tiny_model(arch).name for row in rows)
    found = {path.name for path in Path(study).iterdir()}
    assert {"settings.json", "rows.csv", "summary.json", "report.html"} <= found
    if study != "plan":
        assert {f"{study}.png", f"{study}.svg"} <= found
    assert f"report: {study}/report.html" in err
    assert not [name for name in found if name.endswith((".tmp", ".lock"))]


def test_capacity_of_sign_vectors(
    tiny_model: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    assert lab("scaling", tiny_model("llama"), "--bits", "1", "--preset", "balanced") == 0
    rows = read_rows(Path("scaling"))
    assert {row["purpose"] for row in rows} == {"growth", "capacity"}
    held = [row for row in rows if row["purpose"] == "capacity" and row["num_tokens"]]
    assert {row["num_mem"] for row in held} == {1, 2} and {row["bits"] for row in rows} == {1}
    assert {row["detail"] for row in held} == {1}  # a bit a coordinate
    assert all(row["exact"] and row["steps"] <= 9 for row in held)  # --steps counts for signs, too
    settings = json.loads((Path("scaling") / "settings.json").read_text())
    settings = settings["settings"]
    assert (settings["bits"], settings["preset"]) == (1, "balanced")
    assert lab("capacity", tiny_model("llama"), "--bits", "2") == 0
    assert "bin" not in {row["purpose"] for row in read_rows(Path("capacity"))}
    assert main(["lab", "capacity", "book.txt", "--bits", "9"]) == 2


def test_a_plan_searches_only_when_asked(
    tiny_model: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["lab", "plan", "book.txt", "--model", str(tiny_model("llama")), *QUICK]
    assert main([*command, "--out", "quick"]) == 0
    out, err = capfd.readouterr()
    assert err.startswith("rows, pictures and the report go into the folder quick\n")
    assert "by the model's calibration" in out
    assert {row["purpose"] for row in read_rows(Path("quick"))} == {"stretch", "trial"}
    assert main([*command, "--out", "search", "--search", "-q"]) == 0
    out, err = capfd.readouterr()
    assert "by the model's calibration" not in out and err == ""
    assert "capacity" in {row["purpose"] for row in read_rows(Path("search"))}


def test_the_table_is_printed(
    tiny_model: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    assert lab("capacity", tiny_model("llama")) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("Capacity (exact: decoded greedily")
    assert lines[1].split()[:3] == ["model", "mem", "texts"]
    assert [line.split()[3] for line in lines[2:]] == ["natural", "random"]


def test_the_same_command_goes_on(
    tiny_model: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model("llama")
    assert lab("lengths", model) == 0
    file = Path("lengths") / "rows.csv"
    rows, whole = file.read_bytes(), read_rows(Path("lengths"))
    assert lab("lengths", model) == 0  # nothing is left to be done
    assert file.read_bytes() == rows
    # A run that was killed while its second group of texts was being written.
    lines = rows.splitlines(keepends=True)
    first = next(place for place, line in enumerate(lines) if line.startswith(b"capacity")) + 2
    assert b"random" in lines[first] and len(lines) > first + 4
    file.write_bytes(b"".join(lines[: first + 3]) + lines[first + 3][:20])
    assert lab("lengths", model) == 0
    assert without_seconds(read_rows(Path("lengths"))) == without_seconds(whole)
    capfd.readouterr()
    assert lab("lengths", model, "--seed", "1") == 1
    assert "seed was 0, is 1" in capfd.readouterr().err
    assert lab("lengths", model, "--seed", "1", "--restart") == 0


def without_seconds(rows: list[Row]) -> list[Row]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_the_report_is_made_again(
    tiny_model: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    assert lab("entropy", tiny_model("llama")) == 0
    page = Path("entropy") / "report.html"
    before = page.read_bytes()
    page.unlink()
    assert main(["lab", "report", "entropy"]) == 0
    assert page.read_bytes() == before
    assert capfd.readouterr().out.endswith("entropy/report.html\n")
    assert main(["lab", "report", "book.txt"]) == 1
    assert main(["lab", "report", "."]) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["capacity"], 2, "there is no text to be crammed"),
        (["capacity", "missing.txt"], 1, "cannot read missing.txt"),
        (["capacity", "book.txt", "--mem", "1,x"], 2, "not a list of numbers"),
        (["capacity", "book.txt", "--mem", "0"], 2, "from 1 to 64"),
        (["capacity", "book.txt", "--recipe", "mine"], 2, "--recipe is llmzip or paper"),
        (["capacity", "book.txt", "--rate", "0.1"], 2, "--rate goes with"),
        (["capacity", "book.txt", "--steps", "0"], 2, "no such recipe"),
        (["capacity", "book.txt", "--texts", "500"], 1, "are needed"),
        (["rate", "book.txt", "--bits", "9"], 2, "--bits"),
        (["capacity", "book.txt", "--out", "book.txt"], 1, "cannot write book.txt"),
        (["capacity", "book.txt", "--out", "."], 1, "not empty"),
        (["nothing"], 2, "No such command"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str], code: int, message: str, tiny_model: Callable[..., Path],
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    model = ["--model", str(tiny_model("llama"))] if arguments[0] != "nothing" else []
    assert main(["lab", *arguments, *model]) == code
    err = capfd.readouterr().err
    assert message in err and "Traceback" not in err


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom llmzip.cli.main import main\nmain(['lab', 'capacity', '--help'])\n"
        "heavy = {'torch', 'matplotlib', 'jinja2', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    for words in ("--random", "--mem K,...", "Texts:", "Cramming:", "--restart"):
        assert words in done.stdout


def test_without_its_packages_the_lab_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("llmzip.cli.lab.find_spec", lambda name: None)
    assert main(["lab", "capacity", "book.txt"]) == 1
    assert "pip install matplotlib jinja2" in capfd.readouterr().err
