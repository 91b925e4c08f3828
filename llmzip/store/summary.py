"""The figures of a `.crm` file, without decoding what takes long.

Owns which figures the header and the columns give. Does not know what anyone shows of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmzip.config import DEFAULT_MAX_OUTPUT_BYTES
from llmzip.store.container import read_container
from llmzip.store.figures import Figures
from llmzip.store.header import Header
from llmzip.store.opening import Sizes, open_file

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
    table = header.table
    stored = [size for index, size in enumerate(columns.run_bytes) if table.is_stored(index)]
    figures = None
    if header.payload:
        figures = header.payload.figures(columns, opened.planes, optional=header.optional)
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
    if payload is not None and payload.slow_bytes > MAX_CHECKED_CODED_BYTES:
        return summary, False
    read_container(data, max_output_bytes=max_output_bytes)
    return summary, True
