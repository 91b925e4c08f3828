"""The two output streams: lines and errors for people on stderr, results on stdout.

Owns how lines, tables and data reach them, closed or broken streams included, and how an error is
worded: its message, its hint, its exit code, and whether a traceback is shown. Knows nothing of
commands.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Collection, Mapping, Sequence

from llmzip.errors import (
    MEMORY_HINT,
    InputError,
    Interrupted,
    LimitExceeded,
    LlmzipError,
    SettingsError,
    lacks_memory,
)
from llmzip.inspect.report import printable

_ROOM = "make room, or send it elsewhere with -o FILE"
_FEWEST_LETTERS = 12  # of a last column of words, on a narrow terminal
_GAP = 3  # columns that rich puts between two cells
_shows_tracebacks = False


class PipeClosed(LlmzipError):
    """The reader of standard output has closed it. A filter then ends without a message."""

    exit_code = 141  # as the shell has it for SIGPIPE


def say(line: str) -> None:
    """One line for people, on stderr; dropped where stderr is closed, never sent to stdout."""
    if sys.stderr is None:
        return
    try:
        print(_encodable(line, sys.stderr.encoding), file=sys.stderr, flush=True)
    except OSError:
        pass  # nobody reads stderr; the exit code still tells


def write_text(text: str) -> None:
    """Text that was asked for, on stdout. Raises InputError."""
    encoding = (sys.stdout.encoding if sys.stdout is not None else None) or "utf-8"
    write_stdout(_encodable(text, encoding).encode(encoding, "backslashreplace"))


def write_json(fields: Mapping[str, object]) -> None:
    """One JSON object in one ASCII line, on stdout. Raises InputError."""
    write_stdout(json.dumps(fields, allow_nan=False).encode("ascii") + b"\n")


def write_stdout(data: bytes) -> None:
    """Bytes on stdout. Raises InputError where that fails, PipeClosed without a reader."""
    if sys.stdout is None:
        raise InputError("standard output is closed")
    try:
        rest = memoryview(data)
        while rest:  # with PYTHONUNBUFFERED, one write may take less than all
            rest = rest[sys.stdout.buffer.write(rest) :]
        sys.stdout.buffer.flush()
    except OSError as error:
        raise unwritten(error) from error


def flush_stdout() -> None:
    """Write what libraries have left in the buffer of stdout. Raises as `write_stdout` does."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        raise unwritten(error) from error


def unwritten(error: OSError) -> LlmzipError:
    """Our error for an OSError of standard output, to which nothing more is written."""
    _drop_stdout()
    if isinstance(error, BrokenPipeError):
        return PipeClosed("standard output is closed")
    return InputError(f"cannot write to standard output: {error.strerror}", hint=_ROOM)


def is_dumb_terminal() -> bool:
    """Whether a terminal, if there is one, cannot move its cursor."""
    return os.environ.get("TERM", "") in ("dumb", "unknown")


def _drop_stdout() -> None:
    """Send what is still buffered to the null device: the interpreter writes it when it exits."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _encodable(text: str, encoding: str | None) -> str:
    """`text`, with "->" for the arrow of our messages where the encoding has no arrow."""
    try:
        "→".encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return text.replace("→", "->")
    return text


def show_tracebacks(wanted: bool) -> None:
    """Whether `print_error` shows tracebacks from now on."""
    global _shows_tracebacks
    _shows_tracebacks = wanted


def exit_code_of(error: Exception) -> int:
    """The exit code of an error; 1 for an exception that is not one of llmzip's own."""
    if isinstance(error, LlmzipError):
        return error.exit_code
    return LimitExceeded.exit_code if lacks_memory(error) else 1


def describe_error(error: Exception) -> tuple[str, str]:
    """Message and hint of an error, not yet made printable."""
    if isinstance(error, SettingsError):
        from llmzip.cli.settings import with_options_named  # here: --help need not wait for it

        return with_options_named(str(error), error.settings), error.hint
    if isinstance(error, LlmzipError):
        return str(error), error.hint
    if lacks_memory(error):
        return "there is not enough memory for this", MEMORY_HINT
    if isinstance(error, OSError):
        return str(error), LlmzipError.usual_hint
    return (
        f"this should not have happened: {type(error).__name__}: {error}",
        "llmzip --debug shows where; please report it",
    )


def print_error(error: Exception, *, name: str = "") -> None:
    """Print one line with the error and one with its hint. name: of the file, which goes before a
    message that does not have it."""
    if isinstance(error, PipeClosed):
        return
    if _shows_tracebacks:
        say("".join(traceback.format_exception(error)).rstrip())
    text, hint = describe_error(error)
    where = f"{name}: " if name and name not in text else ""
    kind = "interrupted" if isinstance(error, Interrupted) else "error"
    say(f"{kind}: {printable(where + text)} [exit {exit_code_of(error)}]")
    if hint:
        say(f"hint: {printable(hint)}")


def is_terminal() -> bool:
    """Whether standard output is a terminal that can show more than plain lines."""
    if sys.stdout is None or is_dumb_terminal():
        return False
    return sys.stdout.isatty()


def plain_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[str]
) -> list[str]:
    """The lines of a table. Columns with heads in `left` are aligned left, others to the right."""
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
    """Print a table on a terminal, fitted to its width. colours: styles of cells by their text."""
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
    # On a narrow terminal a last column of words is cut; columns of figures never are.
    is_long = heads[-1] in left
    fixed = list(zip(*[heads, *rows], strict=True))[: -1 if is_long else None]
    least = sum(max(map(len, column)) + _GAP for column in fixed) + is_long * _FEWEST_LETTERS
    console.width = max(console.width, least)
    with console.capture() as captured:
        console.print(table)
    write_text(captured.get() + "\n")
