"""What `bench.py speed` runs: the paper's recipe and this engine, each in a process of its own.

Owns the contenders and what is measured of them. A job is a plain function of picklable arguments
that returns a `Sample`; `bench.py` interleaves the jobs and prints. Nothing counts as exact that
the decompressor did not reproduce.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from llmzip.codecs.base import DecodingModel, Request, Source
from llmzip.codecs.context import QUIET
from llmzip.codecs.cram.calibration import calibration_of
from llmzip.codecs.cram.chunking import Segment, Span
from llmzip.codecs.cram.engine import Engine, Hooks
from llmzip.codecs.cram.executor import LocalExecutor
from llmzip.codecs.cram.greedy import decode_chunks
from llmzip.codecs.cram.groups import make_engine
from llmzip.codecs.cram.payload import assemble
from llmzip.codecs.cram.plan import make_plan
from llmzip.codecs.cram.presets import EFFORTS
from llmzip.codecs.cram.slots import as_stored
from llmzip.codecs.cram.tasks import Crammed, EngineSettings, Task
from llmzip.codecs.input import split_stretches, tokenised_parts
from llmzip.codecs.table import CODECS
from llmzip.config import DEFAULT_MAX_STEPS, CompressSettings, ComputeSettings, Preset
from llmzip.lm.devices import pick_device
from llmzip.lm.layout import mem_and_chunk, pad_ids, predicting_rows, segment_start
from llmzip.lm.loaded import LoadedModel, load_for_compression
from llmzip.lm.model import FrozenLM, load_model
from llmzip.lm.tokens import Tokens
from llmzip.lm.zoo import DEFAULT_MODEL, ModelFiles, resolve
from llmzip.store.container import read_container, write_container
from llmzip.store.pieces import Texts, restore

PAPER_STEPS = 5000
PAPER_LR, PAPER_BETAS, PAPER_DECAY = 0.01, (0.9, 0.9), 0.01
FIXED_CONTEXT = 256
FIXED_PATCHES = 2


@dataclass(frozen=True, kw_only=True)
class ChunkSample:
    """One finished chunk. steps: until the stop rule let it go."""

    tokens: int
    steps: int
    patches: int
    is_exact: bool  # the decoder reproduced it


@dataclass(frozen=True, kw_only=True)
class PaperState:
    """Where the paper's recipe stands, to be continued in the next round."""

    mem: torch.Tensor  # [1, D]
    moments: tuple[torch.Tensor, torch.Tensor]
    steps: int
    seconds: float
    best_right: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What one job measured."""

    seconds: float  # of the work, without start-up
    cram_seconds: float
    num_bytes: int
    container_bytes: int  # 0: no container was made
    chunks: tuple[ChunkSample, ...]
    token_steps: int  # tokens computed in optimiser steps
    parameters: int
    bf16_flops: float  # a second, of this machine, just before
    dtype: str
    peak_bytes: int  # of the process
    paper: PaperState | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How a job runs."""

    model: str | None = None
    device: str = "auto"
    threads: int | None = None
    seed: int = 0
    extra: dict[str, Any] = field(default_factory=dict)  # fields of CompressSettings


def engine_job(text: bytes, preset: Preset, machine: Machine) -> Sample:
    """Compress `text` with a preset, from its bytes to a container that decodes to them."""
    loaded, rate = open_model(machine)
    settings = CompressSettings(
        preset=preset, seed=machine.seed, compute=_compute(machine), **machine.extra
    )
    began = time.monotonic()
    source = Source(data=text, parts=tokenised_parts(split_stretches(text), loaded.tokens))
    executor = LocalExecutor(loaded=loaded, settings=settings, context=QUIET)
    plan = make_plan(source.parts, loaded, settings, QUIET, executor.read)
    cramming = time.monotonic()
    engine = make_engine(plan, loaded, settings, hooks=Hooks())
    crammed = list(engine.run(plan.tasks))
    cram_seconds = time.monotonic() - cramming
    packed = write_container(assemble(source, plan, crammed, loaded, settings))
    found = read_container(packed)
    texts: Texts = []
    if found.payload is not None:
        model = DecodingModel.of(loaded)
        request = Request(wanted=range(len(found.payload.pieces)))
        texts = CODECS["cram"].decode(found, model, request, QUIET)
    is_exact = restore(found, texts) == text
    return Sample(
        seconds=time.monotonic() - began,
        cram_seconds=cram_seconds,
        num_bytes=len(text),
        container_bytes=len(packed),
        chunks=tuple(_chunk(chunk, is_exact) for chunk in crammed),
        token_steps=engine.token_steps,
        **_common(loaded.files, loaded.lm.dtype, rate),
    )


def fixed_job(text: bytes, tokens: int, count: int, machine: Machine) -> Sample:
    """Cram chunks of a fixed number of tokens behind left context, one vector each, until at most
    FIXED_PATCHES tokens are wrong."""
    loaded, rate = open_model(machine)
    tasks = list(fixed_tasks(loaded.tokens.ids_of(text), tokens, count, loaded.start_id))
    settings = EngineSettings(
        num_mem=1,
        max_steps=DEFAULT_MAX_STEPS,
        seed=machine.seed,
        context_tokens=FIXED_CONTEXT,
        min_margin=calibration_of(loaded).min_margin,
        step_price_bits=EFFORTS["balanced"].step_price_bits,
        patches=FIXED_PATCHES,
    )
    began = time.monotonic()
    engine = Engine(loaded.lm, loaded.decode_lm, settings)
    crammed = list(engine.run(iter(tasks)))
    seconds = time.monotonic() - began
    whole = {(task.segment.index, task.start, task.end) for task in tasks}
    return Sample(
        seconds=seconds,
        cram_seconds=seconds,
        num_bytes=sum(len(loaded.tokens.bytes_of(chunk.task.ids)) for chunk in crammed),
        container_bytes=0,
        # The engine hands out only what the decoder has reproduced; a chunk that it had to split
        # was lost as a chunk of this length.
        chunks=tuple(
            _chunk(c, (c.task.segment.index, c.task.start, c.task.end) in whole) for c in crammed
        ),
        token_steps=engine.token_steps,
        **_common(loaded.files, loaded.lm.dtype, rate),
    )


def paper_job(
    text: bytes, tokens: int, cap_seconds: float, state: PaperState | None, machine: Machine
) -> Sample:
    """The recipe of Kuratov et al. 2025: fp32, one text, one vector first in the sequence, AdamW
    with lr 0.01 from the embeddings' scale, until every token is right or 5000 steps are done; here
    also until `cap_seconds` have passed."""
    files, vocabulary, rate = _prepare(machine)
    device = pick_device(machine.device)
    lm = load_model(files, device=device, dtype=torch.float32, attention="sdpa")
    ids = vocabulary.ids_of(text)[:tokens]
    if state is None:
        state = _paper_start(lm, machine.seed)
    mem = state.mem.clone().requires_grad_(True)
    optimizer = torch.optim.AdamW([mem], lr=PAPER_LR, betas=PAPER_BETAS, weight_decay=PAPER_DECAY)
    optimizer.state[mem] = {
        "step": torch.tensor(float(state.steps)),
        "exp_avg": state.moments[0],
        "exp_avg_sq": state.moments[1],
    }
    block, live = pad_ids([ids], lm.device)
    steps, best, is_done = state.steps, state.best_right, False
    began = time.monotonic()
    while steps < PAPER_STEPS and not is_done and time.monotonic() - began < cap_seconds:
        leaf = as_stored(mem.detach()).requires_grad_(True)
        embeds, live_new = mem_and_chunk(leaf[None], lm.embed(block), live)
        hidden, _ = lm.extend(lm.empty(1), embeds, live_new)
        rows = predicting_rows(hidden, 1)
        found = lm.predict(rows.detach()[0], block[0], margin_goal=float("inf"))
        best = max(best, int((found.margins > 0).sum()))
        is_done = bool((found.margins > 0).all())
        if not is_done:
            rows.backward(found.gradient[None])
            mem.grad = leaf.grad
            optimizer.step()
            steps += 1
    seconds = state.seconds + time.monotonic() - began
    is_exact = is_done and _decodes(lm, as_stored(mem.detach()), ids)
    moments = (optimizer.state[mem]["exp_avg"], optimizer.state[mem]["exp_avg_sq"])
    return Sample(
        seconds=seconds,
        cram_seconds=seconds,
        num_bytes=len(vocabulary.bytes_of(ids)),
        container_bytes=0,
        chunks=(ChunkSample(tokens=len(ids), steps=steps, patches=0, is_exact=is_exact),),
        token_steps=len(ids) * steps,
        paper=PaperState(
            mem=mem.detach(), moments=moments, steps=steps, seconds=seconds, best_right=best
        ),
        **_common(files, lm.dtype, rate),
    )


def _paper_start(lm: FrozenLM, seed: int) -> PaperState:
    table = lm.embed(torch.arange(lm.vocab_size, device=lm.device))
    generator = torch.Generator().manual_seed(seed)
    mem = torch.randn(1, lm.dim, generator=generator).to(lm.device) * table.std()
    zeros = torch.zeros_like(mem)
    return PaperState(mem=mem, moments=(zeros, zeros.clone()), steps=0, seconds=0.0, best_right=0)


def _decodes(lm: FrozenLM, mem: torch.Tensor, ids: Sequence[int]) -> bool:
    decoded, _ = decode_chunks(lm, lm.empty(1), [[]], mem[None], [(len(ids), {})])
    return decoded.ids[0].tolist() == list(ids)


def fixed_tasks(
    ids: Sequence[int], tokens: int, count: int, start_id: int | None
) -> Iterator[Task]:
    """Chunks from all over the text; each sees the tokens just left of it."""
    context = max(0, min(FIXED_CONTEXT, len(ids) - tokens))
    last = len(ids) - context - tokens
    if last < 0:
        raise SystemExit(f"error: the text has {len(ids)} tokens, too few for chunks of {tokens}")
    for index in range(count):
        at = last * index // max(1, count - 1)
        part = tuple(ids[at : at + context + tokens])
        segment = Segment(
            index=index,
            offset=at,
            start_ids=tuple(segment_start(start_id)),
            ids=part,
            surprisal_bits=(0.0,) * context + (1.0,) * tokens,
            spans=(Span(start=context, end=len(part), surprisal_bits=float(tokens)),),
        )
        yield Task(segment=segment, start=context, end=len(part))


def _chunk(chunk: Crammed, is_exact: bool) -> ChunkSample:
    return ChunkSample(
        tokens=chunk.task.num_tokens,
        steps=chunk.steps,
        patches=len(chunk.patches),
        is_exact=is_exact,
    )


def open_model(machine: Machine) -> tuple[LoadedModel, float]:
    """The model, and the matmul rate before it was loaded."""
    files, tokens, rate = _prepare(machine)
    return load_for_compression(files, tokens, _compute(machine)), rate


def _prepare(machine: Machine) -> tuple[ModelFiles, Tokens, float]:
    """What every job starts with: threads, the model's files and tokens, the matmul rate."""
    if machine.threads is not None:
        torch.set_num_threads(machine.threads)
    rate = bf16_flops()
    files = resolve(machine.model or DEFAULT_MODEL)
    return files, Tokens.load(files.path), rate


def _compute(machine: Machine) -> ComputeSettings:
    return ComputeSettings(device=machine.device, threads=machine.threads)


def _common(files: ModelFiles, dtype: torch.dtype, rate: float) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "parameters": _num_parameters(files.path),
        "bf16_flops": rate,
        "dtype": str(dtype).removeprefix("torch."),
        "peak_bytes": peak if sys.platform == "darwin" else 1024 * peak,
    }


def _num_parameters(directory: Path) -> int:
    total = 0
    for file in directory.glob("*.safetensors"):
        with safe_open(file, framework="pt") as stored:
            total += sum(math.prod(stored.get_slice(name).get_shape()) for name in stored.keys())
    return total


def bf16_flops() -> float:
    """Floating-point operations a second of a large bf16 product, the best of several."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 8192 if device == "cuda" else 1024
    a = torch.ones(size, size, dtype=torch.bfloat16, device=device)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        (a @ a)[0, 0].item()
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best
