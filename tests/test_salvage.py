"""What is salvaged of damaged files: never a wrong byte, every gap marked, and all that is left."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from llmzip.api import decompress
from llmzip.api.decompress import Salvaged, mark, salvage_bytes
from llmzip.cli.main import main
from llmzip.codecs.context import Context
from llmzip.config import DecompressSettings
from llmzip.errors import (
    Corrupt,
    FormatError,
    IntegrityError,
    LimitExceeded,
    LlmzipError,
    Truncated,
)
from llmzip.lm import loaded as models
from llmzip.lm.tokens import Tokens
from llmzip.progress import Progress
from llmzip.store.arith_payload import ArithPayload
from llmzip.store.container import read_container, write_container
from llmzip.store.cram_fields import HAS_LITERAL, CramFields
from llmzip.store.cram_payload import CramPayload
from llmzip.store.header import COLUMNS_ZSTD, CRC_BYTES, encode_header
from llmzip.store.original import content_hash
from llmzip.store.payload import TextRun
from llmzip.store.pieces import LostRun, read_damaged
from llmzip.store.varint import MAX_VARINT, encode_varint
from llmzip.store.vectors import MAX_STEP, STEP_UNIT
from tests.containers import arith_of, changed, cram_of, stored_container
from tests.held_text import (
    BETWEEN,
    FIRST,
    KINDS,
    ORIGINAL,
    TAIL,
    held,
    piece_of_each_byte,
    pieces,
)
from tests.soak.files import PLANES, TAIL_BYTES, assemble, golden, reseal, signed, take_apart
from tests.soak.hostile import changed as with_field
from tests.soak.hostile import numbers_of

SIZE = len(ORIGINAL)
STORED_GAPS = [(len(FIRST), len(FIRST) + len(BETWEEN)), (SIZE - len(TAIL), SIZE)]


@pytest.fixture(scope="module", autouse=True)
def read_once() -> Iterator[None]:
    """The tiny model's files are read once: most cases take less time than that."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((decompress, "resolve"), (models, "load_model"), (Tokens, "load")):
            patch.setattr(owner, name, staticmethod(cache(getattr(owner, name))))
        yield


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("llama")


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def data(kind: str, model: Path) -> bytes:
    return held(kind, model)


def salvage(data: bytes, model: Path, **more: Any) -> Salvaged:
    return salvage_bytes(data, DecompressSettings(model=str(model), **more))


def check(found: Salvaged) -> None:
    """Outside the gaps, every byte is the original's, and in its place."""
    place, expected = 0, b""
    for first, last in found.gaps:
        assert place <= first < last <= SIZE
        assert first > place or place == 0  # or they would be one gap
        expected += ORIGINAL[place:first] + mark(last - first)
        place = last
    assert found.data == expected + ORIGINAL[place:]
    assert found.num_lost_bytes == sum(last - first for first, last in found.gaps) < SIZE
    assert found.original_bytes == SIZE


def intact(found: Salvaged, kind: str, model: Path) -> set[int]:
    """The pieces that are there, which are those that were counted."""
    lost = {place for first, last in found.gaps for place in range(first, last)}
    pieces_of = piece_of_each_byte(kind, model)
    every = {piece for piece in pieces_of if piece is not None}
    gone = {pieces_of[place] for place in lost}
    assert found.num_pieces == len(every)
    assert found.num_intact == len(every - gone)
    return every - gone


def damage(data: bytes, place: int, way: str) -> bytes:
    if way == "flip":
        return data[:place] + bytes([data[place] ^ 0x20]) + data[place + 1 :]
    if way == "zeros":
        return data[:place] + bytes(len(data[place : place + 16])) + data[place + 16 :]
    if way == "lost":  # a block that was left out: all behind it is in another place
        return data[:place] + data[place + 5 :]
    return data[:place]


def places_in(data: bytes, count: int, *names: str) -> list[int]:
    """Places in planes, evenly spread; the first and the last are among them."""
    parts = take_apart(data)
    found = []
    for name in names:
        first, last = parts.planes[name]
        if first < last:
            found += np.linspace(first, last - 1, count).astype(int).tolist()
    return found


def test_a_sound_file(data: bytes, kind: str, model: Path) -> None:
    found = salvage(data, model)
    assert found.data == ORIGINAL and found.gaps == () and found.num_lost_bytes == 0
    assert intact(found, kind, model) == set(range(found.num_pieces))
    assert found.noun == ("segment" if kind == "arith" else "chunk")


def test_a_mark() -> None:
    assert mark(17) == b"\n[llmzip: 17 bytes are lost here]\n"


@pytest.mark.parametrize("way", ["flip", "zeros", "lost", "cut"])
def test_never_a_wrong_byte(data: bytes, model: Path, way: str) -> None:
    outcomes = set()
    planes = ("vectors", "patches")
    if isinstance(read_container(data).payload, ArithPayload):
        planes = ("streams",)
    for place in places_in(data, 5, *planes):
        broken = damage(data, place, way)
        assert broken != data
        try:
            found = salvage(broken, model)
        except IntegrityError as error:
            assert "nothing in the file is intact" in str(error)
            outcomes.add("nothing")
            continue
        except Truncated:
            assert way == "cut"
            continue
        check(found)
        assert set(STORED_GAPS) <= {
            gap for gap in STORED_GAPS if any(a <= gap[0] and gap[1] <= b for a, b in found.gaps)
        }
        outcomes.add("some")
    assert "some" in outcomes


def segments(kind: str, data: bytes) -> list[set[int]]:
    """The pieces of each segment."""
    payload = read_container(data).payload
    assert payload is not None
    return [set(each) for each in payload.segment_ranges]


def test_damaged_vectors_cost_their_own_segment_alone(model: Path) -> None:
    data = held("raw", model)
    first, last = take_apart(data).planes["vectors"]
    chunks = cram_of(read_container(data)).chunks
    with_vectors = [i for i, chunk in enumerate(chunks) if chunk.mem is not None]
    size = (last - first) // len(with_vectors)
    for order, number in enumerate(with_vectors):
        place = first + order * size
        broken = data[:place] + data[place : place + size][::-1] + data[place + size :]
        found = salvage(broken, model)
        check(found)
        (own,) = (segment for segment in segments("raw", data) if number in segment)
        every = set(range(found.num_pieces))
        assert intact(found, "raw", model) == every - {each for each in own if each >= number}


def test_an_infinite_vector_costs_its_own_segment_alone(model: Path) -> None:
    data = held("raw", model)
    place = take_apart(data).planes["vectors"][0]
    found = salvage(data[:place] + b"\x80\x7f" + data[place + 2 :], model)
    check(found)
    assert intact(found, "raw", model) == set(range(found.num_pieces)) - segments("raw", data)[0]


def test_damaged_streams_cost_their_own_segment_alone(model: Path) -> None:
    data = held("arith", model)
    begin = take_apart(data).planes["streams"][0]
    for number, segment in enumerate(arith_of(read_container(data)).segments):
        found = salvage(damage(data, begin + len(segment.stream) // 2, "flip"), model)
        check(found)
        assert intact(found, "arith", model) == set(range(found.num_pieces)) - {number}
        begin += len(segment.stream)


def test_without_the_shared_vectors_nothing_is_found(model: Path) -> None:
    data = held("arith", model)
    for place in places_in(data, 3, "vectors"):
        # A flipped byte may leave a plane that could be one: then no segment passes its check.
        with pytest.raises((Corrupt, IntegrityError), match="shared vectors are damaged|is intact"):
            salvage(damage(data, place, "flip"), model)


@pytest.mark.parametrize("plane", ["vectors", "patches"])
def test_what_stands_before_damaged_coded_planes_is_intact(model: Path, plane: str) -> None:
    data = held("coded", model)
    first, last = take_apart(data).planes[plane]
    counts = []
    for place in (first + (last - first) // 2, last - 1):
        found = salvage(damage(data, place, "flip"), model)
        check(found)
        counts.append(found.num_intact)
        assert 0 in intact(found, "coded", model)
    assert counts[0] <= counts[1] and counts[1] > 1


def test_the_front_of_a_file_that_is_cut_short(data: bytes, kind: str, model: Path) -> None:
    parts = take_apart(data)
    last = parts.planes["streams" if kind == "arith" else "patches"][1]
    found = salvage(data[:last], model)  # all but what is stored
    check(found)
    assert list(found.gaps) == STORED_GAPS
    assert found.num_intact == found.num_pieces
    fewer = salvage(data[: last - 1], model)
    check(fewer)
    assert fewer.num_intact < found.num_pieces
    assert 0 in intact(fewer, kind, model)


@pytest.mark.parametrize("at", [-1, -TAIL_BYTES, -TAIL_BYTES - 1])
def test_damage_to_what_no_piece_needs(data: bytes, kind: str, model: Path, at: int) -> None:
    """The end mark, the checksum of the body, stored bytes: of these alone nothing vouches."""
    found = salvage(damage(data, len(data) + at, "flip"), model)
    check(found)
    assert list(found.gaps) == STORED_GAPS and found.num_intact == found.num_pieces


def test_what_is_appended_does_not_matter(data: bytes, kind: str, model: Path) -> None:
    found = salvage(data + bytes(5000), model)
    check(found)
    assert found.num_intact == found.num_pieces


def test_text_alone_is_had_back_whole(data: bytes, kind: str, model: Path) -> None:
    """Where nothing is stored, all pieces of a damaged file may be there: then it is verified."""
    container = read_container(data)
    if isinstance(container.payload, CramPayload):
        text, size, chunks = FIRST, 0, []
        for chunk in container.payload.chunks:
            if size < len(FIRST):
                chunks.append(chunk)
            size += chunk.num_bytes
        num_segments = sum(chunk.starts_segment for chunk in chunks)
        streams = container.payload.streams[:num_segments]
        container = changed(container, chunks=tuple(chunks), streams=streams)
    else:
        text = FIRST + ORIGINAL[len(FIRST) + len(BETWEEN) : -len(TAIL)]
    runs = (TextRun(num_bytes=len(text)),)
    alone = write_container(changed(container, runs=runs, original_hash=content_hash(text)))
    found = salvage(damage(alone, len(alone) - 1, "flip"), model)
    assert found.data == text and found.gaps == ()
    forged = write_container(replace(read_container(alone), original_hash=bytes(32)))
    for broken in (forged, damage(forged, len(forged) - 1, "flip")):
        with pytest.raises(IntegrityError, match="hash of the whole"):
            salvage(broken, model)


# Pieces of a sound file that decode to something else


def test_a_sound_file_keeps_its_stored_bytes(model: Path) -> None:
    """Its checksums vouch for them, whatever the model gives here."""
    container = read_container(held("raw", model))
    ends = list(accumulate(chunk.num_bytes for chunk in cram_of(container).chunks))
    for some in (1, None):
        chunks = tuple(
            replace(chunk, check=chunk.check ^ 1) if some is None or end <= len(FIRST) else chunk
            for chunk, end in zip(cram_of(container).chunks, ends, strict=True)
        )
        found = salvage(write_container(changed(container, chunks=chunks)), model)
        check(found)
        assert (0, len(FIRST)) in found.gaps
        assert BETWEEN in found.data and found.data.endswith(TAIL)
        assert bool(found.num_intact) == (some is not None)


# Damage that leaves nothing


def cut(data: bytes, size: int) -> bytes:
    return data[:size]


def test_a_damaged_header_or_table_is_hopeless(data: bytes, model: Path) -> None:
    columns = take_apart(data).planes["columns"]
    for size in range(1, columns[1]):
        with pytest.raises(FormatError):
            salvage(cut(data, size), model)
    for place in range(columns[0]):
        with pytest.raises(FormatError):
            salvage(damage(data, place, "flip"), model)


def test_damage_to_the_table_is_noticed_or_marked(data: bytes, model: Path) -> None:
    """No checksum is its own: a wrong size or check there makes its pieces fail theirs."""
    first, last = take_apart(data).planes["columns"]
    outcomes = set()
    for place in range(first, last, 2):
        try:
            found = salvage(damage(data, place, "zeros" if place % 4 else "flip"), model)
        except LlmzipError as error:
            outcomes.add(type(error))
            continue
        outcomes.add(Salvaged)
        assert found.gaps
        check_order(found)
    assert outcomes <= {Salvaged, Corrupt, IntegrityError, LimitExceeded}
    assert {Salvaged, Corrupt} <= outcomes


def check_order(found: Salvaged) -> None:
    """What is there are parts of the original in their order, if not in their places."""
    rest, place = found.data, 0
    assert found.num_lost_bytes == sum(last - first for first, last in found.gaps)
    for first, last in [*found.gaps, (SIZE, SIZE)]:
        kept = first - place
        own, rest = rest[:kept], rest[kept:]
        assert own in ORIGINAL
        if last > first:
            assert rest.startswith(mark(last - first))
            rest = rest[len(mark(last - first)) :]
        place = last
    assert not rest


def test_a_damaged_stored_file_is_hopeless() -> None:
    stored = write_container(stored_container(ORIGINAL, original_hash=content_hash(ORIGINAL)))
    sound = salvage_bytes(stored, DecompressSettings())
    assert sound.data == ORIGINAL and sound.num_pieces == 0
    with pytest.raises(FormatError, match="no checks of their own"):
        salvage_bytes(damage(stored, len(stored) - 20, "flip"), DecompressSettings())


def test_an_empty_file() -> None:
    empty = write_container(stored_container(b"", original_hash=content_hash(b"")))
    assert salvage_bytes(empty, DecompressSettings()).data == b""
    with pytest.raises(FormatError):
        salvage_bytes(b"", DecompressSettings())


def test_another_model_is_refused(
    data: bytes, model: Path, tiny_model: Callable[..., Path]
) -> None:
    from llmzip.errors import ModelMismatch

    with pytest.raises(ModelMismatch):
        salvage(damage(data, len(data) - 1, "flip"), tiny_model("llama", seed=1))


# Any damage


@settings(max_examples=20, derandomize=True, database=None, deadline=None)
@given(draw=st.data())
def test_any_damage(data: bytes, model: Path, draw: st.DataObject) -> None:
    broken = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 3))):
        place = draw.draw(st.integers(0, len(broken) - 1))
        size = draw.draw(st.integers(0, 12))
        broken[place : place + size] = draw.draw(st.binary(max_size=12))
        if len(broken) < 2:
            break
    try:
        found = salvage(bytes(broken), model)
    except LlmzipError:
        return
    check_order(found)


@settings(max_examples=20, derandomize=True, database=None, deadline=None)
@given(draw=st.data())
def test_any_damage_behind_a_right_header(data: bytes, model: Path, draw: st.DataObject) -> None:
    """As if the damage had hit the body alone, however much of it."""
    parts = take_apart(data)
    begin = parts.planes["columns"][1]
    body = bytearray(data[begin:])
    for _ in range(draw.draw(st.integers(1, 4))):
        place = draw.draw(st.integers(0, len(body) - 1))
        block = draw.draw(st.binary(min_size=1, max_size=20))
        body[place : place + len(block)] = block
    try:
        found = salvage(data[:begin] + bytes(body[: draw.draw(st.integers(1, len(body)))]), model)
    except (IntegrityError, Truncated, Corrupt):
        return
    check(found) if found.gaps else None


# No work for nothing, no chunk that breaks a rule


def test_what_is_not_there_is_not_decoded(model: Path) -> None:
    data = held("arith", model)
    first, *_, last = arith_of(read_container(data)).segments
    begin, end = take_apart(data).planes["streams"]
    events: list[Progress] = []
    found = salvage_bytes(
        data[: end - len(last.stream) // 2],
        DecompressSettings(model=str(model)),
        Context(on_progress=events.append),
    )
    assert found.num_intact == found.num_pieces - 1
    assert {event.chunks_total for event in events} == {found.num_intact}
    with pytest.raises(Truncated, match="before its first segment"):
        salvage(data[: begin + len(first.stream) - 1], model)


def test_chunks_that_break_a_rule_are_lost(model: Path) -> None:
    """Vectors of which damage to the header's steps would make infinities."""
    data = held("coded", model)
    parts = take_apart(data)
    fields = parts.header.payload
    assert isinstance(fields, CramFields) and fields.coded is not None
    highest = MAX_STEP // STEP_UNIT - fields.coded.grid.step_span
    header = with_field(parts.header, "payload.coded.grid.first_step", highest)
    body = b"".join(map(parts.plane, PLANES))
    broken = signed(encode_header(header)[:-CRC_BYTES], body)[:-1]
    found = read_damaged(broken, max_output_bytes=SIZE)
    vectors = [
        i for i, chunk in enumerate(cram_of(found.container).chunks) if chunk.mem is not None
    ]
    assert vectors and found.unreadable == frozenset(vectors)


# Hostile files


GOLDEN = [take_apart(data) for data in golden().values()]
LIMITS = [0, 1, 2, 127, 255, 1024, 65535, 65536, 1 << 24, 1 << 31, 1 << 40, 1 << 62, MAX_VARINT]


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(draw=st.data())
def test_headers_that_lie(draw: st.DataObject) -> None:
    """Sizes and counts of anything behind a right checksum, and a body of which part is gone."""
    parts = GOLDEN[draw.draw(st.integers(0, len(GOLDEN) - 1))]
    header = parts.header
    names = st.sampled_from(numbers_of(header))
    value = st.sampled_from(LIMITS) | st.integers(0, 300)
    for path, number in draw.draw(st.lists(st.tuples(names, value), max_size=3)):
        header = with_field(header, path, number)
    body = b"".join(map(parts.plane, PLANES))
    body = body[: draw.draw(st.integers(0, len(body)))]
    try:
        head = encode_header(header)[:-CRC_BYTES]
    except ValueError:  # a byte above 255
        return
    began = time.process_time()
    try:
        found = read_damaged(signed(head, body)[:-1], max_output_bytes=1 << 30)
        assert sum(run.num_bytes for run in found.runs) == found.container.original_bytes
    except LlmzipError:
        pass
    assert time.process_time() - began < 1.0


class Meter:
    """The memory that a block of code took at most, and its time."""

    def __enter__(self) -> Meter:
        tracemalloc.start()
        self._began = time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.process_time() - self._began
        self.mb = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()


def test_vectors_that_are_not_there_take_no_room(model: Path) -> None:
    for kind in ("raw", "coded"):
        parts = take_apart(held(kind, model))
        header = parts.header
        for path, value in (
            ("payload.empty.num_mem", 1024),
            ("payload.empty.mem_dim", 65536),
            ("stored_bytes", 1 << 50),
            *([("payload.coded.vector_bytes", 1 << 50)] if kind == "coded" else []),
        ):
            header = with_field(header, path, value)
        assert header.payload is not None and header.payload.planes["vectors"] > 1 << 30
        body = b"".join(map(parts.plane, PLANES))
        with Meter() as meter:
            found = read_damaged(
                signed(encode_header(header)[:-CRC_BYTES], body), max_output_bytes=1 << 30
            )
        chunks = cram_of(read_container(held(kind, model))).chunks
        literal = {i for i, chunk in enumerate(chunks) if chunk.mem is None}
        assert found.unreadable | literal == set(range(len(cram_of(found.container).chunks)))
        assert meter.mb < 50 and meter.seconds < 1


@pytest.mark.parametrize("num_chunks", [1 << 20, 1 << 22])
def test_a_table_of_chunks_that_are_not_there(num_chunks: int) -> None:
    """A few bytes of zstd for a table of millions, and a file that ends behind it."""
    varint = encode_varint(num_chunks)
    table = 4 * varint + bytes(4 * num_chunks)
    frame = zstandard.ZstdCompressor(level=1).compress(table)
    tiny = take_apart(golden()["v1_tiny.crm"])
    assert isinstance(tiny.header.payload, CramFields)
    counts = {"num_chunks": num_chunks, "num_literal": 0, "patch_bytes": 1 << 40}
    header = replace(
        tiny.header,
        required=(tiny.header.required | COLUMNS_ZSTD) & ~HAS_LITERAL,
        num_runs=1,
        first_is_stored=False,
        original_bytes=num_chunks,
        columns_bytes=len(frame),
        stored_bytes=0,
        payload=replace(tiny.header.payload, **counts),
    )
    data = signed(encode_header(header)[:-CRC_BYTES], frame)
    with Meter() as meter, pytest.raises(LimitExceeded, match="tokens to be decoded"):
        read_damaged(data, max_output_bytes=1 << 30)
    assert meter.mb < 20 and meter.seconds < 1


def test_tokens_beyond_all_likelihood(model: Path) -> None:
    """A damaged file is held to the same limit as a sound one, and it can be raised."""
    container = read_container(held("arith", model))
    first, *others = arith_of(container).segments
    many = replace(first, num_tokens=1 << 24, num_bytes=1 << 25, stream=bytes(1 << 12))
    start, *more = container.runs
    runs = (TextRun(num_bytes=start.num_bytes + (1 << 25) - first.num_bytes), *more)
    data = write_container(changed(container, runs=runs, segments=(many, *others)))
    for broken in (data, damage(data, len(data) - 1, "flip")):
        with Meter() as meter, pytest.raises(LimitExceeded, match="tokens to be decoded"):
            salvage(broken, model)
        assert meter.seconds < 1
    read_damaged(data, max_output_bytes=1 << 30, max_tokens=1 << 25)
    with pytest.raises(LimitExceeded, match="the limit is 50"):
        salvage(held("arith", model), model, max_output_bytes=50)
    raw = held("raw", model)
    most = len(cram_of(read_container(raw)).chunks)  # fewer than their tokens
    for broken in (raw, damage(raw, len(raw) - 1, "flip")):
        with pytest.raises(LimitExceeded, match=f"the limit is {most}"):
            salvage(broken, model, max_tokens=most)


def test_what_is_unreadable_is_told(model: Path) -> None:
    data = held("raw", model)
    first, last = take_apart(data).planes["vectors"]
    chunks = cram_of(read_container(data)).chunks
    found = read_damaged(data[: (first + last) // 2], max_output_bytes=SIZE)
    assert found.unreadable == set(range(len(chunks)))  # without any patches no chunk is known
    assert [type(run) for run in found.runs] == [TextRun, LostRun, TextRun, LostRun]
    whole = read_damaged(data, max_output_bytes=SIZE)
    assert whole.unreadable == frozenset()
    assert cram_of(whole.container).chunks == chunks


# The command line


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path
) -> Callable[..., tuple[int, bytes | None]]:
    """`llmzip decompress --salvage` of some bytes: its exit code and its file, if any."""
    monkeypatch.chdir(tmp_path)

    def run(data: bytes, *options: str) -> tuple[int, bytes | None]:
        Path("x.crm").write_bytes(data)
        Path("x").unlink(missing_ok=True)
        code = main(["decompress", "x.crm", "--salvage", "--model", str(model), *options])
        assert sorted(p.name for p in tmp_path.iterdir() if p.name not in ("x", "x.crm")) == []
        return code, Path("x").read_bytes() if Path("x").exists() else None

    return run


def test_salvage_of_a_sound_file(
    run: Callable[..., Any], data: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(data) == (0, ORIGINAL)
    assert capfd.readouterr() == (
        "", f"x.crm → x  {SIZE} bytes, nothing is lost, verified\n"
    )  # fmt: skip


def test_salvage_of_a_damaged_file(
    run: Callable[..., Any], model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = held("arith", model)
    last = take_apart(data).planes["streams"][1] - 1
    broken = damage(data, last - 2, "zeros")[: len(data)]
    expected = salvage(broken, model)
    number = len(pieces("arith", model))
    assert run(broken) == (6, expected.data)
    out, err = capfd.readouterr()
    line, *gaps, note = err.splitlines()
    lost = expected.num_lost_bytes
    assert out == ""
    assert line == (
        f"x.crm → x  {number - 1} of {number} segments intact, {lost} of {SIZE} bytes lost"
    )
    assert gaps == [f"lost: bytes {first} to {last - 1}" for first, last in expected.gaps]
    assert note.startswith("note: each gap is marked in the text")
    assert run(broken, "-q") == (6, expected.data)
    assert capfd.readouterr() == ("", "")
    assert run(broken, "--json", "-q")[0] == 6
    fields = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert fields.pop("seconds") >= 0
    assert fields == {
        "schema": 1,
        "event": "done",
        "file": "x.crm",
        "output": "x",
        "original_bytes": SIZE,
        "lost_bytes": lost,
        "gaps": [list(gap) for gap in expected.gaps],
        "segments": number,
        "intact_segments": number - 1,
    }


def test_without_salvage_nothing_is_written(
    data: bytes, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.crm").write_bytes(damage(data, len(data) - 1, "flip"))
    assert main(["decompress", "x.crm", "--model", str(model)]) == 3
    assert not Path("x").exists()


def test_exit_codes_without_a_file(
    run: Callable[..., Any], data: bytes, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    parts = take_apart(data)
    table = parts.planes["columns"]
    assert run(damage(data, 20, "flip")) == (3, None)
    assert run(data[: table[1] - 1]) == (3, None)
    assert run(b"text") == (3, None)
    planes = {name: parts.plane(name) for name in PLANES}
    if kind == "arith":
        streams = bytes(byte ^ 0x55 for byte in planes["streams"])
        broken = assemble(parts.header, planes | {"streams": streams})
        nothing = broken[:-1] + b"\r"
    else:
        nothing = data[: parts.planes["vectors"][0] + 2]
    assert run(nothing) == (6, None)
    assert "nothing in the file is intact" in capfd.readouterr().err
    assert run(data, "--max-tokens", "3") == (7, None)
    assert run(reseal(damage(data, 9, "flip"))) in [(3, None), (4, None)]


def test_many_gaps_are_not_all_listed(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    gaps = tuple((10 * index, 10 * index + 4) for index in range(30))
    found = Salvaged(
        data=b"x", gaps=gaps, original_bytes=300, num_pieces=60, num_intact=30, noun="chunk"
    )
    monkeypatch.setattr("llmzip.api.decompress.salvage_bytes", lambda *args, **more: found)
    assert run(b"") == (6, b"x")
    lines = capfd.readouterr().err.splitlines()
    assert lines[1] == "lost: bytes 0 to 3"
    assert len(lines) == 23 and lines[-2] == "and 10 gaps more"
