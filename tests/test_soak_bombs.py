"""Hostile files are refused at once; and decoding runs no code, starts nothing, calls nobody."""

from __future__ import annotations

import builtins
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import llmzip
from llmzip.errors import Corrupt, LimitExceeded, NotACrmFile, Truncated, UnsupportedVersion
from llmzip.store.cram_planes import (
    READ_TOKENS_OF_ANY_FILE,
    READ_TOKENS_PER_PLANE_BYTE,
    check_reading,
)
from llmzip.store.opening import TOKENS_OF_ANY_FILE, TOKENS_PER_FILE_BYTE
from tests.soak import bombs, decoding
from tests.soak.child import environment
from tests.soak.outcome import table

pytestmark = pytest.mark.slow

EXIT_CODES = {NotACrmFile: 3, Truncated: 3, Corrupt: 3, UnsupportedVersion: 4, LimitExceeded: 7}


def test_every_reader_refuses_every_bomb() -> None:
    outcomes = bombs.run(seed=1, full=False)
    assert all(outcome.is_clean for outcome in outcomes), table(outcomes)
    assert [outcome.name.split()[-1] for outcome in outcomes] == [
        "read", "at", "decompressed", "decoded",
    ]  # fmt: skip
    num_bombs = len(bombs.all_bombs())
    assert [outcome.cases for outcome in outcomes[:3]] == [num_bombs, num_bombs + 1, num_bombs]
    assert outcomes[3].cases >= 40


@pytest.mark.parametrize("error, code", EXIT_CODES.items(), ids=lambda value: str(value))
def test_bombs_of_every_kind_end_with_its_code(error: type[Exception], code: int) -> None:
    assert error.exit_code == code  # type: ignore[attr-defined]
    assert any(bomb.error is error for bomb in bombs.all_bombs())


def test_reading_coded_planes_has_a_limit_of_its_own() -> None:
    for plane_bytes in (0, 1, 1000):
        most = READ_TOKENS_OF_ANY_FILE + plane_bytes * READ_TOKENS_PER_PLANE_BYTE
        for num_tokens in (0, most - 1, most):
            check_reading(num_tokens, plane_bytes)
        with pytest.raises(LimitExceeded, match=f"{most + 1} tokens, the limit is {most}"):
            check_reading(most + 1, plane_bytes)
    # No file that may be decoded comes near it.
    assert READ_TOKENS_PER_PLANE_BYTE > TOKENS_PER_FILE_BYTE
    assert READ_TOKENS_OF_ANY_FILE > TOKENS_OF_ANY_FILE


# No code, no process, no network


@pytest.fixture(scope="module")
def packed(tiny_model: Callable[..., Path]) -> list[bytes]:
    return [decoding.pack(tiny_model("llama"), kind) for kind in decoding.KINDS]


def test_decoding_unpickles_runs_starts_and_calls_nothing(
    packed: list[bytes], tiny_model: Callable[..., Path]
) -> None:
    model = str(tiny_model("llama"))

    def explode(*arguments: object, **options: object) -> None:
        raise AssertionError(f"called with {arguments!r}")

    def decode_all() -> None:
        for data in packed:
            assert llmzip.decompress(data, model=model) == decoding.TEXT + decoding.TAIL

    decode_all()  # imports what is imported late: that runs code, but the package's own
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load"),
            (socket, "create_connection"), (socket, "getaddrinfo"), (socket.socket, "connect"),
            (subprocess, "Popen"), (os, "system"), (os, "fork"),
            (builtins, "eval"), (builtins, "exec"), (builtins, "compile"),
        ):  # fmt: skip
            patch.setattr(owner, name, explode)
        with pytest.raises(AssertionError):
            eval("1")
        decode_all()


WATCHED = """
import sys
WATCHED = (
    "pickle.find_class", "socket.connect", "socket.getaddrinfo", "socket.bind", "subprocess.Popen",
    "os.system", "os.exec", "os.posix_spawn", "os.fork",
)

def watch(event, arguments):
    if event in WATCHED:
        sys.stderr.write(f"{event} {arguments}\\n")
        sys.stderr.flush()
        import os
        os._exit(9)

sys.addaudithook(watch)
import llmzip
for path in sys.argv[2:]:
    with open(path, "rb") as file:
        llmzip.decompress(file.read(), model=sys.argv[1])
"""


def _watched(*arguments: str, more: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WATCHED + more, *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
    )


def test_neither_does_a_new_process_with_all_its_imports(
    packed: list[bytes], tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    paths = [str(tmp_path / f"{index}.crm") for index in range(len(packed))]
    for path, data in zip(paths, packed, strict=True):
        Path(path).write_bytes(data)
    done = _watched(str(tiny_model("llama")), *paths)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "act",
    [
        "import pickle; pickle.loads(pickle.dumps(sys.addaudithook))",
        "import socket; socket.getaddrinfo('localhost', 1)",
        "import subprocess; subprocess.run(['true'])",
    ],
)
def test_the_watch_sees(act: str) -> None:
    assert _watched("no model", more=act).returncode == 9
