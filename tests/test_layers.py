"""The shape of the house: imports point down, heavy libraries stay in their rooms."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "llmzip"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 330

# A module may import from its own room and from rooms with a lower number.
RANKS = {
    "errors": 0,
    "config": 1,
    "ram": 1,
    "progress": 1,
    "store": 2,
    "lm": 2,
    "arith": 3,
    "cram": 3,
    "codec": 4,  # with the modules it is made of, see below
    "report": 4,
    "cluster": 5,  # reached only where a crew is asked for
    "lab": 5,  # kept out of the compress path
    "plots": 5,  # of one file
    "": 5,  # llmzip itself
    "cli": 6,
    "__main__": 7,
}
CODEC_PARTS = {
    "arith_decoding", "arith_encoding", "arith_estimate", "arith_keeping", "assembly",
    "checkup", "codec", "comparison", "crew", "decoding", "demonstration", "encoding", "existing",
    "estimate", "explain", "export", "findings", "groups", "matching", "memory", "models",
    "outlook", "packing", "pieces", "planning", "report_pieces", "roundtrip", "runtime",
    "salvage", "surroundings", "telling", "triage", "workshop", "worth",
}  # fmt: skip
REPORT_PARTS = {"drawing", "report", "report_text"}
PLOT_PARTS = {"chart", "plots"}
OWNERS = {
    "transformers": ("lm/foreign.py", "lm/convert.py"),
    "gguf": ("lm/convert.py",),
    "huggingface_hub": ("lm/hub.py", "lm/foreign.py"),
    "typer": ("cli/",),
    "rich": ("cli/",),
    "click": (),
    "zstandard": ("store/", "assembly.py", "comparison.py", "triage.py"),
    "ray": ("cluster/ray_crew.py",),
    "pickle": (),
    "matplotlib": ("drawing.py", "lab/figures", "plots.py"),
    "jinja2": ("lab/report",),
    "markupsafe": ("lab/report",),
}
WITHOUT_TORCH = (
    "store/", "cli/", "chart.py", "config.py", "drawing.py", "errors.py", "export.py", "plots.py",
    "progress.py", "report", "__",
)  # fmt: skip


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all that a module imports, inside functions, too."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}: relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def room_of(dotted: str) -> str:
    """The room that `llmzip.room.module.name` is in; "" for a name of the package itself."""
    parts = dotted.split(".")[1:]
    room = parts[0] if parts else ""
    if room in CODEC_PARTS:
        return "codec"
    if room in REPORT_PARTS:
        return "report"
    if room in PLOT_PARTS:
        return "plots"
    return room if room in RANKS else ""


def test_the_walk_finds_what_it_looks_for():
    found = {relative(path) for path in MODULES}
    assert {"__init__.py", "errors.py", "cli/main.py", "store/container.py"} <= found
    assert "typer" in {name.split(".")[0] for name in imports(PACKAGE / "cli" / "main.py")}
    in_functions = set(imports(PACKAGE / "cli" / "compress.py"))
    assert "llmzip.codec.compress_bytes" in in_functions
    assert room_of("llmzip.store.container.Chunk") == "store"
    assert room_of("llmzip.__version__") == room_of("llmzip") == ""


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_point_down(path):
    here = room_of("llmzip." + relative(path).removesuffix(".py").replace("/", "."))
    for name in imports(path):
        if name.split(".")[0] == "llmzip":
            there = room_of(name)
            is_down = RANKS[there] < RANKS[here] or there == here
            assert is_down, f"{relative(path)} ({here}) imports {name} ({there})"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_libraries_stay_in_their_rooms(path):
    where = relative(path)
    for name in imports(path):
        library = name.split(".")[0]
        if library in OWNERS:
            assert where.startswith(OWNERS[library]), f"{where} imports {name}"
        if library == "torch":
            assert not where.startswith(WITHOUT_TORCH), f"{where} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_modules_stay_short(path):
    num_lines = len(path.read_text().splitlines())
    assert num_lines < MAX_LINES, f"{relative(path)} has {num_lines} lines"
