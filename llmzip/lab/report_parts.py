"""What a report shows, as tables and texts: made of a folder's summary and rows.

Owns how figures of any summary become cells, and tokens become coloured text. Knows nothing of
HTML.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmzip.inspect.figures import printable
from llmzip.lab.folder import Row
from llmzip.lab.published import (
    Origin,
    PublishedCapacity,
    PublishedGreedy,
    published_brittleness,
    published_capacities,
    published_for,
    published_margins,
    published_scaling,
)

# Upper ends of the classes of surprisal, bits; the last class is open.
BUCKETS = (0.5, 1.0, 2.0, 4.0, 8.0, 12.0)

_OWN_KEYS = {"study", "tables", "tokens", "versions"}  # that have a place of their own
_MOST_LINES = 200
_NONE = "–"


@dataclass(frozen=True, kw_only=True)
class TableView:
    """Cells as they are shown."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class TokenView:
    """A token of a sample."""

    text: str
    tip: str
    bucket: int  # of surprisal
    right: str  # "0" or "1" for each step

    @property
    def is_right(self) -> bool:
        """At the last step."""
        return self.right.endswith("1")


@dataclass(frozen=True, kw_only=True)
class SampleView:
    """A text and which of its tokens are right at which step."""

    title: str
    steps: list[int]
    tokens: list[TokenView]

    @property
    def num_right(self) -> int:
        """At the last step."""
        return sum(token.is_right for token in self.tokens)


def shown(value: Any) -> Any:
    """Text with what cannot be seen escaped. Line ends and spaces stay, and so does markup."""
    if type(value) is not str or value.isprintable():
        return value
    return "".join(char if char == "\n" else printable(char) for char in value)


def facts(content: Any) -> list[tuple[str, str]]:
    """Names and values of settings."""
    if not isinstance(content, Mapping):
        return []
    return [(_words(name), cell(value) or _NONE) for name, value in content.items()]


def summary_tables(summary: Mapping[str, Any]) -> list[TableView]:
    """The tables that a study ends with, ready to be shown: title, columns, rows of texts."""
    return [
        TableView(
            title=str(each["title"]),
            columns=[str(name) for name in each["columns"]],
            rows=[[cell(value) for value in row] for row in each["rows"]],
        )
        for each in summary.get("tables") or []
    ]


def details(summary: Mapping[str, Any]) -> list[TableView]:
    """All else that a summary says, as tables: whatever its shape."""
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


def rows_table(rows: Sequence[Row]) -> TableView:
    """Rows of trials, without columns that are empty in all of them."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    names = [name for name in names if any(row.get(name) is not None for row in rows)]
    return TableView(
        title="rows", columns=[_words(name) for name in names],
        rows=[[cell(row.get(name)) for name in names] for row in rows],
    )  # fmt: skip


def published_tables(study: str, models: Sequence[str]) -> list[TableView]:
    """What others have measured of the same kind."""
    if study == "capacity":
        near = [each for model in models for each in published_for(model)]
        return [_capacities("Capacity of one vector", list(dict.fromkeys(near)))]
    if study in ("lengths", "utilisation"):
        return [_capacities("Capacity of one vector", published_capacities())]
    if study == "scaling":
        return [_capacities("Capacity of several vectors", published_scaling())]
    if study == "greedy":
        return [
            _greedy("Greedy decoding without a margin", published_brittleness()),
            _greedy("Greedy decoding with a margin", published_margins()),
        ]
    return []


def views(summary: Mapping[str, Any]) -> list[SampleView]:
    """Samples, token by token. Raises KeyError, TypeError or ValueError for what is none."""
    return [
        SampleView(
            title=str(sample["title"]),
            steps=[int(step) for step in sample["steps"]],
            tokens=[_token(each) for each in sample["tokens"]],
        )
        for sample in summary.get("tokens") or []
        if sample["steps"]
    ]


def cell(value: Any) -> str:
    """One value, whatever it is."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        if _is_spread(value):
            return _spread(value["mean"], value["std"])
        return ", ".join(f"{_words(name)}: {cell(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(cell, value))
    return str(value)


def _spread(mean: float | None, std: float | None) -> str:
    if mean is None or std is None:
        return cell(mean)
    noise = 1e-9 * abs(mean)  # of adding up numbers that are all the same
    return f"{cell(mean)} ± {_number(float(std)) if std > noise else '0'}"


def _number(value: float) -> str:
    if not math.isfinite(value):
        return ""
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    size = abs(value)
    return f"{value:.1f}" if size >= 100 else f"{value:.4g}"


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def _is_spread(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"mean", "std", "count"}


def _of_mapping(title: str, content: Mapping[str, Any]) -> TableView:
    if content and all(isinstance(each, Mapping) for each in content.values()):
        return _of_list(title, [{"": name, **each} for name, each in content.items()])
    rows = [[_words(name), cell(value)] for name, value in content.items()]
    return TableView(title=title, columns=["", "value"], rows=rows)


def _of_list(title: str, content: Sequence[Any]) -> TableView:
    lines = content[:_MOST_LINES]
    if all(isinstance(each, Mapping) for each in lines):
        names = list(dict.fromkeys(name for each in lines for name in each))
        columns = [_words(name) for name in names]
        rows = [[cell(each.get(name)) for name in names] for each in lines]
    else:
        cells = [each if isinstance(each, list) else [each] for each in lines]
        width = max(map(len, cells), default=0)
        columns = [str(place) for place in range(1, width + 1)]
        rows = [[*map(cell, each), *[""] * (width - len(each))] for each in cells]
    notes = []
    if len(content) > len(lines):
        notes = [f"The first {len(lines)} of {len(content):,} lines."]
    return TableView(title=title, columns=columns, rows=rows, notes=notes)


def _token(each: Mapping[str, Any]) -> TokenView:
    bits, margin, text = each["bits"], each["margin"], str(each["text"])
    said = _NONE if bits is None else f"{float(bits):.2f} bits"
    far = _NONE if margin is None else f"{float(margin):.2f} logits"
    return TokenView(
        text=printable(text.replace("\n", "↵")).replace("↵", "↵\n").replace("\\t", "⇥\t") or "∅",
        tip=f"“{printable(text)}”: surprisal {said}, margin {far}",
        bucket=sum((bits or 0.0) >= limit for limit in BUCKETS),
        right="".join("1" if right else "0" for right in each["right"]),
    )


def _capacities(title: str, found: Sequence[PublishedCapacity]) -> TableView:
    columns = [
        "model", "texts", "measure", "vectors", "tokens", "token gain", "information gain, bits",
        "bits per dimension", "from", "note",
    ]  # fmt: skip
    rows = [
        [
            each.model,
            each.source,
            each.measure_name,
            str(each.num_mem),
            _with_std(each.tokens, each.tokens_std),
            _with_std(each.token_gain, None),
            _with_std(each.info_gain_bits, each.info_gain_bits_std, digits=0),
            "" if each.bits_a_dimension is None else f"{each.bits_a_dimension:.2f}",
            each.origin.authors,
            each.note,
        ]
        for each in found
    ]
    return TableView(
        title=title, columns=columns, rows=rows, notes=_sources([e.origin for e in found])
    )


def _greedy(title: str, found: Sequence[PublishedGreedy]) -> TableView:
    columns = ["model", "rule", "loss", "tokens", "teacher-forced", "greedy", "from"]
    rows = [
        [
            each.model,
            each.rule,
            each.loss,
            "" if each.tokens is None else f"{each.tokens:,}",
            f"{100 * each.teacher_forced:.4g} %",
            f"{_with_std(100 * each.greedy, 100 * (each.greedy_std or 0))} %",
            each.origin.authors,
        ]
        for each in found
    ]
    return TableView(
        title=title, columns=columns, rows=rows, notes=_sources([e.origin for e in found])
    )


def _sources(origins: Sequence[Origin]) -> list[str]:
    papers: dict[str, list[str]] = {}
    for each in origins:
        paper = f"{each.authors}, {each.title} ({each.venue}, arXiv {each.arxiv})"
        where = papers.setdefault(paper, [])
        if each.where not in where:
            where.append(each.where)
    return [f"{paper}: {'; '.join(where)}." for paper, where in papers.items()]


def _with_std(value: float | None, std: float | None, *, digits: int | None = None) -> str:
    if value is None:
        return ""
    if digits is None:
        digits = 0 if value == int(value) else 1
    shown_std = f" ± {std:,.{digits}f}" if std else ""
    return f"{value:,.{digits}f}{shown_std}"
