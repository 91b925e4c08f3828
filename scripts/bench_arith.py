"""What `bench.py size` runs of the arith codec: the two commands, as a user starts them.

Owns what is measured of them: the whole container, the time from start to end, and the peak of
host memory. `bench.py` orders the jobs; knows nothing of tables.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from bench_speed import bf16_flops

from llmzip.config import CompressSettings
from llmzip.errors import IntegrityError
from llmzip.inspect.report import Report, read_report
from llmzip.lm.devices import borrowed_torch
from llmzip.lm.zoo import DEFAULT_MODEL

CHILD = Path(__file__).with_name("bench_child.py")


@dataclass(frozen=True, kw_only=True)
class CommandSample:
    """One command, from its start to its end."""

    seconds: float
    peak_bytes: int  # of host memory


@dataclass(frozen=True, kw_only=True)
class ArithSample:
    """One text, compressed, restored, and found equal."""

    report: Report
    compress: CommandSample
    decompress: CommandSample
    threads: int
    bf16_flops: float  # a second, of this machine, just before

    @property
    def seconds(self) -> float:
        return self.compress.seconds + self.decompress.seconds

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        row: dict[str, Any] = {
            "bytes": self.report.container_bytes,
            "bits_per_byte": self.report.file_bits_per_byte,
            "needs_model": self.report.needs_model,
            "is_verified": True,  # there is no sample of anything else
            "tokens": self.report.num_tokens,
        }
        for name, command in (("compress", self.compress), ("decompress", self.decompress)):
            row[f"{name}_seconds"] = command.seconds
            row[f"{name}_bytes_per_second"] = self.report.original_bytes / command.seconds
            row[f"{name}_peak_bytes"] = command.peak_bytes
        return row


def arith_job(text: bytes, settings: CompressSettings) -> ArithSample:
    """`llmzip compress --codec arith` and `llmzip decompress`, each in a process of its own.

    Of the settings the model, the seed, the device and the threads count. Raises IntegrityError
    where the text does not come back, CalledProcessError where a command fails.
    """
    compute = settings.compute
    with borrowed_torch(compute.threads):
        threads, rate = torch.get_num_threads(), bf16_flops()
    machine = ["--model", settings.model or DEFAULT_MODEL, "--device", compute.device, "--quiet"]
    if compute.threads is not None:
        machine += ["--threads", str(compute.threads)]
    with TemporaryDirectory() as directory:
        source, packed, back = (Path(directory) / name for name in ("text", "text.crm", "back"))
        source.write_bytes(text)
        compress = run_command(
            *("compress", str(source), "--output", str(packed), "--codec", "arith"),
            *("--seed", str(settings.seed), *machine),
        )
        decompress = run_command("decompress", str(packed), "--output", str(back), *machine)
        if back.read_bytes() != text:
            raise IntegrityError("the container does not give the text back")
        report = read_report(packed.read_bytes())
    return ArithSample(
        report=report,
        compress=compress,
        decompress=decompress,
        threads=threads,
        bf16_flops=rate,
    )


def run_command(*arguments: str) -> CommandSample:
    """`llmzip` with `arguments`. Raises CalledProcessError; what it says goes to stderr."""
    command = [sys.executable, str(CHILD), sys.executable, "-m", "llmzip", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return CommandSample(**json.loads(done.stdout))
