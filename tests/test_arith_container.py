"""Arith `.crm` files: byte literals, file rules, limits, damage, bombs, round trips, figures."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from llmzip.errors import Corrupt, LimitExceeded, LlmzipError, SettingsError, UnsupportedVersion
from llmzip.store.arith_fields import ArithFields
from llmzip.store.arith_payload import ArithFigures, ArithPayload, ArithSegment
from llmzip.store.container import Container, parse_container, summarise_container, write_container
from llmzip.store.grids import GridCode
from llmzip.store.model_ref import ModelRef
from llmzip.store.original import segment_check
from llmzip.store.payload import StoredRun, TextRun
from llmzip.store.varint import Cursor, encode_varint
from llmzip.store.vectors import GridMem
from tests.containers import arith_container, arith_of, changed, cram_container
from tests.reference import read_container
from tests.test_container import ARITH, HUGE, NAMED, a_chunk, plain_header, seal, split

FRONT = b"\1\x41\0"  # model, arith


def a_segment(**changes: Any) -> ArithSegment:
    fields: dict[str, Any] = {
        "num_tokens": 5,
        "num_bytes": 9,
        "check": 0x12345678,
        "num_lanes": 2,
        "stream": b"\xaa\xbb",
    }
    return ArithSegment(**(fields | changes))


def a_file(*segments: ArithSegment, **changes: Any) -> Container:
    """A file of one run of text."""
    return arith_container(segments or (a_segment(),), **changes)


def a_grid(num_mem: int = 1, mem_dim: int = 2, *, step: int = 0x3F80) -> GridMem:
    symbols = np.zeros((num_mem, mem_dim), dtype=np.int16)
    symbols[0, 0] = 1
    return GridMem(symbols=symbols, steps=np.full(num_mem, step, dtype=np.uint16))


# Byte literals

MODEL = b"\1m\0" + bytes(16)
COLUMNS = bytes.fromhex(
    "09"  # 0: bytes of the run
    "05 09 02 02"  # 1: tokens, bytes, lanes, bytes of the stream
    "78563412"  # 5: check
)


def test_one_segment_byte_for_byte() -> None:
    container = a_file()
    data = write_container(container)
    model = MODEL + bytes.fromhex("01 01 03 c801 60 00 00 02")
    fields = plain_header(original_bytes=9, runs=2, columns=9, stored=0, model=model)
    assert data == seal(FRONT, fields, COLUMNS + b"\xaa\xbb")
    assert read_container(data) == container


def test_every_field_byte_for_byte() -> None:
    symbols = np.array([[2, -1, 0], [0, 0, 1]], dtype=np.int16)
    mem = GridMem(symbols=symbols, steps=np.array([0x3F80, 0x3FC0], dtype=np.uint16))
    segments = (a_segment(), a_segment(num_tokens=1, num_bytes=300, num_lanes=1, stream=b"\xcc"))
    container = arith_container(segments, b"\xff\xfe", 4, b"\0", 305, wrap=2, mem=mem, start_id=300)
    data = write_container(container)
    front, fields, body = split(data)
    model = MODEL + bytes.fromhex("ac02 01 02 03 c801 60 02 02 03")
    head = plain_header(original_bytes=312, runs=9, columns=22, stored=3, model=model)
    assert front == b"\1\x49\0" and fields.startswith(head)
    size = fields[len(head)]
    assert fields[len(head) :] == bytes([size]) + bytes.fromhex("02 fc03 02") + fields[-2:]
    assert fields[-1] == 3  # bytes of all streams
    columns = bytes.fromhex("02 04 01 b102 05090202 78563412 01ac020101 78563412")
    assert body[:22] == columns and body[22 + size :] == b"\xaa\xbb\xcc" + b"\xff\xfe\0"
    assert read_container(data) == container


def test_the_check_is_the_documented_one() -> None:
    assert segment_check(b"abc") == 0x3C81DDBD  # BLAKE2b-256 of it starts with bd dd 81 3c


def test_fields_alone() -> None:
    model = ModelRef(model_id="m", revision="", digest=bytes(16), start_id=None)
    empty = ArithPayload(
        model=model,
        segments=(),
        prefix_tokens=0,
        window_tokens=512,
        guard_code=255,
        wrap=2,
        mem=None,
    )
    fields = ArithFields(
        empty=empty,
        num_segments=5,
        num_mem=2,
        mem_dim=576,
        vector_bytes=200,
        grid=GridCode(max_symbol=200, first_step=508, step_span=3, prior=77),
        stream_bytes=3000,
    )
    data = fields.encode()
    assert data.hex(" ") == "01 05 00 80 04 ff 02 02 c0 04 c8 01 c8 01 fc 03 03 4d b8 17"
    assert ArithFields.read(Cursor(data, what="header"), model, 64) == fields
    with_start = dataclasses.replace(empty, model=dataclasses.replace(model, start_id=7))
    started = dataclasses.replace(fields, empty=with_start)
    assert started.encode() == b"\7" + data
    assert ArithFields.read(Cursor(b"\7" + data, what="header"), model, 72) == started
    without = dataclasses.replace(fields, num_mem=0, mem_dim=0, vector_bytes=0, grid=None)
    data = without.encode()
    assert data.hex(" ") == "01 05 00 80 04 ff 02 00 b8 17"
    assert ArithFields.read(Cursor(data, what="header"), model, 64) == without


# What is in which file


def test_what_an_arith_file_says_of_itself() -> None:
    container = read_container(ARITH)
    arith = arith_of(container)
    assert container.needs_model and (arith.num_mem, arith.mem_dim) == (2, 5)
    assert arith.bits_per_dimension == 0 and arith.optional == 0
    assert sum(segment.num_bytes for segment in arith.segments) == 26
    assert [type(run) for run in container.runs] == [TextRun, StoredRun, TextRun]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"payload": None}, "runs of text and a payload do not agree"),
        ({"segments": (a_segment(num_bytes=8),)}, "segments hold 8 bytes, the runs take 9"),
        ({"runs": (StoredRun(data=b"123456789"),)}, "runs of text and a payload do not agree"),
        ({"payload": cram_container((a_chunk(num_bytes=8),)).payload}, "does not end where"),
        (
            {"runs": (TextRun(num_bytes=9), StoredRun(data=b"-"), TextRun(num_bytes=9))},
            "segments hold 9 bytes, the runs take 18",
        ),
        ({"runs": (TextRun(num_bytes=4), TextRun(num_bytes=5))}, "join them"),
        ({"runs": (TextRun(num_bytes=9), StoredRun(data=b""))}, "empty run"),
        (
            {"runs": (TextRun(num_bytes=9), StoredRun(data=b"-"), TextRun(num_bytes=0))},
            "empty run",
        ),
        ({"original_bytes": 10}, "the runs hold 9 bytes"),
        ({"model_id": ""}, "model id"),
        ({"digest": b""}, "digest"),
        ({"start_id": 2**31}, "start token"),
    ],
)
def test_broken_files_are_not_written(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=f"cannot be stored: .*{message}"):
        write_container(changed(a_file(), **changes))


@pytest.mark.parametrize(
    "mem",
    [
        a_grid(65, 1),
        a_grid(1, 65537),
        a_grid(step=0x3F81),
        dataclasses.replace(a_grid(), steps=np.full(2, 0x3F80, np.uint16)),
        dataclasses.replace(a_grid(), steps=np.zeros(0, np.uint16)),
        dataclasses.replace(a_grid(), symbols=np.full((1, 2), 1024, np.int16)),
        dataclasses.replace(a_grid(step=0x7F60), symbols=np.full((1, 2), 2, np.int16)),
    ],
)
def test_broken_shared_vectors_are_not_written(mem: GridMem) -> None:
    with pytest.raises(SettingsError, match="shared mem vectors"):
        write_container(a_file(mem=mem))


@pytest.mark.parametrize("required, optional", [(16, 0), (32, 0), (48, 0), (0, 1), (32, 1)])
def test_features_of_crammed_chunks_are_refused(required: int, optional: int) -> None:
    front, fields, body = split(ARITH)
    features = bytes([1, front[1] | required, optional])
    with pytest.raises(Corrupt, match="features of two codecs"):
        read_container(seal(features, fields, body))


@pytest.mark.parametrize("required", [64, 64 | 8, 64 | 32])
def test_no_arith_without_a_model(required: int) -> None:
    fields = plain_header(original_bytes=0, runs=0, columns=0, stored=0)
    with pytest.raises(Corrupt, match="no model"):
        read_container(seal(bytes([1, required, 0]), fields, b""))


def test_the_other_bits_and_the_fields_must_agree() -> None:
    front, fields, body = split(ARITH)
    for bit in (8, 64):
        with pytest.raises(LlmzipError) as caught:
            read_container(seal(bytes([1, front[1] ^ bit, 0]), fields, body))
        assert caught.type in NAMED
    expected = read_container(ARITH)
    for bit in (8, 128):  # unknown optional features may bring fields of their own
        assert read_container(seal(front[:2] + bytes([bit]), fields + b"new", body)) == expected
    with pytest.raises(Corrupt, match="3 unused bytes"):
        read_container(seal(front, fields + b"new", body))


# Damage that right checksums hide


def arith_file(
    *,
    columns: bytes = COLUMNS,
    streams: bytes = b"\xaa\xbb",
    vectors: bytes = b"",
    numbers: tuple[int, int, int, int] = (1, 1, 3, 200),
    prediction: bytes = b"\x60\0",
    mem: tuple[int, ...] = (0,),
    grid: bytes = b"",
    stream_bytes: int | None = None,
    front: bytes = FRONT,
    **changes: int,
) -> bytes:
    """Any header and body of an arith file. numbers: recipe, segments, prefix, window."""
    size = len(streams) if stream_bytes is None else stream_bytes
    model = MODEL + b"".join(map(encode_varint, numbers)) + prediction
    model += b"".join(map(encode_varint, mem)) + grid + encode_varint(size)
    head = {"original_bytes": 9, "runs": 2, "columns": len(columns), "stored": 0} | changes
    return seal(front, plain_header(**head, model=model), columns + vectors + streams)


# The largest symbol 1, one step.
GRID_BYTES = bytes.fromhex("01 04 00 00")


def test_the_builder_builds() -> None:
    assert arith_file() == write_container(a_file())


@pytest.mark.parametrize("recipe", [0, 2, 127, HUGE])
def test_unknown_recipes(recipe: int) -> None:
    with pytest.raises(UnsupportedVersion, match=f"recipe {recipe}, this llmzip knows 1"):
        read_container(arith_file(numbers=(recipe, 1, 3, 200)))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"numbers": (1, 0, 3, 200)}, "0 segments in 2 bytes of streams"),
        ({"numbers": (1, 3, 3, 200)}, "3 segments in 2 bytes of streams"),
        ({"numbers": (1, 9, 3, 200), "streams": bytes(9)}, "9 segments and 1 runs in 9 bytes"),
        ({"runs": 18, "streams": bytes(9), "stored": 1}, "1 segments and 9 runs in 9 bytes"),
        ({"numbers": (1, 1, 65536, 200)}, "prefix of 65536"),
        ({"numbers": (1, 1, 3, 0)}, "window of 0"),
        ({"numbers": (1, 1, 3, 2**24 + 1)}, "window of 16777217"),
        ({"prediction": b"\0\0"}, "guard code 0"),
        ({"prediction": b"\x60\3"}, "line break 3"),
        ({"mem": (65, 2, 9), "grid": GRID_BYTES}, "65 shared mem vectors"),
        ({"mem": (1, 0, 9), "grid": GRID_BYTES}, "of 0 dimensions"),
        ({"mem": (1, 65537, 9), "grid": GRID_BYTES}, "of 65537 dimensions"),
        ({"mem": (3, 65, 5), "grid": GRID_BYTES}, "5 bytes of vectors, at least 6"),
        ({"mem": (1, 2, 1), "grid": b"\0\4\0\0"}, "largest symbol 0"),
        ({"mem": (1, 2, 1), "grid": b"\1\3\0\0"}, "steps from 3"),
        ({"mem": (1, 2, 1), "grid": GRID_BYTES + b"\0"}, "unused"),
        ({"runs": 3}, "do not agree"),
        ({"runs": 0, "columns": b""}, "do not agree"),
        ({"stored": 1}, "0 stored runs in 1 bytes"),
        ({"runs": 4}, "1 stored runs in 0 bytes"),
    ],
)
def test_contradictions_in_a_header(changes: dict[str, Any], message: str) -> None:
    for read in (read_container, summarise_container):
        with pytest.raises(Corrupt, match=message):
            read(arith_file(**changes))


@pytest.mark.parametrize(
    "offset, value, message",
    [
        (0, 0, "run 0: no bytes"),
        (0, 10, "segments hold 9 bytes, the runs take 10"),
        (0, 8, "segments hold 9 bytes, the runs take 8"),
        (1, 0, "segment 0: 0 tokens"),
        (1, 10, "9 bytes for 10 tokens"),
        (2, 4, "4 bytes for 5 tokens"),
        (2, 8, "segments hold 8 bytes"),
        (3, 0, "0 lanes"),
        (3, 6, "6 lanes for 5 tokens"),
        (4, 0, "stream of 0 bytes for 5 tokens"),
        (4, 1, "streams of 1 bytes, the header says 2"),
        (4, 3, "streams of 3 bytes, the header says 2"),
        (4, 0x82, "columns ends too early"),
    ],
)
def test_contradictions_in_the_columns(offset: int, value: int, message: str) -> None:
    damaged = bytearray(COLUMNS)
    damaged[offset] = value
    for read in (read_container, summarise_container):
        with pytest.raises(Corrupt, match=message):
            read(arith_file(columns=bytes(damaged)))


def test_columns_are_used_up_and_add_up_to_the_original() -> None:
    with pytest.raises(Corrupt, match="1 unused bytes"):
        read_container(arith_file(columns=COLUMNS + b"\0"))
    with pytest.raises(Corrupt, match="padded varint"):
        read_container(arith_file(columns=b"\x89\0" + COLUMNS[1:]))
    for original_bytes in (8, 10):
        with pytest.raises(Corrupt, match=f"hold 9 bytes, the original has {original_bytes}"):
            read_container(arith_file(original_bytes=original_bytes))
    with pytest.raises(LimitExceeded, match="9 bytes, the limit is 8"):
        read_container(arith_file(), max_output_bytes=8)


def test_shared_vectors_have_one_spelling() -> None:
    front, fields, body = split(ARITH)
    assert body[19:22] == bytes.fromhex("3eb5a6")
    for value in range(256):
        for place in (19, 20, 21):
            damaged = body[:place] + bytes([value]) + body[place + 1 :]
            if damaged == body:
                continue
            data = seal(front, fields, damaged)
            try:
                container = read_container(data)
            except Corrupt:
                continue
            assert container != read_container(ARITH)
    longer = fields.replace(bytes.fromhex("0205 03 03"), bytes.fromhex("0205 04 03"))
    with pytest.raises(Corrupt, match="not the canonical encoding"):
        read_container(seal(front, longer, body[:22] + b"\0" + body[22:]))


def test_an_infinite_shared_vector_is_refused() -> None:
    mem = dataclasses.replace(a_grid(step=0x7EC0), symbols=np.array([[2, 0]], dtype=np.int16))
    front, fields, body = split(write_container(a_file(mem=mem)))
    symbols = encode_varint(2) + encode_varint(0x7EC0 // 32)
    assert fields.count(symbols) == 1
    with pytest.raises(Corrupt, match="infinite"):
        infinite = symbols[:1] + encode_varint(0x7F40 // 32)
        read_container(seal(front, fields.replace(symbols, infinite), body))


@settings(max_examples=400, derandomize=True, database=None, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=3),
    drop=st.integers(0, 200),
    part=st.sampled_from(["fields", "body", "both"]),
)
def test_mutations_give_a_sound_file_or_a_named_error(
    changes: list[tuple[int, int]], drop: int, part: str
) -> None:
    front, fields, body = split(ARITH)
    pieces = {"fields": bytearray(fields), "body": bytearray(body)}
    for name in pieces if part == "both" else (part,):
        piece = pieces[name]
        for place, change in changes:
            piece[place % len(piece)] ^= change
        if drop < len(piece) and drop % 5 == 0:
            del piece[drop]
    data = seal(front, bytes(pieces["fields"]), bytes(pieces["body"]))
    try:
        container = read_container(data, max_output_bytes=1 << 20)
    except LlmzipError as error:
        assert type(error) in NAMED
        return
    # Only the first counts of the symbols are a writer's choice.
    again = write_container(container)
    assert read_container(again) == container
    assert again == data or _prior(again) != _prior(data)


def _prior(data: bytes) -> int:
    fields = summarise_container(data).header.payload
    assert isinstance(fields, ArithFields) and fields.grid
    return fields.grid.prior


# Limits


@pytest.mark.parametrize(
    "name, good, bad",
    [
        ("prefix_tokens", (0, 1, 65534, 65535), (-1, 65536)),
        ("window_tokens", (1, 2, 2**24 - 1, 2**24), (0, -1, 2**24 + 1)),
        ("guard_code", (1, 2, 254, 255), (0, -1, 256)),
        ("wrap", (0, 1, 2), (-1, 3)),
    ],
)
def test_limits_of_the_settings(name: str, good: tuple[int, ...], bad: tuple[int, ...]) -> None:
    for value in good:
        container = a_file(**{name: value})
        assert read_container(write_container(container)) == container
    for value in bad:
        with pytest.raises(SettingsError, match="cannot be stored"):
            write_container(a_file(**{name: value}))


@pytest.mark.parametrize(
    "good, bad",
    [
        ({"num_tokens": 1, "num_lanes": 1}, {"num_tokens": 0, "num_lanes": 1}),
        ({"num_tokens": 9}, {"num_tokens": 10}),
        ({"num_lanes": 5}, {"num_lanes": 6}),
        ({"num_lanes": 1}, {"num_lanes": 0}),
        (
            {"num_tokens": 64, "num_bytes": 64, "num_lanes": 64},
            {"num_tokens": 65, "num_bytes": 65, "num_lanes": 65},
        ),
        ({"stream": b"\0"}, {"stream": b""}),
        (
            {"num_tokens": 3 * 4096 - 1, "num_bytes": 12288, "stream": b"12"},
            {"num_tokens": 3 * 4096, "num_bytes": 12288, "stream": b"12"},
        ),
        (
            {"num_tokens": 2**24, "num_bytes": 2**24, "stream": bytes(4096)},
            {"num_tokens": 2**24 + 1, "num_bytes": 2**25, "stream": bytes(4097)},
        ),
        ({"check": 0}, {"check": -1}),
        ({"check": 2**32 - 1}, {"check": 2**32}),
    ],
)
def test_limits_of_a_segment(good: dict[str, Any], bad: dict[str, Any]) -> None:
    container = a_file(a_segment(), a_segment(**good))
    assert read_container(write_container(container)) == container
    with pytest.raises(SettingsError, match="cannot be stored: segment 1"):
        write_container(a_file(a_segment(), a_segment(**bad)))


def test_a_file_has_a_segment() -> None:
    container = changed(a_file(), segments=())
    with pytest.raises(SettingsError, match="without a segment"):
        write_container(container)


@pytest.mark.parametrize("shape", [(1, 1), (64, 2), (63, 1), (1, 65535), (1, 65536)])
def test_limits_of_the_shared_vectors(shape: tuple[int, int]) -> None:
    container = a_file(mem=a_grid(*shape))
    result = parse_container(write_container(container))
    assert result.container == container
    assert result.sizes.planes["vectors"] >= shape[0] * -(-shape[1] // 64)


# Bombs


@pytest.mark.parametrize(
    "data",
    [
        arith_file(numbers=(1, HUGE, 3, 200), stream_bytes=HUGE, columns=COLUMNS),
        arith_file(numbers=(1, 2**40, 3, 200), stream_bytes=2**40),
        arith_file(stream_bytes=HUGE),
        arith_file(runs=2 * 2**40),
        arith_file(runs=HUGE - 1, stored=HUGE),
        arith_file(mem=(64, 65536, 9), grid=GRID_BYTES, vectors=bytes(9)),
        arith_file(mem=(64, 65536, HUGE), grid=GRID_BYTES),
        arith_file(columns=encode_varint(HUGE) + COLUMNS[1:], original_bytes=HUGE),
        arith_file(columns=COLUMNS[:2] + encode_varint(HUGE) + COLUMNS[3:]),
        arith_file(columns=COLUMNS[:1] + encode_varint(2**24) + encode_varint(2**30) + COLUMNS[3:]),
    ],
)
def test_huge_counts_are_refused_at_once(data: bytes) -> None:
    for read in (read_container, summarise_container):
        started = time.perf_counter()
        with pytest.raises(NAMED):
            read(data)
        assert time.perf_counter() - started < 0.2


def test_columns_do_not_unpack_to_more_than_their_counts_need() -> None:
    frame = zstandard.ZstdCompressor(level=1).compress(bytes(1 << 20))
    with pytest.raises(Corrupt, match="1048576 bytes for 1 pieces"):
        read_container(arith_file(columns=frame, front=b"\1\x43\0"))


def many(count: int) -> Container:
    """As many segments and runs, all alike: nothing that zstd could not squeeze."""
    return arith_container((a_segment(),) * count, *(9, b"-") * count)


def test_zstd_columns_keep_a_byte_for_each_run_and_segment() -> None:
    data = write_container(many(2000))
    head = summarise_container(data).header
    assert not head.required & 2 and head.columns_bytes > 3 * 2000
    assert read_container(data) == many(2000)
    rng = np.random.default_rng(3)
    mixed = [a_segment(check=int(check)) for check in rng.integers(0, 2**32, 300)]
    container = a_file(*mixed)
    data = write_container(container)
    head = summarise_container(data).header
    assert head.required & 2 and 301 <= head.columns_bytes < 8 * 300
    assert read_container(data) == container and write_container(read_container(data)) == data


# Figures


def test_a_summary_agrees_with_the_contents() -> None:
    for data in (ARITH, write_container(many(30)), write_container(a_file())):
        summary, result = summarise_container(data), parse_container(data)
        arith, figures = arith_of(result.container), summary.figures
        assert isinstance(figures, ArithFigures)
        assert summary.sizes == result.sizes and summary.sizes.file_bytes == len(data)
        assert figures.num_segments == len(arith.segments)
        assert figures.num_tokens == sum(segment.num_tokens for segment in arith.segments)
        assert figures.num_lanes == sum(segment.num_lanes for segment in arith.segments)
        assert figures.text_bytes == sum(segment.num_bytes for segment in arith.segments)
        streams = sum(len(part.stream) for part in arith.segments)
        assert figures.stream_bytes == summary.sizes.planes["streams"] == streams
        assert set(summary.sizes.planes) == {"vectors", "streams"}
        assert (figures.num_shared_vectors, figures.shared_dim) == (arith.num_mem, arith.mem_dim)
        assert figures.shared_bits == 8 * summary.sizes.planes["vectors"]
        total = figures.text_bytes + summary.stored_original_bytes
        assert total == result.container.original_bytes
        stored = [run for run in result.container.runs if isinstance(run, StoredRun)]
        assert summary.num_stored_runs == len(stored)


def test_metadata_stays_small() -> None:
    for count in (1, 2, 8):
        container = a_file(*(a_segment(),) * count, model_id="smollm2-135m", start_id=0)
        assert parse_container(write_container(container)).sizes.metadata_bytes <= 112 + 12 * count


# Round trips


@st.composite
def containers(draw: st.DrawFn) -> Container:
    segments = []
    for _ in range(draw(st.integers(1, 4))):
        num_tokens = draw(st.sampled_from([1, 2, 63, 64, 65, 4095, 8192, 70000]))
        least = max(1, num_tokens // 4096)
        segments.append(
            ArithSegment(
                num_tokens=num_tokens,
                num_bytes=num_tokens + draw(st.integers(0, 1000)),
                check=draw(st.integers(0, 2**32 - 1)),
                num_lanes=draw(st.integers(1, min(num_tokens, 64))),
                stream=draw(st.binary(min_size=least, max_size=least + 9)),
            )
        )
    mem = None
    if draw(st.booleans()):
        shape = (draw(st.integers(1, 3)), draw(st.sampled_from([1, 4, 70])))
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        mem = GridMem(
            symbols=rng.integers(-9, 10, shape).astype(np.int16),
            steps=(32 * rng.integers(400, 430, shape[0])).astype(np.uint16),
        )
    # Cut anywhere: runs and segments have nothing to do with each other.
    size = sum(segment.num_bytes for segment in segments)
    cuts = sorted(draw(st.sets(st.integers(1, max(1, size - 1)), max_size=3)))
    ends = [cut for cut in cuts if cut < size] + [size]
    parts: list[int | bytes] = []
    for start, end in zip([0, *ends], ends, strict=False):
        if start or draw(st.booleans()):
            parts.append(draw(st.binary(min_size=1, max_size=9)) * 5)
        parts.append(end - start)
    if draw(st.booleans()):
        parts.append(draw(st.binary(min_size=1, max_size=40)))
    return arith_container(
        segments,
        *parts,
        prefix_tokens=draw(st.integers(0, 65535)),
        window_tokens=draw(st.integers(1, 2**24)),
        guard_code=draw(st.integers(1, 255)),
        wrap=draw(st.integers(0, 2)),
        mem=mem,
        model_id=draw(st.text("abcé/-_ 0", min_size=1, max_size=9)),
        revision=draw(st.sampled_from(["", "v1", "0a" * 20])),
        start_id=draw(st.none() | st.integers(0, 2**31 - 1)),
    )


@settings(max_examples=150, derandomize=True, database=None, deadline=None)
@given(container=containers())
def test_round_trip(container: Container) -> None:
    data = write_container(container)
    result = parse_container(data)
    assert result.container == container
    assert result.sizes.file_bytes == len(data)
    assert write_container(result.container) == data
    assert read_container(data) == container


@pytest.mark.parametrize("offset", range(len(COLUMNS) - 4))
def test_no_size_in_the_columns_is_0(offset: int) -> None:
    damaged = bytearray(COLUMNS)
    damaged[offset] = 0
    with pytest.raises(Corrupt):
        read_container(arith_file(columns=bytes(damaged)))
