"""`llmzip info`: what is in a `.crm` file. Needs no model and no torch."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from llmzip import config
from llmzip.cli import options
from llmzip.cli.completing import crm_files
from llmzip.cli.console import write_json, write_text
from llmzip.cli.inputs import inputs_of, run_each
from llmzip.cli.pictures import plan_picture, write_chart, write_picture
from llmzip.cli.sources import STDIO, naming, open_source
from llmzip.errors import SettingsError
from llmzip.inspect.figures import printable
from llmzip.inspect.pieces import read_pieces
from llmzip.inspect.report import read_report


def info(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help=".crm files, - for stdin.", autocompletion=crm_files),
    ],
    chart: options.Chart = False,
    plot: options.Plot = None,
    json: options.Json = False,
    max_output: options.MaxOutput = config.DecompressSettings.max_output_bytes,
    force: options.ForcePicture = False,
) -> None:
    """Show what each .crm file holds, and what other compressors made of the same text."""
    if plot is not None and len(files) > 1:
        raise SettingsError("--plot draws one file")
    if chart and json:
        raise SettingsError("--chart and --json do not go together")
    run_each(
        inputs_of(files, recursive=False, is_wanted=lambda path: True),
        lambda one: _show(
            one.path, plot=plot, chart=chart, json=json, max_output=max_output, force=force
        ),
    )


def _show(
    file: str, *, plot: str | None, chart: bool, json: bool, max_output: int, force: bool
) -> None:
    name = "standard input" if file == STDIO else file
    picture = plan_picture(plot, file, force=force)
    with naming(file):
        with closing(open_source(file)) as source:
            data = source.read()
        report = read_report(data, max_output_bytes=max_output)
    if json:
        write_json(report.to_dict())
    else:
        write_text(report.to_text(name=name))
    if picture is None and not chart:
        return
    pieces = read_pieces(data, max_output_bytes=max_output)
    if chart:
        write_chart(report, pieces)
    if picture is not None:
        write_picture(picture, report, pieces, name=printable(name))
