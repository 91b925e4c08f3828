"""`.crm` files as file objects, with the behaviour that Python's own compressed files have."""

from __future__ import annotations

import array
import errno
import gc
import io
import os
import stat
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import llmzip
from llmzip.api import decompress as codec
from llmzip.api import reader as crmfile
from llmzip.codecs.arith import encoder as arith_encoding
from llmzip.codecs.base import Request
from llmzip.errors import FormatError, IntegrityError, Interrupted, ModelUnavailable, NotACrmFile
from llmzip.progress import Progress
from llmzip.store import atomic as disk
from llmzip.store.arith_payload import ArithPayload
from llmzip.store.container import read_container, write_container
from llmzip.store.cram_payload import CramPayload
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
        patch.setattr("llmzip.codecs.arith.segments._TOKENS_OF_ONE_LANE", 100)
        patch.setattr("llmzip.codecs.arith.segments._SEGMENT_BYTES", 150)
        if request.param == "cram":
            found = llmzip.compress(BOOK, model=llama, **CRAM)  # type: ignore[arg-type]
            assert sum(chunk.starts_segment for chunk in read_container(found).payload.chunks) > 3
        elif request.param == "arith":
            found = llmzip.compress(BOOK, model=llama, codec="arith", shared_mem=0)
            payload = read_container(found).payload
            assert isinstance(payload, ArithPayload) and len(payload.segments) > 1
        else:
            from llmzip.store.stored import pack_stored

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
    shared.seek(4)
    assert shared.seek(3, whence=os.SEEK_CUR) == 7 and shared.read(2) == BOOK[7:9]


def test_a_part_decodes_no_more_than_its_segment(
    packed: bytes, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = decoded(monkeypatch)
    container = read_container(packed)
    with llmzip.open(io.BytesIO(packed), model=llama) as file:
        file.seek(200)
        assert file.read(3) == BOOK[200:203]
        if container.needs_model:
            (part,) = wanted
            assert starts_in(container, part) == 1
            file.seek(201)
            assert file.read(1) == BOOK[201:202]
            file.seek(0)
            file.seek(200)
            assert file.read(3) == BOOK[200:203]
            assert len(wanted) == 1  # it is kept
        else:
            assert wanted == []
        assert file.read() and file.seek(0) == 0 and file.read() == BOOK


def decoded(monkeypatch: pytest.MonkeyPatch) -> list[range]:
    """Which pieces are decoded, call for call."""
    wanted: list[range] = []
    real = codec.decode_pieces

    def note(container: Any, settings: Any, request: Request, *args: Any, **more: Any) -> Any:
        wanted.append(request.wanted)
        return real(container, settings, request, *args, **more)

    monkeypatch.setattr(codec, "decode_pieces", note)
    return wanted


def starts_in(container: Any, pieces: range) -> int:
    """How many segments begin among pieces."""
    if isinstance(container.payload, ArithPayload):
        return len(pieces)
    return sum(container.payload.chunks[index].starts_segment for index in pieces)


def test_what_is_asked_for_at_once_is_decoded_at_once(
    packed: bytes, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = decoded(monkeypatch)
    container = read_container(packed)
    for read in (lambda file: file.read(320), lambda file: file.readinto(bytearray(320))):
        with llmzip.open(io.BytesIO(packed), model=llama) as file:
            file.seek(30)
            read(file)
            assert file.tell() == 350
        if container.needs_model:
            (part,) = wanted
            assert starts_in(container, part) > 1
            wanted.clear()


def test_reading_on_decodes_ahead(
    packed: bytes, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CramPayload, "segments_ahead", 3)
    wanted = decoded(monkeypatch)
    container = read_container(packed)
    with llmzip.open(io.BytesIO(packed), model=llama) as file:
        assert b"".join(iter(lambda: file.read(5), b"")) == BOOK
    found = [starts_in(container, part) for part in wanted]
    payload = container.payload
    if isinstance(payload, ArithPayload):
        assert found == [1] * len(payload.segments)
    elif payload is not None:
        assert found[:2] == [1, 3] and len(found) < sum(found)
    assert [index for part in wanted for index in part] == list(
        range(len(payload.pieces) if payload else 0)
    )


def test_no_more_is_kept_than_is_meant_to_be(
    packed: bytes, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crmfile, "_KEPT_BYTES", 100)
    monkeypatch.setattr(CramPayload, "segments_ahead", 1)
    wanted = decoded(monkeypatch)
    with llmzip.open(io.BytesIO(packed), model=llama) as file:
        reader = file.raw  # type: ignore[attr-defined]
        for _ in range(2):
            assert b"".join(iter(lambda: file.read(20), b"")) == BOOK
            here = sum(len(text) for text in reader._texts if text is not None)
            longest = 200  # bytes of a segment here, at most
            assert reader._num_kept == here <= 100 + longest < len(BOOK)
            assert reader._num_hashed == len(BOOK)  # the whole was checked all the same
            file.seek(0)
        assert file.read() == BOOK  # as much as is asked for
        file.seek(0)
        assert file.read(1) == BOOK[:1]
        assert reader._num_kept <= 100 + longest
    numbers = [index for part in wanted for index in part]
    assert len(set(numbers)) < len(numbers) or not wanted  # some were decoded again


def test_every_border_of_pieces(packed: bytes, shared: Any) -> None:
    container = read_container(packed)
    parts = container.payload.pieces if container.payload else ()
    ends = [0, *(sum(part.num_bytes for part in parts[: n + 1]) for n in range(len(parts)))]
    for end in ends:
        for first in (end - 1, end, end + 1):
            for size in (1, 2, 3):
                shared.seek(max(0, first))
                assert shared.read(size) == BOOK[max(0, first) :][:size]


def test_two_at_a_time(path: Path, llama: str) -> None:
    with llmzip.open(path, model=llama) as one, llmzip.open(path, model=llama) as other:
        one.seek(100)
        assert other.read(50) == BOOK[:50]
        assert one.read(50) == BOOK[100:150]
        other.close()
        assert one.read() == BOOK[150:]


def test_threads_share_a_reader(packed: bytes, llama: str) -> None:
    """Each gets what it reads next; together they get everything."""
    found: list[bytes] = []
    with llmzip.open(io.BytesIO(packed), model=llama) as file:

        def work() -> None:
            while part := file.read(16):
                found.append(part)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(b"".join(found)) == sorted(BOOK)
    assert all(part in BOOK for part in found)


def test_progress_and_stopping(packed: bytes, llama: str, tmp_path: Path) -> None:
    told: list[Progress] = []
    cancel = threading.Event()
    is_stored = not read_container(packed).needs_model
    with llmzip.open(io.BytesIO(packed), model=llama, progress=told.append, cancel=cancel) as file:
        assert file.read(2) == BOOK[:2]
        assert bool(told) != is_stored
        cancel.set()
        file.seek(-1, os.SEEK_END)
        if not is_stored:
            with pytest.raises(Interrupted):
                file.read()
            cancel.clear()
        assert file.read() == BOOK[-1:]  # it goes on
    cancel.set()
    writer = llmzip.open(tmp_path / "t.crm", "wb", model=llama, cancel=cancel)
    writer.write(BOOK)
    with pytest.raises(Interrupted):
        writer.close()
    assert writer.closed and os.listdir(tmp_path) == []


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


@pytest.mark.parametrize("mode", ["rb", "wb"])
def test_a_closed_file_answers_nothing(mode: str, packed: bytes, llama: str) -> None:
    file = llmzip.open(io.BytesIO(packed if mode == "rb" else b""), mode, model=llama)
    assert (file.readable(), file.writable()) == (mode == "rb", mode == "wb")
    assert file.seekable() == (mode == "rb")
    if mode == "wb":
        file.discard()  # type: ignore[attr-defined]
    file.close()
    for ask in (file.readable, file.writable, file.seekable, file.tell):
        with pytest.raises(ValueError):
            ask()


@pytest.mark.parametrize("encoding", ["utf-16", "UTF32", "utf-8-sig", "utf-16-le"])
def test_encodings_with_a_byte_order_mark(encoding: str) -> None:
    stream = io.BytesIO()
    with llmzip.open(stream, "wt", encoding=encoding, offline=True) as file:
        file.write("")
        file.write("Once, ")
        file.write("twice.\n")
    data = llmzip.decompress(stream.getvalue(), offline=True)
    assert data == "Once, twice.\n".encode(encoding)
    with llmzip.open(io.BytesIO(stream.getvalue()), "rt", encoding=encoding) as file:
        assert file.read() == "Once, twice.\n"
    empty = io.BytesIO()
    llmzip.open(empty, "wt", encoding=encoding, offline=True).close()
    assert llmzip.decompress(empty.getvalue()) == b""


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
    found = b""
    with llmzip.open(io.BytesIO(forged), model=llama) as file:
        assert file.read(5) == BOOK[:5]  # of a part, its own checks say all that is said
        file.seek(0)
        with pytest.raises(IntegrityError, match="hash of the whole"):
            while part := file.read(10):
                found += part
        assert found == BOOK[: len(found)] and len(found) < len(BOOK)
        with pytest.raises(IntegrityError, match="hash of the whole"):
            file.read(1)


def test_the_model_is_asked_for_when_it_is_needed(packed: bytes) -> None:
    with llmzip.open(io.BytesIO(packed)) as file:
        if read_container(packed).needs_model:
            with pytest.raises(ModelUnavailable):
                file.read(1)
        else:
            assert file.read(1) == BOOK[:1]


# Modes and arguments


@pytest.mark.parametrize(
    "mode", [("r",), "", "a", "ab", "r+", "rw", "rbt", "br", "w+b", "U", "rr", "x+"]
)
def test_no_such_mode(path: Path, mode: Any) -> None:
    with pytest.raises(ValueError, match="invalid mode"):
        llmzip.open(path, mode)


def test_wrong_arguments(path: Path) -> None:
    for more in ({"encoding": "utf-8"}, {"errors": "strict"}, {"newline": ""}):
        with pytest.raises(ValueError, match="text mode"):
            llmzip.open(path, "rb", **more)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        llmzip.open(17)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="read, to read, or write, to write"):
        llmzip.open(types.SimpleNamespace(write=print), "rb")  # type: ignore[call-overload]
    for name in ("colour", "span", "chunks"):
        for mode in ("rb", "wb"):
            with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
                llmzip.open(path, mode, **{name: None})
    for mode in ("rt", "wt"):
        with pytest.raises(LookupError, match="unknown encoding"):
            llmzip.open(path, mode, encoding="no-such-code")
    assert os.listdir(path.parent) == [path.name]


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


@pytest.mark.parametrize("mode", ["wb", "xb", "wt"])
def test_one_that_nobody_closes_writes_nothing(tmp_path: Path, mode: str) -> None:
    file = llmzip.open(tmp_path / "t.crm", mode)
    file.write("x" if "t" in mode else b"x")
    del file
    gc.collect()
    assert os.listdir(tmp_path) == []


def write(path: Path, mode: str = "wb") -> bytes:
    """Some container, as the file that has this name then."""
    with llmzip.open(path, mode) as file:
        file.write(bytes(300))
    return llmzip.decompress(path.read_bytes())


def test_a_file_that_is_replaced_leaves_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "t.crm"
    for mode in (0o600, 0o640):
        path.write_bytes(b"old")
        path.chmod(mode)
        assert write(path) == bytes(300)
        assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_new_file_has_the_mode_of_new_files(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        for mode in ("wb", "xb"):
            assert write(tmp_path / mode, mode) == bytes(300)
            assert stat.S_IMODE((tmp_path / mode).stat().st_mode) == 0o666 & ~mask
    finally:
        os.umask(before)


def test_a_link_goes_on_to_lead_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path, link = tmp_path / "real" / "t.crm", tmp_path / "link"
    link.symlink_to(path)
    for _ in ("missing", "there"):
        assert write(link) == bytes(300)
        assert link.is_symlink() and path.is_file()
        assert os.listdir(path.parent) == ["t.crm"]
    with pytest.raises(FileExistsError):
        llmzip.open(link, "xb")


def test_a_device_or_pipe_keeps_its_place(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(path.read_bytes()))
    reader.start()
    with llmzip.open(path, "wb") as file:
        file.write(bytes(300))
    reader.join(60)
    assert llmzip.decompress(found[0]) == bytes(300)
    assert path.is_fifo() and os.listdir(tmp_path) == ["pipe"]


def test_what_may_not_be_written_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.crm"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "access", lambda name, kind: False)  # root may do anything
    with pytest.raises(PermissionError) as caught:
        llmzip.open(path, "wb")
    assert caught.value.errno == errno.EACCES and caught.value.filename == str(path)


def test_a_stream_that_takes_little_at_a_time_gets_all(tmp_path: Path) -> None:
    class Slow(io.RawIOBase):
        taken = b""

        def write(self, data: Any) -> int:
            Slow.taken += bytes(data[:7])
            return min(7, len(data))

    with llmzip.open(Slow(), "wb") as file:  # type: ignore[call-overload]
        file.write(bytes(300))
    assert llmzip.decompress(Slow.taken) == bytes(300)


@pytest.mark.parametrize("can_rename", [True, False])
def test_new_means_new_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_rename: bool
) -> None:
    def refuse(*names: str) -> None:
        raise PermissionError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    if not can_rename:
        monkeypatch.setattr(disk, "rename_exclusively", lambda before, after: False)
    path = tmp_path / "t.crm"
    assert write(path, "xb") == bytes(300)
    assert os.listdir(tmp_path) == ["t.crm"]
