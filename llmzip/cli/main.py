"""The `llmzip` command: its options, and how every failure becomes one line and an exit code.

Owns the boundary between exceptions and the shell. Nothing is printed at import, and neither torch
nor transformers is loaded before a command needs them.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any

import typer

from llmzip import __version__
from llmzip.cli.commands import LazyGroup, new_group, normalized
from llmzip.cli.console import (
    PipeClosed,
    exit_code_of,
    flush_stdout,
    print_error,
    show_tracebacks,
    unwritten,
    write_text,
)
from llmzip.cli.signals import HINT
from llmzip.cli.startup import prepare_process
from llmzip.errors import Interrupted

EPILOG = (
    "llmzip -z, -d, -t and -l are compress, decompress, test and info, and may have other letters "
    "with them, as in -dc; compress -1 to -9 name presets. "
    "Exit codes: 0 done; 1 a file or something else failed; 2 usage; 3 damaged, or no .crm file; "
    "4 made by a newer llmzip; 5 model missing or not the right one; 6 decoded text fails its "
    "hash; 7 over a limit; 130 interrupted; 143 terminated. Take any other code for a failure."
)

_NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EIO)

# No rich markup: help is plain wherever it goes, and starts without loading rich.
app = new_group(
    name="llmzip",
    cls=LazyGroup,  # the commands are in the table of `cli.commands`
    epilog=EPILOG,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        write_text(f"llmzip {__version__}\n")
        raise typer.Exit


@app.callback()
def llmzip(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="LLMZIP_DEBUG", help="Show tracebacks of errors.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version."),
    ] = False,
) -> None:
    """Compress text with a frozen language model, and back, bit for bit: into input vectors of the
    model, or by an arithmetic coder that it predicts for."""
    show_tracebacks(debug)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    prepare_process()
    command = typer.main.get_command(app)
    try:
        given = normalized(
            sys.argv[1:] if arguments is None else arguments, takes_value=_takes_value
        )
        code = command.main(args=given, prog_name="llmzip", standalone_mode=False)
        flush_stdout()
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except SystemExit as end:  # click raises it where the reader of stdout has closed it
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        return PipeClosed.exit_code
    except Exception as error:
        return _explain(_of_stdout(error))
    if code == 130:  # Ctrl-C outside of a job; some versions of typer return it as a value
        return _explain(Interrupted("no file is half-written", hint=HINT))
    return code if isinstance(code, int) else 0


def _of_stdout(error: Exception) -> Exception:
    """Our error where click or typer could not write to standard output; other errors as they are.
    (An OSError of a file has a file name.)"""
    if isinstance(error, OSError) and error.filename is None and error.errno in _NO_ROOM:
        return unwritten(error)
    return error


@cache
def _compress_options() -> dict[str, Any]:
    """The options of `compress` as click objects, by each of their names."""
    command: Any = typer.main.get_command(app)
    params = command.get_command(None, "compress").params
    return {name: each for each in params for name in (*each.opts, *each.secondary_opts)}


def _takes_value(word: str) -> bool:
    """Whether a word is an option of `compress` whose value is the next word."""
    if not word.startswith("-") or "=" in word:
        return False
    options = _compress_options()
    # In letters that share a word, such as -qT, the first option with a value takes the rest of the
    # word. So the next word is a value only where that option is the last letter.
    letters = [word] if word.startswith("--") else [f"-{letter}" for letter in word[1:]]
    taking = [name for name in letters if name in options and not options[name].is_flag]
    return bool(taking) and taking[0] == letters[-1]


def _explain(error: Exception) -> int:
    """Print an error and its hint, and return the exit code."""
    if callable(getattr(error, "show", None)):  # an error of usage, from click
        error.show()  # type: ignore[attr-defined]
        return int(getattr(error, "exit_code", 2))
    print_error(error)
    return exit_code_of(error)
