"""The `.crm` file: the only reader and the only writer. docs/FORMAT.md is the description.

Owns what every file holds, the rules for it, the order of the planes, their checksum and the end
mark, and when each size is checked. What a codec stores is a payload, which this module reads and
writes without looking into it. Does not know the language model, tokens' text, or the file system.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

from llmzip.config import DEFAULT_MAX_OUTPUT_BYTES
from llmzip.errors import FormatError, SettingsError
from llmzip.store.figures import Figures
from llmzip.store.header import (
    COLUMNS_ZSTD,
    CRC_BYTES,
    HAS_SETTINGS,
    HAS_SUFFIX,
    STORED_ZSTD,
    Header,
    encode_header,
)
from llmzip.store.opening import END_MARK, OpenedFile, Sizes, open_file
from llmzip.store.original import HASH_BYTES, check_suffix
from llmzip.store.payload import HAS_MODEL, Payload, Run, StoredRun, TextRun, encode_run_bytes
from llmzip.store.payloads import PAYLOADS
from llmzip.store.squeeze import squeeze, unsqueeze
from llmzip.store.varint import MAX_VARINT, Cursor, require


@dataclass(frozen=True, kw_only=True)
class Container:
    """The contents of one `.crm` file. Runs alternate between StoredRun and TextRun; a file with
    runs of text has a payload, from which a model gives it."""

    original_bytes: int
    original_hash: bytes  # `content_hash` of the original
    xz_bytes: int  # what `xz -9e` and `zstd -19` made of the original when it was compressed
    zstd_bytes: int
    runs: tuple[Run, ...]
    payload: Payload | None = None
    suffix: str = ""  # that the original's name had, with its dot; nothing: none, or not known
    settings_check: int | None = None  # of model and settings, for `llmzip.api.existing`

    @property
    def needs_model(self) -> bool:
        return self.payload is not None

    @property
    def num_tokens(self) -> int:
        """What the model has to decode for all of it."""
        return self.payload.num_tokens if self.payload else 0


@dataclass(frozen=True, kw_only=True)
class ReadResult:
    """What one pass over a file gives."""

    container: Container
    sizes: Sizes


def check_container(container: Container) -> None:
    """Raise Corrupt (UnsupportedVersion for a value of a later format) unless every rule of the
    format holds."""
    for name in ("original_bytes", "xz_bytes", "zstd_bytes"):
        require(0 <= getattr(container, name) <= MAX_VARINT, f"{name} is out of range")
    require(len(container.original_hash) == HASH_BYTES, f"a hash has {HASH_BYTES} bytes")
    if container.suffix:
        check_suffix(container.suffix)
    check = container.settings_check
    require(check is None or 0 <= check <= 0xFFFF, "the check of the settings has 16 bits")
    runs, payload = container.runs, container.payload
    total = sum(run.num_bytes for run in runs)
    require(
        total == container.original_bytes,
        f"the runs hold {total} bytes, the original has {container.original_bytes}",
    )
    for before, run in zip(runs, runs[1:], strict=False):
        require(type(before) is not type(run), "two runs of one kind in a row: join them")
    require(all(run.num_bytes > 0 for run in runs), "an empty run")
    has_text = any(isinstance(run, TextRun) for run in runs)
    require(has_text == (payload is not None), "runs of text and a payload do not agree")
    if payload is not None:
        payload.model.check()
        payload.check(runs)


def write_container(container: Container) -> bytes:
    """The file's bytes: the same for the same contents. Raises SettingsError for broken rules."""
    try:
        check_container(container)
    except FormatError as error:
        raise SettingsError(f"cannot be stored: {error}") from error
    runs, payload = container.runs, container.payload
    encoded = PAYLOADS[payload.codec].of(payload, runs) if payload else None
    plain = encoded.columns if encoded else encode_run_bytes(run.num_bytes for run in runs)
    least_bytes = encoded.least_columns_bytes if encoded else 0
    columns, columns_zstd = squeeze(plain, least_bytes=least_bytes)
    stored, stored_zstd = squeeze(b"".join(run.data for run in runs if isinstance(run, StoredRun)))
    header = Header(
        required=COLUMNS_ZSTD * columns_zstd
        | STORED_ZSTD * stored_zstd
        | (HAS_MODEL | encoded.fields.features if encoded else 0),
        optional=(payload.optional if payload else 0)
        | HAS_SUFFIX * bool(container.suffix)
        | HAS_SETTINGS * (container.settings_check is not None),
        original_bytes=container.original_bytes,
        original_hash=container.original_hash,
        xz_bytes=container.xz_bytes,
        zstd_bytes=container.zstd_bytes,
        num_runs=len(runs),
        first_is_stored=bool(runs) and isinstance(runs[0], StoredRun),
        columns_bytes=len(columns),
        stored_bytes=len(stored),
        payload=encoded.fields if encoded else None,
        suffix=container.suffix,
        settings_check=container.settings_check,
    )
    body = columns + (encoded.planes if encoded else b"") + stored
    return encode_header(header) + body + crc32(body).to_bytes(CRC_BYTES, "little") + END_MARK


def read_container(data: bytes, *, max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES) -> Container:
    """The contents of a file. Raises what `parse_container` raises."""
    return parse_container(data, max_output_bytes=max_output_bytes).container


def parse_container(data: bytes, *, max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES) -> ReadResult:
    """The contents of a file and where its bytes went.

    Every size is checked against the file's own and `max_output_bytes` before anything of that size
    is allocated. Raises NotACrmFile, Truncated, Corrupt, UnsupportedVersion, LimitExceeded.
    """
    opened = open_file(data, max_output_bytes=max_output_bytes)
    header = opened.header
    fields, columns, optional = header.payload, opened.columns, header.optional
    payload = fields.read_payload(columns, opened.planes, optional=optional) if fields else None
    stored = _read_stored(opened)
    is_stored = header.table.is_stored
    runs: tuple[Run, ...] = tuple(
        StoredRun(data=next(stored)) if is_stored(index) else TextRun(num_bytes=num_bytes)
        for index, num_bytes in enumerate(columns.run_bytes)
    )
    container = container_of(header, runs, payload)
    check_container(container)
    return ReadResult(container=container, sizes=opened.sizes)


def container_of(header: Header, runs: tuple[Run, ...], payload: Payload | None) -> Container:
    """What the header says, with these contents. Nothing is checked."""
    return Container(
        original_bytes=header.original_bytes,
        original_hash=header.original_hash,
        xz_bytes=header.xz_bytes,
        zstd_bytes=header.zstd_bytes,
        runs=runs,
        payload=payload,
        suffix=header.suffix,
        settings_check=header.settings_check,
    )


def _read_stored(opened: OpenedFile) -> Iterator[bytes]:
    """The bytes of each stored run, from the last plane."""
    sizes = opened.header.table.stored_ones(opened.columns.run_bytes)
    stored = opened.planes.part(opened.header.stored_bytes, what="stored bytes")
    if opened.header.required & STORED_ZSTD:
        frame = stored.take(stored.remaining)
        unpacked = unsqueeze(frame, num_bytes=sum(sizes), what="stored bytes")
        stored = Cursor(unpacked, what="unpacked stored bytes")
    data = [bytes(stored.take(num_bytes)) for num_bytes in sizes]
    stored.finish()
    return iter(data)


MAX_CHECKED_CODED_BYTES = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A file in numbers."""

    header: Header
    sizes: Sizes
    num_stored_runs: int
    stored_original_bytes: int
    figures: Figures | None  # of the payload


def summarise_container(
    data: bytes, *, max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES
) -> Summary:
    """The figures of a file.

    Sizes, checksums, header and columns are checked, raw vectors and patches too. Coded planes and
    shared vectors are not decoded, nor stored bytes unpacked: that takes too long for a look at a
    large file, or at a small one that holds 1 GiB. Raises what `parse_container` raises.
    """
    opened = open_file(data, max_output_bytes=max_output_bytes)
    header, columns = opened.header, opened.columns
    stored = header.table.stored_ones(columns.run_bytes)
    fields, optional = header.payload, header.optional
    figures = fields.figures(columns, opened.planes, optional=optional) if fields else None
    return Summary(
        header=header,
        sizes=opened.sizes,
        num_stored_runs=len(stored),
        stored_original_bytes=sum(stored),
        figures=figures,
    )


def check_structure(
    data: bytes, *, max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES
) -> tuple[Summary, bool]:
    """Read a file as far as half a second allows. Returns its figures and whether that was all of
    it: coded planes of a large file, which are decoded at a megabyte a second, are left to the
    file's checksum. Raises what `parse_container` raises."""
    summary = summarise_container(data, max_output_bytes=max_output_bytes)
    payload = summary.header.payload
    is_quick = payload is None or payload.slow_bytes <= MAX_CHECKED_CODED_BYTES
    if is_quick:
        read_container(data, max_output_bytes=max_output_bytes)
    return summary, is_quick
