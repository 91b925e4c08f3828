"""`scripts/read_crm.py` beside llmzip: what both must find in a file; a zstd for older Pythons."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import read_crm
import zstandard

from llmzip.config import DEFAULT_MAX_OUTPUT_BYTES
from llmzip.errors import FormatError
from llmzip.store.arith_payload import ArithPayload
from llmzip.store.container import Container, ReadResult, parse_container
from llmzip.store.cram_payload import Chunk, CramPayload, chunks_of_runs
from llmzip.store.margins import margin_code
from llmzip.store.payload import StoredRun
from llmzip.store.residual import Ranked
from llmzip.store.shared_vectors import pack_shared, shared_sets
from llmzip.store.varint import encode_varints
from llmzip.store.vectors import GridMem

KINDS = {CramPayload: "crammed", ArithPayload: "arith"}
PLANES = {
    "shared_bytes": "shared", "vector_bytes": "vectors", "patch_bytes": "patches",
    "stream_bytes": "streams",
}  # fmt: skip


class Unpacker:
    """What `read_crm` needs of `compression.zstd.ZstdDecompressor`."""

    def __init__(self) -> None:
        self._unpacker = zstandard.ZstdDecompressor().decompressobj()

    def decompress(self, frame: bytes, max_length: int) -> bytes:
        return self._unpacker.decompress(frame)[:max_length]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._unpacker, name)


def frame_info(frame: bytes) -> SimpleNamespace:
    size = zstandard.frame_content_size(frame)
    return SimpleNamespace(decompressed_size=None if size < 0 else size)


# For `compression.zstd`, which Python has from 3.14 on.
ZSTD = SimpleNamespace(
    ZstdDecompressor=Unpacker, ZstdError=zstandard.ZstdError, get_frame_info=frame_info
)


def read(data: bytes) -> dict[str, Any]:
    """What `read_crm` finds in a file, zstd planes too."""
    with patch.object(read_crm, "zstd", read_crm.zstd or ZSTD):
        found: dict[str, Any] = read_crm.read(data)
    return found


def read_container(data: bytes, *, max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES) -> Container:
    """What llmzip reads, or its error: either way, `read_crm` must say the same of the file.

    But of a file that is only too large, about which it knows no limit.
    """
    try:
        result = parse_container(data, max_output_bytes=max_output_bytes)
    except FormatError:
        with pytest.raises(read_crm.BadFile):
            read(data)
        raise
    check_agreement(read(data), result)
    return result.container


def check_agreement(found: dict[str, Any], result: ReadResult) -> None:
    """`read_crm` and llmzip found the same in a file."""
    container, sizes, head = result.container, result.sizes, found["header"]
    payload = container.payload
    check_header(head, container)
    for name, plane in PLANES.items():
        assert head.get(name, 0) == sizes.planes.get(plane, 0), name
    assert head["stored_bytes"] == sizes.stored_bytes
    assert len(found["runs"]) == len(container.runs)
    for theirs, ours in zip(found["runs"], container.runs, strict=True):
        kind = "stored" if isinstance(ours, StoredRun) else KINDS[type(payload)]
        assert theirs[kind] is True and theirs["num_bytes"] == ours.num_bytes
        if isinstance(ours, StoredRun) and "data" in theirs:  # not without zstd
            assert theirs["data"] == ours.data.hex()
    if isinstance(payload, CramPayload):
        runs = [run for run in found["runs"] if "crammed" in run]
        for theirs, chunks in zip(
            runs, chunks_of_runs(payload.chunks, container.runs), strict=True
        ):
            assert theirs["num_chunks"] == len(chunks)
            assert theirs["num_tokens"] == sum(chunk.num_tokens for chunk in chunks)
    if isinstance(payload, CramPayload):
        check_chunks(found["chunks"], payload.chunks, payload.check_bytes)
        streams = [stream.hex() for stream in payload.streams]
        assert found.get("patched_tokens", []) == streams
        _, sets = shared_sets(payload.shared)
        fields, columns, _ = pack_shared(payload.shared)
        spans = [number for span in found.get("shared_spans", []) for number in span]
        assert encode_varints(*spans) == columns and head.get("num_shared", 0) == len(sets)
        vectors = found.get("shared_vectors", [])
        size = fields.num_mem if fields else 1
        for place, mem in enumerate(sets):
            check_grid(vectors[place * size :][:size], mem)
    else:
        assert "chunks" not in found
    assert isinstance(payload, ArithPayload) == ("segments" in found)
    if isinstance(payload, ArithPayload):
        check_segments(found, payload)


def check_header(head: dict[str, Any], container: Container) -> None:
    for name in ("original_bytes", "xz_bytes", "zstd_bytes"):
        assert head[name] == getattr(container, name), name
    assert head["original_hash"] == container.original_hash.hex()
    payload = container.payload
    cram = payload if isinstance(payload, CramPayload) else None
    for name, value in (
        ("model_id", payload.model.model_id if payload else ""),
        ("revision", payload.model.revision if payload else ""),
        ("model_digest", payload.model.digest.hex() if payload else ""),
        ("start_id", payload.model.start_id if payload else None),
        ("num_mem", payload.num_mem if isinstance(payload, CramPayload | ArithPayload) else 0),
        ("mem_dim", payload.mem_dim if isinstance(payload, CramPayload | ArithPayload) else 0),
        ("bits", cram.bits if cram else 0),
        ("context_tokens", cram.context_tokens if cram else 0),
        ("margin", margin_code(cram.min_margin) if cram else 0),
        ("num_chunks", len(cram.chunks) if cram else 0),
        ("num_literal", sum(chunk.mem is None for chunk in cram.chunks) if cram else 0),
    ):
        assert head.get(name, type(value)()) == value, name  # no field: 0, "" or None
    assert head["model"] == container.needs_model == (payload is not None)
    assert head["coded"] == bool(cram and cram.is_coded)
    assert head["signs"] == bool(cram and cram.signs)
    assert head["streams"] == bool(cram and cram.streams)
    assert head["shared"] == bool(cram and cram.shared)
    assert head["arith"] == isinstance(payload, ArithPayload)
    assert head["bf16_safe"] == bool(cram and cram.bf16_safe)
    check = container.settings_check
    assert head["suffix"] == bool(container.suffix) and head["settings"] == (check is not None)
    assert head.get("original_suffix", "") == container.suffix
    assert head.get("settings_check") == (
        None if check is None else check.to_bytes(2, "little").hex()
    )


def check_chunks(found: list[dict[str, Any]], chunks: Sequence[Chunk], check_bytes: int) -> None:
    for theirs, ours in zip(found, chunks, strict=True):
        for name in ("num_tokens", "num_bytes", "starts_segment"):
            assert theirs[name] == getattr(ours, name), name
        assert theirs["check"] == ours.check.to_bytes(check_bytes, "little").hex()
        assert theirs["literal"] == (ours.mem is None)
        patches = [
            (position, Ranked(*token) if isinstance(token, (list, tuple)) else token)
            for position, token in theirs["patches"]
        ]
        assert patches == list(ours.patches)
        if isinstance(ours.mem, np.ndarray):
            assert theirs["vectors"] == [row.astype("<u2").tobytes().hex() for row in ours.mem]
        else:
            check_grid(theirs["vectors"], ours.mem)


def check_segments(found: dict[str, Any], arith: ArithPayload) -> None:
    head = found["header"]
    for name in ("prefix_tokens", "window_tokens", "wrap"):
        assert head[name] == getattr(arith, name), name
    assert head["guard"] == arith.guard_code and head["num_segments"] == len(arith.segments)
    for theirs, ours in zip(found["segments"], arith.segments, strict=True):
        for name in ("num_tokens", "num_bytes", "num_lanes"):
            assert theirs[name] == getattr(ours, name), name
        assert theirs["check"] == ours.check.to_bytes(4, "little").hex()
        assert theirs["stream"] == ours.stream.hex()
    check_grid(found["shared_vectors"], arith.mem)


def check_grid(vectors: list[dict[str, Any]], mem: GridMem | None) -> None:
    assert [vector["step"] for vector in vectors] == (mem.steps.tolist() if mem else [])
    assert [vector["symbols"] for vector in vectors] == (mem.symbols.tolist() if mem else [])
