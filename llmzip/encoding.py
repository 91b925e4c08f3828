"""Tokens and a model -> a verified container.

Owns the steps of compressing a text: plan all chunks, cram them, assemble the container, decode
it again. Knows nothing of how models are found. Called by `codec`.
"""

from __future__ import annotations

import lzma
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import zstandard

from llmzip.config import CompressSettings
from llmzip.cram.capacity import budget_of_gain, probe_text, remembered_gain_bits
from llmzip.cram.chunking import MAX_CHUNK_TOKENS, Segment, plan_segments
from llmzip.cram.engine import Engine, EngineSettings
from llmzip.cram.tasks import Crammed, Task
from llmzip.decoding import decode_container
from llmzip.errors import IntegrityError
from llmzip.lm.model import FrozenLM
from llmzip.lm.tokens import Tokens
from llmzip.lm.zoo import MODELS, ModelFiles, cache_dir
from llmzip.progress import OnProgress, Progress, check_cancelled
from llmzip.store.container import (
    Chunk,
    Container,
    CramRun,
    Run,
    StoredRun,
    chunk_check,
    content_hash,
    read_container,
    write_container,
)
from llmzip.store.residual import pack_patches
from llmzip.store.vectors import packed_bytes
from llmzip.triage import Stretch

# Fewer tokens than this are stored: a vector for so little is waste even beside other 16-bit
# vectors.
_MIN_CRAM_TOKENS = 8
_STEP_TOKENS = {"cpu": 256, "cuda": 8192, "mps": 1024}
_BF16_SAFE_MARGIN = 2.0
# Left context when the user names none: a long one makes chunks cheap to cram, a short one gives
# the decoder more segments to work on at a time.
_SEGMENTS_WANTED = 16
_LONGEST_CONTEXT_TOKENS = 256
_SHORTEST_CONTEXT_TOKENS = 64  # a shorter one only makes chunks wait for each other


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """A model ready to work: `judge` decodes (fp32), `lm` optimises (the faster dtype; often the
    same model)."""

    files: ModelFiles
    tokens: Tokens
    start_id: int | None  # stands before every segment
    judge: FrozenLM
    lm: FrozenLM


@dataclass(frozen=True, kw_only=True)
class Part:
    """A stretch of the input: its bytes, and its tokens where it is to be crammed."""

    data: bytes
    ids: tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Parts of the input in order, each with its segments (none: stored)."""

    parts: Sequence[tuple[Part, Sequence[Segment]]]
    context_tokens: int

    @property
    def segments(self) -> list[Segment]:
        return [segment for _, segments in self.parts for segment in segments]


def pack_stored(data: bytes) -> bytes:
    """A container that holds `data` without a model."""
    return write_container(_container(data, (StoredRun(data=data),) if data else ()))


def tokenised_parts(stretches: Sequence[Stretch], tokens: Tokens) -> list[Part]:
    """Tokenise the stretches of text; what has no tokens, or hardly any, stays bytes. Neighbours
    differ in kind."""
    parts: list[Part] = []
    for stretch in stretches:
        pieces = tokens.encode(stretch.data) if stretch.is_text else []
        found = [Part(data=piece.data, ids=piece.ids) for piece in pieces]
        for part in found or [Part(data=stretch.data, ids=None)]:
            if part.ids is not None and len(part.ids) < _MIN_CRAM_TOKENS:
                part = Part(data=part.data, ids=None)
            if parts and (parts[-1].ids is None) == (part.ids is None):
                before = parts.pop()
                ids = None if before.ids is None or part.ids is None else before.ids + part.ids
                part = Part(data=before.data + part.data, ids=ids)
            parts.append(part)
    return parts


def cram_parts(
    data: bytes,
    parts: Sequence[Part],
    shop: Workshop,
    settings: CompressSettings,
    *,
    on_progress: OnProgress,
    cancel: threading.Event | None,
) -> bytes:
    """The container of `data`, whose parts are `parts`, decoded once more from its own bytes."""
    plan = _plan(parts, shop, settings, on_progress, cancel)
    crammed = _cram(plan, shop, settings, on_progress, cancel)
    packed = write_container(_assemble(data, plan, crammed, shop, settings))
    decoded = decode_container(
        read_container(packed, max_output_bytes=len(data)),
        shop.judge,
        shop.tokens,
        batch=settings.compute.batch,
        stage="verify",
        on_progress=on_progress,
        cancel=cancel,
    )
    if decoded != data:  # the hashes agree, so this would be a fault of the container's own
        raise IntegrityError("the finished container does not give the input back")
    return packed


def _plan(
    parts: Sequence[Part],
    shop: Workshop,
    settings: CompressSettings,
    on_progress: OnProgress,
    cancel: threading.Event | None,
) -> _Plan:
    on_progress(Progress(stage="measure", bytes_total=sum(len(part.data) for part in parts)))
    num_tokens = sum(len(part.ids or ()) for part in parts)
    context = settings.context_tokens
    if context is None:
        context = min(_LONGEST_CONTEXT_TOKENS, num_tokens // _SEGMENTS_WANTED)
        context = context if context >= _SHORTEST_CONTEXT_TOKENS else 0
    # The longest chunk and its vectors (64 at most) must still fit behind the longest context.
    context = max(0, min(context, shop.judge.max_positions - MAX_CHUNK_TOKENS - 64))
    budget = settings.budget_bits or _default_budget_bits(shop, settings.num_mem)
    planned: list[tuple[Part, Sequence[Segment]]] = []
    index = 0
    for part in parts:
        segments = []
        if part.ids is not None:
            for segment in plan_segments(
                shop.lm, part.ids, start_id=shop.start_id, context_tokens=context,
                budget_bits=budget, first_index=index,
            ):  # fmt: skip
                check_cancelled(cancel)
                segments.append(segment)
            index += len(segments)
        planned.append((part, segments))
    return _Plan(parts=planned, context_tokens=context)


def _default_budget_bits(shop: Workshop, num_mem: int) -> float:
    """The budget that the model's capacity asks for; measured at first use of an unknown model."""
    pinned = MODELS.get(shop.files.model_id)
    if pinned is not None and pinned.digest == shop.files.digest and pinned.gain_bits is not None:
        return budget_of_gain(pinned.gain_bits, num_mem=num_mem)
    ids = [i for piece in shop.tokens.encode(probe_text()) for i in piece.ids or ()]
    cache = cache_dir() / "capacity" / f"{shop.files.digest.hex()}.json"
    gain_bits = remembered_gain_bits(shop.lm, ids, start_id=shop.start_id, cache=cache)
    return budget_of_gain(gain_bits, num_mem=num_mem)


def _cram(
    plan: _Plan,
    shop: Workshop,
    settings: CompressSettings,
    on_progress: OnProgress,
    cancel: threading.Event | None,
) -> dict[int, list[Crammed]]:
    """Finished chunks by segment, in order."""
    segments = plan.segments
    by_segment: dict[int, list[Crammed]] = {segment.index: [] for segment in segments}
    progress = Progress(
        stage="cram",
        chunks_total=sum(len(segment.spans) for segment in segments),
        tokens_total=sum(len(segment.ids) for segment in segments),
        bytes_total=sum(len(part.data) for part, found in plan.parts if found),
    )
    vector_bytes = packed_bytes(1, settings.num_mem, shop.lm.dim, settings.bits)
    finished_tokens = 0

    def on_step(num_right: int) -> None:
        on_progress(replace(progress, tokens_right=finished_tokens + num_right))

    def tasks() -> Iterator[Task]:
        for segment in segments:
            for span in segment.spans:
                yield Task(segment=segment, start=span.start, end=span.end)

    engine = Engine(
        shop.lm,
        shop.judge,
        EngineSettings(
            num_mem=settings.num_mem,
            max_steps=settings.max_steps,
            seed=settings.seed,
            context_tokens=plan.context_tokens,
            batch_tokens=_STEP_TOKENS[shop.lm.device.type],
        ),
        on_step=on_step,
        cancel=cancel,
    )
    for chunk in engine.run(tasks()):
        task = chunk.task
        by_segment[task.segment.index].append(chunk)
        finished_tokens += task.num_tokens
        done = sum(len(found) for found in by_segment.values())
        patch_bytes = len(pack_patches(chunk.patches))
        progress = replace(
            progress,
            chunks_done=done,
            chunks_total=max(progress.chunks_total, done),
            bytes_done=progress.bytes_done + len(shop.tokens.bytes_of(task.ids)),
            output_bytes=progress.output_bytes
            + patch_bytes
            + (vector_bytes if chunk.mem is not None else 0),
        )
        on_progress(replace(progress, tokens_right=finished_tokens))
    for found in by_segment.values():
        found.sort(key=lambda chunk: chunk.task.place)
    return by_segment


def _assemble(
    data: bytes,
    plan: _Plan,
    crammed: dict[int, list[Crammed]],
    shop: Workshop,
    settings: CompressSettings,
) -> Container:
    runs: list[Run] = []
    for part, segments in plan.parts:
        if not segments:
            runs.append(StoredRun(data=part.data))
            continue
        chunks = [
            _chunk(chunk, shop.tokens) for segment in segments for chunk in crammed[segment.index]
        ]
        runs.append(CramRun(chunks=tuple(chunks)))
    margins = [
        chunk.min_margin
        for found in crammed.values()
        for chunk in found
        if chunk.min_margin is not None
    ]
    weakest = min(margins, default=None)
    return replace(
        _container(data, tuple(runs)),
        model_id=shop.files.model_id,
        revision=shop.files.revision,
        model_digest=shop.files.digest,
        num_mem=settings.num_mem,
        mem_dim=shop.lm.dim,
        bits=settings.bits,
        context_tokens=plan.context_tokens,
        start_id=shop.start_id,
        min_margin=weakest,
        bf16_safe=weakest is not None and weakest >= _BF16_SAFE_MARGIN,
    )


def _chunk(chunk: Crammed, tokens: Tokens) -> Chunk:
    text = tokens.bytes_of(chunk.task.ids)
    mem = chunk.mem
    return Chunk(
        num_tokens=chunk.task.num_tokens,
        num_bytes=len(text),
        check=chunk_check(text),
        starts_segment=chunk.task.start == 0,
        patches=chunk.patches,
        mem=None if mem is None else mem.view(torch.uint16).numpy(),
    )


def _container(data: bytes, runs: tuple[Run, ...]) -> Container:
    return Container(
        original_bytes=len(data),
        original_hash=content_hash(data),
        xz_bytes=_xz_bytes(data),
        zstd_bytes=len(zstandard.ZstdCompressor(level=19).compress(data)),
        runs=runs,
    )


def _xz_bytes(data: bytes) -> int:
    """Size that `xz -9e` gives; a dictionary no larger than the data gives the same at less
    memory."""
    lzma2 = {
        "id": lzma.FILTER_LZMA2,
        "preset": 9 | lzma.PRESET_EXTREME,
        "dict_size": min(1 << 26, max(4096, len(data))),
    }
    return len(lzma.compress(data, check=lzma.CHECK_CRC64, filters=[lzma2]))
