"""`.crm` files as Python file objects.

Owns `llmzip.open`, and reading anywhere in a file, which decodes no more than that takes.
"""

from __future__ import annotations

import codecs
import io
import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from llmzip.api.options import compress_settings, decompress_settings
from llmzip.api.writer import CrmWriter
from llmzip.errors import IntegrityError

if TYPE_CHECKING:
    from llmzip.api.options import Where
    from llmzip.codecs.context import Context
    from llmzip.config import DecompressSettings
    from llmzip.lm.loaded import ModelCache

_MODES = ("r", "w", "x")
_HINT = 'the file is intact but decodes to other text here; try device="cpu"'
_KEPT_BYTES = 64 << 20  # of decoded text, beyond what a read needs


def open_crm(
    file: Where,
    mode: str,
    *,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
    context: Context,
    options: dict[str, Any],
) -> IO[Any]:
    """See `llmzip.open`."""
    if not isinstance(mode, str):
        raise ValueError(f"invalid mode: {mode!r}")
    kind, is_text = mode.replace("t", "").replace("b", ""), "t" in mode
    if kind not in _MODES or mode not in (kind, f"{kind}b", f"{kind}t"):
        raise ValueError(f"invalid mode: {mode!r}")
    if not is_text and (encoding, errors, newline) != (None, None, None):
        raise ValueError("encoding, errors and newline are for text mode")
    is_path = isinstance(file, (str, os.PathLike))
    if not is_path and not hasattr(file, "read" if kind == "r" else "write"):
        raise TypeError("file is a path, or an object with read, to read, or write, to write")
    found: Any
    if kind == "r":
        settings = decompress_settings(options)  # type: ignore[arg-type]
        found = CrmFile(CrmReader(file, settings, context))
    else:
        wanted = compress_settings(options)  # type: ignore[arg-type]
        found = CrmWriter(file, kind, wanted, context)
    if not is_text:
        return found  # type: ignore[no-any-return]
    try:
        return _TextFile(found, encoding, errors, newline)
    except BaseException:  # an encoding that there is not
        found.discard() if isinstance(found, CrmWriter) else found.close()
        raise


class CrmReader(io.RawIOBase):
    """The original of a container, decoded as far as it is read."""

    def __init__(self, file: Where, settings: DecompressSettings, context: Context) -> None:
        """Reads the container, which is small. Raises OSError, FormatError, LimitExceeded."""
        from llmzip.store.container import read_container
        from llmzip.store.opening import check_work
        from llmzip.store.original import new_content_hash
        from llmzip.store.pieces import PieceMap

        data, self.name = _read_all(file)
        self.mode = "rb"
        container = read_container(data, max_output_bytes=settings.max_output_bytes)
        check_work(container.num_tokens, len(data), settings.max_tokens)
        self._container, self._pieces, self._settings = container, PieceMap.of(container), settings
        self._context = context
        self._lock = threading.RLock()
        self._models: ModelCache | None = None
        payload = container.payload
        segments = payload.segment_ranges if payload else []
        # The first piece of each segment, and the end.
        self._starts = [*(segment.start for segment in segments), self._pieces.num_pieces]
        # Segments that are decoded together once reading goes on.
        self._segments_ahead = payload.segments_ahead if payload else 1
        self._texts: list[bytes | None] = [None] * self._pieces.num_pieces
        self._kept: OrderedDict[int, int] = OrderedDict()  # bytes of those here, last used last
        self._num_kept = 0
        self._hash, self._num_hashed = new_content_hash(), 0  # of the original, from its start
        self._place = 0

    def readable(self) -> bool:
        self._check_open()
        return True

    def writable(self) -> bool:
        self._check_open()
        return False

    def seekable(self) -> bool:
        self._check_open()
        return True

    def tell(self) -> int:
        self._check_open()
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """A place beyond the end is its own end, as in `lzma`."""
        self._check_open()
        starts = {
            os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._container.original_bytes,
        }  # fmt: skip
        if whence not in starts:
            raise ValueError(f"invalid whence: {whence}")
        if whence == os.SEEK_SET and offset < 0:
            raise ValueError(f"negative seek value {offset}")
        self._place = max(0, min(starts[whence] + offset, self._container.original_bytes))
        return self._place

    def readinto(self, buffer: Any) -> int:
        """No more than the segment here, or what is decoded already: no more may be needed."""
        self._check_open()
        view = memoryview(buffer).cast("B")
        with self._lock:
            first = self._place
            last = min(first + len(view), self._container.original_bytes)
            if first < last:
                self._decode(self._pieces.wanted(first, first + 1))
            for extent in self._pieces.extents(first, last):
                data = extent.bytes_of(self._texts)
                if data is None:
                    break
                view[self._place - first : extent.last - first] = data
                self._place = extent.last
            return self._place - first

    def readall(self) -> bytes:
        self._check_open()
        with self._lock:
            first, last = self._place, self._container.original_bytes
            self.prepare(first, last)
            found = [extent.bytes_of(self._texts) for extent in self._pieces.extents(first, last)]
            assert None not in found, "all of it was prepared"
            self._place = last
            return b"".join(data for data in found if data is not None)

    def prepare(self, first: int, last: int) -> None:
        """Decode together what bytes `first` up to `last` need, which are about to be read."""
        with self._lock:
            self._decode(self._pieces.wanted(first, min(last, self._container.original_bytes)))

    def close(self) -> None:
        if not self.closed:
            self._texts = []
            if self._models is not None:
                self._models.close()
        super().close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def _decode(self, wanted: range) -> None:
        """See that the texts of pieces are here: whole segments, which take no longer."""
        missing = [index for index in wanted if self._texts[index] is None]
        if missing:
            found = self._decoded(self._around(missing[0], missing[-1]))
            for index in missing:
                if found.get(index) is None:
                    raise IntegrityError(
                        f"{self._pieces.noun} {index + 1} of {len(self._texts)} decodes to "
                        "different text",
                        hint=_HINT,
                    )
            for index, text in found.items():
                self._num_kept += len(text) - self._kept.get(index, 0)
                self._texts[index], self._kept[index] = text, len(text)
        for index in wanted:
            self._kept.move_to_end(index)
        self._check_whole()
        while self._num_kept > _KEPT_BYTES and next(iter(self._kept)) not in wanted:
            index, size = self._kept.popitem(last=False)
            self._texts[index] = None
            self._num_kept -= size

    def _around(self, first: int, last: int) -> range:
        """The segments of pieces `first` to `last`, and some behind them where reading goes on."""
        begin = bisect_right(self._starts, first) - 1
        end = bisect_right(self._starts, last)
        first = self._starts[begin]
        goes_on = first > 0 and self._texts[first - 1] is not None
        if goes_on:
            end = min(end + self._segments_ahead - 1, len(self._starts) - 1)
        return range(first, self._starts[end])

    def _decoded(self, wanted: range) -> dict[int, bytes]:
        """The texts of pieces, of those that pass their checks."""
        from llmzip.api.decompress import decode_pieces
        from llmzip.codecs.base import Request
        from llmzip.lm.loaded import ModelCache

        self._models = self._models or ModelCache()
        texts = decode_pieces(
            self._container,
            self._settings,
            Request(wanted=wanted),
            self._context,
            models=self._models,
        )
        found = ((index, texts[index]) for index in wanted)
        return {index: text for index, text in found if text is not None}

    def _check_whole(self) -> None:
        """Hash on as far as texts are here. Raises IntegrityError where that ends otherwise than
        the container says."""
        size = self._container.original_bytes
        if self._num_hashed == size:
            return
        hashed = self._hash.copy()
        num_hashed = self._num_hashed
        for extent in self._pieces.extents(num_hashed, size):
            data = extent.bytes_of(self._texts)
            if data is None:
                break
            hashed.update(data)
            num_hashed = extent.last
        if num_hashed == size and hashed.digest() != self._container.original_hash:
            raise IntegrityError("the decoded text fails the hash of the whole file", hint=_HINT)
        self._hash, self._num_hashed = hashed, num_hashed


class CrmFile(io.BufferedReader):
    """What `llmzip.open` gives to read bytes."""

    def __init__(self, raw: CrmReader) -> None:
        super().__init__(raw)
        self._reader = raw

    def writable(self) -> bool:
        return self._reader.writable()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """`whence` may be given by name, too."""
        return super().seek(offset, whence)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None:
            self._prepare(size)
        return super().read(size)

    def readinto(self, buffer: Any, /) -> int:
        self._prepare(memoryview(buffer).nbytes)
        return super().readinto(buffer)

    def _prepare(self, size: int) -> None:
        """Of what is asked for at once, all segments are decoded side by side."""
        if size > 0:
            place = self.tell()
            self._reader.prepare(place, place + size)


# `TextIOWrapper` leaves out their mark where the file below cannot seek.
_BYTE_ORDER_MARKS = {"utf-16": codecs.BOM_UTF16, "utf-32": codecs.BOM_UTF32}


class _TextFile(io.TextIOWrapper):
    """Text in front of one of the above. What fails inside a `with` block leaves no file."""

    _mark = b""  # goes before the first text that is written

    def __init__(
        self, file: IO[bytes], encoding: str | None, errors: str | None, newline: str | None
    ) -> None:
        super().__init__(file, encoding, errors, newline)
        if isinstance(file, CrmWriter):
            self._mark = _BYTE_ORDER_MARKS.get(codecs.lookup(self.encoding).name, b"")

    def write(self, text: str, /) -> int:
        if self._mark and text:
            self.buffer.write(self._mark)
            self._mark = b""
        return super().write(text)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None and isinstance(self.buffer, CrmWriter):
            self.buffer.discard()
        else:
            self.close()

    def __del__(self) -> None:
        with suppress(Exception):  # as of the writer: nothing appears behind one's back
            if isinstance(self.buffer, CrmWriter):
                self.buffer.discard()


def _read_all(file: Where) -> tuple[bytes, str]:
    """The bytes and the name of a file; one that was given stays open."""
    if isinstance(file, (str, os.PathLike)):
        path = os.fspath(file)
        with open(path, "rb") as opened:
            return opened.read(), path
    return file.read(), str(getattr(file, "name", ""))
