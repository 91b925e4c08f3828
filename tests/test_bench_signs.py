"""`scripts/bench_signs.py`: its chunks, its counts and its table, on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import bench_signs
import pytest
from typer.testing import CliRunner

from llmzip.codecs.cram.signs import sign_plan
from llmzip.config import ComputeSettings
from llmzip.lm.loaded import LoadedModel, load_for_compression
from llmzip.lm.tokens import Tokens
from llmzip.lm.zoo import resolve
from tests.tiny_models import TEXT

LOAD = 0.2
PLAN = sign_plan(6)


@pytest.fixture(scope="module")
def loaded(tiny_model: Callable[..., Path]) -> LoadedModel:
    files = resolve(str(tiny_model("llama")))
    return load_for_compression(files, Tokens.load(files.path), ComputeSettings())


def test_chunks_are_cut_by_what_the_vectors_have_to_hold(loaded: LoadedModel) -> None:
    data = TEXT.encode()[:400]
    tasks = bench_signs.chunks_of(data, loaded, load=LOAD, max_patches=0.125, count=3)
    assert len(tasks) == 3
    for task in tasks:
        assert task.start >= bench_signs.FIRST_TOKENS
        kept = [bits for bits in task.surprisal_bits if bits <= task.segment.most_bits]
        assert sum(kept) <= LOAD * loaded.lm.dim + 1e-6 or task.num_tokens == 1


def test_a_variant_is_counted_in_full(loaded: LoadedModel) -> None:
    data = TEXT.encode()[:400]
    tasks = bench_signs.chunks_of(data, loaded, load=LOAD, max_patches=0.125, count=2)
    first, again, other = (
        bench_signs.run_variant(loaded, tasks, PLAN, seed=seed) for seed in (0, 0, 1)
    )
    assert replace(first, seconds=0.0) == replace(again, seconds=0.0)
    assert (first.seed, other.seed, first.steps) == (0, 1, 6)
    assert len(first.wrong) == 2 and all(
        0 <= wrong <= task.num_tokens for wrong, task in zip(first.wrong, tasks, strict=True)
    )
    vectors = 2 * (loaded.lm.dim + bench_signs.CHUNK_BITS)
    bits = vectors + bench_signs.PATCH_BITS * sum(first.wrong)
    assert first.bits_per_token == pytest.approx(bits / first.num_tokens)


def test_variants_name_fields_of_the_plan() -> None:
    fields = {"total_steps": 30, "soft_steps": 4, "turned": [0.1, 0.01]}
    ((name, plan),) = bench_signs.plans_of([json.dumps(fields)])
    assert json.loads(name) == fields
    assert (plan.total_steps, plan.soft_steps, plan.turned) == (30, 4, [0.1, 0.01])
    assert [plan.total_steps for _, plan in bench_signs.plans_of([])] == list(bench_signs.STEPS)
    with pytest.raises(TypeError):
        bench_signs.plans_of(['{"no_such_field": 1}'])


def test_the_command_prints_a_line_for_each_variant_and_seed(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text(TEXT[:400])
    arguments = ["--model", str(tiny_model("llama")), "--text", str(tmp_path / "a.txt")]
    arguments += ["--seeds", "2", "--chunks", "1", "--load", str(LOAD)]
    arguments += ["--variant", '{"total_steps": 3}', "--variant", '{"total_steps": 4}']
    result = CliRunner().invoke(bench_signs.app, arguments)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("1 chunks of ") and lines[1] == bench_signs.HEADER
    seeds_and_steps = [tuple(line.split()[:2]) for line in lines[2:]]
    assert seeds_and_steps == [("0", "3"), ("0", "4"), ("1", "3"), ("1", "4")]
