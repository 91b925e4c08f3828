"""`scripts/read_crm.py` finds what llmzip finds, refuses what llmzip refuses, needs no llmzip."""

from __future__ import annotations

import ast
import json
import random
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import read_crm
import zstandard

from llmzip.errors import FormatError
from llmzip.store import header
from llmzip.store.container import parse_container, summarise_container, write_container
from llmzip.store.cram_patches import ChunkPatches, pack_coded_patches
from llmzip.store.model_ref import NUMBERED
from llmzip.store.residual import Ranked
from llmzip.store.varint import encode_varint
from llmzip.store.vectors import GridMem
from tests import reference
from tests.containers import cram_of
from tests.test_arith_container import a_file, a_segment
from tests.test_container import (
    DATA,
    HUGE,
    ROOT,
    a_chunk,
    many_chunks,
    plain_header,
    seal,
    split,
    with_chunks,
)

FILES = sorted(path.name for path in DATA.glob("*.crm"))
SCRIPTS = ("read_crm.py", "crm_chunks.py", "crm_coding.py")


def golden(name: str) -> bytes:
    return (DATA / name).read_bytes()


# On golden files


def with_number(number: int) -> bytes:
    front, fields, body = split(golden("v1_number.crm"))
    at = fields.index(b"\1\1\4\x10", 38)  # its number, then K, D and bits
    return seal(front, fields[:at] + bytes([number]) + fields[at + 1 :], body)


def test_models_with_a_number() -> None:
    assert {
        number: (name, revision, digest.hex())
        for number, (name, revision, digest) in NUMBERED.items()
    } == read_crm.MODELS
    for number in range(6):
        data = with_number(number)
        if number in NUMBERED:
            found = read_crm.read(data)["header"]
            model = cram_of(reference.read_container(data)).model
            assert (found["model_id"], found["model_digest"]) == (
                model.model_id,
                model.digest.hex(),
            )
            continue
        with pytest.raises(read_crm.BadFile):
            read_crm.read(data)
        with pytest.raises(FormatError):
            reference.read_container(data)


def run_reader(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """As a command, without installed packages."""
    script = [sys.executable, "-E", "-s", "-S", str(ROOT / "scripts" / "read_crm.py"), *arguments]
    return subprocess.run(script, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", FILES)
def test_it_finds_what_llmzip_finds(name: str) -> None:
    run = run_reader(DATA / name)
    assert run.returncode == 0 and run.stderr == ""
    result = parse_container(golden(name))
    reference.check_agreement(json.loads(run.stdout), result)
    reference.check_agreement(reference.read(golden(name)), result)


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_shares_no_code_with_llmzip(name: str) -> None:
    tree = ast.parse((ROOT / "scripts" / name).read_bytes())
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(str(node.module).split(".")[0])
    parts = {Path(script).stem for script in SCRIPTS}
    assert modules <= sys.stdlib_module_names | parts | {"compression"}


def test_failures_as_a_command(tmp_path: Path) -> None:
    bad = tmp_path / "bad.crm"
    bad.write_bytes(golden("v1_tiny.crm")[:-1])
    for arguments, message in (
        ([bad], f"{bad}: 176 bytes, not 177"),
        ([tmp_path], f"{tmp_path}: "),
        ([tmp_path / "none.crm"], f"{tmp_path / 'none.crm'}: "),
        ([], "usage: read_crm.py FILE.crm"),
    ):
        run = run_reader(*arguments)
        assert run.returncode == 1 and run.stdout == ""
        assert run.stderr.startswith(message) and run.stderr.count("\n") == 1


def test_without_zstd_sizes_are_shown() -> None:
    stored = golden("v1_stored.crm")
    squeezed = write_container(many_chunks(1000, segment=8))
    assert stored[9] & header.STORED_ZSTD and squeezed[9] & header.COLUMNS_ZSTD
    with patch.object(read_crm, "zstd", None):
        found = read_crm.read(stored)
        assert found["header"]["stored_bytes"] == 24
        assert found["runs"] == [{"stored": True, "num_bytes": 280}]
        assert set(read_crm.read(squeezed)) == {"header"}
    reference.check_agreement(reference.read(squeezed), parse_container(squeezed))


# On damage


def refused_by_both(data: bytes) -> bool:
    """Whether a file is refused. Fails if the two say different things."""
    try:
        reference.read_container(data, max_output_bytes=HUGE)
    except FormatError:
        return True
    return False


@pytest.mark.parametrize("name", FILES)
def test_both_refuse_a_file_with_a_changed_byte(name: str) -> None:
    data, rng = golden(name), random.Random(name)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= rng.randrange(1, 256)
        assert refused_by_both(bytes(damaged))
    # The few bytes that no checksum has vouched for when they are read, with all their values.
    for place in range(12):
        for change in range(1, 256):
            assert refused_by_both(data[:place] + bytes([data[place] ^ change]) + data[place + 1 :])


@pytest.mark.parametrize("name", FILES)
def test_both_refuse_a_file_that_is_cut_or_goes_on(name: str) -> None:
    data = golden(name)
    for size in (*range(min(len(data), 200)), len(data) - 1):
        assert refused_by_both(data[:size])
    for tail in (b"\0", b"\n", data):
        assert refused_by_both(data + tail)


@pytest.mark.parametrize("name", FILES)
def test_both_judge_alike_what_right_checksums_hide(name: str) -> None:
    data, rng = golden(name), random.Random(name)
    verdicts = []
    for _ in range(400):
        pieces = [bytearray(piece) for piece in split(data)]
        for _ in range(rng.choice((1, 1, 2))):
            number = rng.choice((0, 1, 1, 1, 2, 2, 2))
            piece, place = pieces[number], rng.randrange(len(pieces[number]))
            # A feature byte keeps its size; elsewhere a byte may go, and another one may come.
            end = place + (1 if number == 0 else rng.choice((0, 1, 1, 1)))
            new = bytes([rng.choice((0, 1, 127, 128, 255, rng.randrange(256), piece[place] ^ 1))])
            piece[place:end] = new if number == 0 else rng.choice((b"", new, new, new))
        verdicts.append(refused_by_both(seal(*map(bytes, pieces))))
    assert 40 < sum(verdicts) < 400


@pytest.mark.parametrize("first_step, is_refused", [(1018, False), (1019, True), (1020, True)])
def test_both_know_the_largest_step(first_step: int, is_refused: bool) -> None:
    """Even of vectors that are all zeros."""
    steps = np.array([32 * 1018, 32 * 1019], dtype=np.uint16)
    mem = GridMem(symbols=np.zeros((2, 2), dtype=np.int16), steps=steps)
    front, fields, body = split(write_container(with_chunks(a_chunk(mem=mem), num_mem=2, bits=4)))
    span = b"\1"
    assert fields.count(encode_varint(1018) + span) == 1
    changed = fields.replace(encode_varint(1018) + span, encode_varint(first_step) + span)
    assert refused_by_both(seal(front, changed, body)) == is_refused


def test_both_know_the_largest_header() -> None:
    fields = plain_header(original_bytes=0, runs=0, columns=0, stored=0)
    for size, is_refused in ((header.MAX_HEADER_BYTES, False), (header.MAX_HEADER_BYTES + 1, True)):
        # An unknown optional feature, whose data follow the last field.
        assert refused_by_both(seal(b"\1\0\x80", fields.ljust(size, b"\0"), b"")) == is_refused


def test_a_reader_of_before_passes_over_the_new_fields() -> None:
    """As the script was when a header had no suffix and no check of the settings."""
    lines = [line for line in read_crm.HEADER.splitlines() if not line.startswith(("su", "set"))]
    with (
        patch.object(read_crm, "OPTIONAL", ("bf16_safe",)),
        patch.object(read_crm, "HEADER", "\n".join(lines)),
    ):
        old = reference.read(golden("v1_named.crm"))
    new = reference.read(golden("v1_named.crm"))
    assert new["runs"] == old["runs"] and "original_suffix" not in old["header"]
    assert new["header"]["original_suffix"] == ".txt"


def test_both_want_a_model_for_its_features() -> None:
    fields = plain_header(original_bytes=0, runs=0, columns=0, stored=0)
    start_id, recipe = b"\7", b"\1\1\3\1\1\0\0\1"
    for required, more in ((0, b""), (8, start_id), (64, recipe), (72, start_id + recipe)):
        assert refused_by_both(seal(bytes((1, required, 0)), fields + more, b"")) == (required > 0)


@pytest.mark.parametrize("name, good", [("v1_tiny.crm", {16}), ("v1_coded.crm", set(range(1, 9)))])
def test_both_know_the_precisions(name: str, good: set[int]) -> None:
    front, fields, body = split(golden(name))
    at = fields.index(bytes(range(16))) + 18
    assert fields[at] in good and fields[at + 1] == 16  # tokens of context
    for bits in range(20):
        changed = fields[:at] + bytes([bits]) + fields[at + 1 :]
        assert refused_by_both(seal(front, changed, body)) == (bits not in good)


def with_zstd_columns(data: bytes) -> bytes:
    """The same file, with a bit that its writer may not have set."""
    front, fields, body = split(data)
    size = summarise_container(data).header.columns_bytes
    assert fields.count(encode_varint(size)) == 1 and not front[1] & header.COLUMNS_ZSTD
    frame = zstandard.ZstdCompressor(level=19).compress(body[:size])
    fields = fields.replace(encode_varint(size), encode_varint(len(frame)))
    return seal(bytes((1, front[1] | header.COLUMNS_ZSTD, 0)), fields, frame + body[size:])


def test_both_want_a_byte_of_columns_for_each_chunk_or_segment() -> None:
    grid = GridMem(symbols=np.zeros((1, 2), np.int16), steps=np.full(1, 0x3F80, np.uint16))
    coded = with_chunks(*[a_chunk(mem=grid)] * 900, bits=4)
    arith = a_file(*[a_segment()] * 900)
    for container in (coded, arith):
        assert refused_by_both(with_zstd_columns(write_container(container)))
    raw = write_container(with_chunks(*[a_chunk()] * 900))  # its patches have that byte
    assert summarise_container(raw).header.columns_bytes < 900 and not refused_by_both(raw)


def test_both_want_a_chunk_for_each_that_the_header_counts() -> None:
    data = write_container(with_chunks(a_chunk(patches=((0, 5),))))
    front, fields, body = split(data)
    counts, vector = b"\1\3", body[8:12]  # of chunks, and of bytes of patches
    assert fields.endswith(counts) and not refused_by_both(data)
    assert refused_by_both(seal(front, fields[:-2] + b"\2\3", body[:8] + 2 * vector + body[12:]))


@pytest.mark.parametrize("literal", [False, True])
def test_both_know_the_largest_token_id(literal: bool) -> None:
    patches = tuple((position, 2**31 - 1) for position in range(3 if literal else 1))
    mem = None if literal else a_chunk().mem
    margin = None if literal else 1.0
    container = with_chunks(a_chunk(patches=patches, mem=mem), min_margin=margin)
    front, fields, body = split(write_container(container))
    largest, larger = encode_varint(2**31 - 1), encode_varint(2**31)
    assert body.endswith(largest) and not refused_by_both(seal(front, fields, body))
    assert refused_by_both(seal(front, fields, body[: -len(larger)] + larger))


@pytest.mark.parametrize(
    "good, bad",
    [
        (Ranked(200, 56, 0), Ranked(200, 57, 0)),
        (Ranked(255, 1, 0), Ranked(256, 1, 0)),
        (2**31 - 1, 2**31),
    ],
)
def test_both_know_the_limits_of_coded_patches(good: Ranked | int, bad: Ranked | int) -> None:
    grid = GridMem(symbols=np.ones((1, 2), np.int16), steps=np.full(1, 0x3F80, np.uint16))
    container = with_chunks(a_chunk(mem=grid, patches=((1, good),)), bits=4)
    front, fields, body = split(write_container(container))
    planes = [
        pack_coded_patches([ChunkPatches(num_tokens=3, is_literal=False, patches=((1, token),))])
        for token in (good, bad)
    ]
    at = fields.index(b"\1\2\4\0") + 6  # behind K, D, bits, tokens of context, margin, chunks
    assert body.endswith(planes[0]) and fields[at] == len(planes[0])
    assert not refused_by_both(seal(front, fields, body))
    changed = fields[:at] + bytes([len(planes[1])]) + fields[at + 1 :]
    assert refused_by_both(seal(front, changed, body[: -len(planes[0])] + planes[1]))


def test_both_want_a_margin_exactly_with_an_unpatched_token() -> None:
    literal = a_chunk(mem=None, patches=((0, 1), (1, 2), (2, 3)))
    for container in (with_chunks(a_chunk()), with_chunks(literal, min_margin=None)):
        front, fields, body = split(write_container(container))
        at = fields.index(b"\1\2\x10\0") + 4  # behind K, D, bits and tokens of context
        for margin in (0, 1, 255):
            changed = fields[:at] + bytes([margin]) + fields[at + 1 :]
            is_literal = cram_of(container).min_margin is None
            assert refused_by_both(seal(front, changed, body)) == (is_literal != (margin == 0))
