"""Tables on standard output: for a person at a terminal, and plain for all others.

Owns how columns are laid out. Knows nothing of what is in them.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence

from llmzip.cli.console import is_dumb_terminal, write_text

_FEWEST_LETTERS = 12
_GAP = 3  # of rich, between columns


def is_terminal() -> bool:
    """Whether standard output is one that can show more than plain lines."""
    if sys.stdout is None or is_dumb_terminal():
        return False
    return sys.stdout.isatty()


def plain_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[str]
) -> list[str]:
    """Aligned columns, those named in `left` at their left."""
    widths = [max(len(row[place]) for row in [heads, *rows]) for place in range(len(heads))]
    return [
        "  ".join(
            cell.ljust(width) if head in left else cell.rjust(width)
            for cell, width, head in zip(row, widths, heads, strict=True)
        ).rstrip()
        for row in [heads, *rows]
    ]


def write_table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: Collection[str],
    colours: Mapping[str, str],
) -> None:
    """The same for a terminal: fitted to its width, with colours of cells that are such words."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for head in heads:
        table.add_column(
            head, justify="left" if head in left else "right", no_wrap=True, overflow="ellipsis"
        )
    for row in rows:
        table.add_row(*(Text(cell, style=colours.get(cell, "")) for cell in row))
    console = Console(file=sys.stdout, highlight=False)
    # Long words at the end give way where the terminal is narrow; figures are never cut.
    is_long = heads[-1] in left
    fixed = list(zip(*[heads, *rows], strict=True))[: -1 if is_long else None]
    least = sum(max(map(len, column)) + _GAP for column in fixed) + is_long * _FEWEST_LETTERS
    console.width = max(console.width, least)
    with console.capture() as captured:
        console.print(table)
    write_text(captured.get() + "\n")
