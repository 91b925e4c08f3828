"""Tokens and a model -> a verified container.

Owns the steps of compressing a text: cram the chunks of a plan, assemble the container, decode it
again. Knows nothing of how models are found or chunks are cut. Called by `codec` and `estimate`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from llmzip.assembly import blank_container
from llmzip.config import DEFAULT_MAX_STEPS, CompressSettings
from llmzip.cram.calibration import BF16_SAFE_MARGIN
from llmzip.cram.checkpoint import pack_crammed, pack_state, unpack_crammed, unpack_state
from llmzip.cram.chunking import Segment
from llmzip.cram.effort import EFFORTS
from llmzip.cram.engine import Engine, EngineSettings
from llmzip.cram.tasks import Crammed
from llmzip.cram.underway import EngineState, OnSave
from llmzip.decoding import decode_chunks_of
from llmzip.errors import IntegrityError
from llmzip.lm.devices import trim_heap
from llmzip.lm.tokens import Tokens
from llmzip.pieces import restore
from llmzip.planning import Part, Plan, plan_parts
from llmzip.progress import OnProgress, Progress
from llmzip.store.container import (
    Chunk,
    Container,
    CramRun,
    StoredRun,
    chunk_check,
    read_container,
    write_container,
)
from llmzip.store.journal import Journal
from llmzip.store.residual import pack_patches
from llmzip.store.vectors import GridMem, MemBits
from llmzip.workshop import Workshop

_ID_BITS = 15.0  # of a token that is stored by its id in a coded file
_KEPT = "chunks"  # in the journal


def cram_parts(
    data: bytes,
    parts: Sequence[Part],
    shop: Workshop,
    settings: CompressSettings,
    *,
    deadline: float | None = None,
    journal: Journal | None = None,
    on_progress: OnProgress,
    cancel: threading.Event | None,
) -> bytes:
    """The container of `data`, whose parts are `parts`, decoded once more from its own bytes.

    deadline: of `time.monotonic`; what is not crammed by then is stored. journal: where finished
    chunks are kept, and those of an earlier run are found.
    """
    plan = plan_parts(
        parts, shop, settings, journal=journal, on_progress=on_progress, cancel=cancel
    )
    crammed = list(
        cram_plan(
            plan, shop, settings,
            deadline=deadline, journal=journal, on_progress=on_progress, cancel=cancel,
        )
    )  # fmt: skip
    container = assemble(data, plan, crammed, shop, settings)
    packed = write_container(container)
    stored = sum(len(run.data) for run in container.runs if isinstance(run, StoredRun))
    unwanted = stored - sum(len(part.data) for part in parts if part.ids is None)
    if unwanted:
        say = f"time budget: {unwanted:,} of {len(data):,} bytes are stored, not crammed"
        on_progress(Progress(stage="cram", message=say))
    found = read_container(packed, max_output_bytes=len(data))
    texts: list[bytes | None] = []
    if found.needs_model:  # something was crammed in time
        trim_heap(shop.judge.device)
        texts = decode_chunks_of(
            found,
            shop.judge,
            shop.tokens,
            batch=settings.compute.batch,
            stage="verify",
            on_progress=on_progress,
            cancel=cancel,
        )
    if (
        restore(found, texts) != data
    ):  # the hashes agree, so this would be a fault of the container's own
        raise IntegrityError("the finished container does not give the input back")
    return packed


def make_engine(
    plan: Plan,
    shop: Workshop,
    settings: CompressSettings,
    *,
    deadline: float | None = None,
    on_step: Callable[[int], None],
    on_save: OnSave | None = None,
    cancel: threading.Event | None = None,
) -> Engine:
    """The engine for a plan's chunks. on_step gets the tokens right among those under way."""
    margin = BF16_SAFE_MARGIN if settings.bf16_safe else shop.calibration().min_margin
    return Engine(
        shop.lm,
        shop.judge,
        EngineSettings(
            num_mem=settings.num_mem,
            max_steps=settings.max_steps or DEFAULT_MAX_STEPS,
            seed=settings.seed,
            context_tokens=plan.context_tokens,
            min_margin=margin,
            step_price_bits=EFFORTS[settings.preset].step_price_bits,
            max_patches=settings.max_patches,
            grid=plan.grid,
            deadline=deadline,
        ),
        on_step=on_step,
        on_save=on_save,
        cancel=cancel,
    )


def cram_plan(
    plan: Plan,
    shop: Workshop,
    settings: CompressSettings,
    *,
    deadline: float | None = None,
    journal: Journal | None = None,
    on_progress: OnProgress = lambda event: None,
    cancel: threading.Event | None = None,
) -> Iterator[Crammed]:
    """Finished chunks, in no fixed order; first those that the journal has."""
    progress = Progress(
        stage="cram",
        chunks_total=sum(len(segment.spans) for segment in plan.segments),
        tokens_total=sum(len(segment.ids) for segment in plan.segments),
        bytes_total=sum(len(part.data) for part, found in plan.parts if found),
    )
    finished_tokens = 0

    def on_step(num_right: int) -> None:
        on_progress(replace(progress, tokens_right=finished_tokens + num_right))

    def count(chunk: Crammed) -> None:
        nonlocal finished_tokens, progress
        finished_tokens += chunk.task.num_tokens
        done = progress.chunks_done + 1
        progress = replace(
            progress,
            chunks_done=done,
            chunks_total=max(progress.chunks_total, done),
            bytes_done=progress.bytes_done + len(shop.tokens.bytes_of(chunk.task.ids)),
            output_bytes=progress.output_bytes + stored_bytes(chunk),
        )

    kept, state, on_save = _work_so_far(plan, shop, journal)
    for chunk in kept:
        count(chunk)
    if kept:
        progress = replace(progress, bytes_kept=progress.bytes_done)
        say = f"resumed: {len(kept)} of {progress.chunks_total} chunks were finished before"
        on_progress(replace(progress, message=say, tokens_right=finished_tokens))
        yield from kept
    engine = make_engine(
        plan, shop, settings, deadline=deadline, on_step=on_step, on_save=on_save, cancel=cancel
    )
    for chunk in engine.run(plan.tasks, state):
        count(chunk)
        on_progress(replace(progress, tokens_right=finished_tokens))
        yield chunk


def _work_so_far(
    plan: Plan, shop: Workshop, journal: Journal | None
) -> tuple[list[Crammed], EngineState | None, OnSave | None]:
    """Chunks that an earlier run finished, what it had under way, and how this run saves."""
    if journal is None:
        return [], None, None

    def save(accepted: Sequence[Crammed], state: EngineState) -> None:
        journal.keep(_KEPT, pack_crammed(accepted) if accepted else b"", pack_state(state))

    segments = {segment.index: segment for segment in plan.segments}
    kept = [chunk for data in journal.kept(_KEPT) for chunk in unpack_crammed(data, segments)]
    packed = journal.state(_KEPT)
    state = unpack_state(packed, segments, shop.lm.device) if packed else None
    return kept, state, save


def assemble(
    data: bytes,
    plan: Plan,
    crammed: Iterable[Crammed],
    shop: Workshop,
    settings: CompressSettings,
) -> Container:
    """The container of `data`. Tokens that no chunk holds are stored as bytes."""
    by_segment: dict[int, list[Crammed]] = {segment.index: [] for segment in plan.segments}
    for chunk in crammed:
        by_segment[chunk.task.segment.index].append(chunk)
    runs: list[CramRun | StoredRun] = []
    used: list[Crammed] = []
    for part, segments in plan.parts:
        rest = part.data
        for segment in segments:
            found, left = _held(segment, by_segment[segment.index])
            used += found
            chunks = tuple(_chunk(chunk, shop.tokens) for chunk in found)
            _append(runs, CramRun(chunks=chunks))
            text = shop.tokens.bytes_of(left)
            rest = rest[sum(chunk.num_bytes for chunk in chunks) + len(text) :]
            _append(runs, StoredRun(data=text))
        _append(runs, StoredRun(data=rest))
    if not used:
        return blank_container(data, tuple(runs))
    weakest = min((c.min_margin for c in used if c.min_margin is not None), default=None)
    return replace(
        blank_container(data, tuple(runs)),
        model_id=shop.files.model_id,
        revision=shop.files.revision,
        model_digest=shop.files.digest,
        num_mem=settings.num_mem,
        mem_dim=shop.lm.dim,
        bits=16 if plan.grid is None else math.ceil(plan.grid.bits),
        context_tokens=plan.context_tokens,
        start_id=shop.start_id,
        min_margin=weakest,
        bf16_safe=weakest is not None and weakest >= BF16_SAFE_MARGIN,
    )


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


def _append(runs: list[CramRun | StoredRun], run: CramRun | StoredRun) -> None:
    """Add a run; empty ones vanish, neighbours of one kind become one."""
    if not (run.data if isinstance(run, StoredRun) else run.chunks):
        return
    last = runs[-1] if runs else None
    if isinstance(run, StoredRun) and isinstance(last, StoredRun):
        runs[-1] = StoredRun(data=last.data + run.data)
    elif isinstance(run, CramRun) and isinstance(last, CramRun):
        runs[-1] = CramRun(chunks=last.chunks + run.chunks)
    else:
        runs.append(run)


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
