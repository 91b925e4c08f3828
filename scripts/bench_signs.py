"""The recipe of sign vectors on fixed chunks: what it gets wrong, and what that costs.

    python scripts/bench_signs.py [--load L] [--seeds N] [--variant JSON ...] [--text FILE ...]

Each variant is a JSON object of fields of `SignPlan`, for instance '{"total_steps": 200}'; without
any, the plan of `balanced` is run at three numbers of steps. All variants of a seed come one after
another, so that a slow minute meets them all. Owns the chunks and what is counted; the recipe
belongs to `llmzip.codecs.cram.signs`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from bench_speed import bf16_flops

from llmzip.codecs.cram.calibration import calibration_of
from llmzip.codecs.cram.chunking import CutRule, plan_segments
from llmzip.codecs.cram.engine import OPTIMISER_SLACK
from llmzip.codecs.cram.optimizer import Rows
from llmzip.codecs.cram.plan import SPARED_OF_PATCHES
from llmzip.codecs.cram.presets import EFFORTS
from llmzip.codecs.cram.signs import SignPlan, sign_plan
from llmzip.codecs.cram.slots import start_slot
from llmzip.codecs.cram.tasks import Contexts, Task, tasks_of
from llmzip.config import ComputeSettings
from llmzip.lm.loaded import LoadedModel, load_for_compression
from llmzip.lm.tokens import Tokens
from llmzip.lm.zoo import DEFAULT_MODEL, resolve

TEXTS = sorted((Path(__file__).resolve().parent / "texts").glob("*.txt"))
CONTEXT_TOKENS = 256
FIRST_TOKENS = 64  # of left context that a chunk has at least
PATCH_BITS, CHUNK_BITS = 20.5, 20.0  # of a patch, of a chunk's metadata: usual figures
STEPS = (60, 120, 360)

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One variant and seed on all chunks."""

    variant: str
    seed: int
    steps: int
    load: float  # surprisal of the tokens that are kept, for each stored bit of the vectors
    num_tokens: int
    wrong: tuple[int, ...]  # of each chunk
    bits_per_token: float  # vectors, patches of all wrong tokens, metadata
    bits_per_byte: float
    seconds: float

    @property
    def row(self) -> str:
        wrong = " ".join(map(str, self.wrong))
        return (
            f"{self.seed:>4} {self.steps:>5} {self.load:5.3f} {sum(self.wrong):>5} "
            f"{sum(self.wrong) / self.num_tokens:6.1%} {self.bits_per_token:10.2f} "
            f"{self.bits_per_byte:9.2f} "
            f"{self.seconds:7.0f}  {self.variant}  ({wrong})"
        )


HEADER = "seed steps  load wrong  share bits/token bits/byte seconds  variant  (wrong, by chunk)"


def chunks_of(
    data: bytes, loaded: LoadedModel, *, load: float, max_patches: float, count: int
) -> list[Task]:
    """The first chunks of a text that have some left context, cut by surprisal: so many bits of
    tokens that are not spared for each dimension."""
    ids = loaded.tokens.ids_of(data)
    rule = CutRule(
        context_tokens=CONTEXT_TOKENS, budget_bits=load * loaded.lm.dim,
        spared=SPARED_OF_PATCHES * max_patches,
    )  # fmt: skip
    segments = plan_segments(loaded.lm, ids, rule, start_id=loaded.start_id)
    found = [
        task for task in tasks_of(segments) if task.start >= FIRST_TOKENS and task.end < len(ids)
    ]
    return found[:count]


def run_variant(loaded: LoadedModel, tasks: Sequence[Task], plan: SignPlan, *, seed: int) -> Result:
    """One variant from its start to its end. `variant` is left empty."""
    lm = loaded.lm
    wanted = calibration_of(loaded).min_margin + OPTIMISER_SLACK
    slots = [start_slot(lm, task, 1, seed, plan=plan) for task in tasks]
    began = time.monotonic()
    rows = Rows(lm, Contexts(lm), slots, min_margin=wanted, plan=plan)
    for _ in range(plan.total_steps + 1):
        rows.measure()
        rows.step()
        rows.look()
    seconds = time.monotonic() - began
    kept_bits = sum(
        bits for task in tasks for bits in task.surprisal_bits if bits <= task.segment.most_bits
    )
    wrong = tuple(slot.num_wrong for slot in slots)
    num_tokens = sum(task.num_tokens for task in tasks)
    bits = len(tasks) * (plan.bits * lm.dim + CHUNK_BITS) + PATCH_BITS * sum(wrong)
    num_bytes = sum(len(loaded.tokens.bytes_of(task.ids)) for task in tasks)
    return Result(
        variant="",
        seed=seed,
        steps=plan.total_steps,
        load=kept_bits / (plan.bits * lm.dim * len(tasks)),
        num_tokens=num_tokens,
        wrong=wrong,
        bits_per_token=bits / num_tokens,
        bits_per_byte=bits / num_bytes,
        seconds=seconds,
    )


def plans_of(variants: Sequence[str]) -> list[tuple[str, SignPlan]]:
    """The plan of each variant, and its name."""
    if not variants:
        return [("as it is", sign_plan(steps)) for steps in STEPS]
    steps = EFFORTS["balanced"].sign_steps
    found = []
    for text in variants:
        fields = json.loads(text)
        own = sign_plan(fields.pop("total_steps", steps))
        found.append((text, replace(own, **fields)))
    return found


def results(
    loaded: LoadedModel,
    tasks: Sequence[Task],
    plans: Sequence[tuple[str, SignPlan]],
    *,
    seeds: int,
) -> Iterator[Result]:
    """Every variant with every seed, as they are finished."""
    for seed in range(seeds):
        for name, plan in plans:
            found = run_variant(loaded, tasks, plan, seed=seed)
            yield replace(found, variant=name)


@app.command()
def main(
    text: Annotated[
        list[Path] | None, typer.Option(help="Texts.  [default: scripts/texts]")
    ] = None,
    load: Annotated[float, typer.Option(help="Bits of surprisal for each stored bit.")] = 0.25,
    chunks: Annotated[int, typer.Option(min=1, help="Chunks of each text.")] = 4,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds.")] = 3,
    max_patches: Annotated[float, typer.Option(help="Share of the tokens.")] = 0.125,
    variant: Annotated[list[str] | None, typer.Option(help="Fields of SignPlan, as JSON.")] = None,
    model: Annotated[str, typer.Option(help="Model.")] = DEFAULT_MODEL,
) -> None:
    """Measure the recipe of sign vectors."""
    files = resolve(model)
    loaded = load_for_compression(files, Tokens.load(files.path), ComputeSettings())
    tasks = [
        task
        for path in text or TEXTS
        for task in chunks_of(
            path.read_bytes(), loaded, load=load, max_patches=max_patches, count=chunks
        )
    ]
    lengths = " ".join(str(task.num_tokens) for task in tasks)
    print(f"{len(tasks)} chunks of {lengths} tokens; bf16 {bf16_flops() / 1e9:.0f} GFLOP/s")
    print(HEADER, flush=True)
    plans = plans_of(variant or [])
    for found in results(loaded, tasks, plans, seeds=seeds):
        print(found.row, flush=True)


if __name__ == "__main__":
    app()
