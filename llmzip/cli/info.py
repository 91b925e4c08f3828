"""`llmzip info`: what is in a `.crm` file. Needs no model and no torch."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from llmzip import config
from llmzip.cli import options
from llmzip.cli.console import write_json, write_text
from llmzip.cli.files import STDIO, open_source
from llmzip.report import read_report


def info(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .crm file, - for stdin.")],
    json: options.Json = False,
    max_output: options.MaxOutput = config.DecompressSettings.max_output_bytes,
) -> None:
    """Show what a .crm file holds, and what other compressors made of the same text."""
    with closing(open_source(file)) as source:
        report = read_report(source.read(), max_output_bytes=max_output)
    if json:
        write_json(report.to_dict())
    else:
        write_text(report.to_text(name="standard input" if file == STDIO else file))
