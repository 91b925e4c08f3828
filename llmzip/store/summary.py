"""The figures of a `.crm` file, without decoding its coded planes.

Owns which figures the header and the columns give. Does not know what anyone shows of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmzip.config import DEFAULT_MAX_OUTPUT_BYTES
from llmzip.store.arith_planes import ArithColumns
from llmzip.store.container import read_chunks, read_container
from llmzip.store.header import Header
from llmzip.store.opening import OpenedFile, Sizes, open_file

MAX_CHECKED_CODED_BYTES = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A file in numbers."""

    header: Header
    sizes: Sizes
    num_segments: int
    num_stored_runs: int
    stored_original_bytes: int
    num_lanes: int  # of all arith segments
    num_tokens: int
    num_literal_tokens: int
    crammed_bytes: int  # original bytes of all chunks
    literal_bytes: int  # of those without vectors
    arith_bytes: int  # original bytes of all arith segments
    num_patches: int  # in chunks with vectors
    num_patched: int  # chunks with vectors and patches


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
    if isinstance(columns, ArithColumns):
        return _summarise_arith(opened, columns)
    coded = header.model.coded if header.model else None
    if coded:
        num_patches, num_patched = coded.num_patches, coded.num_patched
    else:
        chunks = read_chunks(opened, columns)
        counts = [len(chunk.patches) for chunk in chunks if chunk.mem is not None]
        num_patches, num_patched = sum(counts), sum(count > 0 for count in counts)
    stored = [run.num_bytes for run in columns.runs if not run.num_chunks]
    literal = [index for index, is_literal in enumerate(columns.literal) if is_literal]
    return Summary(
        header=header,
        sizes=opened.sizes,
        num_segments=sum(columns.starts),
        num_stored_runs=len(stored),
        stored_original_bytes=sum(stored),
        num_lanes=0,
        num_tokens=sum(columns.num_tokens),
        num_literal_tokens=sum(columns.num_tokens[index] for index in literal),
        crammed_bytes=sum(columns.num_bytes),
        literal_bytes=sum(columns.num_bytes[index] for index in literal),
        arith_bytes=0,
        num_patches=num_patches,
        num_patched=num_patched,
    )


def check_structure(
    data: bytes, *, max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES
) -> tuple[Summary, bool]:
    """Read a file as far as half a second allows. Returns its figures and whether that was all of
    it: vectors and patches of a large coded file are decoded at a megabyte a second, and are left
    to the file's checksum. Raises what `parse_container` raises."""
    summary = summarise_container(data, max_output_bytes=max_output_bytes)
    if _coded_bytes(summary.header) > MAX_CHECKED_CODED_BYTES:
        return summary, False
    read_container(data, max_output_bytes=max_output_bytes)
    return summary, True


def _coded_bytes(header: Header) -> int:
    """Of the planes that hold coded vectors and patches."""
    if not header.model or not header.model.coded:
        return 0
    return header.vector_bytes + header.patch_bytes


def _summarise_arith(opened: OpenedFile, columns: ArithColumns) -> Summary:
    table, segments = opened.header.table, columns.segments
    stored = [size for index, size in enumerate(columns.run_bytes) if table.is_stored(index)]
    return Summary(
        header=opened.header,
        sizes=opened.sizes,
        num_segments=len(segments),
        num_stored_runs=len(stored),
        stored_original_bytes=sum(stored),
        num_lanes=sum(segment.num_lanes for segment in segments),
        num_tokens=sum(segment.num_tokens for segment in segments),
        num_literal_tokens=0,
        crammed_bytes=0,
        literal_bytes=0,
        arith_bytes=sum(segment.num_bytes for segment in segments),
        num_patches=0,
        num_patched=0,
    )
