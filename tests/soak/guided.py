"""Fuzzing that follows coverage: `python -m tests.soak.guided RESULT NAME SEED RUNS CORPUS KEPT`.

Owns the harness around atheris: which modules are watched, and how a new input is made of an old
one. Checksums are put right in nearly all inputs, else nothing behind them would ever be reached.
Started by `fuzz` in a process of its own, which the fuzzer ends.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from random import Random

import atheris

MAX_INPUT_BYTES = 8192
SAVE_EVERY = 1000
MAX_MORE_MB = 2048.0  # the reader's own limit is far below, but watching coverage costs memory too

with atheris.instrument_imports(include=["llmzip.store"]):
    from tests.soak.files import golden, reseal
    from tests.soak.mutate import mutate
    from tests.soak.outcome import Tally, cap_memory
    from tests.soak.reading import any_file


def main(result: str, name: str, seed: str, runs: str, corpus: str, kept: str) -> None:
    """Fuzz; leave the numbers in the file `result`, new inputs in the folder `corpus`, and one that
    ended the process in `kept`. Does not return."""
    others = list(golden().values())
    tally = Tally(name=name)

    def one_input(data: bytes) -> None:
        tally.run(partial(any_file, data), data.hex)
        if tally.cases % SAVE_EVERY == 0 or tally.cases >= int(runs):
            Path(result).write_text(json.dumps(asdict(tally.outcome())))

    def new_input(data: bytes, max_size: int, number: int) -> bytes:
        rng = Random(number)
        if rng.random() < 0.4:
            return mutate(data, others, rng)[:max_size]
        found: bytes = atheris.Mutate(data, max_size)
        return reseal(found) if rng.random() < 0.9 else found

    flags = (f"-seed={seed}", f"-runs={runs}", f"-max_len={MAX_INPUT_BYTES}", "-verbosity=0")
    # The fuzzer's own limit of memory counts what the process had that started this one.
    limits = ("-timeout=20", "-rss_limit_mb=0", f"-artifact_prefix={kept}/")
    cap_memory(MAX_MORE_MB)
    atheris.Setup([sys.argv[0], *flags, *limits, corpus], one_input, custom_mutator=new_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
