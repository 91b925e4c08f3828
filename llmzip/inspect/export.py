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
from llmzip.store.payload import Payload
from llmzip.store.pieces import PieceMap

Numbers: TypeAlias = npt.NDArray[np.generic]

SCHEMA = "1"
# As safetensors names them. numpy has no bf16: 16-bit integers hold its bits.
_KINDS = {"uint16": "BF16", "float32": "F32", "int64": "I64"}


def export_vectors(
    data: bytes, *, dtype_name: str = "bfloat16", max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES
) -> bytes:
    """The vectors of a `.crm` file, and what belongs to them, as a safetensors file.

    mem: [N, K, D], as the decoder takes them, of the N chunks that have vectors; or the vectors
    shared by an arith file: [1, K, D]; "bfloat16" or "float32". Of those chunks: chunk (from 0),
    first_byte, num_bytes, num_tokens, starts_segment: [N] int64. patches: [P, 6] int64: row of mem,
    position, token or -1, and of one that is named by rank skip, size and index (docs/FORMAT.md),
    else -1. Where segments have vectors before them, shared: [S, K', D], in the dtype of mem, and
    shared_row: [N] int64, which of these stand before each chunk's segment, or -1. Strings about
    the model are in the metadata. Raises FormatError, LimitExceeded, and InputError for a file
    without vectors.
    """
    container = read_container(data, max_output_bytes=max_output_bytes)
    payload = container.payload
    tensors = payload.tensors(_places(container)) if payload else {}
    if payload is None or not tensors["mem"].size:
        raise InputError("the file holds no vectors")
    if dtype_name == "float32":
        for name in ("mem", "shared"):
            if name in tensors:
                tensors[name] = (tensors[name].astype(np.uint32) << 16).view(np.float32)
    return _safetensors(tensors, _metadata(payload))


def _places(container: Container) -> list[int]:
    """Where each piece begins in the original."""
    extents = PieceMap.of(container).extents(0, container.original_bytes)
    return [each.first for each in extents if each.piece is not None and not each.offset]


def _metadata(payload: Payload) -> dict[str, str]:
    model = payload.model
    return {
        "schema": SCHEMA,
        "llmzip": VERSION,
        "model": model.model_id,
        "revision": model.revision,
        "model_digest": model.digest.hex(),
        "start_token": "" if model.start_id is None else str(model.start_id),
        "bits": str(payload.bits_per_dimension),
        "codec": payload.codec,
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
