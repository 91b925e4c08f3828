"""Vectors as a safetensors file, for those who study them.

Owns its tensors and what their names mean. Needs no model and no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmzip.config import DEFAULT_MAX_OUTPUT_BYTES, VERSION
from llmzip.errors import InputError
from llmzip.store.container import Container, read_container
from llmzip.store.pieces import PieceMap
from llmzip.store.residual import Ranked
from llmzip.store.vectors import MemBits, mem_bits

Numbers: TypeAlias = npt.NDArray[np.generic]

SCHEMA = "1"
_COLUMNS = ("chunk", "first_byte", "num_bytes", "num_tokens", "starts_segment")
# As safetensors names them. numpy has no bf16: 16-bit integers hold its bits.
_KINDS = {"uint16": "BF16", "float32": "F32", "int64": "I64"}


def export_vectors(
    data: bytes,
    *,
    dtype_name: str = "bfloat16",
    max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES,
) -> bytes:
    """The vectors of a `.crm` file, and what belongs to them, as a safetensors file.

    mem: [N, K, D], as the decoder takes them, of the N chunks that have vectors; or the vectors
    shared by an arith file: [1, K, D]; "bfloat16" or "float32". Of those chunks: chunk (from 0),
    first_byte, num_bytes, num_tokens, starts_segment: [N] int64. patches: [P, 6] int64: row of mem,
    position, token or -1, and of one that is named by rank skip, size and index (docs/FORMAT.md),
    else -1. Strings about the model are in the metadata. Raises FormatError, LimitExceeded, and
    InputError for a file without vectors.
    """
    container = read_container(data, max_output_bytes=max_output_bytes)
    tensors = _of_arith(container) if container.arith is not None else _of_chunks(container)
    if not tensors["mem"].size:
        raise InputError("the file holds no vectors")
    if dtype_name == "float32":
        tensors["mem"] = (tensors["mem"].astype(np.uint32) << 16).view(np.float32)
    return _safetensors(tensors, _metadata(container))


def _of_chunks(container: Container) -> dict[str, Numbers]:
    mems: list[MemBits] = []
    rows: list[list[int]] = []
    patches: list[list[int]] = []
    places = _places(container)
    for number, chunk in enumerate(container.chunks):
        if chunk.mem is None:
            continue
        for position, token in chunk.patches:
            if isinstance(token, Ranked):
                name = [-1, token.skip, token.size, token.index]
            else:
                name = [token, -1, -1, -1]
            patches.append([len(mems), position, *name])
        mems.append(mem_bits(chunk.mem))
        rows.append(
            [number, places[number], chunk.num_bytes, chunk.num_tokens, int(chunk.starts_segment)]
        )
    columns = np.array(rows, dtype=np.int64).reshape(-1, len(_COLUMNS)).T
    return {
        "mem": _bits(mems, container.num_mem, container.mem_dim),
        **dict(zip(_COLUMNS, columns, strict=True)),
        "patches": np.array(patches, dtype=np.int64).reshape(-1, 6),
    }


def _places(container: Container) -> list[int]:
    """Where each chunk begins in the original."""
    extents = PieceMap.of(container).extents(0, container.original_bytes)
    return [each.first for each in extents if each.piece is not None and not each.offset]


def _of_arith(container: Container) -> dict[str, Numbers]:
    assert container.arith is not None
    shared = container.arith.mem
    return {"mem": _bits([] if shared is None else [mem_bits(shared)], 0, 0)}


def _bits(mems: list[MemBits], num_mem: int, mem_dim: int) -> MemBits:
    """[N, K, D]: the bits of each number in bf16."""
    if not mems:
        return np.empty((0, num_mem, mem_dim), dtype=np.uint16)
    return np.stack(mems)


def _metadata(container: Container) -> dict[str, str]:
    return {
        "schema": SCHEMA,
        "llmzip": VERSION,
        "model": container.model_id,
        "revision": container.revision,
        "model_digest": container.model_digest.hex(),
        "start_token": "" if container.start_id is None else str(container.start_id),
        "bits": str(container.bits),
        "codec": "cram" if container.arith is None else "arith",
    }


def _safetensors(tensors: Mapping[str, Numbers], metadata: Mapping[str, str]) -> bytes:
    """A file of that format: length of a JSON header, the header, then the numbers, little-endian,
    the widest first so that all lie where their size divides their place."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    parts: list[bytes] = []
    place = 0
    for name, array in sorted(tensors.items(), key=lambda item: -item[1].itemsize):
        kind = _KINDS[array.dtype.name]
        parts.append(array.astype(array.dtype.newbyteorder("<")).tobytes())
        end = place + len(parts[-1])
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [place, end]}
        place = end
    packed = json.dumps(header, separators=(",", ":")).encode()
    packed += b" " * (-len(packed) % 8)
    return b"".join([len(packed).to_bytes(8, "little"), packed, *parts])
