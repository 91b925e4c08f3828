"""The commands by name: where each is defined, what the overview says of it, how help shows it.

Owns the table of commands, the spellings that users know from other compressors (`-d`, `-t`, `-l`,
`-dc`, `-9`), and that a command's module is imported only when that command is run, explained or
completed: `llmzip --help` reads the table alone.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

_OTHER_SPELLINGS = {
    "-z": "compress", "--compress": "compress",
    "-d": "decompress", "--decompress": "decompress", "--uncompress": "decompress",
    "-t": "test", "--test": "test",
    "-l": "info", "--list": "info",
}  # fmt: skip
_WITH_LETTERS = re.compile(r"(-[zdtl])([a-zA-Z]+)")
_LEVEL = re.compile(r"-([1-9])")
_RAY, _RAY_HERE = "--ray", "--ray=local"


# Each name is that of a module, which has the command under the same name, or a group as `app`.
# Beside it the line of the overview.
ENTRIES: Mapping[str, str] = MappingProxyType(
    {
        "compress": "Compress files; the originals are kept.",
        "decompress": "Restore what was compressed.",
        "test": "Check files without writing anything.",
        "info": "Show what a .crm file holds.",
        "compare": "Compare with gzip, bzip2, xz, zstd and brotli.",
        "explain": "Say of each chunk how it is stored and how safely it decodes.",
        "vectors": "Write the vectors of a file, for research.",
        "model": "List, fetch and check language models.",
        "lab": "Measure how much a model's vectors hold.",
        "demo": "Send a short text into vectors and back.",
        "doctor": "Examine this installation, for a report of a bug.",
    }
)


class PanelCommand(TyperCommand):
    """A command whose plain help has a section for each `rich_help_panel`. typer itself groups
    options only where it draws with rich, which help here does without."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections, in the order in which their first entry was declared."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                default = "Arguments" if param.param_type_name == "argument" else "Options"
                title = getattr(param, "rich_help_panel", None) or default
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class LazyGroup(TyperGroup):
    """The commands of the table, then those that were added to the app itself."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names, in the order of the overview."""
        return [*ENTRIES, *(name for name in super().list_commands(ctx) if name not in ENTRIES)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command; imports its module. None for an unknown name."""
        if cmd_name in ENTRIES and cmd_name not in self.commands:
            self.commands[cmd_name] = _load(cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: Any) -> Any:
        """The command that the arguments name. For an unknown name all commands are loaded, so that
        typer can suggest a similar one."""
        if args and args[0] not in self.list_commands(ctx):
            for name in ENTRIES:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the overview. It loads only the commands that were added to the app itself."""
        rows = [
            (name, ENTRIES.get(name) or str(self.get_command(ctx, name).get_short_help_str()))
            for name in self.list_commands(ctx)
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def new_group(**more: Any) -> typer.Typer:
    """A group of commands whose help is plain, and whose exceptions are left to `main`."""
    return typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, **more)


def _load(name: str) -> Any:
    """The command of an entry, as a click object."""
    module = import_module(f"llmzip.cli.{name}")
    # A command is made as part of a group: alone it would get options of its own for completion.
    host = new_group(callback=lambda: None, add_completion=False)
    if hasattr(module, name):
        host.command(name, cls=PanelCommand)(getattr(module, name))
    else:
        host.add_typer(module.app, name=name)
    return typer.main.get_group(host).commands[name]


def normalized(
    arguments: Sequence[str], *, takes_value: Callable[[str], bool] = lambda word: False
) -> list[str]:
    """The arguments with the spellings of other compressors, and a bare `--ray`, replaced by ours.

    What follows `--` stays as it is, and so does the value of an option. takes_value: whether a
    word is an option of `compress` whose value is the next word.
    """
    found = list(arguments)
    if found and (letters := _WITH_LETTERS.fullmatch(found[0])):
        found[:1] = [letters[1], f"-{letters[2]}"]
    if found and found[0] in _OTHER_SPELLINGS:
        found[0] = _OTHER_SPELLINGS[found[0]]
    if not found or found[0] != "compress":
        return found
    end = found.index("--") if "--" in found else len(found)
    words = found[:1]
    for before, word in itertools.pairwise(found[:end]):
        words.append(word if takes_value(before) else _normalized_option(word))
    return words + found[end:]


def _normalized_option(word: str) -> str:
    if word == _RAY:  # its address needs an equals sign, as the next word may be a file
        return _RAY_HERE
    level = _LEVEL.fullmatch(word)
    return f"--level={level[1]}" if level else word
