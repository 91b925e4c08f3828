"""`llmzip doctor`: checks of an installation, for bug reports and for repairs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from textwrap import wrap
from typing import Annotated

import typer

from llmzip import config
from llmzip.cli import options
from llmzip.cli.console import write_json, write_text
from llmzip.cli.options import Takes, with_options
from llmzip.cli.settings import with_options_named
from llmzip.cli.signals import stop_on_signals
from llmzip.cli.startup import heavy_imports
from llmzip.inspect.environment import Check, Status, exit_code_of
from llmzip.inspect.report import printable
from llmzip.store.figures import count_text

_Show = Callable[[Check], None]
_TOPIC_COLUMNS = 12
_STYLES: dict[Status, str] = {"ok": "green", "warning": "bold yellow", "problem": "bold red"}
_PLAIN_COLUMNS = 100


@with_options
def doctor(
    settings: Annotated[config.CompressSettings, Takes(*options.MODEL, "threads", "attention")],
    json: options.Json = False,
) -> None:
    """Examine this installation: versions, devices, memory, model, and a round trip of a sentence.

    Fetches nothing. Put its output into a report of a bug. Exit 0 if nothing is worse than a
    warning, else with the code of the first problem: 5 where the model is missing.
    """
    found: list[Check] = []
    with stop_on_signals() as stop, _shown(json=json) as show:
        with heavy_imports():
            from llmzip.inspect.doctor import examine
        for each in examine(settings, stop.cancel):
            found.append(replace(each, text=with_options_named(each.text, ["device"])))
            show(found[-1])
    code = exit_code_of(found)
    if json:
        fields = [each.to_dict() for each in found]
        write_json({"schema": 1, "exit_code": code, "findings": fields})
    else:
        write_text(f"{_conclusion(found)}\n")
    if code:
        raise typer.Exit(code)


def _conclusion(found: list[Check]) -> str:
    counts = [
        count_text(number, noun)
        for noun in ("problem", "warning")
        if (number := sum(each.status == noun for each in found))
    ]
    return " and ".join(counts) or "all is well"


@contextmanager
def _shown(*, json: bool) -> Iterator[_Show]:
    """Yields a function that shows a check as soon as it is done."""
    if json:
        yield lambda check: None
    elif os.isatty(1) and os.environ.get("TERM", "") not in ("", "dumb", "unknown"):
        with _terminal() as show:
            yield show
    else:
        yield lambda check: write_text(_plain(check))


def _plain(check: Check) -> str:
    """A check as plain wrapped columns, which can be pasted anywhere."""
    start = f"{check.status:8} {check.topic:{_TOPIC_COLUMNS}}"
    space = " " * len(start)
    lines = wrap(
        printable(check.text), _PLAIN_COLUMNS, initial_indent=start, subsequent_indent=space,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    if check.hint:
        lines.append(f"{space}→ {printable(check.hint)}")
    return "\n".join(lines) + "\n"


@contextmanager
def _terminal() -> Iterator[_Show]:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)

    def show(check: Check) -> None:
        text = Text(printable(check.text), overflow="fold")
        if check.hint:
            text.append(f"\n→ {printable(check.hint)}", style="bold")
        row = Table.grid(padding=(0, 1, 0, 0))
        row.add_column(width=max(map(len, _STYLES)))
        row.add_column(width=_TOPIC_COLUMNS)
        row.add_column()
        row.add_row(Text(check.status, style=_STYLES[check.status]), Text(check.topic), text)
        console.print(row)

    with console.status("examining"):
        yield show
