"""What `bench.py gpu` runs: steps of the optimiser and tokens of the decoders with graphs and
without, and whole commands, each file of which is decoded on the CPU once more.

Owns what is measured. The same functions run on any device; on one without graphs both columns are
of the same kernels. A job is a plain function of picklable arguments, run in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bench_speed import Machine, fixed_tasks, open_model

from llmzip.codecs.cram.presets import signs_of
from llmzip.codecs.cram.slots import start_slot
from llmzip.codecs.cram.step_graph import Batches
from llmzip.codecs.cram.tasks import Contexts
from llmzip.lm.graphs import graphs, uses_graphs
from llmzip.lm.state import stack_states

WARM_UPS = 3  # of steps and tokens: they make graphs, and fill caches
CONTEXT_SLOTS = 1024


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds of a step or a token, with graphs and without."""

    what: str
    with_graphs: float
    without: float


@dataclass(frozen=True, kw_only=True)
class Command:
    """A file made and read by whole commands."""

    what: str
    num_bytes: int
    container_bytes: int
    compress_s: float
    decompress_s: float
    cpu_decompress_s: float | None  # None: there was no time for it


def device_text(machine: Machine) -> str:
    """The device in words."""
    loaded, _ = open_model(machine)
    device = loaded.lm.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    use = "with graphs" if uses_graphs(device) else "without graphs"
    return f"{name}, torch {torch.__version__}, {use}"


def steps_job(data: bytes, rows: int, tokens: int, repeats: int, machine: Machine) -> Timing:
    """A step of so many chunks of so many tokens, with 256 tokens of left context."""
    loaded, _ = open_model(machine)
    lm = loaded.lm
    ids = loaded.tokens.ids_of(data)
    plan = signs_of("balanced", None, None)
    tasks = list(fixed_tasks(ids, tokens, rows, loaded.start_id))

    def seconds() -> float:
        slots = [start_slot(lm, task, 1, machine.seed, plan=plan) for task in tasks]
        own = Batches(lm, Contexts(lm), min_margin=0.05, plan=plan, may_stop=None)
        batch = own.of(slots)
        return _seconds_each(batch.advance, repeats, lm.device)

    with_graphs, without = _both(seconds)
    return Timing(what=f"step {rows} x {tokens}", with_graphs=with_graphs, without=without)


def tokens_job(rows: int, repeats: int, machine: Machine) -> Timing:
    """A token of so many rows behind a long context, as both decoders read them."""
    loaded, _ = open_model(machine)
    lm = loaded.decode_lm
    slots = min(CONTEXT_SLOTS, lm.max_positions // 2)

    @torch.no_grad()
    def seconds() -> float:
        ids = torch.arange(rows * slots, device=lm.device).view(rows, slots) % lm.vocab_size
        live = torch.ones(ids.shape, dtype=torch.bool, device=lm.device)
        room = slots + WARM_UPS + repeats + 1
        state = stack_states([lm.empty(rows)], room_slots=room)
        hidden, state = lm.extend(state, lm.embed(ids), live)
        last = {"state": state, "hidden": hidden[:, -1]}

        def token() -> None:
            taken = lm.logits(last["hidden"]).argmax(dim=1)
            last["hidden"], last["state"] = lm.read_tokens(last["state"], taken)

        return _seconds_each(token, repeats, lm.device)

    with_graphs, without = _both(seconds)
    return Timing(what=f"token {rows} rows", with_graphs=with_graphs, without=without)


def command_job(
    data: bytes, options: Sequence[str], what: str, machine: Machine, *, check: bool
) -> Command:
    """`llmzip compress` and `decompress` of a text, from the shell to the file on disk, and
    `decompress` on the CPU. Raises RuntimeError where a command fails or gives other bytes."""
    common = ["--model", machine.model] if machine.model else []
    common += ["-T", str(machine.threads)] if machine.threads else []
    here = [*common, "--device", machine.device]
    with tempfile.TemporaryDirectory() as directory:
        text, packed = Path(directory, "text.txt"), Path(directory, "text.crm")
        text.write_bytes(data)
        compress_s = _run("compress", text, "-o", packed, "-y", *options, *here)

        def decompressed(*device: Any) -> float:
            out = Path(directory, "out.txt")
            seconds = _run("decompress", packed, "-o", out, "-f", *device)
            if out.read_bytes() != data:
                raise RuntimeError(f"{what}: decompressed to other bytes")
            return seconds

        return Command(
            what=what,
            num_bytes=len(data),
            container_bytes=packed.stat().st_size,
            compress_s=compress_s,
            decompress_s=decompressed(*here),
            cpu_decompress_s=decompressed(*common, "--device", "cpu") if check else None,
        )


def _run(*arguments: Any) -> float:
    command = [sys.executable, "-m", "llmzip", *map(str, arguments), "-q"]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"llmzip {arguments[0]}: {done.stderr.strip()[-500:]}")
    return time.monotonic() - began


def _both(seconds: Callable[[], float]) -> tuple[float, float]:
    """Milliseconds with graphs and without, each twice and in turn; the better of two."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for on in (True, False, True, False):
        # Inside a test the graphs may be stood in for; that stays.
        if on:
            found[on].append(seconds())
        else:
            with graphs(on=False):
                found[on].append(seconds())
    return 1000 * min(found[True]), 1000 * min(found[False])


def _seconds_each(work: Callable[[], None], repeats: int, device: torch.device) -> float:
    began = 0.0
    for number in range(WARM_UPS + repeats):
        if number == WARM_UPS:
            _wait(device)
            began = time.perf_counter()
        work()
    _wait(device)
    return (time.perf_counter() - began) / repeats


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def gpu_lines(result: dict[str, Any]) -> list[str]:
    """The table for people."""
    lines = [result["device"], "", f"{'':<18}{'graphs':>10}{'eager':>10}  ms"]
    lines += [
        f"{row['what']:<18}{row['with_graphs']:>10.2f}{row['without']:>10.2f}"
        for row in result["timings"]
    ]
    head = f"{'':<18}{'bytes':>10}{'crm':>10}{'bits/byte':>11}{'compress':>10}{'decompress':>12}"
    lines += ["", f"{head}{'on the CPU':>12}  s"]
    for row in result["commands"]:
        rate = 8 * row["container_bytes"] / row["num_bytes"]
        check = row["cpu_decompress_s"]
        lines.append(
            f"{row['what']:<18}{row['num_bytes']:>10,}{row['container_bytes']:>10,}{rate:>11.3f}"
            f"{row['compress_s']:>10.1f}{row['decompress_s']:>12.1f}"
            f"{'not run' if check is None else format(check, '.1f'):>12}"
        )
    return lines + [f"not run: {name}" for name in result["left_out"]]
