"""Damaged files: every bit flipped, every cut, every record doubled, moved, blanked, taken away.

Owns what can happen to a file by accident, and by someone who then puts its checksums right. The
first must be refused, always; the second may be read, but never as another text: `decoding` tells.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial

from tests.soak.child import in_child
from tests.soak.files import Edit, Parts, apply_signed, golden, records, take_apart
from tests.soak.outcome import MAX_MB, Outcome, Tally, Verdict, cap_memory
from tests.soak.reading import all_refuse, any_file

TAILS = (b"\0", b"\n", b"\xff", bytes(8), bytes(4096), b"\x89CRM\r\n\x1a\n", b"MRC\n")
SIGNED_SAMPLE = 4000


def run(*, seed: int, full: bool) -> list[Outcome]:
    """All damage; if not `full`, of re-signed files a sample."""
    options = {"seed": seed, "full": full}
    read = in_child(__name__, "read_golden", timeout_s=3600 if full else 600, **options)
    return read + in_child(
        "tests.soak.decoding", "decode_damaged", timeout_s=14400 if full else 900, **options
    )


def read_golden(*, seed: int, full: bool) -> list[Outcome]:
    """Damage to the frozen files, as the structural readers see it."""
    files = [take_apart(data) for data in golden().values()]
    cap_memory(MAX_MB)
    outcomes = []
    for name, edits_of in KINDS.items():
        tally = Tally(name=name)
        for parts in files:
            for edit in edits_of(parts):
                try_edit(tally, parts, edit, edit.apply(parts.data), all_refuse)
        outcomes.append(tally.outcome())
    cases = [(parts, edit) for parts in files for edit in all_edits(parts)]
    tally = Tally(name="re-signed files read")
    for parts, edit in cases if full else random.Random(seed).sample(cases, SIGNED_SAMPLE):
        try_edit(tally, parts, edit, apply_signed(parts, edit), any_file)
    return [*outcomes, tally.outcome()]


def try_edit(
    tally: Tally, parts: Parts, edit: Edit, data: bytes, judge: Callable[[bytes], Verdict]
) -> None:
    """Judge a damaged file, unless the damage changes nothing."""
    if data != parts.data:
        tally.run(partial(judge, data), lambda: f"{edit.label}: {data.hex()}")


def flips(parts: Parts) -> Iterator[Edit]:
    """Every bit."""
    for at, byte in enumerate(parts.data):
        for bit in range(8):
            label = f"bit {bit} of byte {at}"
            yield Edit(label=label, start=at, stop=at + 1, new=bytes([byte ^ 1 << bit]))


def cuts(parts: Parts) -> Iterator[Edit]:
    """Every length but the right one: cut anywhere, at either end, or with bytes behind it."""
    size = len(parts.data)
    for at in range(size):
        yield Edit(label=f"cut at {at}", start=at, stop=size, new=b"")
        yield Edit(label=f"without the first {at + 1}", start=0, stop=at + 1, new=b"")
    tails = [bytes([byte]) for byte in range(256)]
    for tail in (*tails, *TAILS, parts.data):
        yield Edit(label=f"{len(tail)} bytes more", start=size, stop=size, new=tail)
    # In a signed file, bytes behind a plane are the plane's.
    for name, (_, last) in parts.planes.items():
        for tail in TAILS:
            yield Edit(label=f"{len(tail)} bytes behind {name}", start=last, stop=last, new=tail)


def record_edits(parts: Parts) -> Iterator[Edit]:
    """Every record twice, changed for the one behind it, all zeros, all ones, missing."""
    data, places = parts.data, records(parts)
    behind: dict[int, list[int]] = {}
    for first, last in places:
        behind.setdefault(first, []).append(last)
    for first, last in places:
        record, label = data[first:last], f"record {first}:{last}"
        yield Edit(label=f"{label} twice", start=last, stop=last, new=record)
        yield Edit(label=f"{label} missing", start=first, stop=last, new=b"")
        yield Edit(label=f"{label} zeros", start=first, stop=last, new=bytes(len(record)))
        yield Edit(label=f"{label} ones", start=first, stop=last, new=b"\xff" * len(record))
        for end in behind.get(last, ()):
            new = data[last:end] + record
            yield Edit(label=f"{label} behind {last}:{end}", start=first, stop=end, new=new)


def all_edits(parts: Parts) -> Iterator[Edit]:
    """All of it."""
    for edits_of in KINDS.values():
        yield from edits_of(parts)


KINDS = {"bits flipped": flips, "cuts and tails": cuts, "records damaged": record_edits}
