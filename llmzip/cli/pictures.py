"""`--plot` and `--chart`: a file's figures as a picture file, or as a chart of characters.

Owns the names that a picture file may have, and the width of a chart.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from llmzip.cli.console import say, write_text
from llmzip.cli.files import Target, plan_target, publish
from llmzip.cli.sources import STDIO, Source
from llmzip.errors import InputError, SettingsError
from llmzip.inspect.report import Report, printable

if TYPE_CHECKING:
    from llmzip.inspect.pieces import Piece

_SUFFIXES = (".png", ".svg")
_WIDEST = 120
_DEFAULT_COLUMNS = 80


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture that is to be written, and the file that it shows."""

    source: Source
    target: Target


def plan_picture(output: str | None, file: str, *, force: bool) -> Picture | None:
    """Check the output of a picture, if one is asked for. Raises SettingsError, InputError."""
    if output is None:
        return None
    if not output.lower().endswith(_SUFFIXES):
        raise SettingsError(
            f"--plot: {output!r} does not end in .png or .svg", hint="--chart draws in the terminal"
        )
    if find_spec("matplotlib") is None:
        raise InputError(
            "pictures need matplotlib, which is not installed",
            hint="pip install matplotlib, or --chart draws in the terminal",
        )
    status = None
    if file != STDIO:
        with suppress(OSError):  # reading the file reports the error
            status = os.stat(file)
    # With path None, so that the picture does not take over mode and time of the file it shows.
    source = Source(name=file, path=None, stream=io.BytesIO(), status=status)
    target = plan_target(source, output, default=str, force=force, is_binary=True)
    return Picture(source=source, target=target)


def write_picture(picture: Picture, report: Report, pieces: Sequence[Piece], *, name: str) -> None:
    """Draw the picture and publish it. Raises InputError."""
    from llmzip.inspect.plots import draw_file
    from llmzip.inspect.style import png_bytes, svg_text

    figure = draw_file(report, pieces, name=os.path.basename(name) or name)
    path = picture.target.name
    is_png = path.lower().endswith(".png")
    data = png_bytes(figure) if is_png else svg_text(figure).encode()
    publish(picture.target, data, picture.source)
    say(f"{name} → {printable(path)}")


def write_chart(report: Report, pieces: Sequence[Piece]) -> None:
    """Write a chart to standard output, as wide as the terminal; in ASCII where its encoding has no
    other characters. Raises InputError."""
    from llmzip.inspect.terminal_chart import BLOCKS, FILLS, chart_text

    encoding = (sys.stdout.encoding if sys.stdout is not None else None) or "utf-8"
    try:
        (BLOCKS + FILLS).encode(encoding)
        is_ascii = False
    except UnicodeEncodeError:
        is_ascii = True
    columns = shutil.get_terminal_size((_DEFAULT_COLUMNS, 1)).columns
    text = chart_text(report, pieces, num_columns=min(_WIDEST, columns), is_ascii=is_ascii)
    write_text("\n" + text)
