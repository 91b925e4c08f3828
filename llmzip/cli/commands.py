"""The commands by name: which module has each, and what the overview says of it.

Owns the table, and that a command's module is imported only when that command is run, explained or
completed: `llmzip --help` reads the table alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any

import typer
from typer.core import TyperGroup

from llmzip.cli.panels import PanelCommand


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A command, or a group of them: `module` has it under `attribute`."""

    module: str
    attribute: str
    summary: str  # one line of the overview


def _entry(name: str, summary: str, *, attribute: str = "") -> tuple[str, Entry]:
    return name, Entry(module=f"llmzip.cli.{name}", attribute=attribute or name, summary=summary)


ENTRIES: Mapping[str, Entry] = MappingProxyType(
    dict(
        [
            _entry("compress", "Compress files; the originals are kept."),
            _entry("decompress", "Restore what was compressed."),
            _entry("test", "Check files without writing anything."),
            _entry("info", "Show what a .crm file holds."),
            _entry("compare", "Compare with gzip, bzip2, xz, zstd and brotli."),
            _entry("explain", "Say of each chunk how it is stored and how safely it decodes."),
            _entry("vectors", "Write the vectors of a file, for research."),
            _entry("model", "List, fetch and check language models.", attribute="app"),
            _entry("lab", "Measure how much a model's vectors hold.", attribute="app"),
            _entry("demo", "Send a short text into vectors and back."),
            _entry("doctor", "Examine this installation, for a report of a bug."),
        ]
    )
)


class LazyGroup(TyperGroup):
    """The commands of the table, then those that were added to the app itself."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names, in the order of the overview."""
        return [*ENTRIES, *(name for name in super().list_commands(ctx) if name not in ENTRIES)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command; imports its module. None for an unknown name."""
        if cmd_name in ENTRIES and cmd_name not in self.commands:
            self.commands[cmd_name] = _load(cmd_name, ENTRIES[cmd_name])
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: Any) -> Any:
        """For a name that is unknown, all are loaded: one that is much alike is suggested."""
        if args and args[0] not in self.list_commands(ctx):
            for name in ENTRIES:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The overview. Only what was added to the app is loaded for it."""
        rows = [
            (name, ENTRIES[name].summary if name in ENTRIES else self._summary(ctx, name))
            for name in self.list_commands(ctx)
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _summary(self, ctx: Any, name: str) -> str:
        return str(self.get_command(ctx, name).get_short_help_str())


def _load(name: str, entry: Entry) -> Any:
    """The command of an entry, as the shell's library has it."""
    found = getattr(import_module(entry.module), entry.attribute)
    # A command is made as part of a group: alone it would get options of its own for completion.
    host = typer.Typer(
        callback=lambda: None,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    if isinstance(found, typer.Typer):
        host.add_typer(found, name=name)
    else:
        host.command(name, cls=PanelCommand)(found)
    return typer.main.get_group(host).commands[name]
