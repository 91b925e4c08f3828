"""Fuzzing of the readers: guided or not in processes of their own, and with Hypothesis here."""

from __future__ import annotations

import time
from dataclasses import replace
from importlib.util import find_spec
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmzip.errors import Corrupt, LlmzipError
from llmzip.store.arith_payload import ArithSegment
from llmzip.store.container import Container, read_container, write_container
from llmzip.store.cram_payload import Chunk
from llmzip.store.header import CRC_BYTES, encode_header, read_header
from llmzip.store.margins import margin_value
from llmzip.store.varint import MAX_VARINT
from llmzip.store.vectors import GridMem
from tests.containers import arith_container, cram_container
from tests.soak import fuzz, mutate
from tests.soak.child import in_child
from tests.soak.files import PLANES, assemble, golden, seal, signed, take_apart
from tests.soak.hostile import changed, numbers_of
from tests.soak.outcome import MAX_NOTES, MAX_SECONDS, Tally, Verdict, merged, summary, table
from tests.soak.reading import any_file

pytestmark = pytest.mark.slow

FILES = list(fuzz.starts().values())
PARTS = [take_apart(data) for data in golden().values()]


def decode_lm(data: bytes) -> Verdict:
    """A verdict within the limit of time; any exception but an LlmzipError is a failure."""
    began = time.process_time()
    try:
        verdict = any_file(data)
    except LlmzipError:
        verdict = "refused"
    assert verdict in ("refused", "sound")
    assert time.process_time() - began < MAX_SECONDS
    return verdict


def test_fuzzing_finds_nothing() -> None:
    outcomes = fuzz.run(seed=1, full=False)
    assert all(outcome.is_clean for outcome in outcomes), table(outcomes)
    assert sum(outcome.cases for outcome in outcomes) == fuzz.PLAIN_CASES + fuzz.GUIDED_CASES
    if find_spec("atheris"):
        assert outcomes[1].cases == fuzz.GUIDED_CASES
    else:
        pytest.skip("atheris is not installed: these cases were made without guidance")


def test_a_case_of_fuzzing_can_be_made_again() -> None:
    first, again = (mutate.mutate(FILES[0], FILES, Random("1 2")) for _ in range(2))
    assert first == again != FILES[0]


def test_changed_files_get_behind_the_first_checks() -> None:
    verdicts = [
        decode_lm(mutate.mutate(FILES[number % len(FILES)], FILES, Random(number)))
        for number in range(300)
    ]
    assert 30 < verdicts.count("sound") < 270


def test_a_tally_counts_all_that_can_go_wrong() -> None:
    def raises(error: BaseException) -> Verdict:
        raise error

    tally = Tally(name="cases", max_seconds=0.05, max_mb=1.0)
    tally.run(lambda: "sound", lambda: "not told")
    tally.run(lambda: raises(Corrupt("x")), lambda: "not told")
    tally.run(lambda: "lost", lambda: "first")
    tally.run(lambda: "wrong", lambda: "second")
    tally.run(lambda: raises(MemoryError("x")), lambda: "third")
    tally.run(lambda: "refused" if sum(range(10**7)) else "wrong", lambda: "fourth")
    found = tally.outcome()
    assert (found.cases, found.lost, found.wrong, found.foreign, found.too_slow) == (6, 1, 1, 1, 2)
    assert found.slowest_seconds > 0.05 and found.peak_mb > 1 and not found.is_clean
    notes = " ".join(found.notes)
    assert all(word in notes for word in ("first", "second", "third", "fourth", "MB in use"))
    assert "not told" not in notes
    both = merged([found, replace(found, cases=1, slowest_seconds=9.0, notes=())])
    assert (both.cases, both.lost, both.too_slow, both.slowest_seconds) == (7, 2, 4, 9.0)
    assert both.peak_mb == found.peak_mb and both.notes == found.notes[:MAX_NOTES]
    line = summary([found], seed=7, seconds=1234.5)
    assert line == (
        "soak: seed 7; 6 cases; 1 lost, 1 wrong bytes, 1 foreign exceptions, 2 over a limit; "
        "1,234 s"
    )


def test_a_campaign_that_dies_is_a_failure() -> None:
    (found,) = in_child("tests.soak.damage", "no_such_function", timeout_s=60)
    assert found.foreign == 1 and "no_such_function" in found.notes[0]


# Bytes that no writer made


@settings(max_examples=400, derandomize=True, database=None, deadline=None)
@given(
    front=st.binary(min_size=3, max_size=3)
    | st.sampled_from([b"\1\0\0", b"\1\x09\0", b"\1\x49\0"]),
    fields=st.binary(max_size=120),
    body=st.binary(max_size=60),
    is_signed=st.booleans(),
)
def test_any_bytes(front: bytes, fields: bytes, body: bytes, is_signed: bool) -> None:
    data = seal(front, fields, body)
    decode_lm(data if is_signed else data[:11] + fields + body)


@settings(max_examples=500, derandomize=True, database=None, deadline=None)
@given(index=st.integers(0, len(PARTS) - 1), plane=st.sampled_from(PLANES), data=st.data())
def test_any_plane_in_a_sound_file(index: int, plane: str, data: st.DataObject) -> None:
    parts = PARTS[index]
    size = len(parts.plane(plane))
    new = data.draw(st.binary(max_size=40) | st.binary(min_size=size, max_size=size))
    decode_lm(assemble(parts.header, {n: parts.plane(n) for n in PLANES} | {plane: new}))


# Headers


@settings(max_examples=600, derandomize=True, database=None, deadline=None)
@given(index=st.integers(0, len(PARTS) - 1), data=st.data())
def test_headers_near_their_limits(index: int, data: st.DataObject) -> None:
    parts = PARTS[index]
    limits = [limit for limit in mutate.LIMITS if limit <= MAX_VARINT]
    value = st.sampled_from(limits) | st.integers(0, 300)
    names = st.sampled_from(numbers_of(parts.header))
    header = parts.header
    for path, number in data.draw(st.lists(st.tuples(names, value), min_size=1, max_size=4)):
        header = changed(header, path, number)
    try:
        head = encode_header(header)
    except ValueError:  # a byte above 255
        return
    decode_lm(signed(head[:-CRC_BYTES], b"".join(map(parts.plane, PLANES))))
    try:
        found, size = read_header(head)
    except LlmzipError:
        return
    assert size == len(head) and encode_header(found) == head


# Containers


@st.composite
def containers(draw: st.DrawFn) -> Container:
    """Files whose every number is the least or the most that it may be, or near that."""
    kind = draw(st.sampled_from(["raw", "coded", "arith"]))
    fields: dict[str, Any] = {
        "xz_bytes": draw(near(0, MAX_VARINT)),
        "zstd_bytes": draw(near(0, MAX_VARINT)),
        "model_id": draw(st.sampled_from(["m", "é" * 127, "x" * 255])),
        "revision": draw(st.sampled_from(["", "0f" * 20, "0f" * 19 + "0G", "x" * 255])),
        "start_id": draw(st.none() | near(0, 2**31 - 1)),
    }
    tail = (draw(st.binary(min_size=1, max_size=9)),) * draw(st.integers(0, 1))
    if kind == "arith":
        segments = tuple(draw(segments_of()) for _ in range(draw(st.integers(1, 3))))
        return arith_container(
            segments,
            sum(segment.num_bytes for segment in segments),
            *tail,
            **fields,
            prefix_tokens=draw(near(0, 65535)),
            window_tokens=draw(near(1, 2**24)),
            guard_code=draw(near(1, 255)),
            wrap=draw(near(0, 2)),
        )
    shape = draw(st.sampled_from([(1, 1), (1, 65536), (1, 65535), (1024, 1), (1023, 2), (3, 65)]))
    chunk = draw(chunks_of(shape, is_coded=kind == "coded"))
    later = replace(chunk, starts_segment=draw(st.booleans()))
    fields |= {
        "num_mem": shape[0],
        "mem_dim": shape[1],
        "bits": 16 if kind == "raw" else draw(near(1, 8)),
        "context_tokens": draw(near(0, 2**31 - 1)),
        "min_margin": margin_value(draw(near(1, 255))),
        "bf16_safe": draw(st.booleans()),
    }
    return cram_container((chunk, later), *tail, **fields)


def near(least: int, most: int) -> st.SearchStrategy[int]:
    """The two least and the two most of a range."""
    return st.sampled_from([v for v in (least, least + 1, most - 1, most) if least <= v <= most])


@st.composite
def segments_of(draw: st.DrawFn) -> ArithSegment:
    num_tokens = draw(near(1, 2**24) | near(64, 4096))
    return ArithSegment(
        num_tokens=num_tokens,
        num_bytes=num_tokens + draw(near(0, 2**60)),
        check=draw(near(0, 2**32 - 1)),
        num_lanes=draw(near(1, min(64, num_tokens))),
        stream=bytes(max(1, num_tokens // 4096) + draw(st.integers(0, 2))),
    )


@st.composite
def chunks_of(draw: st.DrawFn, shape: tuple[int, int], *, is_coded: bool) -> Chunk:
    num_tokens = draw(near(2, 65535))
    mem: Any = np.full(shape, draw(st.sampled_from([0, 1, 0x7F7F, 0xFF7F])), dtype=np.uint16)
    if is_coded:
        symbol, step = draw(
            st.sampled_from([(0, 0x7F60), (1, 0x7F60), (1023, 0x7A00), (-1023, 128)])
        )
        mem = GridMem(
            symbols=np.full(shape, symbol, dtype=np.int16),
            steps=np.full(shape[0], step, dtype=np.uint16),
        )
    place, token = draw(near(0, num_tokens - 1)), draw(near(0, 2**31 - 1))
    return Chunk(
        num_tokens=num_tokens,
        num_bytes=num_tokens + draw(near(0, 2**60)),
        check=draw(near(0, 65535)),
        starts_segment=True,
        patches=((place, token),) * draw(st.integers(0, 1)),
        mem=mem,
    )


@settings(max_examples=100, derandomize=True, database=None, deadline=None)
@given(container=containers(), data=st.data())
def test_containers_near_their_limits(container: Container, data: st.DataObject) -> None:
    packed = write_container(container)
    began = time.process_time()
    assert read_container(packed, max_output_bytes=MAX_VARINT) == container
    at = data.draw(st.integers(0, len(packed) - 1))
    flipped = packed[:at] + bytes([packed[at] ^ 1 << data.draw(st.integers(0, 7))])
    with pytest.raises(LlmzipError):
        read_container(flipped + packed[at + 1 :], max_output_bytes=MAX_VARINT)
    assert time.process_time() - began < MAX_SECONDS
