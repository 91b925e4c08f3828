"""`--plot`, `--html` and `--chart`: a file's figures as a picture, as a page, or as a chart of
characters.

Owns the names that such a file may have, and the width of a chart.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
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
    from llmzip.inspect.explain import TokenFacts
    from llmzip.inspect.pieces import Piece

_PICTURES, _PAGES = (".png", ".svg"), (".html", ".htm")
_IN_THE_TERMINAL = "--chart draws in the terminal"
_WIDEST = 120
_DEFAULT_COLUMNS = 80


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture or a page that is to be written, and the file that it shows."""

    source: Source
    target: Target


def plan_picture(output: str | None, file: str, *, force: bool) -> Picture | None:
    """Check the output of a picture, if one is asked for. Raises SettingsError, InputError."""
    if output is None:
        return None
    if not output.lower().endswith(_PICTURES):
        reason = f"--plot: {output!r} does not end in .png or .svg"
        raise SettingsError(reason, hint=_IN_THE_TERMINAL)
    _check_library("pictures", "matplotlib", hint=f", or {_IN_THE_TERMINAL}")
    return _planned(output, file, force=force)


def plan_page(output: str | None, file: str, *, force: bool) -> Picture | None:
    """Check the output of a page, if one is asked for. Raises SettingsError, InputError."""
    if output is None:
        return None
    if not output.lower().endswith(_PAGES):
        raise SettingsError(f"--html: {output!r} does not end in .html")
    _check_library("pages", "jinja2")
    return _planned(output, file, force=force)


def _check_library(what: str, library: str, *, hint: str = "") -> None:
    if find_spec(library) is None:
        raise InputError(
            f"{what} need {library}, which is not installed", hint=f"pip install {library}{hint}"
        )


def _planned(output: str, file: str, *, force: bool) -> Picture:
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


def write_page(
    page: Picture,
    report: Report,
    pieces: Sequence[Piece],
    facts: Mapping[int, Sequence[TokenFacts]],
    stored: Mapping[int, bytes],
    *,
    name: str,
) -> None:
    """Make the page and publish it. Raises InputError."""
    from llmzip.inspect.explain_page import explain_page

    text = explain_page(report, pieces, facts, stored, name=os.path.basename(name) or name)
    publish(page.target, text.encode(), page.source)
    say(f"{name} → {printable(page.target.name)}")


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
