"""`llmzip vectors`: the vectors of a `.crm` file, for research."""

from __future__ import annotations

from typing import Annotated

import typer

from llmzip.cli import options
from llmzip.cli.console import say
from llmzip.cli.job import run_job
from llmzip.cli.names import SUFFIX, is_crm
from llmzip.cli.settings import output_of
from llmzip.cli.work import JobSettings, Task, Tools
from llmzip.errors import SettingsError

_DTYPES = {"bf16": "bfloat16", "fp32": "float32"}


def vectors(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .crm file, - for stdin.")],
    output: options.Output = None,
    stdout: options.Stdout = False,
    dtype: Annotated[
        str, typer.Option(metavar="bf16|fp32", help="Of the vectors; either holds them exactly.")
    ] = "bf16",
    max_output: int = options.MAX_OUTPUT,
    quiet: options.Quiet = False,
    force: options.Force = False,
) -> None:
    """Write the vectors of FILE, and where they belong, into FILE.safetensors. Needs no model."""
    if dtype not in _DTYPES:
        raise SettingsError(f"--dtype is bf16 or fp32, not {dtype!r}")

    def work(data: bytes, tools: Tools) -> bytes:
        from llmzip.inspect.export import export_vectors  # here: numpy

        return export_vectors(data, dtype_name=_DTYPES[dtype], max_output_bytes=max_output)

    job = JobSettings(
        file=file, output=output_of(output, stdout=stdout), force=force, json=False,
        quiet=quiet, verbose=False,
    )  # fmt: skip
    outcome = run_job(job, Task(work=work, default_target=_default_target, is_binary=True))
    if not quiet:
        say(f"{outcome.source_name} → {outcome.target_name}  {len(outcome.result):,} bytes")


def _default_target(path: str) -> str:
    stem = path[: -len(SUFFIX)] if is_crm(path) else path
    return f"{stem}.safetensors"
