"""Crammed chunks -> the container's own records.

Owns how what the engine gives is laid out in a container, and about how many bytes a chunk will
take there. Knows nothing of how chunks are crammed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch

from llmzip.codecs.base import Source, model_ref
from llmzip.codecs.cram.calibration import BF16_SAFE_MARGIN
from llmzip.codecs.cram.chunking import Segment
from llmzip.codecs.cram.plan import Plan
from llmzip.codecs.cram.tasks import Crammed
from llmzip.config import CompressSettings
from llmzip.lm.loaded import LoadedModel
from llmzip.lm.tokens import Tokens
from llmzip.store.container import Container
from llmzip.store.cram_payload import Chunk, CramPayload
from llmzip.store.hashes import chunk_check
from llmzip.store.payload import Run, StoredRun, TextRun
from llmzip.store.residual import pack_patches
from llmzip.store.stored import container_with
from llmzip.store.vectors import GridMem, MemBits

_ID_BITS = 15.0  # of a token that is stored by its id in a coded file


def assemble(
    source: Source,
    plan: Plan,
    crammed: Iterable[Crammed],
    loaded: LoadedModel,
    settings: CompressSettings,
) -> Container:
    """The container of a source. Tokens that no chunk holds are stored as bytes."""
    by_segment: dict[int, list[Crammed]] = {segment.index: [] for segment in plan.segments}
    for chunk in crammed:
        by_segment[chunk.task.segment.index].append(chunk)
    runs: list[Run] = []
    used: list[Crammed] = []
    chunks: list[Chunk] = []
    for part, segments in plan.parts:
        rest = part.data
        for segment in segments:
            found, left = _held(segment, by_segment[segment.index])
            own = [_chunk(chunk, loaded.tokens) for chunk in found]
            held = TextRun(num_bytes=sum(chunk.num_bytes for chunk in own))
            text = loaded.tokens.bytes_of(left)
            runs += [held, StoredRun(data=text)]
            rest = rest[held.num_bytes + len(text) :]
            used += found
            chunks += own
        runs.append(StoredRun(data=rest))
    if not used:
        return container_with(source.data, runs)
    weakest = min((c.min_margin for c in used if c.min_margin is not None), default=None)
    payload = CramPayload(
        model=model_ref(loaded),
        num_mem=settings.num_mem,
        mem_dim=loaded.lm.dim,
        bits=16 if plan.grid is None else math.ceil(plan.grid.bits),
        context_tokens=plan.context_tokens,
        min_margin=weakest,
        bf16_safe=weakest is not None and weakest >= BF16_SAFE_MARGIN,
        chunks=tuple(chunks),
    )
    return container_with(source.data, runs, payload)


def _held(segment: Segment, chunks: Iterable[Crammed]) -> tuple[list[Crammed], tuple[int, ...]]:
    """The chunks of a segment up to the first that is missing, and the tokens after them."""
    held: list[Crammed] = []
    place = segment.offset
    for chunk in sorted(chunks, key=lambda chunk: chunk.task.place):
        if chunk.task.place != place:
            break
        held.append(chunk)
        place += chunk.task.num_tokens
    return held, segment.ids[place - segment.offset :]


def stored_bytes(chunk: Crammed) -> int:
    """What a chunk's vectors and patches take in the container; of a chunk on a grid nearly so."""
    if chunk.grid_steps is None:
        vectors = 0 if chunk.mem is None else 2 * chunk.mem.numel()
        ids = [(p, token) for p, token in chunk.patches if isinstance(token, int)]
        return vectors + len(pack_patches(ids))
    assert chunk.mem is not None
    symbols = _grid_mem(chunk.mem, chunk.grid_steps).symbols
    shares = np.unique(symbols, return_counts=True)[1] / symbols.size
    bits = -symbols.size * float((shares * np.log2(shares)).sum())
    length, num = chunk.task.num_tokens, len(chunk.patches)
    bits += math.log2(math.comb(length, num))
    ranks = [token for _, token in chunk.patches if not isinstance(token, int)]
    bits += sum(1 + 1.5 * math.log2(1 + rank.skip) for rank in ranks)
    return round((bits + _ID_BITS * (num - len(ranks))) / 8)


def _grid_mem(mem: torch.Tensor, steps: torch.Tensor) -> GridMem:
    symbols = torch.round(mem.float() / steps[:, None]).to(torch.int16).numpy()
    patterns = steps.to(torch.bfloat16).view(torch.uint16).numpy()
    return GridMem(symbols=symbols, steps=patterns)


def _chunk(chunk: Crammed, tokens: Tokens) -> Chunk:
    text = tokens.bytes_of(chunk.task.ids)
    mem: MemBits | GridMem | None = None
    if chunk.mem is not None and chunk.grid_steps is not None:
        mem = _grid_mem(chunk.mem, chunk.grid_steps)
    elif chunk.mem is not None:
        mem = chunk.mem.view(torch.uint16).numpy()
    return Chunk(
        num_tokens=chunk.task.num_tokens,
        num_bytes=len(text),
        check=chunk_check(text),
        starts_segment=chunk.task.start == 0,
        patches=chunk.patches,
        mem=mem,
    )
