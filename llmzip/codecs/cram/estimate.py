"""What compressing a text will take, before it is done: cram a few chunks, time the rest.

Owns the forecast of time and size. Knows nothing of files.
"""

from __future__ import annotations

import time
from dataclasses import replace

from llmzip.codecs.base import Estimate, Source, estimate_stored
from llmzip.codecs.context import Context
from llmzip.codecs.cram.checkpoint import UnderWay
from llmzip.codecs.cram.decoding_time import decode_seconds, token_seconds
from llmzip.codecs.cram.engine import Hooks
from llmzip.codecs.cram.executor import LocalExecutor
from llmzip.codecs.cram.groups import make_engine, seconds_a_token_step
from llmzip.codecs.cram.payload import is_worth_cramming, stored_bytes
from llmzip.codecs.cram.plan import make_plan
from llmzip.codecs.cram.sharing import SharingPlan
from llmzip.config import CompressSettings
from llmzip.lm.loaded import LoadedModel
from llmzip.progress import Progress
from llmzip.store.cram_payload import CramPayload
from llmzip.store.figures import count_text
from llmzip.store.stored import pack_stored, xz_bytes

_TRIED_CHUNKS = 3
_CHUNK_BYTES, _FILE_BYTES = 4, 160  # of metadata


def estimate_cram(
    source: Source, loaded: LoadedModel, settings: CompressSettings, context: Context
) -> Estimate:
    """The forecast for a text that is cut and read in full, but crammed in a few places only. A
    time budget is left out of account, and what shared vectors save, but not their time."""
    shared_mem = settings.shared_mem
    settings = replace(settings, time_budget_s=None, shared_mem=0)
    executor = LocalExecutor(loaded=loaded, settings=settings, context=context)
    began = time.monotonic()
    plan = make_plan(source.parts, loaded, settings, context, executor.read)
    if not is_worth_cramming(source, plan, settings, mem_dim=loaded.decode_lm.dim):
        return estimate_stored(source.data)
    reading_s = time.monotonic() - began
    tasks = list(plan.tasks)
    count = min(_TRIED_CHUNKS, len(tasks))
    tried = [tasks[(2 * i + 1) * len(tasks) // (2 * count)] for i in range(count)]
    num_tokens = sum(task.num_tokens for task in tried)
    progress = Progress(stage="cram", tokens_total=num_tokens, chunks_total=count)

    def on_step(now: UnderWay) -> None:
        context.report(replace(progress, tokens_right=now.num_right))

    hooks = Hooks(on_step=on_step, cancel=context.cancel)
    engine = make_engine(plan, loaded, settings, hooks=hooks)
    chunks = list(engine.run(iter(tried)))  # more than tasks where one was split
    second_a_token = seconds_a_token_step(tasks, loaded, settings)

    sharing_s = 0.0
    if shared_mem:
        steps = SharingPlan(num_mem=shared_mem, spared=0.0, seed=0).total_steps
        sharing_s = steps * second_a_token * sum(task.num_tokens for task in tasks)

    share = len(tasks) / count
    tokens_share = sum(task.num_tokens for task in tasks) / num_tokens
    cram_s = engine.token_steps * tokens_share * second_a_token
    decode_s = decode_seconds(
        token_seconds(loaded.decode_lm),
        num_tokens=sum(task.num_tokens for task in tasks),
        num_segments=len(plan.segments),
    )
    num_vectors = round(sum(chunk.mem is not None for chunk in chunks) * share) * settings.num_mem
    stored = sum(len(pack_stored(part.data)) for part, segments in plan.parts if not segments)
    chunk_bytes = sum(_CHUNK_BYTES + stored_bytes(chunk) for chunk in chunks)
    return Estimate(
        codec=CramPayload.codec,
        original_bytes=len(source.data),
        container_bytes=round(share * chunk_bytes) + stored + _FILE_BYTES,
        xz_bytes=xz_bytes(source.data),
        seconds=reading_s + sharing_s + cram_s + decode_s,
        result=count_text(num_vectors, "vector"),
        sample=f"{count} of {len(tasks):,} chunks",
        keeps_budget=True,
        num_chunks=len(tasks),
        num_vectors=num_vectors,
        steps_a_chunk=engine.chunk_steps / count,
        tried_chunks=count,
    )
