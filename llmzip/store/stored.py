"""What every container says, whichever codec made it, and the one way out of compressing.

Owns the sizes that other compressors reach, the container of a file kept without a model, and that
a container is read back by the reader and the decompressor's code before anyone gets its bytes.
Knows nothing of models.
"""

from __future__ import annotations

import lzma
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import zstandard

from llmzip.errors import FormatError, IntegrityError
from llmzip.store.container import (
    Container,
    Run,
    StoredRun,
    content_hash,
    read_container,
    write_container,
)
from llmzip.store.pieces import Texts, restore

_REPORT = "please report this with the output of `llmzip doctor`; the input is as it was"


def _no_texts(packed: bytes, container: Container) -> Texts:
    """Of a container without a model."""
    return []


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A container that has not been read back. decode: the texts of the pieces of a container that
    was read from these bytes, as the decompressor gives them."""

    container: Container
    decode: Callable[[bytes, Container], Texts] = _no_texts

    @cached_property
    def num_bytes(self) -> int:
        """What it takes, all but the fields that `seal` adds."""
        return len(write_container(self.container))


def seal(
    draft: Draft, data: bytes, *, suffix: str = "", settings_check: int | None = None
) -> bytes:
    """The file's bytes, from which reader and decompressor have given `data` back. Every result of
    compressing leaves here.

    suffix, settings_check: fields of the container. Raises IntegrityError.
    """
    labelled = replace(draft.container, suffix=suffix, settings_check=settings_check)
    packed = write_container(labelled)
    try:
        found = read_container(packed, max_output_bytes=len(data))
    except FormatError as error:
        raise IntegrityError(
            f"the finished container cannot be read back: {error}. Nothing was written.",
            hint=_REPORT,
        ) from error
    if restore(found, draft.decode(packed, found)) != data:
        raise IntegrityError(
            "the finished container does not give the input back. Nothing was written.",
            hint=_REPORT,
        )
    return packed


def stored_draft(data: bytes) -> Draft:
    """A container that holds `data` without a model."""
    return Draft(container=blank_container(data, (StoredRun(data=data),) if data else ()))


def pack_stored(data: bytes) -> bytes:
    """The same as bytes, for its size."""
    return write_container(stored_draft(data).container)


def blank_container(data: bytes, runs: tuple[Run, ...]) -> Container:
    """A container of `data` that says nothing yet of a model."""
    return Container(
        original_bytes=len(data),
        original_hash=content_hash(data),
        xz_bytes=xz_bytes(data),
        zstd_bytes=zstd_bytes(data),
        runs=runs,
    )


def xz_bytes(data: bytes) -> int:
    """Size that `xz -9e` gives; a dictionary no larger than the data gives the same at less
    memory."""
    lzma2 = {
        "id": lzma.FILTER_LZMA2,
        "preset": 9 | lzma.PRESET_EXTREME,
        "dict_size": min(1 << 26, max(4096, len(data))),
    }
    return len(lzma.compress(data, check=lzma.CHECK_CRC64, filters=[lzma2]))


def zstd_bytes(data: bytes) -> int:
    """Size that `zstd -19` gives."""
    return len(zstandard.ZstdCompressor(level=19).compress(data))
