"""The `.crm` file: byte literals, frozen files, damage of every kind, limits, round trips."""

from __future__ import annotations

import dataclasses
import runpy
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch
from zlib import crc32

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from llmzip.errors import (
    Corrupt,
    LimitExceeded,
    LlmzipError,
    NotACrmFile,
    SettingsError,
    Truncated,
    UnsupportedVersion,
)
from llmzip.lm.named import MODELS, PUBLISHED_MODEL
from llmzip.store import header
from llmzip.store.container import Container, parse_container, write_container
from llmzip.store.cram_columns import (
    ChunkCounts,
    CramColumns,
    RunTotals,
    decode_columns,
    encode_columns,
)
from llmzip.store.cram_payload import Chunk
from llmzip.store.header import MAGIC, MAX_HEADER_BYTES
from llmzip.store.margins import margin_code, margin_value
from llmzip.store.model_ref import NUMBERED
from llmzip.store.original import chunk_check, content_hash
from llmzip.store.payload import HAS_NUMBER, RunTable, StoredRun, TextRun
from llmzip.store.varint import Cursor, encode_varint
from tests.containers import changed, cram_container, cram_of, stored_container
from tests.reference import read_container

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data"
GOLDEN: dict[str, Any] = runpy.run_path(str(DATA / "make_golden.py"))["GOLDEN"]
TINY = (DATA / "v1_tiny.crm").read_bytes()
STORED = (DATA / "v1_stored.crm").read_bytes()
CODED = (DATA / "v1_coded.crm").read_bytes()
ARITH = (DATA / "v1_arith.crm").read_bytes()
NAMED = (NotACrmFile, Truncated, Corrupt, UnsupportedVersion, LimitExceeded)


def seal(front: bytes, fields: bytes, body: bytes) -> bytes:
    """A file with right checksums around any header fields and body."""
    head = MAGIC + front + encode_varint(len(fields)) + fields
    end = crc32(body).to_bytes(4, "little") + b"MRC\n"
    return head + crc32(head).to_bytes(4, "little") + body + end


def split(data: bytes) -> tuple[bytes, bytes, bytes]:
    """The inverse of `seal`, for headers of fewer than 128 bytes."""
    end = 12 + data[11]
    assert data[11] < 128
    return data[8:11], data[12:end], data[end + 4 : -8]


def plain_header(
    *, original_bytes: int, runs: int, columns: int, stored: int, model: bytes = b""
) -> bytes:
    numbers = (0, 0, runs, columns, stored)
    return (
        b"\0" + encode_varint(original_bytes) + bytes(32)
        + b"".join(map(encode_varint, numbers)) + model
    )  # fmt: skip


def model_header(
    *, mem: tuple[int, int, int], margin: int, tail: tuple[int, ...], start: tuple[int, ...] = ()
) -> bytes:
    numbers = b"".join(map(encode_varint, (*mem, 0, *start)))
    return b"\1m\0" + bytes(16) + numbers + bytes([margin]) + b"".join(map(encode_varint, tail))


def with_chunks(*chunks: Chunk, **changes: Any) -> Container:
    """A file of one crammed run; K = 1, D = 2."""
    return cram_container(chunks, **changes)


def a_chunk(**changes: Any) -> Chunk:
    mem = np.array([[0x3F80, 0xBF80]], dtype=np.uint16)
    fields: dict[str, Any] = {
        "num_tokens": 3,
        "num_bytes": 9,
        "check": 0x1234,
        "starts_segment": True,
        "patches": (),
        "mem": mem,
    }
    return Chunk(**(fields | changes))


# Byte literals


def test_empty_original_byte_for_byte() -> None:
    empty = Container(
        original_bytes=0, original_hash=content_hash(b""), xz_bytes=32, zstd_bytes=9, runs=()
    )
    data = write_container(empty)
    head = bytes.fromhex(
        "89 43 52 4d 0d 0a 1a 0a 01 00 00 27 00 00"
        "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8"
        "20 09 00 00 00"
    )
    assert data == head + crc32(head).to_bytes(4, "little") + bytes(4) + b"MRC\n"
    assert read_container(data) == empty
    assert not read_container(data).needs_model


def test_one_chunk_byte_for_byte() -> None:
    chunk = a_chunk(patches=((2, 200),))
    data = write_container(with_chunks(chunk, context_tokens=0, start_id=300))
    fields = plain_header(
        original_bytes=9,
        runs=2,
        columns=8,
        stored=0,
        model=b"\1m\0" + bytes(16) + bytes.fromhex("01 02 10 00 ac 02 80 01 04"),
    )
    columns = bytes.fromhex("01 03 09 01 00 00 34 12")
    vectors, patches = bytes.fromhex("80 3f 80 bf"), bytes.fromhex("01 02 c8 01")
    assert data == seal(b"\x01\x09\x00", fields, columns + vectors + patches)


def test_the_check_and_the_hash_are_the_documented_ones() -> None:
    assert content_hash(b"abc").hex().startswith("bddd813c634239723171ef3fee98579b")
    assert chunk_check(b"abc", size=2) == 0xDDBD


# Frozen files


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_files_are_what_their_generator_makes(name: str) -> None:
    frozen = (DATA / name).read_bytes()
    made = GOLDEN[name]()
    assert read_container(frozen) == made
    assert write_container(made) == frozen
    assert write_container(read_container(frozen)) == frozen


@pytest.mark.parametrize("data", [TINY, STORED, CODED, ARITH])
def test_sizes_add_up(data: bytes) -> None:
    sizes = parse_container(data).sizes
    assert sizes.file_bytes == len(data)
    assert min(*sizes.planes.values(), sizes.stored_bytes, sizes.metadata_bytes) >= 0
    expected = {
        TINY: ({"vectors": 24, "patches": 13}, 4),
        STORED: ({}, 24),
        CODED: ({"vectors": 8, "patches": 10}, 4),
        ARITH: ({"vectors": 3, "streams": 5}, 4),
    }
    assert (sizes.planes, sizes.stored_bytes) == expected[data]


# Damage


@pytest.mark.parametrize("data", [TINY, STORED, CODED, ARITH])
def test_cut_at_every_length(data: bytes) -> None:
    with pytest.raises(NotACrmFile):
        read_container(b"")
    for size in range(1, len(data)):
        with pytest.raises(Truncated):
            read_container(data[:size])
    with pytest.raises(Truncated, match=f"{len(data) - 1} of {len(data)} bytes"):
        read_container(data[:-1])


@pytest.mark.parametrize("data", [TINY, STORED, CODED, ARITH])
def test_flip_every_bit(data: bytes) -> None:
    for index in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[index] ^= 1 << bit
            with pytest.raises(NAMED) as caught:
                read_container(bytes(damaged))
            if index < 8:
                assert caught.type is NotACrmFile
            elif index == 8:
                assert caught.type is UnsupportedVersion
            elif index > 11:
                assert caught.type is Corrupt


@pytest.mark.parametrize("tail", [b"\0", b"\n", STORED, TINY])
def test_trailing_bytes_and_joined_files(tail: bytes) -> None:
    for data in (TINY, CODED, ARITH):
        with pytest.raises(Corrupt, match=f"{len(tail)} trailing bytes"):
            read_container(data + tail)


@pytest.mark.parametrize("data", [b"x", b"\x89CRX", b"PK\x03\x04" * 9, TINY[1:], b"\n" + TINY])
def test_other_files(data: bytes) -> None:
    with pytest.raises(NotACrmFile):
        read_container(data)


def test_resealed_fixtures_differ_only_where_meant() -> None:
    for data in (TINY, STORED, CODED, ARITH):
        assert seal(*split(data)) == data


# Compatibility


def test_versions_and_features() -> None:
    front, fields, body = split(TINY)
    for version in (0, 2, 255):
        with pytest.raises(UnsupportedVersion, match=f"version {version}"):
            read_container(seal(bytes([version]) + front[1:], fields, body))
    with pytest.raises(UnsupportedVersion, match="features 0x800"):
        read_container(seal(front, b"\10" + fields[1:], body))
    expected = read_container(TINY)
    for bit in (8, 16, 128):
        assert read_container(seal(front[:2] + bytes([bit]), fields, body)) == expected
        assert read_container(seal(front[:2] + bytes([bit]), fields + b"new", body)) == expected
    with pytest.raises(Corrupt, match="3 unused bytes"):
        read_container(seal(front, fields + b"new", body))


def test_models_with_a_number() -> None:
    assert set(NUMBERED.values()) == {(entry.name, "", entry.digest) for entry in MODELS.values()}
    entry = MODELS[PUBLISHED_MODEL]
    assert NUMBERED[1] == (entry.name, "", entry.digest)
    data = (DATA / "v1_number.crm").read_bytes()
    container = read_container(data)
    front, fields, body = split(data)
    assert fields[0] == HAS_NUMBER >> 8
    spelled = dataclasses.replace(cram_of(container).model, model_id="another")
    other = write_container(changed(container, model=spelled))
    assert len(other) == len(data) - 1 + len("\7another\0") + 16
    # Earlier versions spelled out a model that has a number now.
    at = fields.index(b"\1\1\4\x10", 38)  # its number, then K, D and bits
    full = b"\x0csmollm2-135m\0" + entry.digest
    earlier = seal(front, b"\0" + fields[1:at] + full + fields[at + 1 :], body)
    assert read_container(earlier) == container
    assert write_container(read_container(earlier)) == earlier
    unknown = seal(front, fields[:at] + b"\x7f" + fields[at + 1 :], body)
    with pytest.raises(UnsupportedVersion, match="model number 127"):
        read_container(unknown)


def test_suffix_and_settings_are_read() -> None:
    front, fields, body = split(TINY)
    plain = read_container(TINY)
    for bits, more, suffix, check in (
        (2, b"\3txt", ".txt", None),
        (4, b"\x34\x12", "", 0x1234),
        (6, b"\1z\0\0", ".z", 0),
        (2, b"\x0fabcdefgh0123-_+", ".abcdefgh0123-_+", None),
    ):
        named = seal(front[:2] + bytes([front[2] | bits]), fields + more, body)
        found = read_container(named)
        assert (found.suffix, found.settings_check) == (suffix, check)
        assert write_container(found) == named
        assert dataclasses.replace(found, suffix="", settings_check=None) == plain
        # A reader of before: the bits are unknown to it, and what follows the last field, too.
        before = {"_OPTIONAL": 0, "HAS_SUFFIX": 0, "HAS_SETTINGS": 0}
        with patch.multiple(header, **before):
            assert parse_container(named).container == plain


@pytest.mark.parametrize(
    "more",
    [b"\3../", b"\3t.t", b"\0", b"\x10abcdefgh01234567", b"\3t t", b"\2\xc3\xbc", b"\1/", b"\1\0",
     b"\4txt", b"\3txtx", b"\4txt\n", b"\1\\"],
)  # fmt: skip
def test_a_suffix_is_letters_alone(more: bytes) -> None:
    front, fields, body = split(TINY)
    with pytest.raises(Corrupt):
        read_container(seal(front[:2] + bytes([front[2] | 2]), fields + more, body))


@pytest.mark.parametrize("suffix", ["txt", ".", ".a/b", ".ü", ".a.b", ".0123456789abcdef"])
def test_no_other_suffix_is_written(suffix: str) -> None:
    with pytest.raises(SettingsError, match="suffix"):
        write_container(dataclasses.replace(read_container(TINY), suffix=suffix))


def test_flags_are_read() -> None:
    front, fields, body = split(TINY)
    tiny = cram_of(read_container(TINY))
    assert tiny.model.start_id == 7 and not tiny.bf16_safe
    at = fields.index(bytes.fromhex("01 04 10 10 07 70")) + 4
    startless = seal(bytes([1, front[1] & ~8, 1]), fields[:at] + fields[at + 1 :], body)
    other = read_container(startless)
    assert cram_of(other).bf16_safe and cram_of(other).model.start_id is None
    assert write_container(other) == startless


def test_the_start_token_is_there_only_with_its_feature() -> None:
    without, zero = with_chunks(a_chunk()), with_chunks(a_chunk(), start_id=0)
    plain, started = write_container(without), write_container(zero)
    assert without != zero and read_container(plain) != read_container(started)
    assert (plain[9] & 8, started[9] & 8) == (0, 8) and len(started) == len(plain) + 1
    for data, start in ((plain, ()), (started, (0,))):
        front, fields, body = split(data)
        model = model_header(mem=(1, 2, 16), margin=128, start=start, tail=(1, 1))
        assert fields.endswith(model)
        with pytest.raises(Corrupt, match="header"):  # the bit and the field disagree
            read_container(seal(bytes([1, front[1] ^ 8, 0]), fields, body))


def test_unknown_precision_in_a_file() -> None:
    for bits in (0, 9, 15, 17, 32):
        model = model_header(mem=(1, 2, bits), margin=128, tail=(1, 4))
        fields = plain_header(original_bytes=9, runs=2, columns=8, stored=0, model=model)
        for required in (1, 33):
            with pytest.raises(UnsupportedVersion, match=f"{bits} bits"):
                read_container(seal(bytes([1, required, 0]), fields, bytes(30)))


# Limits


def test_output_limit() -> None:
    size = read_container(TINY).original_bytes
    for limit in (size, size + 1):
        assert read_container(TINY, max_output_bytes=limit).original_bytes == size
    with pytest.raises(LimitExceeded, match=f"{size} bytes, the limit is {size - 1}"):
        read_container(TINY, max_output_bytes=size - 1)


def test_chunk_token_limit() -> None:
    for num_tokens in (1, 65534, 65535):
        container = with_chunks(a_chunk(num_tokens=num_tokens, num_bytes=num_tokens))
        assert read_container(write_container(container)) == container
    for num_tokens in (0, -1, 65536):
        with pytest.raises(SettingsError, match="cannot be stored"):
            write_container(with_chunks(a_chunk(num_tokens=num_tokens, num_bytes=70000)))
    for num_tokens in (0, 65536):
        columns = b"\1" + encode_varint(num_tokens) + encode_varint(70000) + b"\1\0\0\0\0"
        model = model_header(mem=(1, 2, 16), margin=128, tail=(1, 1))
        fields = plain_header(
            original_bytes=70000, runs=2, columns=len(columns), stored=0, model=model
        )
        with pytest.raises(Corrupt, match=f"{num_tokens} tokens in 1 chunks"):
            read_container(seal(b"\1\1\0", fields, columns + bytes(5)))


def test_start_id_limit() -> None:
    for start_id in (None, 0, 1, 127, 128, 2**31 - 2, 2**31 - 1):
        container = with_chunks(a_chunk(), start_id=start_id)
        assert read_container(write_container(container)) == container
    for start_id in (-1, 2**31, 2**63):
        with pytest.raises(SettingsError, match=f"start token {start_id}"):
            write_container(with_chunks(a_chunk(), start_id=start_id))
    for start_id in (2**31, HUGE):
        model = model_header(mem=(1, 2, 16), margin=128, start=(start_id,), tail=(1, 1))
        fields = plain_header(original_bytes=9, runs=2, columns=8, stored=0, model=model)
        with pytest.raises(Corrupt, match=f"start token {start_id}"):
            read_container(seal(b"\1\x09\0", fields, b""))


def test_nothing_of_a_model_without_text() -> None:
    payload = read_container(TINY).payload
    for some in (payload, dataclasses.replace(cram_of(read_container(TINY)), chunks=())):
        with pytest.raises(SettingsError, match="runs of text and a payload do not agree"):
            write_container(changed(read_container(STORED), payload=some))
    with pytest.raises(SettingsError, match="runs of text and a payload do not agree"):
        write_container(changed(read_container(TINY), payload=None))


@pytest.mark.parametrize("num_mem, mem_dim", [(1, 65536), (1024, 1), (1023, 2), (1, 65535)])
def test_vector_shape_limits(num_mem: int, mem_dim: int) -> None:
    mem = np.zeros((num_mem, mem_dim), dtype=np.uint16)
    container = with_chunks(a_chunk(mem=mem), num_mem=num_mem, mem_dim=mem_dim)
    assert read_container(write_container(container)) == container


@pytest.mark.parametrize("num_mem, mem_dim", [(0, 2), (1025, 2), (1, 0), (1, 65537)])
def test_vector_shapes_beyond_the_limits(num_mem: int, mem_dim: int) -> None:
    mem = np.zeros((num_mem, mem_dim), dtype=np.uint16)
    with pytest.raises(SettingsError, match="mem vectors"):
        write_container(with_chunks(a_chunk(mem=mem), num_mem=num_mem, mem_dim=mem_dim))
    model = model_header(mem=(num_mem, mem_dim, 16), margin=128, tail=(1, 1))
    fields = plain_header(original_bytes=9, runs=2, columns=8, stored=0, model=model)
    with pytest.raises(Corrupt, match="mem vectors"):
        read_container(seal(b"\1\1\0", fields, b""))


def test_name_limits() -> None:
    for name in ("a" * 254, "a" * 255, "é" * 127, "Org/Model name-1.5"):
        container = with_chunks(a_chunk(), model_id=name, revision=name)
        assert read_container(write_container(container)) == container
    for name in ("a" * 256, "é" * 128, "a\nb", "\x1b[31m", "a\x7f", "a\u202eb", "\ud800"):
        for field in ("model_id", "revision"):
            with pytest.raises(SettingsError, match="cannot be stored"):
                write_container(with_chunks(a_chunk(), **{field: name}))
    with pytest.raises(SettingsError, match="model id"):
        write_container(with_chunks(a_chunk(), model_id=""))


@pytest.mark.parametrize("name", [b"\x05a\x1b[0m", b"\x02\xff\xfe", b"\x00"])
def test_misleading_names_in_a_file(name: bytes) -> None:
    _, fields, body = split(TINY)
    at = fields.index(b"\x03toy")
    for damaged in (
        fields[:at] + name + fields[at + 4 :],
        # The same as a revision, whose length is stored plus one; an empty one is no error.
        fields[: at + 4] + bytes([name[0] + 1]) + name[1:] + fields[at + 25 :],
    ):
        if name == b"\0" and damaged[at : at + 4] == b"\x03toy":
            continue
        with pytest.raises(Corrupt, match="model id|revision"):
            read_container(seal(b"\1\x19\0", damaged, body))


def test_revisions() -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    sizes = {}
    for revision in ("", "main", commit, commit.upper(), commit[:-1]):
        container = with_chunks(a_chunk(), revision=revision)
        data = write_container(container)
        assert cram_of(read_container(data)).model.revision == revision
        sizes[revision] = len(data) - len(write_container(with_chunks(a_chunk())))
    assert list(sizes.values()) == [0, 4, 20, 40, 39]
    front, fields, body = split(write_container(with_chunks(a_chunk(), revision=commit)))
    at = fields.index(b"\1" + bytes.fromhex(commit))
    text = fields[:at] + bytes([41]) + commit.encode() + fields[at + 21 :]
    with pytest.raises(Corrupt, match="a commit stored as text"):
        read_container(seal(front, text, body))


def test_header_size_limit() -> None:
    fields = bytes(MAX_HEADER_BYTES)
    with pytest.raises(Corrupt, match="unused bytes"):
        read_container(seal(b"\1\0\0", fields, b""))
    with pytest.raises(Corrupt, match="at most 1048576"):
        read_container(seal(b"\1\0\0", fields + b"\0", b""))


# Margins


def test_margin_scale() -> None:
    assert [margin_value(code) for code in (112, 128, 144)] == [0.5, 1.0, 2.0]
    assert margin_code(None) == 0
    for code in range(1, 256):
        value = margin_value(code)
        assert margin_code(value) == code
        assert margin_code(float(np.nextafter(value, 0))) == max(1, code - 1)
        assert margin_code(float(np.nextafter(value, 1e9))) == code
    assert margin_code(1e300) == 255 and margin_code(0.0) == margin_code(1e-300) == 1


@pytest.mark.parametrize("margin", [None, -0.5, float("nan"), float("inf")])
def test_margins_that_cannot_be(margin: float | None) -> None:
    with pytest.raises(SettingsError, match="margin"):
        write_container(with_chunks(a_chunk(), min_margin=margin))


def test_no_margin_without_a_free_token() -> None:
    literal = a_chunk(mem=None, patches=((0, 1), (1, 2), (2, 3)))
    assert cram_of(read_container(write_container(with_chunks(literal)))).min_margin is None
    with pytest.raises(SettingsError, match="margin"):
        write_container(with_chunks(literal, min_margin=1.0))


# Broken rules


def test_chunks_compare_by_contents() -> None:
    assert a_chunk() == a_chunk()
    for other in (
        a_chunk(mem=None),
        a_chunk(mem=np.zeros((1, 2), dtype=np.uint16)),
        a_chunk(check=1),
        a_chunk(patches=((0, 1),)),
    ):
        assert a_chunk() != other


@pytest.mark.parametrize(
    "changes",
    [
        {"num_bytes": 2},
        {"check": 65536},
        {"starts_segment": False},
        {"patches": ((0, 1), (0, 2))},
        {"patches": ((3, 1),)},
        {"patches": ((0, 2**31),)},
        {"mem": None, "patches": ((0, 1), (1, 1))},
        {"mem": np.zeros((1, 3), dtype=np.uint16)},
        {"mem": np.zeros((1, 2), dtype=np.int32)},
        {"mem": np.full((1, 2), 0x7FC0, dtype=np.uint16)},
    ],
)
def test_broken_chunks_are_not_written(changes: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="cannot be stored|NaN, which no file may"):
        write_container(with_chunks(a_chunk(**changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"original_bytes": 8},
        {"original_hash": bytes(31)},
        {"digest": b""},
        {"bits": 8},
        {"bits": 9},
        {"context_tokens": -1},
        {"xz_bytes": -1},
        {"runs": (TextRun(num_bytes=9), StoredRun(data=b""))},
        {"runs": (TextRun(num_bytes=9),) * 2, "chunks": (a_chunk(),) * 2},
        {"runs": (TextRun(num_bytes=0), StoredRun(data=b"123456789")), "chunks": ()},
        {"runs": (TextRun(num_bytes=9),), "chunks": ()},
        {"runs": (TextRun(num_bytes=8),)},
        {"runs": (TextRun(num_bytes=10),)},
        {"runs": (TextRun(num_bytes=9),), "chunks": (a_chunk(),) * 2},
        {"runs": (TextRun(num_bytes=4), StoredRun(data=b"-"), TextRun(num_bytes=5))},
        {"runs": (StoredRun(data=b"123456789"),)},
        {"runs": (StoredRun(data=b"123456789"),), "chunks": (), "min_margin": None},
        {"runs": ()},
    ],
)
def test_broken_containers_are_not_written(changes: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="cannot be stored"):
        write_container(with_chunks(a_chunk(), **changes))


TINY_COLUMNS = bytes.fromhex(
    "04 14 1a"  # 0: chunks, tokens, bytes of the crammed run
    "04 02"  # 3: bytes of the stored run, segments
    "04 02 03 00"  # 5: token counts
    "00 00 02 00"  # 9: byte counts
    "ce63 70fa 976d 299c"  # 13: checks
    "09 04"  # 21: segment starts, literal chunks
)


@pytest.mark.parametrize(
    "offset, value, message",
    [
        (0, 3, "do not add up to 4"),
        (1, 3, "3 tokens in 4 chunks"),
        (2, 19, "19 bytes for 20 tokens"),
        (3, 3, "runs hold 29 bytes"),
        (3, 0, "0 bytes for 0 tokens"),
        (4, 0, "0 segments"),
        (4, 5, "5 segments"),
        (4, 3, "bitmap"),
        (5, 60, "chunk of 35 tokens"),
        (8, 1, "chunk of 5 tokens"),
        (9, 5, "chunk of 6 bytes"),
        (12, 1, "chunk of 7 bytes"),
        (12, 2, "chunk of 9 bytes"),
        (21, 0x0A, "does not start with a segment"),
        (21, 0x11, "bitmap"),
        (22, 0x08, "patch"),
        (22, 0x24, "bitmap"),
        (24, 0x7F, "NaN"),  # the first number becomes an infinity
        (47, 9, "9 patches"),
    ],
)
def test_contradictions_in_a_body(offset: int, value: int, message: str) -> None:
    front, fields, body = split(TINY)
    assert body.startswith(TINY_COLUMNS)
    damaged = bytearray(body)
    damaged[offset] = value
    with pytest.raises(Corrupt, match=message):
        read_container(seal(front, fields, bytes(damaged)))


def test_contradictions_in_a_header() -> None:
    def refused(front: bytes, message: str, *, model: bytes = b"", **numbers: int) -> None:
        fields = plain_header(**numbers, model=model)
        with pytest.raises(Corrupt, match=message):
            read_container(seal(front, fields, bytes(numbers["columns"] + numbers["stored"])))

    none, some = b"\1\0\0", b"\1\1\0"
    model = model_header(mem=(1, 2, 16), margin=0, tail=(0, 0))
    refused(none, "no runs", original_bytes=0, runs=1, columns=0, stored=0)
    refused(none, "0 runs in 1 bytes of columns", original_bytes=0, runs=0, columns=1, stored=0)
    refused(none, "stored runs", original_bytes=0, runs=0, columns=0, stored=1)
    refused(none, "stored runs", original_bytes=1, runs=3, columns=1, stored=0)
    refused(none, "do not agree", original_bytes=1, runs=2, columns=1, stored=0)
    refused(some, "do not agree", original_bytes=1, runs=3, columns=1, stored=1, model=model)
    refused(some, "0 chunks in 1", original_bytes=1, runs=2, columns=1, stored=0, model=model)
    for front in (b"\1\x08\0", b"\1\x10\0", b"\1\0\1"):
        refused(front, "no model", original_bytes=0, runs=0, columns=0, stored=0)
    for count in (0, 2):
        literal = model_header(mem=(1, 2, 16), margin=0, tail=(1, count, 1))
        numbers = {"original_bytes": 1, "runs": 2, "columns": 8, "stored": 0}
        refused(b"\1\x11\0", f"{count} literal", model=literal, **numbers)


# Bombs


def bomb(**changes: int) -> bytes:
    numbers = {"original_bytes": 1000, "runs": 2, "columns": 8, "stored": 0} | changes
    tail = (numbers.pop("num_chunks", 1), numbers.pop("patch_bytes", 1))
    mem = (numbers.pop("num_mem", 1), numbers.pop("mem_dim", 2), 16)
    model = model_header(mem=mem, margin=128, tail=tail)
    fields = plain_header(**numbers, model=model)
    return seal(b"\1\1\0", fields, bytes(64))


HUGE = 2**63 - 1


@pytest.mark.parametrize(
    "data",
    [
        bomb(num_chunks=HUGE, patch_bytes=HUGE),
        bomb(num_chunks=HUGE),
        bomb(columns=HUGE),
        bomb(columns=HUGE, patch_bytes=HUGE, num_chunks=HUGE, num_mem=1024, mem_dim=65536),
        bomb(patch_bytes=HUGE),
        bomb(runs=HUGE),
        bomb(runs=2**40, num_chunks=2**40, patch_bytes=2**40),
        bomb(original_bytes=HUGE, columns=50, patch_bytes=10),
    ],
)
def test_huge_counts_are_refused_at_once(data: bytes) -> None:
    started = time.perf_counter()
    with pytest.raises(NAMED):
        read_container(data)
    assert time.perf_counter() - started < 0.2


def stored_file(frame: bytes, *, num_bytes: int) -> bytes:
    columns = encode_varint(num_bytes)
    fields = plain_header(original_bytes=num_bytes, runs=3, columns=len(columns), stored=len(frame))
    return seal(b"\1\4\0", fields, columns + frame)


def test_zstd_frames_must_hold_what_the_header_says() -> None:
    text = b"a bomb, " * 1000
    frame = zstandard.ZstdCompressor(level=19).compress(text)
    good = read_container(stored_file(frame, num_bytes=len(text)))
    assert good.runs == (StoredRun(data=text),)
    silent = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    no_size = silent.compress(text) + silent.flush()
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    lying = bytearray(frame)
    lying[5] += 1  # the frame's own content size, one or 256 too many
    for bad, num_bytes in (
        (frame, len(text) - 1),
        (frame, len(text) + 1),
        (frame + b"\0", len(text)),
        (frame + frame, len(text)),
        (frame[:-1], len(text)),
        (no_size, len(text)),
        (skippable, len(text)),
        (b"not zstd at all", len(text)),
        (b"\x28", len(text)),
        (bytes(lying), len(text)),
        (bytes(lying), len(text) + 1),
        (bytes(lying), len(text) + 256),
    ):
        with pytest.raises(Corrupt, match="stored bytes"):
            read_container(stored_file(bad, num_bytes=num_bytes))


def test_zstd_bomb_is_not_unpacked() -> None:
    zeros = bytes(1 << 24)
    frame = zstandard.ZstdCompressor(level=1).compress(zeros)
    with pytest.raises(LimitExceeded):
        read_container(stored_file(frame, num_bytes=len(zeros)), max_output_bytes=1 << 20)
    # Within the limit, but more than a frame of its size can hold: refused unallocated.
    header = b"\x28\xb5\x2f\xfd\xa0" + (1 << 30).to_bytes(4, "little") + bytes(20)
    with pytest.raises(Corrupt, match="cannot come from"):
        read_container(stored_file(header, num_bytes=1 << 30))
    # Columns that unpack to far more than their chunks can need.
    squeezed = zstandard.ZstdCompressor(level=1).compress(bytes(1 << 20))
    model = model_header(mem=(1, 2, 16), margin=128, tail=(1, 1))
    fields = plain_header(original_bytes=9, runs=2, columns=len(squeezed), stored=0, model=model)
    with pytest.raises(Corrupt, match="1048576 bytes for 1 pieces"):
        read_container(seal(b"\1\3\0", fields, squeezed + bytes(5)))


# Size


def many_chunks(count: int, *, segment: int) -> Container:
    rng = np.random.default_rng(5)
    chunks = []
    for index in range(count):
        num_tokens = int(rng.normal(80, 16))
        num_bytes = max(num_tokens, int(num_tokens * rng.normal(3.77, 0.35)))
        chunks.append(
            a_chunk(
                num_tokens=num_tokens,
                num_bytes=num_bytes,
                check=int(rng.integers(65536)),
                starts_segment=index % segment == 0,
            )
        )
    return with_chunks(*chunks, model_id="smollm2-135m", mem_dim=2)


@pytest.mark.parametrize("count, most", [(1, 128), (6, 160), (50, 350), (1000, 4350)])
def test_metadata_stays_small(count: int, most: int) -> None:
    for segment in (1, 8, count):
        data = write_container(many_chunks(count, segment=segment))
        assert parse_container(data).sizes.metadata_bytes <= most
        assert write_container(read_container(data)) == data
    assert bool(data[9] & 2) == (count == 1000)  # only many chunks are worth zstd


@pytest.mark.parametrize("size", [0, 1, 10, 1000, 100_000])
def test_incompressible_bytes_grow_little(size: int) -> None:
    noise = np.random.default_rng(1).bytes(size)
    container = stored_container(
        noise, original_hash=content_hash(noise), xz_bytes=size + 60, zstd_bytes=size + 10
    )
    data = write_container(container)
    assert len(data) <= size + 80
    assert read_container(data) == container


# Properties


@st.composite
def containers(draw: st.DrawFn) -> Container:
    num_mem, mem_dim = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    parts: list[list[Chunk] | bytes] = []
    is_cram = draw(st.booleans())
    for _ in range(draw(st.integers(0, 4))):
        if is_cram:
            count = draw(st.integers(1, 12))
            parts.append([draw(chunks_of(num_mem, mem_dim, first=i == 0)) for i in range(count)])
        else:
            parts.append(draw(st.binary(min_size=1, max_size=40)) * 3)
        is_cram = not is_cram
    fields: dict[str, Any] = {
        "original_hash": draw(st.binary(min_size=32, max_size=32)),
        "xz_bytes": draw(st.integers(0, HUGE)),
        "zstd_bytes": draw(st.integers(0, 300)),
    }
    chunks = [chunk for part in parts if isinstance(part, list) for chunk in part]
    if not chunks:
        return stored_container(
            b"".join(part for part in parts if isinstance(part, bytes)), **fields
        )
    free = any(len(chunk.patches) < chunk.num_tokens for chunk in chunks)
    return cram_container(
        *parts,
        **fields,
        model_id=draw(st.text("abcé/-_ 0", min_size=1, max_size=9)),
        revision=draw(st.sampled_from(["", "v1", "0a" * 20])),
        digest=draw(st.binary(min_size=16, max_size=16)),
        num_mem=num_mem,
        mem_dim=mem_dim,
        context_tokens=draw(st.integers(0, 2**31 - 1)),
        start_id=draw(st.none() | st.integers(0, 300) | st.integers(0, 2**31 - 1)),
        min_margin=margin_value(draw(st.integers(1, 255))) if free else None,
        bf16_safe=draw(st.booleans()),
    )


@st.composite
def chunks_of(draw: st.DrawFn, num_mem: int, mem_dim: int, *, first: bool) -> Chunk:
    num_tokens = draw(st.sampled_from([1, 2, 3, 80, 65535]))
    literal = num_tokens < 4 and draw(st.booleans())
    some = range(num_tokens) if literal else range(draw(st.integers(0, 2)))
    patches = tuple(
        (place, draw(st.integers(0, 2**31 - 1))) for place in some if place < num_tokens
    )
    seed = draw(st.integers(0, 99))
    shape = (num_mem, mem_dim)
    mem = np.random.default_rng(seed).integers(0, 0x7F80, shape, dtype=np.uint16)
    return Chunk(
        num_tokens=num_tokens,
        num_bytes=num_tokens + draw(st.integers(0, 1000)),
        check=draw(st.integers(0, 65535)),
        starts_segment=first or draw(st.booleans()),
        patches=patches,
        mem=None if literal else mem,
    )


@settings(max_examples=100, derandomize=True, database=None, deadline=None)
@given(container=containers())
def test_round_trip(container: Container) -> None:
    data = write_container(container)
    result = parse_container(data)
    assert result.container == container
    assert result.sizes.file_bytes == len(data)
    assert write_container(result.container) == data
    assert read_container(data) == container


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=3),
    drop=st.integers(0, 200),
    part=st.sampled_from(["fields", "body", "both", "raw"]),
)
def test_mutations_give_a_sound_file_or_a_named_error(
    changes: list[tuple[int, int]], drop: int, part: str
) -> None:
    front, fields, body = split(TINY)
    pieces = {"fields": bytearray(fields), "body": bytearray(body), "raw": bytearray(TINY)}
    for name in ("fields", "body") if part == "both" else (part,):
        piece = pieces[name]
        for place, change in changes:
            piece[place % len(piece)] ^= change
        if drop < len(piece) and drop % 5 == 0:
            del piece[drop]
    whole = seal(front, bytes(pieces["fields"]), bytes(pieces["body"]))
    data = bytes(pieces["raw"]) if part == "raw" else whole
    try:
        container = read_container(data, max_output_bytes=1 << 20)
    except LlmzipError as error:
        assert type(error) in NAMED
        return
    # Right checksums around other content: what is read must be all there is in the file.
    assert part != "raw" or data == TINY
    assert write_container(container) == data


@pytest.mark.parametrize(("coded", "check_bytes"), [(False, 2), (True, 2), (True, 1)])
def test_columns_alone_refuse_any_bytes(coded: bool, check_bytes: int) -> None:
    chunks = [
        a_chunk(num_tokens=3, num_bytes=5, check=7),
        a_chunk(num_tokens=2, num_bytes=6, check=8, starts_segment=False),
        a_chunk(num_tokens=4, num_bytes=4, check=9, starts_segment=False),
    ]
    expected = CramColumns(
        runs=(
            RunTotals(num_chunks=3, num_tokens=9, num_bytes=15),
            RunTotals(num_chunks=0, num_tokens=0, num_bytes=4),
        ),
        num_tokens=[3, 2, 4],
        num_bytes=[5, 6, 4],
        checks=[7, 8, 9],
        starts=[True, False, False],
        literal=[False] * 3,
        shared_spans=[],
    )
    table = RunTable(num_runs=2, first_is_stored=False)
    size = ChunkCounts(num_chunks=3, num_literal=0, is_coded=coded, check_bytes=check_bytes)
    runs = (TextRun(num_bytes=15), StoredRun(data=b"four"))
    block = encode_columns(runs, [chunks], coded=coded, check_bytes=check_bytes)
    assert decode_columns(Cursor(block, what="columns"), table, size) == expected
    assert len(block) <= size.max_bytes(table)
    for cut in range(len(block)):
        with pytest.raises(Corrupt):
            decode_columns(Cursor(block[:cut], what="columns"), table, size)
    with pytest.raises(Corrupt, match="1 unused"):
        decode_columns(Cursor(block + b"\0", what="columns"), table, size)
