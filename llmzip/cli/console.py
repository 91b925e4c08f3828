"""The two output streams: people read stderr, programs read stdout.

Owns how lines reach the terminal and how data reaches stdout, closed or broken streams included.
Knows nothing of commands.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping

from llmzip.errors import InputError, LlmzipError


class PipeClosed(LlmzipError):
    """Whoever read standard output has had enough. Filters end then, and say nothing."""

    exit_code = 141  # as the shell has it for SIGPIPE


_ROOM = "make room, or send it elsewhere with -o FILE"


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
    """Bytes on stdout, all of them or InputError; PipeClosed where nobody reads on."""
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
    """What libraries have left in its buffer. Raises as `write_stdout` does."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        raise unwritten(error) from error


def unwritten(error: OSError) -> LlmzipError:
    """The error of standard output, which takes nothing more."""
    _drop_stdout()
    if isinstance(error, BrokenPipeError):
        return PipeClosed("standard output is closed")
    return InputError(f"cannot write to standard output: {error.strerror}", hint=_ROOM)


def is_dumb_terminal() -> bool:
    """Whether a terminal, if there is one, cannot move its cursor."""
    return os.environ.get("TERM", "") in ("dumb", "unknown")


def _drop_stdout() -> None:
    """Let what is still buffered go nowhere; else the interpreter fails again when it exits."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _encodable(text: str, encoding: str | None) -> str:
    """`text` without the one character of ours that not every encoding has."""
    try:
        "→".encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return text.replace("→", "->")
    return text
