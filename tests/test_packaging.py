"""What is in a wheel and in a source archive, made by the build itself."""

from __future__ import annotations

import ast
import re
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

from llmzip.config import VERSION
from llmzip.inspect import environment as surroundings

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "llmzip").rglob("*.py"))


def build(builder: object, folder: Path) -> Path:
    (made,) = builder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return Path(made)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    with zipfile.ZipFile(build(WheelBuilder, tmp_path_factory.mktemp("wheel"))) as opened:
        yield opened


def test_the_wheel_has_all_of_the_package(wheel):
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "llmzip").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in wheel.namelist() if name.startswith("llmzip/")}
    assert packed == wanted
    assert {
        "llmzip/py.typed",
        "llmzip/lab/published.json",
        "llmzip/lab/report.html.j2",
        "llmzip/inspect/page.css",
        "llmzip/inspect/page.html.j2",
        "llmzip/lab/report.js",
    } <= packed


def test_the_wheel_has_manual_licence_and_command(wheel):
    stem = f"llmzip-{VERSION}"
    man = wheel.read(f"{stem}.data/data/share/man/man1/llmzip.1")
    assert man == (ROOT / "man" / "llmzip.1").read_bytes()
    licence = wheel.read(f"{stem}.dist-info/licenses/LICENSE")
    assert licence == (ROOT / "LICENSE").read_bytes()
    points = wheel.read(f"{stem}.dist-info/entry_points.txt").decode()
    assert "llmzip = llmzip.cli.main:main" in points
    others = {name.split("/")[0] for name in wheel.namelist()}
    assert others == {"llmzip", f"{stem}.data", f"{stem}.dist-info"}


def test_extras(wheel):
    metadata = wheel.read(f"llmzip-{VERSION}.dist-info/METADATA").decode()
    assert f"\nVersion: {VERSION}\n" in metadata
    found: dict[str, set[str]] = {}
    for line in re.findall(r"^Requires-Dist: (.+)$", metadata, re.M):
        each = Requirement(line)
        extra = re.search(r'extra == "(\w+)"', str(each.marker))
        found.setdefault(extra[1] if extra else "", set()).add(each.name)
    assert found["lab"] == {"matplotlib", "jinja2"}
    assert (found["plot"], found["compare"], found["ray"]) == ({"matplotlib"}, {"brotli"}, {"ray"})
    assert found["page"] == {"jinja2"}
    assert (found["fsspec"], found["numcodecs"]) == ({"fsspec"}, {"numcodecs"})
    assert found["zarr"] == {"zarr", "numcodecs"}
    assert found["all"] == {
        "matplotlib", "jinja2", "brotli", "ray", "fsspec", "numcodecs", "zarr",
    }  # fmt: skip
    assert not found["all"] & found[""]
    assert set(surroundings.EXTRAS) | {"all", "dev", ""} == set(found)


def test_the_source_archive_can_be_tested_and_built_from(tmp_path):
    with tarfile.open(build(SdistBuilder, tmp_path)) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    for name in (
        "pyproject.toml", "constraints.txt", "Makefile", "README.md", "CHANGELOG.md", "LICENSE",
        "CONTRIBUTING.md", "SECURITY.md", "man/llmzip.1", "docs/CLI.md", "docs/FORMAT.md",
        "examples/short.txt", "scripts/make_cli_docs.py", "llmzip/lab/report.js", ".ci/run",
    ):  # fmt: skip
        assert name in names, name
    fixtures = {f"tests/data/{path.name}" for path in (ROOT / "tests" / "data").iterdir()}
    assert len(fixtures) > 8 and fixtures <= names
    assert not {name for name in names if name.startswith((".venv", "build/", "dist/"))}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_oldest_python_can_read_it(path):
    ast.parse(path.read_bytes(), feature_version=(3, 10))


def test_every_library_that_is_imported_is_asked_for():
    """Direct imports of llmzip against what pyproject.toml declares."""
    declared = {
        re.split(r"[<>=;\[ ]", line.strip().strip('",'))[0].replace("-", "_").lower()
        for line in re.findall(r'^  "[\w-]+[^"\n]*"', (ROOT / "pyproject.toml").read_text(), re.M)
    }
    declared |= {"matplotlib", "brotli", "ray", "fsspec", "numcodecs", "zarr"}  # on one line
    declared |= {"markupsafe", "typing_extensions"}  # jinja2's, and for types alone
    imported = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).split(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"llmzip"}
    assert "torch" in foreign
    assert foreign <= declared, foreign - declared
