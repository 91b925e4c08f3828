"""The work on one file, as data: what the user asked for, what the work is given, what came of it.

Owns these types, which the commands and the frame around their work share. Does nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from llmzip.codecs.context import Context

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """What the user said about files and messages."""

    file: str
    output: str | None = None
    target: str | None = None  # of a file, where nothing else is named
    force: bool = False
    restart: bool = False  # drop what an earlier run left
    remove: bool = False  # the input, once the result is safely on disk
    json: bool
    tells: bool = False  # what happens is told in JSON, too, not only what came of it
    quiet: bool
    verbose: bool
    watch: bool = False  # show a chunk under way, on a terminal
    figures: bool = True  # of progress
    yes: bool = False  # do not ask


@dataclass(frozen=True, kw_only=True)
class Places:
    """The files that a job reads and writes; None: standard input and output, and the like."""

    source: str | None
    target: str | None


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What a job lends to its work."""

    places: Places
    context: Context


Work: TypeAlias = Callable[[bytes, Tools], _Result]
OnRead: TypeAlias = Callable[[bytes], None]
# Of an input's bytes: the bytes of an output that is there, if they are what the work would give;
# else what they are instead.
Find: TypeAlias = Callable[[bytes, Places], bytes | str]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a job did. The names are ready to print."""

    source_name: str
    target_name: str
    source_data: bytes
    result: bytes
    seconds: float
    is_new: bool = True  # else it was there
