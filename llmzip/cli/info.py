"""`llmzip info`: what is in a `.crm` file. Needs no model and no torch."""

from __future__ import annotations

from contextlib import closing

from llmzip.cli import options
from llmzip.cli.console import write_json, write_text
from llmzip.cli.inputs import Input, inputs_of, run_each
from llmzip.cli.pictures import plan_picture, write_chart, write_picture
from llmzip.cli.sources import STDIO, naming, open_source
from llmzip.errors import SettingsError
from llmzip.inspect.pieces import read_pieces
from llmzip.inspect.report import printable, read_report


def info(
    files: options.CrmFiles,
    chart: options.Chart = False,
    plot: options.Plot = None,
    json: options.Json = False,
    max_output: int = options.MAX_OUTPUT,
    force: options.ForcePicture = False,
) -> None:
    """Show what each .crm file holds, and what other compressors made of the same text."""
    if plot is not None and len(files) > 1:
        raise SettingsError("--plot draws one file")
    if chart and json:
        raise SettingsError("--chart and --json do not go together")

    def show(one: Input) -> None:
        name = "standard input" if one.path == STDIO else one.path
        picture = plan_picture(plot, one.path, force=force)
        with naming(one.path):
            with closing(open_source(one.path)) as source:
                data = source.read()
            report = read_report(data, max_output_bytes=max_output)
        if json:
            write_json(report.to_dict())
        else:
            write_text(report.to_text(name=name))
        pieces = read_pieces(data, max_output_bytes=max_output) if picture or chart else []
        if chart:
            write_chart(report, pieces)
        if picture is not None:
            write_picture(picture, report, pieces, name=printable(name))

    run_each(inputs_of(files, recursive=False, is_wanted=lambda path: True), show)
