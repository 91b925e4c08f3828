"""What is said of an error, and the exit code that it has.

Owns the words around a message, and whether a traceback is among them.
"""

from __future__ import annotations

import traceback

from llmzip.cli.console import PipeClosed, say
from llmzip.errors import MEMORY_HINT, Interrupted, LimitExceeded, LlmzipError, lacks_memory
from llmzip.inspect.figures import printable

_shows_tracebacks = False


def show_tracebacks(wanted: bool) -> None:
    """From now on."""
    global _shows_tracebacks
    _shows_tracebacks = wanted


def exit_code_of(error: Exception) -> int:
    """1 for what is no error of ours."""
    if isinstance(error, LlmzipError):
        return error.exit_code
    return LimitExceeded.exit_code if lacks_memory(error) else 1


def describe_error(error: Exception) -> tuple[str, str]:
    """Message and hint, as they are."""
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
    """One line, and one with what to do. name: of the file, where the message may not name it."""
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
