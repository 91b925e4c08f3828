"""Vectors as a safetensors file, for those who study them.

Owns its tensors and what their names mean. Needs no model. Called by `cli.vectors`.
"""

from __future__ import annotations

import torch
from safetensors.torch import save

from llmzip.config import DEFAULT_MAX_OUTPUT_BYTES, VERSION
from llmzip.errors import InputError
from llmzip.store.container import Container, read_container
from llmzip.store.residual import Ranked
from llmzip.store.vectors import mem_bits

SCHEMA = "1"


def export_vectors(
    data: bytes,
    *,
    dtype_name: str = "bfloat16",
    max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES,
) -> bytes:
    """The vectors of a `.crm` file, and what belongs to them, as a safetensors file.

    mem: [N, K, D], as the decoder takes them, of the N chunks that have vectors; or the vectors
    shared by an arith file: [1, K, D]; bf16 or whatever is asked for. Of those chunks: chunk,
    first_byte, num_bytes, num_tokens, starts_segment: [N] int64. patches: [P, 6] int64: row of mem,
    position, token or -1, and of one that is named by rank skip, size and index (docs/FORMAT.md),
    else -1. Strings about the model are in the metadata. Raises FormatError, LimitExceeded, and
    InputError for a file without vectors.
    """
    container = read_container(data, max_output_bytes=max_output_bytes)
    tensors = _of_arith(container) if container.arith is not None else _of_chunks(container)
    if not len(tensors["mem"]):
        raise InputError("the file holds no vectors")
    tensors["mem"] = tensors["mem"].to(getattr(torch, dtype_name))
    return save(tensors, _metadata(container))


def _of_chunks(container: Container) -> dict[str, torch.Tensor]:
    mems: list[torch.Tensor] = []
    rows: list[list[int]] = []
    patches: list[list[int]] = []
    places = _places(container)
    for number, chunk in enumerate(container.chunks):
        if chunk.mem is None:
            continue
        bits = torch.from_numpy(mem_bits(chunk.mem).copy())
        for position, token in chunk.patches:
            name = (
                [-1, token.skip, token.size, token.index]
                if isinstance(token, Ranked)
                else ([token, -1, -1, -1])
            )
            patches.append([len(mems), position, *name])
        mems.append(bits.view(torch.bfloat16))
        rows.append(
            [number, places[number], chunk.num_bytes, chunk.num_tokens, int(chunk.starts_segment)]
        )
    shape = (0, container.num_mem, container.mem_dim)
    columns = torch.tensor(rows, dtype=torch.int64).view(-1, 5).T.contiguous()
    names = ("chunk", "first_byte", "num_bytes", "num_tokens", "starts_segment")
    return {
        "mem": torch.stack(mems) if mems else torch.empty(shape, dtype=torch.bfloat16),
        **{name: column.clone() for name, column in zip(names, columns, strict=True)},
        "patches": torch.tensor(patches, dtype=torch.int64).view(-1, 6),
    }


def _places(container: Container) -> list[int]:
    """Where each chunk begins in the original."""
    from llmzip.pieces import Layout

    extents = Layout.of(container).extents(0, container.original_bytes)
    return [each.first for each in extents if each.piece is not None and not each.offset]


def _of_arith(container: Container) -> dict[str, torch.Tensor]:
    assert container.arith is not None
    shared = container.arith.mem
    if shared is None:
        return {"mem": torch.empty(0, 0, 0, dtype=torch.bfloat16)}
    bits = torch.from_numpy(mem_bits(shared).copy())
    return {"mem": bits.view(torch.bfloat16)[None]}


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
