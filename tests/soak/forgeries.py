"""Forged `.part` files: bits changed inside of records, with corrected checksums.

Owns the forgeries and the verdict on what the next run makes of them: the right text or a refusal.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import zstandard

from tests.soak import forks
from tests.soak.journals import work_left
from tests.soak.outcome import Outcome
from tests.soak.parts import Record, read_part, write_part
from tests.soak.scenes import (
    FINAL,
    PART,
    Variant,
    Workplace,
    Wrong,
    new_tally,
    require,
    try_case,
)

# 2: what cannot be stored, which a writer otherwise says of settings.
_REFUSALS = (1, 2, 3, 6)


def foul_play(place: Workplace, variants: Sequence[Variant], seed: int, num: int) -> Outcome:
    """Bits changed inside of records, checksums put right: other work than any run would leave."""
    tally, rng = new_tally("journals forged"), random.Random(seed)
    for variant in variants:
        data = work_left(place, variant)
        for label, forged in _forgeries(read_part(data), rng, num):
            case = partial(_go_on_from_forged, place, variant, forged)
            try_case(tally, case, f"{variant.name}, {label}")
    return tally.outcome()


def _forgeries(
    records: Sequence[Record], rng: random.Random, num: int
) -> Iterator[tuple[str, bytes]]:
    """Records up to some one, and a bit of one of them changed."""
    for _ in range(num):
        some = list(records[: rng.randrange(3, len(records) + 1)])
        index = rng.randrange(len(some))
        record = some[index]
        state = zstandard.ZstdDecompressor().decompress(record.state) if record.state else b""
        is_state = bool(state) and rng.random() < 0.5
        body = bytearray(state if is_state else record.kept)
        if not body:
            continue
        # Half of the changes near the front, where the numbers are that say how to read the rest.
        at = rng.randrange(min(len(body), 2000) if rng.random() < 0.5 else len(body))
        bit = rng.randrange(8)
        body[at] ^= 1 << bit
        if is_state:
            changed = replace(record, state=zstandard.ZstdCompressor(level=1).compress(bytes(body)))
        else:
            changed = replace(record, kept=bytes(body))
        some[index] = changed
        kind = "state of" if is_state else "record"
        yield f"{kind} {index} of {len(some)} {record.name}: bit {bit} of {at}", write_part(some)


def _go_on_from_forged(place: Workplace, variant: Variant, part: bytes) -> None:
    plain = place.undisturbed(variant)
    with place.directory(variant) as directory:
        (directory / PART).write_bytes(part)
        ended = place.start(variant, directory, around=None).end()
        final = directory / FINAL
        if ended.code:
            require(ended.code in _REFUSALS, str(ended))
            require(not final.exists(), f"a file in spite of {ended}")
            return
        if final.read_bytes() != plain.data:  # another file, which must hold the same text
            _check_restores(place, variant, directory)


def _check_restores(place: Workplace, variant: Variant, directory: Path) -> None:
    model = ("--model", str(place.model))
    ended = forks.start(("decompress", FINAL, "-o", "again", *model), directory, place.notes).end()
    if ended.code or (directory / "again").read_bytes() != variant.data:
        raise Wrong(f"the file does not give the text back: {ended}")
