"""Crammed chunks as a container's payload, and whether they are worth their bytes.

Owns how what the engine gives is laid out in a container, about how many bytes a chunk will take
there, and the rule by which a text is stored instead of crammed. The rule holds for the vectors of
a preset; whoever names vectors (`num_mem`, `bits`, `budget_bits`) gets them, and who asks for
`fast` spends bytes to save time: then only a small file may not grow. Knows nothing of how chunks
are crammed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from llmzip.codecs.base import Draft, Source, model_ref, stored_draft
from llmzip.codecs.cram.calibration import BF16_SAFE_MARGIN
from llmzip.codecs.cram.chunking import Segment
from llmzip.codecs.cram.groups import wanted_margin
from llmzip.codecs.cram.patch_tokens import PatchedTokens, odds_guard, pack_tokens
from llmzip.codecs.cram.plan import Plan
from llmzip.codecs.cram.tasks import Crammed
from llmzip.codecs.token_odds import token_odds_of
from llmzip.config import CompressSettings
from llmzip.lm.loaded import LoadedModel
from llmzip.lm.tokens import Tokens
from llmzip.store.container import Container
from llmzip.store.cram_payload import STREAM_BITS, Chunk, CramPayload
from llmzip.store.original import chunk_check
from llmzip.store.payload import Run, StoredRun, TextRun
from llmzip.store.residual import pack_patches
from llmzip.store.shared_vectors import SharedMems
from llmzip.store.stored import container_with, pack_stored
from llmzip.store.vectors import GridMem, MemBits


def assemble(
    source: Source,
    plan: Plan,
    crammed: Iterable[Crammed],
    loaded: LoadedModel,
    settings: CompressSettings,
) -> Container:
    """The container of a source. Tokens that no chunk holds are stored as bytes."""
    by_segment: dict[int, list[Crammed]] = defaultdict(list)
    for chunk in crammed:
        by_segment[chunk.task.segment.index].append(chunk)
    cut = {each.index: _held(each, by_segment[each.index]) for each in plan.segments}
    used = [chunk for found, _ in cut.values() for chunk in found]
    # Sign vectors have a plane of their own, unless there is none.
    signs = plan.signs is not None and plan.signs.bits == 1
    signs &= any(chunk.mem is not None for chunk in used)
    runs: list[Run] = []
    chunks: list[Chunk] = []
    for part, segments in plan.parts:
        rest = part.data
        for segment in segments:
            found, left = cut[segment.index]
            own = [_chunk(each, loaded.tokens, check_bytes=1 if signs else 2) for each in found]
            held = TextRun(num_bytes=sum(chunk.num_bytes for chunk in own))
            text = loaded.tokens.bytes_of(left)
            runs += [held, StoredRun(data=text)]
            rest = rest[held.num_bytes + len(text) :]
            chunks += own
        runs.append(StoredRun(data=rest))
    if not used:
        return container_with(source.data, runs)
    weakest = min((c.min_margin for c in used if c.min_margin is not None), default=None)
    payload = CramPayload(
        model=model_ref(loaded),
        num_mem=settings.num_mem,
        mem_dim=loaded.lm.dim,
        bits=16 if plan.signs is None else plan.signs.bits,
        context_tokens=max([plan.context_tokens, *(chunk.task.start for chunk in used)]),
        min_margin=weakest,
        bf16_safe=weakest is not None and weakest >= BF16_SAFE_MARGIN,
        signs=signs,
        chunks=tuple(chunks),
        streams=_streams(used, loaded, guard=odds_guard(wanted_margin(loaded, settings))),
        shared=_shared(used),
    )
    return container_with(source.data, runs, payload)


def _streams(chunks: Sequence[Crammed], loaded: LoadedModel, *, guard: float) -> tuple[bytes, ...]:
    """The patched tokens of each segment, or nothing where patches name their tokens. chunks: all,
    in order."""
    segments: list[list[PatchedTokens]] = []
    for chunk in chunks:
        if chunk.task.start == 0:
            segments.append([])
        if chunk.patch_odds is not None:
            ids = [token for _, token in chunk.patches]
            segments[-1].append(PatchedTokens(ids=ids, odds=chunk.patch_odds))
    if not any(segments):
        return ()
    tree = token_odds_of(loaded.decode_lm, loaded.tokens).tree
    return tuple(pack_tokens(tree, own, guard=guard) if own else b"" for own in segments)


def _shared(chunks: Sequence[Crammed]) -> SharedMems:
    """The vectors before each segment, or nothing where there are none. chunks: all, in order."""
    found = [chunk.task.segment.shared for chunk in chunks if chunk.task.start == 0]
    if not any(found):
        return ()
    return tuple(None if shared is None else shared.grid for shared in found)


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
    """What a chunk's vectors and patches take in the container; of one of signs nearly so."""
    if chunk.grid_steps is None:
        vectors = 0 if chunk.mem is None else 2 * chunk.mem.numel()
        return vectors + len(pack_patches(chunk.patches))
    assert chunk.mem is not None
    symbols = grid_mem(chunk.mem, chunk.grid_steps).symbols
    shares = np.unique(symbols, return_counts=True)[1] / symbols.size
    bits = -symbols.size * float((shares * np.log2(shares)).sum())
    length, num = chunk.task.num_tokens, len(chunk.patches)
    bits += math.log2(math.comb(length, num))
    return round((bits + STREAM_BITS * num) / 8)


def grid_mem(mem: torch.Tensor, steps: torch.Tensor) -> GridMem:
    """Vectors that lie on a grid, as the container stores them. mem: [K, D]; steps: [K], of the
    grid of each vector; both on the CPU."""
    symbols = torch.round(mem.float() / steps[:, None]).to(torch.int16).numpy()
    patterns = steps.to(torch.bfloat16).view(torch.uint16).numpy()
    return GridMem(symbols=symbols, steps=patterns)


def _chunk(chunk: Crammed, tokens: Tokens, *, check_bytes: int) -> Chunk:
    text = tokens.bytes_of(chunk.task.ids)
    mem: MemBits | GridMem | None = None
    if chunk.mem is not None and chunk.grid_steps is not None:
        mem = grid_mem(chunk.mem, chunk.grid_steps)
    elif chunk.mem is not None:
        mem = chunk.mem.view(torch.uint16).numpy()
    return Chunk(
        num_tokens=chunk.task.num_tokens,
        num_bytes=len(text),
        check=chunk_check(text, size=check_bytes),
        starts_segment=chunk.task.start == 0,
        # Those whose odds are known stand in the segment's stream.
        patches=chunk.patches
        if chunk.patch_odds is None
        else tuple((position, None) for position, _ in chunk.patches),
        mem=mem,
    )


GROWTH_BYTES = 64  # more than its text has no file of a preset's vectors, if storing takes less
SMALL_BYTES = 512  # of text
# Header, columns and checksums, of the default model; what the columns have of a chunk.
_FILE_BYTES, _CHUNK_BYTES = 95, 2.5
# Of prose, measured (docs/LOG.md): bits of a coordinate, of those that a plan asks for; bits of a
# patch. Nearly as many tokens are patched as may be.
_BITS_SHARE, _PATCH_BITS = 1.0, 16.5


def is_worth_cramming(
    source: Source, plan: Plan, settings: CompressSettings, *, mem_dim: int
) -> bool:
    """Whether steps are spent on a text. Not where the file is expected to be larger than the text;
    nor, of a small text or a single chunk, than the text stored without a model: few vectors have
    to pay for the header's fields of the model."""
    data = source.data
    if _may_grow(data, settings) or plan.signs is None:
        return True
    tasks = list(plan.tasks)
    vector_bits = len(tasks) * mem_dim * plan.signs.bits * _BITS_SHARE
    num_patches = settings.max_patches * sum(task.num_tokens for task in tasks)
    expected = (
        _FILE_BYTES + _CHUNK_BYTES * len(tasks) + (vector_bits + _PATCH_BITS * num_patches) / 8
    )
    expected += sum(len(part.data) for part, segments in plan.parts if not segments)
    is_small = len(data) <= SMALL_BYTES or len(tasks) == 1
    most = len(pack_stored(data)) if is_small else len(data) + GROWTH_BYTES
    return expected < most


def smaller_draft(draft: Draft, data: bytes, settings: CompressSettings) -> Draft:
    """A draft of crammed text, or the text stored, where that keeps the file from growing."""
    if _may_grow(data, settings) or draft.num_bytes <= len(data) + GROWTH_BYTES:
        return draft
    stored = stored_draft(data)
    return stored if stored.num_bytes < draft.num_bytes else draft


def _may_grow(data: bytes, settings: CompressSettings) -> bool:
    """Whether somebody has chosen what the vectors take."""
    is_fast = settings.preset == "fast" and len(data) > SMALL_BYTES
    is_named = settings.bits is not None or settings.budget_bits is not None
    return is_fast or is_named or settings.num_mem > 1
