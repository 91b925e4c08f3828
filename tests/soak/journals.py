"""Damage to the `.part` file, other things in its place, and work that is not this run's.

Owns what can be in the place of the work a run left. The next run goes on to the right bytes, or
refuses in one line and touches nothing. Bits that are changed behind right checksums are in
`forgeries`.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import zstandard

from llmzip.store.journal import Journal
from tests.soak import faults, forks
from tests.soak.outcome import Outcome
from tests.soak.parts import MAGIC, Record, read_part, write_part
from tests.soak.scenes import (
    ARITH,
    FINAL,
    GRID,
    INPUT,
    PART,
    RAW,
    Left,
    Variant,
    Workplace,
    Wrong,
    go_on,
    new_tally,
    require,
    try_case,
)

_MANY = 3000
_DENIED = "Permission denied"
OPTIONS = {  # a value of each setting that the work depends on, other than that of `RAW`
    "num_mem": ("--mem", "2"),
    "bits": ("--bits", "8"),
    "max_patches": ("--max-patches", "0.25"),
    "context_tokens": ("--context", "4"),
    "budget_bits": ("--budget-bits", "31"),
    "max_steps": ("--max-steps", "31"),
    "preset": ("--preset", "fast"),
    "time_budget_s": ("--time-budget", "1h"),
    "bf16_safe": ("--bf16-safe",),
    "seed": ("--seed", "1"),
    "codec": ("--codec", "auto", "--try-cram"),
    "try_cram": ("--codec", "auto", "--try-cram"),
    "shared_mem": ("--codec", "auto", "--try-cram", "--shared-mem", "0"),
    "verify": ("--codec", "auto", "--try-cram", "--verify", "full"),
}
_FOREIGN = "is not unfinished work of"


def work_left(place: Workplace, variant: Variant) -> bytes:
    """The `.part` file of a run that was killed when all of its work was done."""
    at = max(i for i, call in enumerate(place.undisturbed(variant).calls) if "link " in call)
    with place.directory(variant) as directory:
        ended = place.start(variant, directory, around=faults.kill(at, "before")).end()
        require(ended.was_killed, str(ended))
        return (directory / PART).read_bytes()


def read_damaged(place: Workplace, seed: int, most: int | None = None) -> Outcome:
    """Every length and every bit, as the journal reads them.

    most: places tried in each part of a record, and of each one bit; None: all of both, but of
    states and log-odds, which are mere bytes to the journal, a sample.
    """
    tally, rng = new_tally("damaged journals read"), random.Random(seed)
    for variant in (RAW, ARITH, GRID):
        data = work_left(place, variant)
        records = read_part(data)
        require(write_part(records) == data, "the second reading is another one")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / PART
            places = _places(records, len(data), rng, most or _MANY)
            for size in places:
                case = partial(_read, path, data[:size], records)
                try_case(tally, case, f"{variant.name}, cut at {size} of {len(data)}")
            for at in places:
                for bit in range(8) if most is None else (rng.randrange(8),):
                    flipped = bytearray(data)
                    flipped[at] ^= 1 << bit
                    case = partial(_read, path, bytes(flipped), records, at)
                    try_case(tally, case, f"{variant.name}, bit {bit} of byte {at}")
    return tally.outcome()


def _places(records: Sequence[Record], size: int, rng: random.Random, most: int) -> list[int]:
    """The edges of every record and of what is in it, and so many places between each two."""
    edges = {0, len(MAGIC), size}
    for record in records:
        kept = record.start + 9 + len(record.name)
        edges |= {record.start, record.start + 9, kept, kept + len(record.kept), record.end - 4}
        edges |= {record.end}
    found: set[int] = set()
    ordered = sorted(edges)
    for first, last in zip(ordered, ordered[1:], strict=False):
        found |= set(rng.sample(range(first, last), min(most, last - first)))
        found |= {first, last - 1}
    return sorted(found)


def _read(path: Path, data: bytes, records: Sequence[Record], flipped: int | None = None) -> None:
    """What the journal finds are the records before the damage, no more and no less."""
    path.write_bytes(data)
    if flipped is not None and flipped < len(MAGIC):
        _must_refuse(path, data)
        return
    limit = len(data) if flipped is None else flipped
    good = [record for record in records if record.end <= limit]
    with closing(Journal.open(str(path))) as journal:
        kept: dict[str, list[bytes]] = {}
        states: dict[str, bytes] = {}
        for record in good:
            if record.kept:
                kept.setdefault(record.name, []).append(record.kept)
            if record.state:
                states[record.name] = zstandard.ZstdDecompressor().decompress(record.state)
        for name in {record.name for record in records}:
            if journal.kept(name) != kept.get(name, []):
                raise Wrong(f"another {name}")
            if journal.state(name) != states.get(name, b""):
                raise Wrong(f"another state of {name}")
        end = good[-1].end if good else min(len(MAGIC), len(data))
        end = end if len(data) >= len(MAGIC) else 0
        require(journal.torn_bytes == len(data) - end, f"{journal.torn_bytes} bytes are torn")


def _must_refuse(path: Path, data: bytes) -> None:
    from llmzip.errors import InputError

    try:
        Journal.open(str(path)).close()
    except InputError:
        require(path.read_bytes() == data, "it was changed")
    else:
        require(False, "another file is taken for a journal")


def go_on_from_damaged(
    place: Workplace, variants: Sequence[Variant], seed: int, num: int
) -> Outcome:
    """The command, run again on a damaged file: so many cuts and as many flipped bits."""
    tally, rng = new_tally("damaged journals"), random.Random(seed)
    for variant in variants:
        data = work_left(place, variant)
        records = read_part(data)
        places = _places(records, len(data), rng, 1)
        for at in sorted(rng.sample(places, min(num, len(places)))):
            flipped = bytearray(data)
            flipped[at] ^= 1 << rng.randrange(8)
            for what, damaged in (("cut", data[:at]), ("flipped", bytes(flipped))):
                case = partial(_go_on_from, place, variant, damaged)
                try_case(tally, case, f"{variant.name}, {what} at {at} of {len(data)}")
    return tally.outcome()


def _go_on_from(place: Workplace, variant: Variant, part: bytes) -> None:
    plain = place.undisturbed(variant)
    with place.directory(variant) as directory:
        (directory / PART).write_bytes(part)
        if not MAGIC.startswith(part[: len(MAGIC)]):
            _check_refused(place, directory, variant, "is not unfinished work of this llmzip")
            return
        left = Left(part=part, is_complete=False, has_part=True)
        ended = go_on(place, directory, variant, plain, left)
        good = read_part(part)
        torn = len(part) - (good[-1].end if good else len(MAGIC))
        require(("are torn" in ended.err) == (torn != 0 and len(part) > 0), str(ended))


def refuse_others(place: Workplace, every: int = 1) -> Outcome:
    """Other things in the file's place, and work of another input, model, version or of other
    settings; of those every so many-th."""
    tally = new_tally("journals refused")
    data = work_left(place, RAW)
    for name, (make, words) in _others(data).items():
        try_case(tally, partial(_refuse_other, place, make, words), name)
    for setting, options in list(OPTIONS.items())[::every]:
        for restart in (False, True):
            case = partial(_other_settings, place, data, setting, options, restart)
            try_case(tally, case, f"another {setting}{', --restart' if restart else ''}")
    changed = replace(RAW, name="another input", data=RAW.data.replace(b"mill", b"Mill"))
    try_case(tally, partial(_other_run, place, data, changed, "input has changed"), changed.name)
    version = replace(RAW, name="another version", prepare=_another_version)
    try_case(tally, partial(_other_run, place, data, version, "version is different"), version.name)
    model = replace(RAW, name="another model", options=(*RAW.options, "--model", str(place.other)))
    try_case(tally, partial(_other_run, place, data, model, "model is different"), model.name)
    return tally.outcome()


Make = Callable[[Path], None]


def _others(data: bytes) -> dict[str, tuple[Make, str]]:
    def link(target: str) -> Make:
        return lambda path: path.symlink_to(path.with_name(target))

    def sealed(path: Path) -> None:
        path.write_bytes(data)
        path.chmod(0o400)

    layout = MAGIC[:-1] + b"\x02"
    return {
        "a text": (lambda path: path.write_bytes(b"chapter one") and None, _FOREIGN),
        "another layout": (
            lambda path: path.write_bytes(layout + data[len(MAGIC) :]) and None,
            _FOREIGN,
        ),
        "a link": (link(INPUT), "is a symbolic link"),
        "a link to nothing": (link("nothing"), "is a symbolic link"),
        "a FIFO": (lambda path: os.mkfifo(path), "is not a file"),
        "a directory": (lambda path: path.mkdir(), "Is a directory"),
        "a file that may not be written": (sealed, _DENIED),
    }  # fmt: skip


def _refuse_other(place: Workplace, make: Make, words: str) -> None:
    with place.directory(RAW) as directory:
        make(directory / PART)
        prepare = forks.drop_root if words == _DENIED else None
        _check_refused(place, directory, RAW, words, prepare=prepare or (lambda: None))


def _other_settings(
    place: Workplace, data: bytes, setting: str, options: tuple[str, ...], restart: bool
) -> None:
    changed = replace(RAW, name=f"another {setting}", options=(*RAW.options, *options))
    words = "other settings: " if setting not in ("codec", "try_cram") else "settings: codec was"
    _other_run(place, data, changed, words, restart=restart)


def _other_run(
    place: Workplace, part: bytes, variant: Variant, words: str, *, restart: bool = True
) -> None:
    with place.directory(variant) as directory:
        (directory / PART).write_bytes(part)
        if not restart:
            _check_refused(place, directory, variant, words, "--restart")
            return
        ended = place.start(variant, directory, around=None, more=("--restart",)).end()
        require(ended.code == 0 and "resumed" not in ended.err, f"--restart: {ended}")
        if (directory / FINAL).read_bytes() != place.undisturbed(variant).data:
            raise Wrong("--restart gives another file")
        require(sorted(os.listdir(directory)) == [FINAL, INPUT], "something is left behind")


def _check_refused(
    place: Workplace,
    directory: Path,
    variant: Variant,
    *words: str,
    prepare: Callable[[], None] = lambda: None,
) -> None:
    before = _snapshot(directory)
    ended = place.start(variant, directory, around=None, prepare=prepare).end()
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    require(ended.code == 1 and len(errors) == 1, str(ended))
    require(PART in errors[0] and all(word in ended.err for word in words), str(ended))
    require(_snapshot(directory) == before, "something was changed")


def _snapshot(directory: Path) -> dict[str, object]:
    return {
        path.name: (path.lstat().st_mode, path.is_file() and path.read_bytes())
        for path in directory.iterdir()
    }


def _another_version() -> None:
    from llmzip.api import compress as codec

    codec.VERSION = "0.0.9"  # type: ignore[misc]
