"""What others have measured: figures of papers, with their sources, for comparison.

Owns the figures' units and what each is comparable with. The figures themselves are in
published.json. Knows nothing of our own rows.

There are two measures: "at 99" (Kuratov et al. 2025), the longest length with a mean teacher-forced
accuracy of 0.99, whose gains are means of runs beyond it; and "exact" (Tarasov et al. 2026), the
longest front of a text that is right in every token, teacher-forced.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, TypeAlias

from llmzip.lab.measures import NATS_A_BIT, bound_tokens

Measure: TypeAlias = Literal["at 99", "exact", "exact, low-dimensional"]

_BITS = 16  # of a coordinate, in all papers


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a figure comes from."""

    authors: str  # with the year: "Kuratov et al. 2025"
    title: str
    arxiv: str
    venue: str
    repository: str
    where: str  # table or file


@dataclass(frozen=True, kw_only=True)
class PublishedCapacity:
    """What vectors of one model hold of one kind of text. None: not published."""

    model: str
    source: str  # "PG19", "fanfics", "random"
    measure: Measure
    mem_dim: int
    vocab_size: int
    origin: Origin
    num_mem: int = 1
    tokens: float | None = None
    tokens_std: float | None = None
    token_gain: float | None = None
    info_gain_bits: float | None = None
    info_gain_bits_std: float | None = None
    note: str = ""

    @property
    def measure_name(self) -> str:
        """For people."""
        return "99 %" if self.measure == "at 99" else self.measure

    @property
    def bits_a_dimension(self) -> float | None:
        """Information gain of a coordinate."""
        if self.info_gain_bits is None:
            return None
        return self.info_gain_bits / (self.num_mem * self.mem_dim)

    @property
    def bound_tokens(self) -> float:
        """Tokens that the vectors' bits could name at most."""
        return bound_tokens(self.num_mem, self.mem_dim, _BITS, self.vocab_size)


@dataclass(frozen=True, kw_only=True)
class PublishedGreedy:
    """Shares of tokens that are right, by when the optimisation of the vectors stopped."""

    model: str
    rule: str  # "stop at 99 %", "stop near 100 %", "no margin", "margin 1"
    loss: str
    teacher_forced: float
    greedy: float
    origin: Origin
    margin: float | None = None  # logits
    tokens: int | None = None
    greedy_std: float | None = None


def published_capacities(
    *, measure: Measure | None = None, source: str | None = None
) -> list[PublishedCapacity]:
    """Capacities of one vector, of one measure and source or of all."""
    return [
        each
        for each in _read()[0]
        if each.num_mem == 1 and measure in (None, each.measure) and source in (None, each.source)
    ]


def published_scaling() -> list[PublishedCapacity]:
    """Capacities of the models that were given several vectors, those of one vector included."""
    models = {each.model for each in _read()[0] if each.num_mem > 1}
    same = [each for each in _read()[0] if (each.source, each.measure) == ("PG19", "at 99")]
    return [each for each in same if each.model in models]


def published_brittleness() -> list[PublishedGreedy]:
    """Greedy decoding where no margin was asked for."""
    return [each for each in _read()[1] if each.margin is None]


def published_margins() -> list[PublishedGreedy]:
    """Greedy decoding where every token had a margin."""
    return [each for each in _read()[1] if each.margin is not None]


def published_for(model: str) -> list[PublishedCapacity]:
    """The capacities of one vector to compare a model with: those of the same model, and those of
    the smallest model of Kuratov et al. 2025.

    `model` is a name like "HuggingFaceTB/SmolLM2-135M"; its owner and what follows the size, such
    as "-deduped", do not matter.
    """
    name = model.rsplit("/", 1)[-1].casefold() + "-"
    capacities = published_capacities()
    same = [each for each in capacities if name.startswith(each.model.casefold() + "-")]
    smallest = capacities[0].model
    if any(each.model == smallest for each in same):
        return same
    return same + [e for e in capacities if (e.model, e.measure) == (smallest, "at 99")]


@cache
def _read() -> tuple[list[PublishedCapacity], list[PublishedGreedy]]:
    """Capacities and results of greedy decoding, as published.json has them, but in bits."""
    found = json.loads(resources.files("llmzip.lab").joinpath("published.json").read_text("utf-8"))
    shapes = {each["model"]: each for each in found["models"]}
    for each in (*found["capacities"], *found["greedy"]):
        each["origin"] = Origin(**found["papers"][each.pop("paper")], where=each.pop("where"))
        for name in [name for name in each if "_nats" in name]:
            each[name.replace("_nats", "_bits")] = each.pop(name) / NATS_A_BIT
        if "margin" in each:
            each["rule"] = f"margin {each['margin']:g}"
    return (
        [PublishedCapacity(**shapes[each["model"]] | each) for each in found["capacities"]],
        [PublishedGreedy(**each) for each in found["greedy"]],
    )


def published_tables(study: str, models: Sequence[str]) -> list[dict[str, Any]]:
    """Tables of what others have measured of the kind that a study of some models measures: title,
    columns, rows of text, and notes, which are their sources."""
    one = "Capacity of one vector"
    if study == "capacity":
        near = dict.fromkeys(each for model in models for each in published_for(model))
        return [_table(one, list(near), _CAPACITY)]
    if study in ("lengths", "utilisation"):
        return [_table(one, published_capacities(), _CAPACITY)]
    if study == "scaling":
        return [_table("Capacity of several vectors", published_scaling(), _CAPACITY)]
    if study == "greedy":
        return [
            _table("Greedy decoding without a margin", published_brittleness(), _GREEDY),
            _table("Greedy decoding with a margin", published_margins(), _GREEDY),
        ]
    return []


def _table(
    title: str, found: Sequence[Any], columns: Mapping[str, Callable[[Any], str]]
) -> dict[str, Any]:
    papers: dict[str, dict[str, None]] = {}  # the places in each, once
    for origin in (each.origin for each in found):
        paper = f"{origin.authors}, {origin.title} ({origin.venue}, arXiv {origin.arxiv})"
        papers.setdefault(paper, {})[origin.where] = None
    return {
        "title": title,
        "columns": list(columns),
        "rows": [[text_of(each) for text_of in columns.values()] for each in found],
        "notes": [f"{paper}: {'; '.join(places)}." for paper, places in papers.items()],
    }


def _with_std(value: float | None, std: float | None = None, *, digits: int | None = None) -> str:
    if value is None:
        return ""
    if digits is None:
        digits = 0 if value == int(value) else 1
    return f"{value:,.{digits}f}" + (f" ± {std:,.{digits}f}" if std else "")


_CAPACITY: dict[str, Callable[[PublishedCapacity], str]] = {
    "model": lambda each: each.model,
    "texts": lambda each: each.source,
    "measure": lambda each: each.measure_name,
    "vectors": lambda each: str(each.num_mem),
    "tokens": lambda each: _with_std(each.tokens, each.tokens_std),
    "token gain": lambda each: _with_std(each.token_gain),
    "information gain, bits": lambda each: _with_std(
        each.info_gain_bits, each.info_gain_bits_std, digits=0
    ),
    "bits per dimension": lambda each: _with_std(each.bits_a_dimension, digits=2),
    "from": lambda each: each.origin.authors,
    "note": lambda each: each.note,
}
_GREEDY: dict[str, Callable[[PublishedGreedy], str]] = {
    "model": lambda each: each.model,
    "rule": lambda each: each.rule,
    "loss": lambda each: each.loss,
    "tokens": lambda each: _with_std(each.tokens),
    "teacher-forced": lambda each: f"{100 * each.teacher_forced:.4g} %",
    "greedy": lambda each: f"{_with_std(100 * each.greedy, 100 * (each.greedy_std or 0))} %",
    "from": lambda each: each.origin.authors,
}
