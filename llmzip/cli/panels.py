"""Options in groups: how the help of a command with many of them is laid out.

Owns the titles of the groups and the class of command that shows them. typer groups options only
where it draws with rich, which help here does without.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

ARITH = "Arith codec"
CRAMMING = "Cramming"
CLUSTER = "Cluster"


class PanelCommand(TyperCommand):
    """A command whose plain help has a section for each `rich_help_panel`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Sections in the order in which their first entry was declared."""
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
