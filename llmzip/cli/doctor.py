"""`llmzip doctor`: what to say of an installation in a report of a bug, and what to mend."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from textwrap import wrap

import typer

from llmzip import config
from llmzip.cli import options
from llmzip.cli import settings as words
from llmzip.cli.console import write_json, write_text
from llmzip.cli.signals import stop_on_signals
from llmzip.cli.startup import heavy_imports
from llmzip.inspect.checks import Check, Status, exit_code_of
from llmzip.inspect.figures import printable
from llmzip.store.figures import count_text

_Show = Callable[[Check], None]
_TOPIC_COLUMNS = 12
_MARKS: dict[Status, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "warning": ("warning", "bold yellow"),
    "problem": ("problem", "bold red"),
}
_PLAIN_COLUMNS = 100


def doctor(
    model: options.Model = None,
    revision: options.Revision = None,
    device: options.Device = config.ComputeSettings.device,
    threads: options.Threads = None,
    attention: options.Attention = config.ComputeSettings.attention,
    json: options.Json = False,
) -> None:
    """Examine this installation: versions, devices, memory, model, and a round trip of a sentence.

    Fetches nothing. Put its output into a report of a bug. Exit 0 if nothing is worse than a
    warning, else with the code of the first problem: 5 where the model is missing.
    """
    compute = words.compute_settings(
        device=device, threads=threads, batch=None, attention=attention
    )
    found: list[Check] = []
    with stop_on_signals() as stop, _shown(json=json) as show:
        with heavy_imports():
            from llmzip.inspect.doctor import examine
        for each in examine(model=model, revision=revision, compute=compute, cancel=stop.cancel):
            found.append(each)
            show(each)
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
    """What shows a finding as soon as it is there."""
    if json:
        yield lambda finding: None
    elif os.isatty(1) and os.environ.get("TERM", "") not in ("", "dumb", "unknown"):
        with _terminal() as show:
            yield show
    else:
        yield lambda finding: write_text(_plain(finding))


def _plain(finding: Check) -> str:
    """Columns, wrapped, as they can be pasted anywhere."""
    start = f"{_MARKS[finding.status][0]:8} {finding.topic:{_TOPIC_COLUMNS}}"
    space = " " * len(start)
    lines = wrap(
        printable(finding.text), _PLAIN_COLUMNS, initial_indent=start, subsequent_indent=space,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    if finding.hint:
        lines.append(f"{space}→ {printable(finding.hint)}")
    return "\n".join(lines) + "\n"


@contextmanager
def _terminal() -> Iterator[_Show]:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)

    def show(finding: Check) -> None:
        mark, style = _MARKS[finding.status]
        text = Text(printable(finding.text), overflow="fold")
        if finding.hint:
            text.append(f"\n→ {printable(finding.hint)}", style="bold")
        row = Table.grid(padding=(0, 1, 0, 0))
        row.add_column(width=max(len(word) for word, _ in _MARKS.values()))
        row.add_column(width=_TOPIC_COLUMNS)
        row.add_column()
        row.add_row(Text(mark, style=style), Text(finding.topic), text)
        console.print(row)

    with console.status("examining"):
        yield show
