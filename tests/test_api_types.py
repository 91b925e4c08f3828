"""The public names, their keywords and their types: what programs of others rest on."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

import pytest

import llmzip
from llmzip import config
from llmzip.api.options import CompressOptions, DecompressOptions

ROOT = Path(__file__).resolve().parent.parent
NAMES = """
    ChunkEvent Compressor Corrupt Decompressor FormatError InputError IntegrityError Interrupted
    LimitExceeded LlmzipError ModelMismatch ModelUnavailable NotACrmFile Progress Report
    ResumeRefused SettingsError Truncated UnsupportedVersion __version__ compress decompress info
    open
"""
COMPUTE = ["threads", "batch", "attention"]
COMPRESS = [
    "model", "revision", "device", "codec", "try_cram", "shared_mem", "verify", "num_mem", "bits",
    "max_patches", "context_tokens", "budget_bits", "max_steps", "preset", "time_budget_s",
    "bf16_safe", "seed", *COMPUTE, "offline",
]  # fmt: skip
LIMITS = ["max_output_bytes", "max_tokens"]
DECOMPRESS = [
    "model", "revision", "device", *COMPUTE, *LIMITS, "span", "chunks", "perturb", "offline",
]  # fmt: skip
CALL = ["progress", "cancel"]

# Names every public name, each in the way that it is meant to be used.
PROGRAM = """
import array
import io
import threading
from pathlib import Path
from typing import IO

import llmzip
from llmzip import ChunkEvent, Progress, Report

errors: tuple[type[llmzip.LlmzipError], ...] = (
    llmzip.Corrupt, llmzip.FormatError, llmzip.InputError, llmzip.IntegrityError,
    llmzip.Interrupted, llmzip.LimitExceeded, llmzip.ModelUnavailable, llmzip.NotACrmFile,
    llmzip.ResumeRefused, llmzip.SettingsError, llmzip.Truncated, llmzip.UnsupportedVersion,
)


def show(event: Progress) -> None:
    chunk: ChunkEvent | None = event.chunk
    if chunk is not None:
        print(chunk.what, chunk.num_tokens, event.chunks_done, event.stage)


def work(path: Path, cancel: threading.Event) -> bytes:
    packed: bytes = llmzip.compress(b"text", codec="arith", progress=show, cancel=cancel)
    llmzip.compress(bytearray(b"text"), bits=4, preset="small")
    llmzip.compress(memoryview(b"text"))
    llmzip.compress(array.array("B", b"text"))
    report: Report = llmzip.info(path)
    size: int = llmzip.info(packed).original_bytes + report.original_bytes
    with llmzip.Compressor("org/name", revision="main", seed=size) as compressor:
        packed = compressor.compress(b"more", progress=show, cancel=cancel)
    with llmzip.Decompressor(model="org/name", max_output_bytes=99) as decompressor:
        part: bytes = decompressor.decompress(packed, span=(0, 2))
        part += decompressor.decompress(packed, chunks=(1, 1), cancel=cancel)
    with llmzip.open(path) as file:
        head: bytes = file.read(9)
    with llmzip.open(path, "rt", encoding="utf-8", device="cpu", progress=show) as text:
        lines: list[str] = [line for line in text]
    with llmzip.open(str(path), "wb", codec="arith") as out:
        out.write(head)
    with llmzip.open(io.BytesIO(), "xt", newline="") as new:
        new.writelines(lines)
    mode: str = input()
    anything: IO[bytes] = llmzip.open(path, mode)
    anything.close()
    try:
        return llmzip.decompress(packed, perturb=0.5)
    except llmzip.ModelMismatch as error:
        print(error.expected, error.got, error.hint, error.exit_code, llmzip.__version__)
        raise
"""
# Each line has one mistake, which a type checker is to find.
MISTAKES = """
import llmzip
llmzip.compress("text")
llmzip.compress(b"", codec="zip")
llmzip.compress(b"", colour="red")
llmzip.Compressor(span=(0, 1))
llmzip.Decompressor(bits=4)
llmzip.Decompressor().decompress(b"", span=3)
llmzip.open("f.crm", "rb").write("text")
llmzip.open("f.crm", "wb", max_tokens="many")
number: int = llmzip.open("f.crm", "rt").read()
"""
SETTINGS = """
[mypy]
strict = True
[mypy-torch.*,transformers.*,numpy.*,tokenizers.*,safetensors.*,huggingface_hub.*,zstandard.*,constriction.*]
follow_imports = skip
ignore_missing_imports = True
"""


def keywords(call: Callable[..., object], *, given: int) -> list[str]:
    """Names of what is given by name alone; `given` others may be given by place."""
    parameters = list(inspect.signature(call).parameters.values())
    by_name = [each for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]
    others = [each for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    assert len(others) == given
    return [each.name for each in by_name]


def test_public_names() -> None:
    assert llmzip.__all__ == NAMES.split()


def test_keywords() -> None:
    assert keywords(llmzip.compress, given=1) == [*COMPRESS, *CALL]
    assert keywords(llmzip.decompress, given=1) == [*DECOMPRESS, *CALL]
    assert keywords(llmzip.info, given=1) == []
    assert keywords(llmzip.open, given=2) == ["encoding", "errors", "newline", *CALL]
    assert keywords(llmzip.Compressor.compress, given=2) == CALL
    assert keywords(llmzip.Decompressor.decompress, given=2) == ["span", "chunks", *CALL]


@pytest.mark.parametrize("kind, names", [
    (llmzip.Compressor, COMPRESS),
    (llmzip.Decompressor, [name for name in DECOMPRESS if name not in ("span", "chunks")]),
])  # fmt: skip
def test_keywords_of_sessions(kind: Callable[..., object], names: list[str]) -> None:
    """Each is taken, with what it is without being named, and no other."""
    function = llmzip.compress if kind is llmzip.Compressor else llmzip.decompress
    defaults = {name: inspect.signature(function).parameters[name].default for name in names}
    given = kind(**defaults)
    assert given._settings == kind()._settings  # type: ignore[attr-defined]
    assert kind("m")._settings == kind(model="m")._settings  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        kind("m", "main")


@pytest.mark.parametrize("function, kind, options", [
    (llmzip.compress, config.CompressSettings, CompressOptions),
    (llmzip.decompress, config.DecompressSettings, DecompressOptions),
])  # fmt: skip
def test_keywords_have_the_types_and_defaults_of_the_settings(
    function: Callable[..., object], kind: type, options: type
) -> None:
    declared = config.declared(kind)
    of_sessions = get_type_hints(options)
    assert of_sessions.keys() == declared.keys() - {"span", "chunks"}
    assert of_sessions == {name: declared[name].type for name in of_sessions}
    parameters = inspect.signature(function).parameters
    for name, each in declared.items():
        own = parameters[name]
        assert own.default == each.default, name
        assert eval(own.annotation, vars(config)) == each.type, name


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


def check_types(program: str, directory: Path, cache: Path) -> list[str]:
    """What mypy says of a program that uses llmzip."""
    (directory / "program.py").write_text(program)
    (directory / "mypy.ini").write_text(SETTINGS)
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", str(cache)]
    done = subprocess.run(
        [*command, "program.py"],
        cwd=directory, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_program_that_uses_every_public_name_is_well_typed(tmp_path: Path, cache: Path) -> None:
    assert all(name in PROGRAM for name in llmzip.__all__)
    said = check_types(PROGRAM, tmp_path, cache)
    assert said == ["Success: no issues found in 1 source file"]
    assert (ROOT / "llmzip" / "py.typed").is_file()


def test_mistakes_are_found_by_type_checkers(tmp_path: Path, cache: Path) -> None:
    said = check_types(MISTAKES, tmp_path, cache)
    lines = {int(line.split(":")[1]) for line in said if ": error: " in line}
    assert lines == set(range(3, len(MISTAKES.splitlines()) + 1))
