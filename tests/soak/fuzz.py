"""Fuzzing of the structural readers: random changes that know the format, and guided ones.

Owns how many cases there are, the files they start from, and the start of the guided fuzzer, which
needs atheris. Where that is not installed, its cases are made without guidance, and a note says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from random import Random

import numpy as np

from llmzip.store.arith_payload import ArithSegment
from llmzip.store.container import Container, write_container
from llmzip.store.cram_payload import Chunk
from llmzip.store.residual import Ranked
from llmzip.store.vectors import GridMem
from tests.containers import arith_container, cram_container, stored_container
from tests.soak.child import ROOT, environment, from_json, in_child
from tests.soak.files import golden
from tests.soak.mutate import mutate
from tests.soak.outcome import MAX_MB, Outcome, Tally, cap_memory, died, merged
from tests.soak.reading import any_file

GUIDED_NAME = "cases of guided fuzzing"
PLAIN_CASES, GUIDED_CASES = 3_000, 5_000
FULL_PLAIN_CASES, FULL_GUIDED_CASES = 400_000, 600_000
ROUND_CASES = 50_000
_LABELS = {"xz_bytes": 99, "zstd_bytes": 98}


def run(*, seed: int, full: bool) -> list[Outcome]:
    """Both kinds of cases."""
    plain, guided = (FULL_PLAIN_CASES, FULL_GUIDED_CASES) if full else (PLAIN_CASES, GUIDED_CASES)
    timeout_s = 14400 if full else 900
    more = []
    if find_spec("atheris"):
        more = [guided_cases(seed=seed, cases=guided, timeout_s=timeout_s)]
    else:
        plain += guided
    outcomes = in_child(__name__, "plain_cases", timeout_s=timeout_s, seed=seed, cases=plain)
    if not more:
        note = f"{GUIDED_NAME}: atheris is not installed; {guided:,} more without guidance"
        outcomes = [replace(outcomes[0], notes=(*outcomes[0].notes, note)), *outcomes[1:]]
    return outcomes + more


def plain_cases(*, seed: int, cases: int) -> list[Outcome]:
    """Files changed at random. A case depends on the seed and its number alone."""
    files = list(starts().values())
    cap_memory(MAX_MB)
    tally = Tally(name="cases of fuzzing")
    for number in range(cases):
        rng = Random(f"{seed} {number}")
        data = mutate(rng.choice(files), files, rng)
        tally.run(partial(any_file, data), data.hex)
    return [tally.outcome()]


def guided_cases(*, seed: int, cases: int, timeout_s: float) -> Outcome:
    """Cases that atheris makes, in processes of their own: each one finds more than the one before
    in the same folder, and forgets what watching the code has cost in memory."""
    with tempfile.TemporaryDirectory() as directory:
        corpus = Path(directory)
        for name, data in starts().items():
            (corpus / name).write_bytes(data)
        rounds = [
            _guided_round(corpus, seed + done + 1, min(ROUND_CASES, cases - done), timeout_s)
            for done in range(0, cases, ROUND_CASES)
        ]
        return merged(rounds)


def _guided_round(corpus: Path, seed: int, cases: int, timeout_s: float) -> Outcome:
    with tempfile.TemporaryDirectory() as directory:
        result, kept = Path(directory) / "outcome.json", Path(directory) / "kept"
        kept.mkdir()
        arguments = (str(result), GUIDED_NAME, str(seed), str(cases), str(corpus), str(kept))
        command = [sys.executable, "-m", "tests.soak.guided", *arguments]
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment(), capture_output=True, timeout=timeout_s,
                check=False,
            )  # fmt: skip
            code, last = done.returncode, done.stderr.decode(errors="replace").strip()[-2000:]
        except subprocess.TimeoutExpired:
            code, last = 1, f"not done after {timeout_s:.0f} s"
        outcome = from_json(json.loads(result.read_text())) if result.exists() else None
        if code or outcome is None or outcome.cases < cases:
            last += "".join(f" {path.read_bytes().hex()}" for path in kept.iterdir())
            return died(GUIDED_NAME, f"{GUIDED_NAME}: exit code {code}: {last}")
        return outcome


def starts() -> dict[str, bytes]:
    """The files that cases start from: the frozen ones, and some of other shapes."""
    made = {f"{index}.crm": write_container(each) for index, each in enumerate(_containers())}
    return golden() | made


def _containers() -> Iterator[Container]:
    """No original at all; many chunks and runs; nothing but literal chunks; many segments."""
    yield stored_container(b"", **_LABELS)
    for bits in (16, 3):
        rng = np.random.default_rng(bits)
        yield _cram(*(_chunk(rng, bits, index) for index in range(40)), bits=bits)
        yield _cram(*(_chunk(rng, bits, 9 * index) for index in range(3)), bits=bits)
    segment = ArithSegment(num_tokens=70, num_bytes=99, check=7, num_lanes=3, stream=bytes(5))
    own = {"prefix_tokens": 20, "window_tokens": 512, "guard_code": 90, "wrap": 2}
    yield arith_container((segment,) * 30, *(99, b"-" * 9) * 30, **own, **_LABELS)


def _cram(*chunks: Chunk, bits: int) -> Container:
    """A file of runs of one chunk each, with stored bytes between them."""
    parts = [part for each in chunks for part in ((each,), b"ab" * 9)]
    return cram_container(*parts, num_mem=2, mem_dim=3, bits=bits, **_LABELS)


def _chunk(rng: np.random.Generator, bits: int, index: int) -> Chunk:
    """A chunk of a few tokens, without vectors if `index` is a multiple of 9."""
    is_literal, num_tokens = index % 9 == 0, 1 + index % 7
    places = range(num_tokens if is_literal else index % 2)
    token = Ranked(skip=index % 30 + 1, size=1 + index % 3, index=0)
    use_rank = bits < 16 and not is_literal
    steps = np.full(2, 0x3F80 + 32 * (index % 3), np.uint16)
    symbols = rng.integers(-3, 4, (2, 3)).astype(np.int16)
    mem = GridMem(symbols=symbols, steps=steps) if bits < 16 else symbols.view(np.uint16) & 0x3F8F
    return Chunk(
        num_tokens=num_tokens,
        num_bytes=3 * num_tokens,
        check=index,
        starts_segment=True,
        patches=tuple((place, token if use_rank else 9 * index) for place in places),
        mem=None if is_literal else mem,
    )
