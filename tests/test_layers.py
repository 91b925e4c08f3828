"""The shape of the house: imports point down and never in a circle, heavy libraries stay in their
rooms, modules stay short."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "llmzip"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 330
# Besides the vocabulary, one module for each library that calls llmzip, under that library's name.
FOR_OTHER_LIBRARIES = {"fsspec", "numcodecs", "zarr"}
LOOSE = {"__init__", "__main__", "config", "errors", "progress"} | FOR_OTHER_LIBRARIES

# A module may import from its own room and from rooms with a lower number.
RANKS = {
    "errors": 0,
    "config": 1,
    "progress": 1,
    "store": 2,
    "lm": 3,
    "codecs": 4,
    "api": 5,
    "inspect": 6,
    "": 7,  # llmzip itself: the public names of the two rooms above
    "cluster": 7,
    "lab": 7,
    "cli": 8,
    "fsspec": 8,
    "numcodecs": 8,
    "zarr": 9,
    "__main__": 9,
}
# A model knows no containers. Its cache is written as all other files are, by the one module that
# owns what a crash leaves behind.
FROM_STORE_TO_LM = "llmzip.store.atomic"
OWNERS = {
    "transformers": ("lm/foreign.py", "lm/convert.py"),
    "gguf": ("lm/convert.py",),
    "huggingface_hub": ("lm/hub.py", "lm/foreign.py"),
    "typer": ("cli/",),
    "rich": ("cli/",),
    "click": (),
    "zstandard": ("store/", "codecs/input.py", "inspect/baselines.py"),
    "ray": ("cluster/ray_workers.py",),
    "fsspec": ("fsspec.py",),
    "numcodecs": ("numcodecs.py",),
    "zarr": ("zarr.py",),
    "pickle": (),
    "matplotlib": ("inspect/style.py", "inspect/plots.py", "lab/figures"),
    "jinja2": ("inspect/page.py",),
    "markupsafe": ("inspect/page.py",),
}
WITHOUT_TORCH = (
    "store/", "cli/", "config.py", "errors.py", "progress.py", "__", "inspect/export.py",
    "inspect/plots.py", "inspect/report.py", "inspect/style.py", "inspect/terminal_chart.py",
    "fsspec.py", "numcodecs.py", "zarr.py",
)  # fmt: skip


# Outside of the codecs and of their payloads, these may name one, or import what is its own.
ASKING = {
    "config.py": "the settings that a codec takes are declared once, with all others",
    "store/payloads.py": "the table of payloads",
    "inspect/report.py": "figures of chunks are 0 in files without any, as its readers expect",
    "inspect/plots.py": "draws the noise and the margins of chunks where a file has some",
    "cluster/worker.py": "the worker's side of the cram codec's executor",
    "cluster/ray_workers.py": "the settings that its workers share",
    "cli/compare.py": "shows both codecs beside other compressors, by name",
    "cli/demo.py": "what each codec is called there; of crammed chunks it shows more",
    "lab/": "studies of cramming",
}
MAX_BODY_LINES, MAX_PARAMETERS = 60, 7
# Whose settings go straight into one object: the public API, and the commands of the command line.
WITH_SETTINGS = ("__init__.py", "api/open.py", "api/reader.py", "cli/")


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Dotted names of all that a module imports, inside functions, too."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(found)


def dotted(path: Path) -> str:
    """The name that a module is imported by."""
    name = "llmzip." + relative(path).removesuffix(".py").replace("/", ".")
    return name.removesuffix(".__init__")


def room_of(name: str) -> str:
    """The room that `llmzip.room.module.name` is in; "" for a name of the package itself."""
    parts = name.split(".")[1:]
    return parts[0] if parts and parts[0] in RANKS else ""


def graph() -> dict[str, set[str]]:
    """The modules of this package that each of them imports."""
    names = {dotted(path): path for path in MODULES}
    edges: dict[str, set[str]] = {}
    for name, path in names.items():
        edges[name] = set()
        for target in imports(path):
            if target.split(".")[0] == "llmzip":
                edges[name].add(target if target in names else target.rpartition(".")[0])
    return edges


def circles(edges: dict[str, set[str]]) -> Iterator[list[str]]:
    """A circle for each edge that leads back to where a walk came from."""
    done: set[str] = set()

    def walk(name: str, trail: list[str]) -> Iterator[list[str]]:
        if name in trail:
            yield [*trail[trail.index(name) :], name]
            return
        if name in done:
            return
        for target in sorted(edges.get(name, ())):
            yield from walk(target, [*trail, name])
        done.add(name)

    for name in sorted(edges):
        yield from walk(name, [])


def test_the_walk_finds_what_it_looks_for():
    found = {relative(path) for path in MODULES}
    assert {"__init__.py", "errors.py", "cli/main.py", "store/container.py"} <= found
    assert "typer" in {name.split(".")[0] for name in imports(PACKAGE / "cli" / "main.py")}
    in_functions = set(imports(PACKAGE / "cli" / "compress.py"))
    assert "llmzip.api.compress.compress_bytes" in in_functions
    assert room_of("llmzip.store.container.Chunk") == "store"
    assert room_of("llmzip.__version__") == room_of("llmzip") == ""
    assert "llmzip.store.container" in graph()["llmzip.api.compress"]
    assert list(circles({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == [["b", "c", "b"]]


def test_no_module_lies_outside_a_room():
    assert {path.stem for path in PACKAGE.glob("*.py")} == LOOSE
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms == {name for name in RANKS if name} - LOOSE


def test_imports_point_down():
    for path in MODULES:
        here = room_of(dotted(path))
        for name in imports(path):
            if name.split(".")[0] == "llmzip":
                there = room_of(name)
                is_down = RANKS[there] < RANKS[here] or there == here
                assert is_down, f"{relative(path)} ({here}) imports {name} ({there})"


def test_a_model_knows_nothing_of_what_is_stored():
    for path in PACKAGE.joinpath("lm").glob("*.py"):
        for name in imports(path):
            if room_of(name) == "store":
                assert name.rpartition(".")[0] == FROM_STORE_TO_LM, f"{relative(path)}: {name}"


def test_no_imports_go_in_a_circle():
    assert list(circles(graph())) == []


def test_libraries_stay_in_their_rooms():
    for path in MODULES:
        where = relative(path)
        for name in imports(path):
            library = name.split(".")[0]
            if library in OWNERS:
                assert where.startswith(OWNERS[library]), f"{where} imports {name}"
            if library == "torch":
                assert not where.startswith(WITHOUT_TORCH), f"{where} imports {name}"


def test_modules_stay_short():
    for path in MODULES:
        num_lines = len(path.read_text().splitlines())
        assert num_lines < MAX_LINES, f"{relative(path)} has {num_lines} lines"


def test_only_these_places_ask_for_the_codec():
    asking = set()
    for path in MODULES:
        where = relative(path)
        if where.startswith(("codecs/", "store/cram_", "store/arith_")):
            continue
        own = (
            "llmzip.store.cram_",
            "llmzip.store.arith_",
            "llmzip.codecs.cram",
            "llmzip.codecs.arith",
        )
        if any(name.startswith(own) for name in imports(path)) or _compares_codecs(path):
            asking.add(where)
    allowed = tuple(ASKING)
    assert not [where for where in asking if not where.startswith(allowed)]
    assert all(any(where.startswith(each) for where in asking) for each in allowed)


def _compares_codecs(path: Path) -> bool:
    """Whether a module compares something with a codec's name, has a table by such names, or asks
    for a codec by name."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Compare):
            found = [node.left, *node.comparators]
            is_stage = any(
                isinstance(each, ast.Attribute) and each.attr == "stage" for each in found
            )
        elif isinstance(node, ast.Dict):
            found, is_stage = [key for key in node.keys if key is not None], False
        elif isinstance(node, ast.keyword) and node.arg == "codec":
            found, is_stage = [node.value], False
        else:
            continue
        names = {each.value for each in found if isinstance(each, ast.Constant)}
        if names & {"cram", "arith"} and not is_stage:
            return True
    return False


def test_functions_stay_small():
    for path in MODULES:
        where = relative(path)
        for node in ast.walk(ast.parse(path.read_bytes())):
            if not isinstance(node, ast.FunctionDef):
                continue
            has_docstring = ast.get_docstring(node) is not None and len(node.body) > 1
            body = node.body[has_docstring:]
            num_lines = (node.end_lineno or 0) - body[0].lineno + 1
            assert num_lines < MAX_BODY_LINES, f"{where}: {node.name} has {num_lines} lines"
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len([each for each in given if each.arg not in ("self", "cls")])
            is_free = where.startswith(WITH_SETTINGS)
            assert count <= MAX_PARAMETERS or is_free, f"{where}: {node.name} takes {count} things"
