"""Hostile files, each shown to every reader that a user has.

Owns how they are read: by the library, by `llmzip info` without torch, by `llmzip decompress`, and
with a tiny model those that a reader of structure cannot refuse. Each must end at once, in little
memory, with the right error and exit code, and with nothing on the terminal that could act on it.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from llmzip.cli.main import main
from llmzip.errors import LimitExceeded, LlmzipError
from llmzip.store.container import read_container
from tests.soak.child import in_child
from tests.soak.hostile import Bomb
from tests.soak.hostile_headers import header_bombs
from tests.soak.hostile_planes import giant, plane_bombs
from tests.soak.hostile_work import work_bombs
from tests.soak.outcome import MAX_MB, Outcome, Tally, Verdict, cap_memory, peak_mb


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def is_printable(self) -> bool:
        """Whether a terminal would show it as it is."""
        lines = (self.stdout + self.stderr).splitlines()
        return all(line.isprintable() for line in lines) and "\r" not in self.stdout + self.stderr


def run(*, seed: int, full: bool) -> list[Outcome]:
    """All of them: there is nothing to draw, and nothing takes long."""
    return [
        outcome
        for function in ("read_all", "decode_all")
        for outcome in in_child(__name__, function, timeout_s=900)
    ]


@cache
def all_bombs() -> list[Bomb]:
    """Every hostile file that needs no model, under a name of its own."""
    bombs = [*header_bombs(), *plane_bombs(), *work_bombs()]
    assert len({bomb.name for bomb in bombs}) == len(bombs)
    return bombs


def read_all() -> list[Outcome]:
    """Each file read by the library, then looked at with `llmzip info`."""
    bombs = all_bombs()
    cap_memory(MAX_MB)
    outcomes = [
        _show_all("bombs read", _read, bombs),
        _show_all("bombs looked at", _look, [*bombs, giant()]),
    ]
    assert "torch" not in sys.modules
    return outcomes


def decode_all() -> list[Outcome]:
    """Each file given to `llmzip decompress`, then those that only a model can refuse, with one."""
    from tests.soak import decoding, hostile_texts  # torch, too: its memory is not the file's

    outcome = _show_all("bombs decompressed", _decompress, all_bombs())
    with decoding.tiny_model() as model:
        bombs = hostile_texts.text_bombs(model)
        name = "bombs decoded"
        tally = Tally(name=name, max_seconds=decoding.MAX_SECONDS, base_mb=peak_mb())
        for bomb in bombs:
            tally.run(partial(_decode, bomb, model), partial(_describe, bomb))
        return [outcome, tally.outcome()]


def _show_all(name: str, show: Callable[[Bomb, Path], Verdict], bombs: Sequence[Bomb]) -> Outcome:
    tally = Tally(name=name, base_mb=peak_mb() if "torch" in sys.modules else 0.0)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "bomb.crm"
        for bomb in bombs:
            path.write_bytes(bomb.data)
            tally.run(partial(show, bomb, path), partial(_describe, bomb))
    return tally.outcome()


def _describe(bomb: Bomb) -> str:
    return f"{bomb.name}: {bomb.data[:200].hex()} of {len(bomb.data)} bytes"


def _error_of(bomb: Bomb) -> LlmzipError | None:
    try:
        read_container(bomb.data, max_output_bytes=bomb.max_output_bytes)
    except LlmzipError as error:
        return error
    return None


def _read(bomb: Bomb, _path: Path) -> Verdict:
    error = _error_of(bomb)
    if error is None:
        return "sound" if bomb.error is None or bomb.is_work else "lost"
    if bomb.error is None:
        return "lost"
    return "refused" if isinstance(error, bomb.error) else "lost"


def _look(bomb: Bomb, path: Path) -> Verdict:
    error = None if bomb.looks_sound else _error_of(bomb)
    for more in ((),) if error else ((), ("--json",)):
        ended = _llmzip("info", str(path), "--max-output", str(bomb.max_output_bytes), *more)
        if bomb.is_work and not ended.code:
            error = None
        if ended.code != (error.exit_code if error else 0) or not _is_told(ended, error):
            return "lost"
    return "refused" if error else "sound"


def _decompress(bomb: Bomb, path: Path) -> Verdict:
    """A sound file goes on to ask for its model, which is not here."""
    target = path.with_name("out")
    ended = _llmzip(
        # -y: no disk has room for some of them, and that is not what is looked at here.
        "decompress",
        str(path),
        "-y",
        "-o",
        str(target),
        "--max-output",
        str(bomb.max_output_bytes),
    )
    error = LimitExceeded("") if bomb.is_work else _error_of(bomb)
    expected = (error.exit_code,) if error else (0, 2, 5)
    if ended.code not in expected or not _is_told(ended, error):
        return "lost"
    if ended.code and target.exists():
        return "wrong"
    target.unlink(missing_ok=True)
    return "refused" if ended.code else "sound"


def _decode(bomb: Bomb, model: Path) -> Verdict:
    import llmzip
    from tests.soak.decoding import TAIL, TEXT

    try:
        found = llmzip.decompress(bomb.data, model=str(model))
    except LlmzipError as error:
        return "refused" if bomb.error and isinstance(error, bomb.error) else "lost"
    if found != TEXT + TAIL:
        return "wrong"
    return "lost" if bomb.error else "sound"


def _llmzip(*arguments: str) -> Ended:
    """The command line, in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err):
        code = main(arguments)
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return Ended(code=code, stdout=texts[0], stderr=texts[1])


def _is_told(ended: Ended, error: LlmzipError | None) -> bool:
    """Whether the user reads what happened, and nothing else happens to the terminal."""
    if not ended.is_printable or "Traceback" in ended.stderr:
        return False
    if error is None:
        return "this should not have happened" not in ended.stderr
    return f"[exit {error.exit_code}]" in ended.stderr and not ended.stdout
