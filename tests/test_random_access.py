"""A part of a file alone: the right bytes, no more work than they need, and their own checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmzip
from llmzip.cli.main import main
from llmzip.codecs.arith import decoder as arith_decoding
from llmzip.codecs.arith.segment_coding import Encoded
from llmzip.codecs.cram import decoder as decoding
from llmzip.codecs.cram.greedy import DecodeChunk
from llmzip.config import ComputeSettings, DecompressSettings
from llmzip.errors import IntegrityError, SettingsError
from llmzip.inspect.explain import explain_bytes
from llmzip.progress import Progress
from llmzip.store.arith_payload import ArithPayload
from llmzip.store.container import Container, read_container, write_container
from llmzip.store.cram_payload import Chunk
from llmzip.store.original import content_hash
from llmzip.store.payload import StoredRun
from llmzip.store.vectors import GridMem
from tests.held_text import (
    BETWEEN,
    FIRST,
    KINDS,
    ORIGINAL,
    SECOND,
    held,
    in_original,
    piece_of_each_byte,
    pieces,
)

SIZE = len(ORIGINAL)
SPANS = [
    (0, SIZE), (0, 0), (SIZE, SIZE), (0, 1), (7, 60), (50, 51), (len(FIRST) - 1, len(FIRST) + 1),
    (len(FIRST), len(FIRST) + len(BETWEEN)), (len(FIRST) + 3, len(FIRST) + len(BETWEEN) + 20),
    (SIZE - 30, SIZE), (SIZE - 3, SIZE), (100, 140),
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("llama")


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def data(kind: str, model: Path) -> bytes:
    return held(kind, model)


def part(data: bytes, model: Path, **more: Any) -> bytes:
    return llmzip.decompress(data, model=str(model), **more)


def needed_by(container: Container, first: int, last: int) -> list[int]:
    """The pieces that must be decoded for pieces `first` to `last`: those of the same segments
    that stand before them, too."""
    if isinstance(container.payload, ArithPayload):
        return list(range(first, last + 1))
    while not container.payload.chunks[first].starts_segment:
        first -= 1
    return list(range(first, last + 1))


class Decoder:
    """What the model was asked to decode."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_tokens = 0
        self.num_chunks = 0
        real, real_wave = decoding.decode_segments, arith_decoding.decode_wave

        def segments(lm: Any, found: Sequence[Sequence[DecodeChunk]], **more: Any) -> None:
            self.num_chunks += sum(map(len, found))
            self.num_tokens += sum(chunk.num_tokens for each in found for chunk in each)
            real(lm, found, **more)

        def wave(reader: Any, outlook: Any, found: Sequence[Encoded], **more: Any) -> Any:
            self.num_chunks += len(found)
            self.num_tokens += sum(each.lanes.spans[-1][1] for each in found)
            return real_wave(reader, outlook, found, **more)

        monkeypatch.setattr(decoding, "decode_segments", segments)
        monkeypatch.setattr(arith_decoding, "decode_wave", wave)


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Decoder:
    return Decoder(monkeypatch)


def test_the_files_have_what_is_tested_here(kind: str, data: bytes, model: Path) -> None:
    container = read_container(data)
    assert llmzip.info(data).num_segments > 2
    assert len(pieces(kind, model)) > 2
    if kind == "arith":
        assert any(first < len(FIRST) < last for first, last in pieces(kind, model))
    else:
        starts = [chunk.starts_segment for chunk in container.payload.chunks]
        assert starts.count(False) > 1
        assert any(isinstance(chunk.mem, GridMem) for chunk in container.payload.chunks) == (
            kind == "coded"
        )


def test_pieces_are_the_slice(kind: str, data: bytes, model: Path) -> None:
    places = pieces(kind, model)
    middle = len(places) // 2
    for first in range(len(places)):
        last = middle if first < middle else len(places) - 1
        begin, end = in_original(places[first][0]), in_original(places[last][1] - 1) + 1
        batch = 1 if first == 1 else None
        found = part(data, model, chunks=(first + 1, last + 1), batch=batch)
        assert found == ORIGINAL[begin:end]


@pytest.mark.parametrize("span", SPANS)
def test_a_span_is_the_slice_and_no_more_is_decoded(
    kind: str, data: bytes, model: Path, span: tuple[int, int], decoder: Decoder
) -> None:
    container = read_container(data)
    own = [p for p in piece_of_each_byte(kind, model)[slice(*span)] if p is not None]
    needed = needed_by(container, own[0], own[-1]) if own else []
    every = container.payload.pieces
    events: list[Progress] = []
    assert part(data, model, span=span, progress=events.append) == ORIGINAL[slice(*span)]
    assert decoder.num_chunks == len(needed)
    assert decoder.num_tokens == sum(every[index].num_tokens for index in needed)
    if needed:
        assert events[-1].chunks_done == events[-1].chunks_total == len(needed)
        assert events[-1].bytes_total == sum(every[index].num_bytes for index in needed)
    else:
        assert events == []


def test_the_first_piece_is_less_work_than_the_whole(
    data: bytes, model: Path, decoder: Decoder
) -> None:
    part(data, model, chunks=(1, 1))
    alone = decoder.num_tokens
    part(data, model)
    assert 0 < 2 * alone < decoder.num_tokens - alone


def test_what_needs_no_model_is_had_without_one(data: bytes, tmp_path: Path) -> None:
    nowhere = tmp_path / "no-such-model"
    first = len(FIRST)
    assert part(data, nowhere, span=(first, first + len(BETWEEN))) == BETWEEN
    assert part(data, nowhere, span=(SIZE - 4, SIZE)) == ORIGINAL[-4:]
    assert part(data, nowhere, span=(5, 5)) == b""
    with pytest.raises(llmzip.ModelUnavailable):
        part(data, nowhere, span=(first, first + len(BETWEEN) + 1))


def test_a_stored_file() -> None:
    stored = write_container(
        Container(
            original_bytes=SIZE,
            original_hash=content_hash(ORIGINAL),
            xz_bytes=0,
            zstd_bytes=0,
            runs=(StoredRun(data=ORIGINAL),),
        )
    )
    for span in SPANS:
        assert llmzip.decompress(stored, span=span) == ORIGINAL[slice(*span)]
    with pytest.raises(SettingsError, match="the file has 0 chunks"):
        llmzip.decompress(stored, chunks=(1, 1))


# Damage behind right checksums


def damaged(data: bytes, number: int) -> bytes:
    """A sound file one of whose pieces holds another text than its check says."""
    container = read_container(data)
    payload = container.payload
    if isinstance(payload, ArithPayload):
        segments = list(payload.segments)
        stream = bytearray(segments[number].stream)
        stream[len(stream) // 2] ^= 0x55
        segments[number] = replace(segments[number], stream=bytes(stream))
        wrong = replace(payload, segments=tuple(segments))
        return write_container(replace(container, payload=wrong))
    chunks = list(payload.chunks)
    chunks[number] = turned(chunks[number])
    wrong = replace(payload, chunks=tuple(chunks))
    return write_container(replace(container, payload=wrong))


def turned(chunk: Chunk) -> Chunk:
    """A chunk whose vectors stand on their heads, or one whose first token is another."""
    if chunk.mem is None:
        (_, token), *others = chunk.patches
        return replace(chunk, patches=((0, 97 if token != 97 else 98), *others))
    if isinstance(chunk.mem, GridMem):
        return replace(chunk, mem=replace(chunk.mem, symbols=chunk.mem.symbols[:, ::-1].copy()))
    return replace(chunk, mem=np.ascontiguousarray(chunk.mem[:, ::-1]))


def test_damage_matters_where_it_is_needed(kind: str, data: bytes, model: Path) -> None:
    places = pieces(kind, model)
    container = read_container(data)
    noun = "segment" if kind == "arith" else "chunk"
    outside = inside = 0
    for bad in (0, len(places) // 2, len(places) - 1):
        broken = damaged(data, bad)
        with pytest.raises(IntegrityError):
            part(broken, model)
        for number, (first, last) in enumerate(places):
            begin, end = in_original(first), in_original(last - 1) + 1
            if bad in needed_by(container, number, number):
                inside += 1
                with pytest.raises(
                    IntegrityError, match=f"{noun} {number + 1} of {len(places)} decodes"
                ):
                    part(broken, model, chunks=(number + 1, number + 1))
                with pytest.raises(IntegrityError):
                    part(broken, model, span=(begin, begin + 1))
            else:
                outside += 1
                assert part(broken, model, span=(begin, end)) == ORIGINAL[begin:end]
    assert inside >= 3 and outside >= 3


def test_explain_says_which_piece_is_another(kind: str, data: bytes, model: Path) -> None:
    settings = DecompressSettings(model=str(model))
    noun = "segment" if kind == "arith" else "chunk"
    for bad in range(len(pieces(kind, model))):
        with pytest.raises(IntegrityError, match=f"{noun} {bad + 1} decodes to different text"):
            explain_bytes(damaged(data, bad), settings)


def test_explain_decodes_so_many_rows_together(
    kind: str, data: bytes, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner: Any = arith_decoding if kind == "arith" else decoding
    name = "decode_wave" if kind == "arith" else "decode_segments"
    real, batches = getattr(owner, name), []

    def decode(*args: Any, **more: Any) -> Any:
        batches.append(more["batch"])
        return real(*args, **more)

    monkeypatch.setattr(owner, name, decode)
    compute = ComputeSettings(batch=3)
    explain_bytes(data, DecompressSettings(model=str(model), compute=compute))
    assert set(batches) == {3}


def test_a_part_without_its_hash_has_its_own_checks(data: bytes, model: Path) -> None:
    forged = write_container(replace(read_container(data), original_hash=bytes(32)))
    assert part(forged, model, span=(3, 90)) == ORIGINAL[3:90]
    with pytest.raises(IntegrityError, match="hash of the whole"):
        part(forged, model)


# What cannot be


@pytest.mark.parametrize("span", [(0, SIZE + 1), (SIZE + 1, SIZE + 1)])
def test_a_span_beyond_the_end(data: bytes, model: Path, span: tuple[int, int]) -> None:
    with pytest.raises(SettingsError, match=f"`span` ends at {SIZE + 1}, .* has {SIZE} bytes"):
        part(data, model, span=span)


def test_pieces_beyond_the_end(kind: str, data: bytes, model: Path) -> None:
    number = len(pieces(kind, model))
    for chunks in ((1, number + 1), (number + 1, number + 1), (10**17, 10**17)):
        with pytest.raises(SettingsError, match=f"the file has {number} "):
            part(data, model, chunks=chunks)


@pytest.mark.parametrize(
    "more", [{"chunks": (0, 1)}, {"chunks": (2, 1)}, {"chunks": (1, 1), "span": (0, 1)}]
)
def test_settings_that_cannot_be(data: bytes, model: Path, more: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        part(data, model, **more)


# The command line


@pytest.fixture
def file(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.crm"
    path.write_bytes(held("raw", model))
    return path


@pytest.mark.parametrize(
    ("options", "expected", "words"),
    [
        (["--bytes", "3:50"], ORIGINAL[3:50], "→ 47 of 196 bytes, chunks verified"),
        (["--bytes", "50:50"], b"", "→ 0 of 196 bytes, chunks verified"),
        (["--bytes", "0:0"], b"", "→ 0 of 196 bytes, chunks verified"),
        (["--bytes", f"{len(FIRST)}:{len(FIRST) + 4}"], BETWEEN[:4], "→ 4 of 196 bytes, "),
    ],
)
def test_a_range_of_bytes(
    file: Path,
    model: Path,
    capfd: pytest.CaptureFixture[str],
    options: list[str],
    expected: bytes,
    words: str,
) -> None:
    assert main(["decompress", "x.crm", "--model", str(model), *options]) == 0
    assert Path("x").read_bytes() == expected
    assert words.replace("196", str(SIZE)) in capfd.readouterr().err


def test_a_range_of_chunks(file: Path, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    places = pieces("raw", model)
    for option, first, last in (("2", 1, 1), ("1-1", 0, 0), (f"2-{len(places)}", 1, -1)):
        options = ["--chunks", option, "--model", str(model), "-f"]
        assert main(["decompress", "x.crm", *options]) == 0
        begin, end = in_original(places[first][0]), in_original(places[last][1] - 1) + 1
        assert Path("x").read_bytes() == ORIGINAL[begin:end]
    assert SECOND in Path("x").read_bytes()
    assert f"→ {end - begin} of {SIZE} bytes, chunks verified" in capfd.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--chunks", "1-99"],
        ["--chunks", "99"],
        ["--chunks", "0"],
        ["--chunks", "0-1"],
        ["--chunks", "3-2"],
        ["--chunks", "1-"],
        ["--chunks", "-1"],
        ["--chunks", "one"],
        ["--chunks", "1", "--bytes", "0:5"],
        ["--chunks", "1", "--salvage"],
        ["--bytes", "0:0", "--salvage"],
        ["--bytes", f"0:{SIZE + 1}"],
    ],
)
def test_ranges_that_cannot_be(
    file: Path, model: Path, capfd: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert main(["decompress", "x.crm", "--model", str(model), *options]) == 2
    err = capfd.readouterr().err
    assert "[exit 2]" in err or "Error" in err
    assert not Path("x").exists()
