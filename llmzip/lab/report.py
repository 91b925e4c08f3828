"""A run's folder as one page: report.html, readable anywhere, without a network.

Owns which parts the page has, and how figures of any summary become cells; pictures are data. What
keeps it from doing anything belongs to `inspect.page`. Does not know how a study is measured.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from llmzip.errors import InputError
from llmzip.inspect.page import NONE, bucket, render_page, token_text
from llmzip.inspect.report import printable
from llmzip.lab.folder import (
    ROWS,
    Row,
    read_bytes,
    read_rows,
    read_settings,
    read_summary,
    write_whole,
)
from llmzip.lab.published import published_tables

REPORT = "report.html"
MAX_ROWS = 200  # shown

_OWN_KEYS = {"study", "tables", "tokens", "versions"}  # shown in parts of their own
_MAX_LINES = 200  # of a table of details
_Table: TypeAlias = dict[str, Any]  # title, columns, rows of text, and notes
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


def write_report(folder: Path) -> Path:
    """Write report.html anew, from what the folder holds now; it may be a run that goes on.

    Raises InputError where the folder is no run's or cannot be read or written.
    """
    head, summary = read_settings(folder), read_summary(folder)
    rows = read_rows(folder) if (folder / ROWS).exists() else []
    # Columns that are empty in all rows are left out.
    names = [n for n in (rows or [{}])[0] if any(row[n] is not None for row in rows[:MAX_ROWS])]
    study = str(head.get("study", ""))
    title, lead = _TITLES.get(study, (study or "Run", ""))
    try:
        content = dict(
            title=title,
            lead=lead,
            models=_models(head, rows),
            settings=_facts(head.get("settings")),
            versions=_facts(summary.get("versions") or {"llmzip": head.get("version")}),
            tables=[
                _table(str(each["title"]), each["columns"], each["rows"])
                for each in summary.get("tables") or []
            ],
            details=_details(summary),
            pictures=list(_pictures(folder)),
            views=_views(summary),
            published=published_tables(study, _models(head, rows)),
            rows=_of_mappings("rows", rows[:MAX_ROWS], names),
            num_rows=len(rows),
            num_shown=min(len(rows), MAX_ROWS),
        )  # fmt: skip
        page = render_page("llmzip.lab", "report.html.j2", "report.js", content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder} is not what the lab writes: {error!r}") from error
    write_whole(folder / REPORT, page)
    return folder / REPORT


def _pictures(folder: Path) -> Iterable[dict[str, str]]:
    """The folder's pictures, to be shown as images, in which no script ever runs."""
    for file in sorted(folder.glob("*.svg")):
        content = base64.b64encode(read_bytes(file)).decode("ascii")
        yield {"name": file.stem, "address": f"data:image/svg+xml;base64,{content}"}


def _models(head: dict[str, Any], rows: list[Row]) -> list[str]:
    settings = head.get("settings")
    named = settings.get("models") if isinstance(settings, dict) else None
    if isinstance(named, list) and named:
        return [str(model) for model in named]
    return list(dict.fromkeys(str(row["model"]) for row in rows if row.get("model")))


def _facts(content: Any) -> list[tuple[str, str]]:
    """Names and values of settings."""
    if not isinstance(content, Mapping):
        return []
    return [(_words(name), _cell(value) or NONE) for name, value in content.items()]


def _details(summary: Mapping[str, Any]) -> list[_Table]:
    """Everything in a summary that has no part of its own, as tables, whatever its shape."""
    found, single = [], {}
    for name, value in summary.items():
        if name in _OWN_KEYS:
            continue
        if isinstance(value, Mapping) and not _is_spread(value):
            found.append(_of_mapping(_words(name), value))
        elif isinstance(value, list) and any(isinstance(each, Mapping | list) for each in value):
            found.append(_of_list(_words(name), value))
        else:
            single[name] = value
    return ([_of_mapping("figures", single)] if single else []) + found


def _views(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Samples, token by token: title, steps, num_right at the last step, and tokens, each with
    text, tip, bucket of its surprisal, and right ("0" or "1" for each step).

    Raises KeyError, TypeError or ValueError if they are not of the lab.
    """
    found = []
    for sample in summary.get("tokens") or []:
        if sample["steps"]:
            tokens = [_token(each) for each in sample["tokens"]]
            found.append({
                "title": str(sample["title"]), "steps": [int(step) for step in sample["steps"]],
                "tokens": tokens, "num_right": sum(t["right"].endswith("1") for t in tokens),
            })  # fmt: skip
    return found


def _token(each: Mapping[str, Any]) -> dict[str, Any]:
    bits, margin, text = each["bits"], each["margin"], str(each["text"])
    surprisal = NONE if bits is None else f"{float(bits):.2f} bits"
    lead = NONE if margin is None else f"{float(margin):.2f} logits"
    return {
        "text": token_text(text),
        "tip": f"“{printable(text)}”: surprisal {surprisal}, margin {lead}",
        "bucket": bucket(bits),
        "right": "".join("1" if right else "0" for right in each["right"]),
    }


def _table(
    title: str, columns: Sequence[object], rows: Iterable[Iterable[object]], *notes: str
) -> _Table:
    cells = [[_cell(value) for value in row] for row in rows]
    return {"title": title, "columns": list(map(str, columns)), "rows": cells, "notes": notes}


def _of_mapping(title: str, content: Mapping[str, Any]) -> _Table:
    if content and all(isinstance(each, Mapping) for each in content.values()):
        return _of_list(title, [{"": name, **each} for name, each in content.items()])
    return _table(title, ["", "value"], ((_words(name), each) for name, each in content.items()))


def _of_mappings(
    title: str, lines: Sequence[Mapping[str, Any]], names: Iterable[str], *notes: str
) -> _Table:
    names = list(names)
    rows = ([line.get(name) for name in names] for line in lines)
    return _table(title, list(map(_words, names)), rows, *notes)


def _of_list(title: str, content: Sequence[Any]) -> _Table:
    lines, notes = content[:_MAX_LINES], []
    if len(content) > len(lines):
        notes.append(f"The first {len(lines)} of {len(content):,} lines.")
    if all(isinstance(each, Mapping) for each in lines):
        return _of_mappings(title, lines, dict.fromkeys(n for each in lines for n in each), *notes)
    rows = [each if isinstance(each, list) else [each] for each in lines]
    width = max(map(len, rows), default=0)
    padded = ([*each, *[None] * (width - len(each))] for each in rows)
    return _table(title, range(1, width + 1), padded, *notes)


def _cell(value: Any) -> str:
    """One value of any kind, as text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _number(value)
    if _is_spread(value):
        mean, std = value["mean"], value["std"]
        if mean is None or std is None:
            return _cell(mean)
        noise = 1e-9 * abs(mean)  # rounding errors in the sum of equal numbers
        return f"{_cell(mean)} ± {_number(float(std)) if std > noise else '0'}"
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(name)}: {_cell(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return str(value)


def _number(value: float) -> str:
    if not math.isfinite(value):
        return ""
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.4g}"


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def _is_spread(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"mean", "std", "count"}
