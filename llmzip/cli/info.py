"""`llmzip info`: what is in a `.crm` file. Needs no model and no torch."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from llmzip import config
from llmzip.cli import options
from llmzip.cli.console import write_json, write_text
from llmzip.cli.files import STDIO, open_source
from llmzip.cli.inputs import inputs_of, run_each
from llmzip.report import read_report


def info(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help=".crm files, - for stdin.")],
    json: options.Json = False,
    max_output: options.MaxOutput = config.DecompressSettings.max_output_bytes,
) -> None:
    """Show what each .crm file holds, and what other compressors made of the same text."""
    run_each(
        inputs_of(files, recursive=False, is_wanted=lambda path: True),
        lambda one: _show(one.path, json=json, max_output=max_output),
    )


def _show(file: str, *, json: bool, max_output: int) -> None:
    with closing(open_source(file)) as source:
        report = read_report(source.read(), max_output_bytes=max_output)
    if json:
        write_json(report.to_dict())
    else:
        write_text(report.to_text(name="standard input" if file == STDIO else file))
