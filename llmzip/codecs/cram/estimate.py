"""What compressing a text will take, before it is done: cram a few chunks, time the rest.

Owns the forecast of time and size. Knows nothing of files.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmzip.codecs.base import Estimate, Source, estimate_stored
from llmzip.codecs.context import Context
from llmzip.codecs.cram.executor import LocalExecutor
from llmzip.codecs.cram.groups import Hooks, make_engine
from llmzip.codecs.cram.payload import stored_bytes
from llmzip.codecs.cram.plan import Plan, make_plan
from llmzip.codecs.cram.tasks import Crammed, Task
from llmzip.codecs.cram.timing import seconds_a_token_step
from llmzip.codecs.cram.worth import is_worth_cramming
from llmzip.config import CompressSettings
from llmzip.lm.loaded import LoadedModel
from llmzip.progress import Progress
from llmzip.store.cram_payload import CramPayload
from llmzip.store.figures import count_text
from llmzip.store.stored import pack_stored, xz_bytes

_TRIED_CHUNKS = 3
# Decoding: rows of a group, what one more costs as a share of a step for one.
_DECODED_TOGETHER = 16
_ROW_COST = 1 / 16
_CHUNK_BYTES, _FILE_BYTES = 4, 160  # of metadata


def estimate_cram(
    source: Source, loaded: LoadedModel, settings: CompressSettings, context: Context
) -> Estimate:
    """The forecast for a text that is cut and read in full, but crammed in a few places only. A
    time budget is left out of account."""
    settings = replace(settings, time_budget_s=None)
    executor = LocalExecutor(loaded=loaded, settings=settings, context=context)
    began = time.monotonic()
    plan = make_plan(source.parts, loaded, settings, context, executor.read)
    if not is_worth_cramming(source, plan, settings, mem_dim=loaded.decode_lm.dim):
        return estimate_stored(source.data)
    reading_s = time.monotonic() - began
    tasks = list(plan.tasks)
    trial = _try_chunks(plan, tasks, loaded, settings, context)
    second_a_token = seconds_a_token_step(tasks, loaded, settings)

    share = len(tasks) / trial.num_tasks
    tokens_share = sum(task.num_tokens for task in tasks) / trial.num_tokens
    cram_s = trial.token_steps * tokens_share * second_a_token
    # Chunks are decoded twice, many at a time: when they are accepted and when the file is whole.
    decode_s = 2 * trial.certify_s * tokens_share / _decode_gain(len(tasks), trial.num_tasks)
    with_mem = sum(chunk.mem is not None for chunk in trial.chunks)
    num_vectors = round(with_mem * share) * settings.num_mem
    return Estimate(
        codec=CramPayload.codec,
        original_bytes=len(source.data),
        container_bytes=_container_bytes(plan, trial, share),
        xz_bytes=xz_bytes(source.data),
        seconds=reading_s + cram_s + decode_s,
        result=count_text(num_vectors, "vector"),
        sample=f"{trial.num_tasks} of {len(tasks):,} chunks",
        keeps_budget=True,
        num_chunks=len(tasks),
        num_vectors=num_vectors,
        steps_a_chunk=trial.chunk_steps / trial.num_tasks,
        tried_chunks=trial.num_tasks,
    )


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """What cramming a few chunks took and gave. token_steps: tokens computed, of all attempts."""

    num_tasks: int
    num_tokens: int
    chunks: Sequence[Crammed]  # more than tasks where one was split
    chunk_steps: int
    token_steps: int
    certify_s: float


def _try_chunks(
    plan: Plan,
    tasks: Sequence[Task],
    loaded: LoadedModel,
    settings: CompressSettings,
    context: Context,
) -> _Trial:
    """Cram a few chunks from all over the text."""
    count = min(_TRIED_CHUNKS, len(tasks))
    picked = [tasks[(2 * i + 1) * len(tasks) // (2 * count)] for i in range(count)]
    total = sum(task.num_tokens for task in picked)

    progress = Progress(stage="cram", tokens_total=total, chunks_total=count)

    def on_step(num_right: int, view: object) -> None:
        context.report(replace(progress, tokens_right=num_right))

    engine = make_engine(
        plan, loaded, settings, hooks=Hooks(on_step=on_step, cancel=context.cancel)
    )
    found = list(engine.run(iter(picked)))
    return _Trial(
        num_tasks=count,
        num_tokens=total,
        chunks=found,
        chunk_steps=engine.chunk_steps,
        token_steps=engine.token_steps,
        certify_s=engine.certify_seconds,
    )


def _decode_gain(num_chunks: int, num_tried: int) -> float:
    """How much less a chunk costs in a full group than among the few that were tried."""
    rows = min(_DECODED_TOGETHER, num_chunks)
    return rows / num_tried / (1 + (rows - num_tried) * _ROW_COST)


def _container_bytes(plan: Plan, trial: _Trial, share: float) -> int:
    chunks = sum(_CHUNK_BYTES + stored_bytes(chunk) for chunk in trial.chunks)
    stored = sum(len(pack_stored(part.data)) for part, segments in plan.parts if not segments)
    return round(share * chunks) + stored + _FILE_BYTES
