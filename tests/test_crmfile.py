"""`.crm` files as file objects, with the behaviour that Python's own compressed files have."""

from __future__ import annotations

import array
import io
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import llmzip
from llmzip import arith_encoding, crmfile
from llmzip.errors import FormatError, IntegrityError, ModelUnavailable, NotACrmFile
from llmzip.store.container import read_container, write_container
from tests.tiny_models import TEXT

BOOK = TEXT[:260].encode() + b"\nlines\r\n\nof many\x00lengths\xc3\xa9\n" + TEXT[260:400].encode()
CRAM = {"budget_bits": 40.0, "max_steps": 20, "preset": "fast", "context_tokens": 16}


@pytest.fixture(scope="module")
def llama(tiny_model: Callable[..., Path]) -> str:
    return str(tiny_model("llama"))


@pytest.fixture(scope="module", params=["cram", "arith", "stored"])
def packed(request: pytest.FixtureRequest, llama: str) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        # A random model predicts worse than zstd: keep its containers all the same.
        patch.setattr(arith_encoding, "pack_stored", lambda data: bytes(1 << 20))
        patch.setattr("llmzip.arith.segments._TOKENS_OF_ONE_LANE", 100)
        patch.setattr("llmzip.arith.segments._SEGMENT_BYTES", 150)
        if request.param == "cram":
            found = llmzip.compress(BOOK, model=llama, **CRAM)  # type: ignore[arg-type]
            assert sum(chunk.starts_segment for chunk in read_container(found).chunks) > 3
        elif request.param == "arith":
            found = llmzip.compress(BOOK, model=llama, codec="arith", shared_mem=0)
            arith = read_container(found).arith
            assert arith is not None and len(arith.segments) > 1
        else:
            from llmzip.assembly import pack_stored

            found = pack_stored(BOOK)
    return found


@pytest.fixture(scope="module")
def shared(packed: bytes, llama: str) -> Iterator[Any]:
    """One reader for tests that only look."""
    with llmzip.open(io.BytesIO(packed), model=llama) as file:
        yield file


@pytest.fixture
def path(packed: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "book.crm"
    path.write_bytes(packed)
    return path


def test_all_at_once(path: Path, llama: str) -> None:
    with llmzip.open(path, model=llama) as file:
        assert file.read() == BOOK
        assert file.read() == b"" and file.read(9) == b""
        assert file.name == str(path) and file.mode == "rb"
        assert file.readable() and file.seekable() and not file.writable()
    assert file.closed


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_piece_by_piece(shared: Any, size: int) -> None:
    shared.seek(0)
    parts = iter(lambda: shared.read(size), b"")
    assert b"".join(parts) == BOOK
    assert shared.tell() == len(BOOK)


def test_sizes_of_reads(shared: Any) -> None:
    shared.seek(0)
    assert shared.read(0) == b""
    assert shared.read1(5) == BOOK[:5]
    assert shared.peek()[:3] == BOOK[5:8] and shared.tell() == 5
    assert shared.read(-1) == BOOK[5:]
    shared.seek(10)
    assert shared.read(None) == BOOK[10:]
    shared.seek(3)
    buffer = bytearray(12)
    assert shared.readinto(buffer) == 12 and buffer == BOOK[3:15]
    shared.seek(-4, os.SEEK_END)
    assert shared.readinto(buffer) == 4 and buffer[:4] == BOOK[-4:]


def test_lines(shared: Any) -> None:
    shared.seek(0)
    lines = io.BytesIO(BOOK).readlines()
    assert list(shared) == lines
    shared.seek(0)
    assert shared.readline() == lines[0] and shared.readline(4) == lines[1][:4]
    assert shared.readlines() == [lines[1][4:], *lines[2:]]


def test_seeking(shared: Any) -> None:
    assert shared.seek(0, os.SEEK_END) == len(BOOK) and shared.read() == b""
    for place in (200, 0, len(BOOK) - 1, 150, 151):
        assert shared.seek(place) == place == shared.tell()
        assert shared.read(9) == BOOK[place : place + 9]
    shared.seek(10)
    assert shared.seek(15, os.SEEK_CUR) == 25 and shared.read(3) == BOOK[25:28]
    assert shared.seek(-10, os.SEEK_END) == len(BOOK) - 10 and shared.read() == BOOK[-10:]
    assert shared.seek(10**9) == len(BOOK) and shared.read() == b""  # as lzma has it
    with pytest.raises(ValueError):
        shared.seek(-1)
    with pytest.raises(ValueError):
        shared.seek(0, 3)


def test_a_part_decodes_no_more_than_its_segment(
    packed: bytes, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmzip import codec

    wanted: list[range] = []
    real = codec.decode_pieces

    def note(container: Any, settings: Any, **more: Any) -> Any:
        wanted.append(more["wanted"])
        return real(container, settings, **more)

    monkeypatch.setattr(codec, "decode_pieces", note)
    container = read_container(packed)
    with llmzip.open(io.BytesIO(packed), model=llama) as file:
        raw: Any = file.raw  # type: ignore[attr-defined]
        raw.seek(200)
        buffer = bytearray(3)
        raw.readinto(buffer)
        assert buffer == BOOK[200:203]
        if container.needs_model:
            (part,) = wanted
            assert 0 < len(part) < len(raw._texts)
            raw.seek(201)
            raw.readinto(buffer)
            assert len(wanted) == 1  # it is kept
        else:
            assert wanted == []
        assert file.read() and file.seek(0) == 0 and file.read() == BOOK


def test_text(path: Path, llama: str) -> None:
    with llmzip.open(path, "rt", model=llama, encoding="utf-8", newline="") as file:
        assert file.read() == BOOK.decode()
    with llmzip.open(path, "rt", model=llama, encoding="utf-8") as file:
        assert file.read() == BOOK.decode().replace("\r\n", "\n")
    with llmzip.open(path, "rt", model=llama, encoding="ascii", errors="replace") as file:
        assert "\ufffd" in file.read()


def test_a_file_object_stays_open(packed: bytes, llama: str) -> None:
    inner = io.BytesIO(packed)
    with llmzip.open(inner, model=llama) as file:
        assert file.read(5) == BOOK[:5]
    assert not inner.closed


def test_closed(path: Path, llama: str) -> None:
    file = llmzip.open(path, model=llama)
    file.close()
    file.close()
    for call in (file.read, file.tell, file.readline, lambda: file.seek(0), file.readable):
        with pytest.raises(ValueError):
            call()


def test_reading_does_not_write(path: Path, llama: str) -> None:
    with llmzip.open(path, model=llama) as file:
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")
        with pytest.raises(io.UnsupportedOperation):
            file.truncate()


# Damage


def test_damage_is_told(packed: bytes, llama: str, tmp_path: Path) -> None:
    for bad in (packed[:-1], packed + b"x", packed + packed, packed[:40]):
        with pytest.raises(FormatError):
            llmzip.open(io.BytesIO(bad), model=llama)
    with pytest.raises(NotACrmFile):
        llmzip.open(io.BytesIO(b"no such thing"))
    with pytest.raises(FileNotFoundError):
        llmzip.open(tmp_path / "missing.crm")
    with pytest.raises(IsADirectoryError):
        llmzip.open(tmp_path)


def test_other_text_is_not_given(llama: str) -> None:
    from dataclasses import replace

    packed = llmzip.compress(BOOK, model=llama, **CRAM)  # type: ignore[arg-type]
    container = read_container(packed)
    forged = write_container(replace(container, original_hash=bytes(len(container.original_hash))))
    with llmzip.open(io.BytesIO(forged), model=llama) as file:
        with pytest.raises(IntegrityError, match="hash of the whole"):
            file.read()


def test_the_model_is_asked_for_when_it_is_needed(packed: bytes) -> None:
    with llmzip.open(io.BytesIO(packed)) as file:
        if read_container(packed).needs_model:
            with pytest.raises(ModelUnavailable):
                file.read(1)
        else:
            assert file.read(1) == BOOK[:1]


# Modes and arguments


@pytest.mark.parametrize("mode", ["", "a", "ab", "r+", "rw", "rbt", "br", "w+b", "U", "rr", "x+"])
def test_no_such_mode(path: Path, mode: str) -> None:
    with pytest.raises(ValueError, match="invalid mode"):
        llmzip.open(path, mode)


def test_wrong_arguments(path: Path) -> None:
    for more in ({"encoding": "utf-8"}, {"errors": "strict"}, {"newline": ""}):
        with pytest.raises(ValueError, match="text mode"):
            llmzip.open(path, "rb", **more)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        llmzip.open(17)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        llmzip.open(path, colour="red")


# Writing


def test_what_is_written_comes_back(tmp_path: Path, llama: str) -> None:
    path = tmp_path / "new.crm"
    with llmzip.open(path, "wb", model=llama, **CRAM) as file:
        assert file.writable() and not file.readable() and not file.seekable()
        assert file.write(BOOK[:50]) == 50 and file.tell() == 50
        file.write(bytearray(BOOK[50:70]))
        file.write(memoryview(BOOK)[70:90])
        assert file.write(array.array("H", BOOK[90:100])) == 10
        file.writelines([BOOK[100:120], BOOK[120:]])
        assert file.name == str(path) and file.mode == "wb"
        assert not path.exists()
        with pytest.raises(TypeError):
            file.write("text")
        with pytest.raises(io.UnsupportedOperation):
            file.read()
    with pytest.raises(ValueError):
        file.write(b"x")
    assert llmzip.decompress(path.read_bytes(), model=llama) == BOOK
    assert os.listdir(tmp_path) == ["new.crm"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_nothing_and_stored(tmp_path: Path) -> None:
    with llmzip.open(tmp_path / "empty.crm", "w"):
        pass
    with llmzip.open(tmp_path / "empty.crm") as file:
        assert file.read() == b"" and file.readline() == b"" and file.seek(5) == 0
    inner = io.BytesIO()
    with llmzip.open(inner, "wb") as file:
        file.write(bytes(300))
    assert llmzip.decompress(inner.getvalue()) == bytes(300)


def test_text_is_written(tmp_path: Path, llama: str) -> None:
    path = tmp_path / "t.crm"
    with llmzip.open(path, "xt", model=llama, encoding="utf-16", newline="\r\n") as file:
        file.write("one\ntwo\n")
    assert llmzip.decompress(path.read_bytes(), model=llama).decode("utf-16") == "one\r\ntwo\r\n"


@pytest.mark.parametrize("mode", ["wb", "wt", "xb"])
def test_what_fails_leaves_nothing(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "t.crm"
    if mode != "xb":
        path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), llmzip.open(path, mode) as file:
        file.write("x" if "t" in mode else b"x")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ([] if mode == "xb" else ["t.crm"])
    assert mode == "xb" or path.read_bytes() == b"old"


def test_a_failing_compressor_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.crm"
    path.write_bytes(b"old")
    file = llmzip.open(path, "wb", model="no/such", offline=True)
    file.write(TEXT.encode())
    with pytest.raises(ModelUnavailable):
        file.close()
    assert file.closed and path.read_bytes() == b"old" and os.listdir(tmp_path) == ["t.crm"]


def test_new_means_new(tmp_path: Path) -> None:
    path = tmp_path / "t.crm"
    first = llmzip.open(path, "xb")
    first.write(b"first")
    path.write_bytes(b"meanwhile")
    with pytest.raises(FileExistsError):
        first.close()
    assert path.read_bytes() == b"meanwhile" and os.listdir(tmp_path) == ["t.crm"]
    with pytest.raises(FileExistsError):
        llmzip.open(path, "xb")
    with pytest.raises(IsADirectoryError):
        llmzip.open(tmp_path, "wb")
    with pytest.raises(FileNotFoundError):
        llmzip.open(tmp_path / "no" / "where.crm", "wb")


def test_one_that_nobody_closes_writes_nothing(tmp_path: Path) -> None:
    file = llmzip.open(tmp_path / "t.crm", "wb")
    file.write(b"x")
    del file
    assert os.listdir(tmp_path) == []
    assert crmfile._SEGMENTS_AHEAD > 1
