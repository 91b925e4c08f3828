"""The original as a row of pieces, against a model that writes down every byte of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmzip.errors import IntegrityError, SettingsError
from llmzip.store.arith_payload import ArithSegment
from llmzip.store.container import Container
from llmzip.store.cram_payload import Chunk
from llmzip.store.original import chunk_check, content_hash, segment_check
from llmzip.store.payload import StoredRun
from llmzip.store.pieces import LostRun, PieceMap, restore
from tests.containers import arith_container, cram_container, stored_container


@dataclass(frozen=True, kw_only=True)
class Case:
    """A file, and each byte of its original: what it is, and the piece that gives it, if any."""

    container: Container
    texts: list[bytes]
    original: bytes
    pieces: list[int | None]  # of each byte

    @property
    def layout(self) -> PieceMap:
        return PieceMap.of(self.container)


def a_chunk(text: bytes) -> Chunk:
    return Chunk(
        num_tokens=1,
        num_bytes=len(text),
        check=chunk_check(text, size=2),
        starts_segment=True,
        patches=((0, 0),),
        mem=None,
    )


def a_segment(text: bytes) -> ArithSegment:
    check = segment_check(text)
    return ArithSegment(num_tokens=1, num_bytes=len(text), check=check, num_lanes=1, stream=b"x")


def case(runs: list[tuple[str, list[bytes]]], *, sizes: list[int] | None = None) -> Case:
    """Runs of a kind and their pieces; "arith" runs are cut into segments of these sizes, which
    may span runs."""
    made: list[Any] = []
    texts: list[bytes] = []
    original, pieces = b"", list[int | None]()
    for kind, parts in runs:
        data = b"".join(parts)
        original += data
        if kind == "stored":
            made.append(data)
            pieces += [None] * len(data)
        elif kind == "cram":
            made.append([a_chunk(part) for part in parts])
            for part in parts:
                pieces += [len(texts)] * len(part)
                texts.append(part)
        else:
            made.append(len(data))
            pieces += [0] * len(data)
    check = {"original_hash": content_hash(original)}
    if sizes is not None:
        places = [index for index, piece in enumerate(pieces) if piece is not None]
        bounds = [0, *accumulate(sizes)]
        for number, (first, last) in enumerate(zip(bounds, bounds[1:], strict=False)):
            for place in places[first:last]:
                pieces[place] = number
            texts.append(bytes(original[place] for place in places[first:last]))
        container = arith_container([a_segment(text) for text in texts], *made, **check)
    elif texts:
        container = cram_container(*made, **check)
    else:
        container = stored_container(original, **check)
    return Case(container=container, texts=texts, original=original, pieces=pieces)


def of_kind(kind: str) -> Case:
    """The same original, held in three ways."""
    if kind == "stored":
        return case([("stored", [b"the old mill stands by the river"])])
    if kind == "cram":
        return case(
            [
                ("cram", [b"the ", b"old mill"]),
                ("stored", [b" stands"]),
                ("cram", [b" by the "]),
                ("stored", [b"river"]),
            ]
        )
    return case(
        [
            ("stored", [b"the "]),
            ("arith", [b"old mill"]),
            ("stored", [b" stands"]),
            ("arith", [b" by"]),
            ("stored", [b" the "]),
            ("arith", [b"river"]),
        ],
        sizes=[5, 8, 3],
    )


KINDS = ["cram", "arith", "stored"]
some_bytes = st.binary(min_size=1, max_size=4)


@st.composite
def cases(draw: st.DrawFn, least_pieces: int = 0) -> Case:
    kind = draw(st.sampled_from(["cram", "arith"]))
    is_stored = draw(st.booleans())
    runs: list[tuple[str, list[bytes]]] = []
    for _ in range(draw(st.integers(0, 6))):
        parts = draw(st.lists(some_bytes, min_size=1, max_size=4))
        runs.append(("stored" if is_stored else kind, parts))
        is_stored = not is_stored
    sizes = None
    left = sum(len(part) for name, parts in runs if name == "arith" for part in parts)
    if left:
        sizes = []
        while left:
            sizes.append(draw(st.integers(1, left)))
            left -= sizes[-1]
    found = case(runs, sizes=sizes)
    assume(len(found.texts) >= least_pieces)
    return found


@st.composite
def cases_and_ranges(draw: st.DrawFn) -> tuple[Case, int, int]:
    found = draw(cases())
    size = len(found.original)
    first = draw(st.integers(0, size))
    return found, first, draw(st.integers(first, size))


thorough = settings(max_examples=300, derandomize=True, database=None, deadline=None)


def check_extents(one: Case, first: int, last: int) -> None:
    """Extents cover the range once, in order, and give what is there."""
    place = first
    for extent in one.layout.extents(first, last):
        assert extent.first == place < extent.last
        place = extent.last
        expected = one.original[extent.first : extent.last]
        assert set(one.pieces[extent.first : extent.last]) == {extent.piece}
        if extent.piece is None:
            assert extent.data == expected
        else:
            text = one.texts[extent.piece]
            size = extent.last - extent.first
            assert extent.data is None
            assert text[extent.offset : extent.offset + size] == expected
    assert place == last


@thorough
@given(cases_and_ranges())
def test_extents(found: tuple[Case, int, int]) -> None:
    check_extents(*found)


@pytest.mark.parametrize("kind", KINDS)
def test_extents_of_every_range(kind: str) -> None:
    one = of_kind(kind)
    for first in range(len(one.original) + 1):
        for last in range(first, len(one.original) + 1):
            check_extents(one, first, last)


@thorough
@given(cases_and_ranges())
def test_wanted(found: tuple[Case, int, int]) -> None:
    one, first, last = found
    needed = sorted({piece for piece in one.pieces[first:last] if piece is not None})
    assert list(one.layout.wanted(first, last)) == needed


@thorough
@given(cases(least_pieces=1), st.data())
def test_spans_of_pieces(one: Case, data: st.DataObject) -> None:
    number = len(one.texts)
    first = data.draw(st.integers(1, number))
    last = data.draw(st.integers(first, number))
    places = [
        place
        for place, piece in enumerate(one.pieces)
        if piece is not None and first <= piece + 1 <= last
    ]
    assert one.layout.span_of(first, last) == (places[0], places[-1] + 1)


@pytest.mark.parametrize(
    ("kind", "first", "last", "text"),
    [
        ("cram", 1, 1, b"the "),
        ("cram", 2, 2, b"old mill"),
        ("cram", 3, 3, b" by the "),
        ("cram", 2, 3, b"old mill stands by the "),
        ("cram", 1, 3, b"the old mill stands by the "),
        ("arith", 1, 1, b"old m"),
        ("arith", 2, 2, b"ill stands by the ri"),
        ("arith", 3, 3, b"ver"),
        ("arith", 1, 3, b"old mill stands by the river"),
    ],
)
def test_spans_end_with_their_pieces(kind: str, first: int, last: int, text: bytes) -> None:
    one = of_kind(kind)
    span = one.layout.span_of(first, last)
    assert one.original[slice(*span)] == text
    assert restore(one.container, one.texts, span) == text


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_that_there_are_not(kind: str) -> None:
    layout = of_kind(kind).layout
    number = {"cram": 3, "arith": 3, "stored": 0}[kind]
    assert layout.num_pieces == number
    noun = {"cram": "chunks", "arith": "segments", "stored": "chunks"}[kind]
    for first, last in ((1, number + 1), (number + 1, number + 1), (0, 1), (2, 1)):
        with pytest.raises(SettingsError, match=f"{first}-{last}, the file has {number} {noun}"):
            layout.span_of(first, last)


# Put together


@thorough
@given(cases_and_ranges())
def test_restore(found: tuple[Case, int, int]) -> None:
    one, first, last = found
    assert restore(one.container, one.texts) == one.original
    assert restore(one.container, one.texts, (first, last)) == one.original[first:last]


@thorough
@given(cases_and_ranges(), st.data())
def test_a_missing_piece_matters_where_it_is_needed(
    found: tuple[Case, int, int], data: st.DataObject
) -> None:
    one, first, last = found
    lost = data.draw(st.sets(st.sampled_from(range(len(one.texts))))) if one.texts else set()
    texts = [None if index in lost else text for index, text in enumerate(one.texts)]
    needed = lost.intersection(one.layout.wanted(first, last))
    if not needed:
        assert restore(one.container, texts, (first, last)) == one.original[first:last]
        return
    with pytest.raises(IntegrityError) as caught:
        restore(one.container, texts, (first, last))
    number = min(needed) + 1
    assert f"{one.layout.noun} {number} of {len(texts)} decodes to different text" in str(
        caught.value
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_hash_of_the_whole_is_checked(kind: str) -> None:
    one = of_kind(kind)
    forged = replace(one.container, original_hash=bytes(32))
    with pytest.raises(IntegrityError, match="hash of the whole"):
        restore(forged, one.texts)
    if kind == "stored":  # all of it is here: a part is checked by the hash, too
        with pytest.raises(IntegrityError, match="hash of the whole"):
            restore(forged, [], (3, 9))
    else:
        assert restore(forged, one.texts, (3, 9)) == one.original[3:9]


@pytest.mark.parametrize("text", [b"old mall", b"old mil", b""])
def test_another_text_fails_the_hash(text: bytes) -> None:
    one = of_kind("cram")
    with pytest.raises(IntegrityError, match="hash of the whole"):
        restore(one.container, [one.texts[0], text, one.texts[2]])


def test_an_empty_original() -> None:
    empty = case([])
    assert restore(empty.container, []) == restore(empty.container, [], (0, 0)) == b""
    assert list(empty.layout.extents(0, 0)) == [] and empty.layout.wanted(0, 0) == range(0)


def test_a_lost_run_has_no_bytes() -> None:
    one = of_kind("cram")
    runs = [
        LostRun(run.num_bytes) if isinstance(run, StoredRun) else run for run in one.container.runs
    ]
    layout = PieceMap.of(one.container, runs)
    for extent in layout.extents(0, len(one.original)):
        assert extent.data is None
        assert set(one.pieces[extent.first : extent.last]) == {extent.piece}
    assert layout.span_of(2, 3) == one.layout.span_of(2, 3)
