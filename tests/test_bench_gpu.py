"""`scripts/bench.py gpu` on tiny shapes, on whatever device is here: without one, its functions run
on fixed buffers and nothing is captured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import bench
import bench_gpu
import pytest
from bench_speed import Machine
from typer.testing import CliRunner

from llmzip.lm.graphs import graphs
from tests.tiny_models import TEXT

DATA = TEXT.encode()


@pytest.fixture(scope="module")
def machine(tiny_model: Callable[..., Path]) -> Machine:
    return Machine(model=str(tiny_model("llama")), device="cpu", threads=1)


def test_timings(machine: Machine) -> None:
    with graphs(without_capture=True):
        assert bench_gpu.device_text(machine).endswith("with graphs")
        steps = bench_gpu.steps_job(DATA, 2, 12, 3, machine)
        tokens = bench_gpu.tokens_job(3, 4, machine)
    assert (steps.what, tokens.what) == ("step 2 x 12", "token 3 rows")
    for found in (steps, tokens):
        assert 0 < found.with_graphs < 1e5 and 0 < found.without < 1e5
    assert bench_gpu.device_text(machine).startswith("cpu, torch ")
    assert bench_gpu.device_text(machine).endswith("without graphs")


def test_a_command_that_fails_is_told(machine: Machine) -> None:
    with pytest.raises(RuntimeError, match="llmzip compress: .*preset"):
        bench_gpu.command_job(DATA[:64], ["--preset", "best"], "x", machine, check=False)


def test_the_whole_bench(machine: Machine) -> None:
    arguments = [
        "gpu", "--bytes", "160", "--batches", "2x12", "--rows", "1", "--repeats", "2",
        "--preset", "fast", "--model", str(machine.model), "--device", "cpu", "--threads", "1",
        "--json",
    ]  # fmt: skip
    run = CliRunner().invoke(bench.app, arguments)
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout.splitlines()[-1])
    assert [row["what"] for row in result["timings"]] == ["step 2 x 12", "token 1 rows"]
    assert [row["what"] for row in result["commands"]] == ["arith", "cram fast"]
    assert all(row["cpu_decompress_s"] > 0 for row in result["commands"])
    assert all(row["num_bytes"] == 160 for row in result["commands"]) and not result["left_out"]
    table = "\n".join(bench_gpu.gpu_lines(result))
    assert "step 2 x 12" in table and "160" in table


def test_what_there_is_no_time_for_is_left_out(machine: Machine) -> None:
    result: dict[str, list[object]] = {"commands": [], "left_out": []}
    bench._within(0.0, result, "commands", "arith", lambda: pytest.fail("it ran"))
    assert result == {"commands": [], "left_out": ["arith"]}
    lines = bench_gpu.gpu_lines({"device": "x", "timings": [], **result})
    assert lines[-1] == "not run: arith"
