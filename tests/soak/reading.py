"""The verdict of the structural readers on a file.

Owns which functions count as readers, and what must be true of a file that they accept. Called by
the campaigns that do not decode. Needs no torch.
"""

from __future__ import annotations

from llmzip.errors import LlmzipError
from llmzip.store.arith_fields import ArithFields
from llmzip.store.container import read_container, summarise_container, write_container
from llmzip.store.cram_fields import CramFields
from llmzip.store.grids import GridCode
from llmzip.store.header import (
    COLUMNS_ZSTD,
    HAS_SETTINGS,
    HAS_SUFFIX,
    STORED_ZSTD,
    Header,
    read_header,
)
from llmzip.store.payloads import all_optional
from tests.soak.outcome import Verdict

READERS = (read_container, summarise_container)


def all_refuse(data: bytes) -> Verdict:
    """For damage that no reader may overlook."""
    for read in READERS:
        try:
            read(data)
        except LlmzipError:
            continue
        return "lost"
    return "refused"


def any_file(data: bytes) -> Verdict:
    """For bytes that may be a sound file: then the readers agree, and it can be written again."""
    try:
        read_header(data)
        summarise_container(data)
        looks_sound = True
    except LlmzipError:
        looks_sound = False
    container = read_container(data)
    if not looks_sound:
        return "lost"
    again = write_container(container)
    is_same = read_container(again) == container and _is_one_spelling(data, again)
    return "sound" if is_same else "wrong"


def _is_one_spelling(data: bytes, again: bytes) -> bool:
    """Whether a file is what its contents are written as, where a writer has no choice."""
    headers = [read_header(each)[0] for each in (data, again)]
    if any(header.required & (COLUMNS_ZSTD | STORED_ZSTD) for header in headers):
        return True  # which may be there or not, and in many spellings
    if headers[0].optional & ~(HAS_SUFFIX | HAS_SETTINGS | all_optional()) or _prior(
        headers[0]
    ) != _prior(headers[1]):
        return True
    return data == again


def _prior(header: Header) -> int | None:
    """The first guess at the vectors' symbols, which a writer may choose as it likes."""
    fields = header.payload
    if isinstance(fields, CramFields) and fields.coded:
        grid = fields.coded.grid
        return grid.prior if isinstance(grid, GridCode) else None
    return fields.grid.prior if isinstance(fields, ArithFields) and fields.grid else None
