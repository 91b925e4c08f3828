"""A run's folder as one page: report.html, readable anywhere, without a network.

Owns which parts the page has and that nothing in it can act: text of files is escaped, pictures are
data, and the page's policy allows its own script and style alone. Does not know how a study is
measured.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from llmzip.errors import InputError
from llmzip.lab.folder import ROWS, Row, read_rows, read_settings, read_summary, write_whole
from llmzip.lab.report_parts import (
    BUCKETS,
    details,
    facts,
    published_tables,
    rows_table,
    shown,
    summary_tables,
    views,
)

REPORT = "report.html"
MAX_ROWS = 200  # shown

_TEMPLATE, _STYLE, _SCRIPT = "report.html.j2", "report.css", "report.js"
_TITLES = {
    "capacity": ("Capacity", "How much of a text one model's vectors hold."),
    "scaling": ("Scaling", "Capacity against the number of vectors."),
    "entropy": ("Entropy", "Cross-entropy of texts before and after cramming."),
    "utilisation": ("Utilisation", "What vectors hold of what their bits could name."),
    "lengths": ("Lengths", "The longest text that each model's vectors hold."),
    "greedy": ("Greedy decoding", "What stop rules and margins make of greedy decoding."),
    "rate": ("Rate", "What vectors of few bits a dimension hold, and what a bit costs."),
    "geometry": ("Geometry", "Where the vectors lie that hold the same text."),
    "plan": ("Plan", "What a book needs: vectors, bytes and time."),
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One of the folder's, as the page has it."""

    name: str
    address: str  # data:


def write_report(folder: Path) -> Path:
    """Write report.html anew, from what the folder holds now; it may be a run that goes on.

    Raises InputError where the folder is no run's or cannot be read or written.
    """
    head, summary = read_settings(folder), read_summary(folder)
    rows = read_rows(folder) if (folder / ROWS).exists() else []
    study = str(head.get("study", ""))
    title, lead = _TITLES.get(study, (study or "Run", ""))
    style, script = _part(_STYLE), _part(_SCRIPT)
    try:
        page = _environment().from_string(_part(_TEMPLATE)).render(
            title=title,
            lead=lead,
            models=_models(head, rows),
            policy=_policy(style, script),
            style=Markup(style),
            script=Markup(script),
            settings=facts(head.get("settings")),
            versions=facts(summary.get("versions") or {"llmzip": head.get("version")}),
            tables=summary_tables(summary),
            details=details(summary),
            pictures=list(_pictures(folder)),
            views=views(summary),
            buckets=BUCKETS,
            published=published_tables(study, _models(head, rows)),
            rows=rows_table(rows[:MAX_ROWS]),
            num_rows=len(rows),
            num_shown=min(len(rows), MAX_ROWS),
        )  # fmt: skip
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder} is not what the lab writes: {error!r}") from error
    write_whole(folder / REPORT, page)
    return folder / REPORT


def _environment() -> Environment:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.finalize = shown
    return environment


def _part(name: str) -> str:
    return resources.files("llmzip.lab").joinpath(name).read_text("utf-8")


def _policy(style: str, script: str) -> str:
    """Nothing is fetched, and of all scripts and styles only these two apply."""
    return (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
        f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _pictures(folder: Path) -> Iterable[Picture]:
    """As images, in which no script runs, whatever a file holds."""
    for file in sorted(folder.glob("*.svg")):
        try:
            content = base64.b64encode(file.read_bytes()).decode("ascii")
        except OSError as error:
            raise InputError(f"cannot read {file}: {error.strerror}") from error
        yield Picture(name=file.stem, address=f"data:image/svg+xml;base64,{content}")


def _models(head: dict[str, Any], rows: list[Row]) -> list[str]:
    settings = head.get("settings")
    named = settings.get("models") if isinstance(settings, dict) else None
    if isinstance(named, list) and named:
        return [str(model) for model in named]
    return list(dict.fromkeys(str(row["model"]) for row in rows if row.get("model")))
