"""Coded `.crm` files: header, round trips, damage, bombs, size; and a real file of raw vectors."""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmzip.errors import Corrupt, LlmzipError, SettingsError
from llmzip.inspect.report import read_report
from llmzip.store.container import Container, parse_container, summarise_container, write_container
from llmzip.store.cram_fields import CramFields
from llmzip.store.cram_figures import CramFigures
from llmzip.store.cram_payload import Chunk
from llmzip.store.cram_planes import CodedFields, read_coded
from llmzip.store.grids import NO_VECTORS, GridCode
from llmzip.store.margins import margin_value
from llmzip.store.original import chunk_check, content_hash
from llmzip.store.payload import TextRun
from llmzip.store.residual import Ranked
from llmzip.store.varint import Cursor
from llmzip.store.vectors import GridMem
from tests.containers import cram_container, cram_of
from tests.reference import read_container
from tests.test_container import (
    CODED,
    DATA,
    HUGE,
    NAMED,
    TINY,
    a_chunk,
    model_header,
    plain_header,
    seal,
    split,
    with_chunks,
)


def a_grid(*symbols: int, step: int = 0x3F80) -> GridMem:
    return GridMem(
        symbols=np.array([symbols or (1, -1)], dtype=np.int16),
        steps=np.array([step], dtype=np.uint16),
    )


def coded_chunk(**changes: Any) -> Chunk:
    return a_chunk(**({"mem": a_grid()} | changes))


def coded_file(*chunks: Chunk, **changes: Any) -> Container:
    return with_chunks(*chunks, **({"bits": 4} | changes))


def coded_fields(data: bytes) -> CodedFields:
    """What the header of a coded file says of its planes."""
    fields = summarise_container(data).header.payload
    assert isinstance(fields, CramFields) and fields.coded
    return fields.coded


# Byte literals


def test_one_chunk_byte_for_byte() -> None:
    data = write_container(coded_file(coded_chunk(), context_tokens=0))
    fields = plain_header(
        original_bytes=9,
        runs=2,
        columns=6,
        stored=0,
        model=b"\1m\0" + bytes(16) + bytes.fromhex("01 02 04 00 80 01 00 01 01 fc03 00"),
    )
    front, found, body = split(data)
    assert front == b"\x01\x21\x00" and found.startswith(fields)
    assert found[len(fields) + 1 :] == b"\0\0"  # one byte of prior, then no patches
    assert body[:-1] == bytes.fromhex("01 03 09 01 34 12")
    assert read_container(data) == coded_file(coded_chunk(), context_tokens=0)


@pytest.mark.parametrize("bits", range(1, 9))
def test_bits_are_nominal(bits: int) -> None:
    files = {bits: write_container(coded_file(coded_chunk(), bits=bits)) for bits in (bits, 4)}
    assert cram_of(read_container(files[bits])).bits == bits
    assert len(files[bits]) == len(files[4])


def test_coded_fields() -> None:
    fields = CodedFields(
        vector_bytes=300,
        grid=GridCode(max_symbol=200, first_step=508, step_span=3, prior=77),
        num_patches=5,
        num_patched=2,
    )
    data = fields.encode()
    assert data.hex(" ") == "ac 02 c8 01 fc 03 03 4d 05 02"
    read = partial(read_coded, are_signs=False)
    assert read(Cursor(data, what="header"), (2, 1, 9), in_streams=False) == fields
    fields, data = dataclasses.replace(fields, position_bytes=400), data + b"\x90\x03"
    assert fields.encode() == data
    assert read(Cursor(data, what="header"), (2, 1, 9), in_streams=True) == fields


# What may be in which file


def test_raw_and_coded_do_not_mix() -> None:
    for bits, mem in ((16, a_grid()), (8, a_chunk().mem), (4, a_chunk().mem)):
        with pytest.raises(SettingsError, match=f"at {bits} bits"):
            write_container(with_chunks(a_chunk(mem=mem), bits=bits))
    with pytest.raises(SettingsError, match="chunk 1: mem is a ndarray"):
        write_container(coded_file(coded_chunk(), a_chunk(starts_segment=False), bits=4))
    assert coded_chunk() != a_chunk() and coded_chunk() == coded_chunk()
    assert coded_chunk() != coded_chunk(mem=a_grid(1, 1))
    assert coded_chunk() != coded_chunk(mem=a_grid(step=0x3FA0))


def test_ranks_are_for_chunks_with_coded_vectors() -> None:
    rank = Ranked(1, 1, 0)
    good = coded_file(coded_chunk(patches=((1, rank),)))
    assert read_container(write_container(good)) == good
    literal = coded_chunk(mem=None, patches=((0, 1), (1, rank), (2, 3)))
    for bad in (
        with_chunks(a_chunk(patches=((1, rank),))),
        coded_file(literal),
        coded_file(coded_chunk(patches=((1, Ranked(0, 1, 0)),))),
        coded_file(coded_chunk(patches=((1, Ranked(200, 57, 0)),))),
        coded_file(coded_chunk(patches=((1, rank), (1, 5)))),
    ):
        with pytest.raises(SettingsError, match="cannot be stored"):
            write_container(bad)


@pytest.mark.parametrize(
    "mem",
    [
        a_grid(1, 2, 3),
        a_grid(1024, 0),
        a_grid(step=0x3F81),
        a_grid(step=0),
        a_grid(2, 0, step=0x7F60),
    ],
)
def test_broken_grids_are_not_written(mem: GridMem) -> None:
    with pytest.raises(SettingsError, match="chunk 0"):
        write_container(coded_file(coded_chunk(mem=mem)))


def test_an_infinite_vector_in_a_file_is_refused() -> None:
    data = write_container(coded_file(coded_chunk(mem=a_grid(1, 0, step=0x7F40))))
    good = write_container(coded_file(coded_chunk(mem=a_grid(2, 1, step=0x7EC0))))
    assert read_container(data) and read_container(good)
    front, fields, body = split(good)
    step = bytes.fromhex("f6 07")  # 0x7EC0 // 32, as a varint
    assert fields.count(step) == 1
    with pytest.raises(Corrupt, match="infinite"):
        read_container(seal(front, fields.replace(step, bytes.fromhex("fa 07")), body))


def test_literal_chunks_only() -> None:
    literal = coded_chunk(mem=None, patches=((0, 1), (1, 70000), (2, 3)))
    container = coded_file(literal, min_margin=None)
    data = write_container(container)
    assert read_container(data) == container
    none = CodedFields(vector_bytes=0, grid=NO_VECTORS, num_patches=0, num_patched=0)
    assert coded_fields(data) == none


# Damage that right checksums hide


def coded_header(
    *,
    tail: tuple[int, ...],
    vector_bytes: int = 1,
    grid: GridCode = NO_VECTORS,
    patches: tuple[int, int] = (0, 0),
    mem: tuple[int, int, int] = (1, 2, 4),
) -> bytes:
    fields = CodedFields(
        vector_bytes=vector_bytes, grid=grid, num_patches=patches[0], num_patched=patches[1]
    )
    return model_header(mem=mem, margin=128, tail=tail) + fields.encode()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"vector_bytes": 0}, "0 bytes of vectors, at least 1"),
        ({"mem": (3, 65, 4), "vector_bytes": 5}, "5 bytes of vectors, at least 6"),
        ({"tail": (9, 1)}, "9 chunks in 1 runs, 8 bytes of columns"),
        ({"tail": (1, 1), "patches": (9, 1)}, "9 patches in 1 bytes"),
        ({"tail": (1, 1), "patches": (1, 0)}, "1 patches in 0 of 1 chunks"),
        ({"tail": (1, 1), "patches": (0, 1)}, "0 patches in 1 of 1 chunks"),
        ({"tail": (1, 1), "patches": (3, 2)}, "3 patches in 2 of 1 chunks"),
        ({"grid": dataclasses.replace(NO_VECTORS, max_symbol=0)}, "largest symbol 0"),
        ({"grid": dataclasses.replace(NO_VECTORS, first_step=3)}, "steps from 3"),
    ],
)
def test_contradictions_in_a_coded_header(changes: dict[str, Any], message: str) -> None:
    model = coded_header(**({"tail": (1, 0)} | changes))
    fields = plain_header(original_bytes=9, runs=2, columns=8, stored=0, model=model)
    for read in (read_container, summarise_container):
        with pytest.raises(Corrupt, match=message):
            read(seal(b"\1\x21\0", fields, bytes(30)))


def test_the_feature_goes_with_the_precision() -> None:
    coded = write_container(coded_file(coded_chunk()))
    for data in (coded, TINY, CODED):
        front, fields, body = split(data)
        with pytest.raises(Corrupt, match="do not agree"):
            read_container(seal(bytes([1, front[1] ^ 32, 0]), fields, body))
    with pytest.raises(Corrupt, match="no model"):
        fields = plain_header(original_bytes=0, runs=0, columns=0, stored=0)
        read_container(seal(b"\1\x20\0", fields, b""))


def test_header_counts_must_be_true() -> None:
    front, fields, body = split(CODED)
    at = len(fields) - 2
    assert fields[at:] == b"\4\2"
    for num_patched in (1, 3):
        with pytest.raises(Corrupt, match=f"2 chunks have patches, the header says {num_patched}"):
            read_container(seal(front, fields[:-1] + bytes([num_patched]), body))
    for num_patches in (0, 3, 5, 30):  # the stream then says something else, at best
        lying = seal(front, fields[:at] + bytes([num_patches, min(num_patches, 2)]), body)
        try:
            assert read_container(lying) != read_container(CODED)
        except Corrupt:
            pass


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=3),
    drop=st.integers(0, 200),
    part=st.sampled_from(["fields", "body", "both"]),
)
def test_mutations_give_a_sound_file_or_a_named_error(
    changes: list[tuple[int, int]], drop: int, part: str
) -> None:
    front, fields, body = split(CODED)
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
    assert again == data or coded_fields(data).grid.prior != coded_fields(again).grid.prior


@settings(max_examples=150, derandomize=True, database=None, deadline=None)
@given(vectors=st.binary(min_size=8, max_size=8), patches=st.binary(min_size=10, max_size=10))
def test_any_planes_give_a_sound_file_or_corrupt(vectors: bytes, patches: bytes) -> None:
    front, fields, body = split(CODED)
    try:
        read_container(seal(front, fields, body[:20] + vectors + patches + body[38:]))
    except Corrupt:
        pass


# Bombs


def coded_bomb(**changes: Any) -> bytes:
    numbers = {"original_bytes": 1000, "runs": 2, "columns": 8, "stored": 0}
    numbers |= {name: changes.pop(name) for name in tuple(changes) if name in numbers}
    fields = plain_header(**numbers, model=coded_header(**({"tail": (1, 1)} | changes)))
    return seal(b"\1\x21\0", fields, bytes(64))


@pytest.mark.parametrize(
    "data",
    [
        coded_bomb(tail=(HUGE, HUGE), vector_bytes=HUGE),
        coded_bomb(tail=(HUGE, 1)),
        coded_bomb(columns=50, tail=(50, 1), vector_bytes=5),
        coded_bomb(mem=(1024, 65536, 1), vector_bytes=55),
        coded_bomb(columns=HUGE, tail=(HUGE, 1), mem=(1024, 65536, 1), vector_bytes=HUGE),
        coded_bomb(vector_bytes=HUGE),
        coded_bomb(patches=(HUGE, 1)),
        coded_bomb(tail=(1, 55), patches=(440, 1)),
        coded_bomb(grid=GridCode(max_symbol=1023, first_step=4, step_span=1015, prior=0)),
    ],
)
def test_huge_counts_are_refused_at_once(data: bytes) -> None:
    for read in (read_container, summarise_container):
        started = time.perf_counter()
        with pytest.raises(NAMED):
            read(data)
        assert time.perf_counter() - started < 0.2


def test_zstd_columns_keep_a_byte_for_each_chunk() -> None:
    mem = GridMem(symbols=np.zeros((1, 2), np.int16), steps=np.full(1, 0x3F80, np.uint16))
    chunks = [
        coded_chunk(mem=mem, starts_segment=index == 0, check=0, num_tokens=3, num_bytes=9)
        for index in range(2000)
    ]
    data = write_container(coded_file(*chunks))
    assert not data[9] & 2 and summarise_container(data).header.columns_bytes > 2000
    assert cram_of(read_container(data)).chunks == tuple(chunks)


# Size


def typical(num_chunks: int, *, dim: int = 64, seed: int = 1) -> Container:
    rng = np.random.default_rng(seed)
    chunks = []
    for index in range(num_chunks):
        num_tokens = int(np.clip(rng.normal(150, 35), 60, 250))
        num_bytes = max(num_tokens, int(num_tokens * rng.normal(3.77, 0.2)))
        positions = np.flatnonzero(rng.random(num_tokens) < 0.125).tolist()
        patches = tuple(
            (place, int(rng.integers(49152)) if rng.random() < 0.5 else Ranked(1, 1, 0))
            for place in positions
        )
        symbols = np.round(rng.normal(0, 0.6, (1, dim))).astype(np.int16)
        steps = np.array([32 * int(rng.integers(520, 524))], dtype=np.uint16)
        chunks.append(
            Chunk(
                num_tokens=num_tokens,
                num_bytes=num_bytes,
                check=int(rng.integers(65536)),
                starts_segment=index % 12 == 0,
                patches=patches,
                mem=GridMem(symbols=symbols, steps=steps),
            )
        )
    return coded_file(
        *chunks, bits=2, model_id="smollm2-135m", mem_dim=dim, start_id=0, context_tokens=2048
    )


@pytest.mark.parametrize("num_chunks", [1, 6, 12, 50, 300])
def test_metadata_stays_small(num_chunks: int) -> None:
    container = dataclasses.replace(typical(num_chunks), xz_bytes=200 * num_chunks + 3000)
    data = write_container(container)
    assert parse_container(data).container == container
    assert parse_container(data).sizes.metadata_bytes <= 128 + 4 * num_chunks


def test_a_large_file_is_summarised_at_once() -> None:
    chunks = cram_of(typical(300)).chunks
    rows = [
        dataclasses.replace(chunk, check=(57 * index + turn) % 65536)
        for turn in range(20)
        for index, chunk in enumerate(chunks)
    ]
    data = write_container(coded_file(*rows, mem_dim=64))
    started = time.perf_counter()
    summary = summarise_container(data)
    assert time.perf_counter() - started < 0.1  # 75,000 chunks take about 0.1 s
    assert isinstance(summary.figures, CramFigures)
    assert summary.figures.num_patches == 20 * sum(len(chunk.patches) for chunk in chunks)


def test_summaries_agree_with_contents() -> None:
    for data in (TINY, CODED, (DATA / "v1_stored.crm").read_bytes(), write_container(typical(9))):
        summary, result = summarise_container(data), parse_container(data)
        payload = result.container.payload
        assert summary.sizes == result.sizes
        stored = summary.stored_original_bytes
        if payload is None:
            assert summary.figures is None and stored == result.container.original_bytes
            continue
        chunks, figures = cram_of(result.container).chunks, summary.figures
        assert isinstance(figures, CramFigures)
        held = [chunk for chunk in chunks if chunk.mem is not None]
        counts = [len(chunk.patches) for chunk in held]
        assert figures.num_tokens == sum(chunk.num_tokens for chunk in chunks)
        assert figures.num_vector_tokens == sum(chunk.num_tokens for chunk in held)
        assert figures.vector_text_bytes == sum(chunk.num_bytes for chunk in held)
        assert figures.num_literal == len(chunks) - len(held)
        assert (figures.num_patches, figures.num_patched, figures.num_crammed) == (
            sum(counts),
            sum(map(bool, counts)),
            counts.count(0),
        )
        assert figures.num_segments == sum(chunk.starts_segment for chunk in chunks)
        assert figures.vector_bytes == result.sizes.planes["vectors"]
        total = sum(chunk.num_bytes for chunk in chunks) + stored
        assert total == result.container.original_bytes


def test_a_report_gives_the_true_bits() -> None:
    data = write_container(typical(9, dim=576))
    report, sizes = read_report(data), parse_container(data).sizes
    assert report.bits_per_dimension == 2
    assert report.stored_bits_per_dimension == 8 * sizes.planes["vectors"] / (9 * 576)
    assert report.to_dict()["stored_bits_per_dimension"] == report.stored_bits_per_dimension
    assert f"576 dimensions x {report.stored_bits_per_dimension:.3g} bits" in report.to_text()
    raw = read_report(TINY)
    assert raw.stored_bits_per_dimension == 16 and "4 dimensions x 16 bits" in raw.to_text()


# Round trips


@st.composite
def containers(draw: st.DrawFn) -> Container:
    num_mem, mem_dim = draw(st.integers(1, 3)), draw(st.sampled_from([1, 4, 70]))
    largest = draw(st.sampled_from([0, 1, 5, 1023]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    chunks = []
    for index in range(draw(st.integers(1, 8))):
        num_tokens = draw(st.sampled_from([1, 2, 30]))
        literal = draw(st.booleans())
        token = st.integers(0, 2**31 - 1) | st.integers(0, 300)
        if not literal:
            token |= st.builds(Ranked, st.integers(1, 255), st.just(1), st.just(0))
            token |= st.builds(Ranked, st.integers(0, 200), st.integers(2, 50), st.integers(0, 1))
        places = range(num_tokens) if literal else range(draw(st.integers(0, num_tokens)))
        mem = GridMem(
            symbols=rng.integers(-largest, largest + 1, (num_mem, mem_dim)).astype(np.int16),
            steps=(32 * rng.integers(400, 400 + draw(st.integers(1, 90)), num_mem)).astype(
                np.uint16
            ),
        )
        chunks.append(
            Chunk(
                num_tokens=num_tokens,
                num_bytes=num_tokens + draw(st.integers(0, 100)),
                check=draw(st.integers(0, 65535)),
                starts_segment=index == 0 or draw(st.booleans()),
                patches=tuple((place, draw(token)) for place in places),
                mem=None if literal else mem,
            )
        )
    free = any(len(chunk.patches) < chunk.num_tokens for chunk in chunks)
    tail = draw(st.binary(max_size=5))
    return cram_container(
        chunks,
        *([tail] if tail else []),
        bits=draw(st.integers(1, 8)),
        num_mem=num_mem,
        mem_dim=mem_dim,
        min_margin=margin_value(draw(st.integers(1, 255))) if free else None,
        bf16_safe=draw(st.booleans()),
    )


@settings(max_examples=80, derandomize=True, database=None, deadline=None)
@given(container=containers())
def test_round_trip(container: Container) -> None:
    data = write_container(container)
    result = parse_container(data)
    assert result.container == container
    assert result.sizes.file_bytes == len(data)
    assert write_container(result.container) == data
    assert read_container(data) == container


# A real file of the first version


def test_a_file_of_the_first_version_reads() -> None:
    text = (DATA / "v1_prose.txt").read_bytes()
    result = parse_container((DATA / "v1_prose.crm").read_bytes())
    container = result.container
    assert container.original_hash == content_hash(text)
    assert container.original_bytes == len(text) == 270
    payload = cram_of(container)
    assert (payload.num_mem, payload.mem_dim) == (1, 576)
    assert (payload.bits, payload.context_tokens) == (16, 64)
    assert payload.model.model_id == "smollm2-135m"
    assert payload.model.digest.hex() == "632270f3ddf1b2fbd28ac0404007e1d4"
    assert result.sizes.planes["vectors"] == 2 * 576 * 2
    chunks = payload.chunks
    assert [chunk.num_tokens for chunk in chunks] == [45, 18]
    assert [chunk.num_bytes for chunk in chunks] == [198, 72]
    assert [len(chunk.patches) for chunk in chunks] == [3, 0]
    assert [chunk.check for chunk in chunks] == [
        chunk_check(own, size=2) for own in (text[:198], text[198:])
    ]
    assert write_container(container) == (DATA / "v1_prose.crm").read_bytes()
    assert isinstance(container.runs[0], TextRun) and Path(DATA / "make_prose.sh").exists()
