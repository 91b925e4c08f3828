"""What others have measured: figures of papers, with their sources, for comparison.

Owns the figures' units and what each is comparable with. The figures themselves are in
published.json. Knows nothing of our own rows.

Two measures are about: "at 99" (Kuratov et al. 2025), the longest length with a mean teacher-forced
accuracy of 0.99, whose gains are means of runs beyond it; and "exact" (Tarasov et al. 2026), the
longest front of a text that is right in every token, teacher-forced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, TypeAlias

from llmzip.lab.measures import NATS_A_BIT, bound_tokens

Measure: TypeAlias = Literal["at 99", "exact", "exact, low-dimensional"]

_DATA = "published.json"
_BITS = 16  # of a coordinate, in all papers


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a figure is from."""

    authors: str  # with the year: "Kuratov et al. 2025"
    title: str
    arxiv: str
    venue: str
    repository: str
    where: str  # table or file

    @property
    def text(self) -> str:
        """In one line."""
        return f"{self.authors}, arXiv {self.arxiv}, {self.where}"


@dataclass(frozen=True, kw_only=True)
class PublishedCapacity:
    """What vectors of one model hold of one kind of text. None: not published."""

    model: str
    source: str  # "PG19", "fanfics", "random"
    measure: Measure
    num_mem: int
    mem_dim: int
    vocab_size: int
    tokens: float | None
    tokens_std: float | None
    token_gain: float | None
    info_gain_bits: float | None
    info_gain_bits_std: float | None
    note: str
    origin: Origin

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
        """What the vectors' bits could name at most."""
        return bound_tokens(self.num_mem, self.mem_dim, _BITS, self.vocab_size)


@dataclass(frozen=True, kw_only=True)
class PublishedGreedy:
    """What greedy decoding makes of vectors, by when their optimisation stopped. Shares of tokens
    that are right."""

    model: str
    rule: str  # "stop at 99 %", "stop near 100 %", "no margin", "margin 1"
    loss: str
    margin: float | None  # logits
    tokens: int | None
    teacher_forced: float
    greedy: float
    greedy_std: float | None
    origin: Origin


def published_capacities(
    *, measure: Measure | None = None, source: str | None = None
) -> list[PublishedCapacity]:
    """Capacities of one vector, of one measure and source or of all."""
    return [
        each
        for each in _capacities()
        if each.num_mem == 1
        and (measure is None or each.measure == measure)
        and (source is None or each.source == source)
    ]


def published_scaling() -> list[PublishedCapacity]:
    """Capacities of the models that were given several vectors, those of one vector included."""
    models = {each.model for each in _capacities() if each.num_mem > 1}
    return [
        each
        for each in _capacities()
        if each.model in models and each.source == "PG19" and each.measure == "at 99"
    ]


def published_brittleness() -> list[PublishedGreedy]:
    """Greedy decoding where no margin was asked for."""
    return [each for each in _greedy() if each.margin is None]


def published_margins() -> list[PublishedGreedy]:
    """Greedy decoding where every token had a margin."""
    return [each for each in _greedy() if each.margin is not None]


def published_for(model: str) -> list[PublishedCapacity]:
    """Capacities of one vector that stand best beside a model's own: those of the same model, and
    those of the smallest model of Kuratov et al. 2025.

    `model` is a name like "HuggingFaceTB/SmolLM2-135M"; its owner and what follows the size do not
    matter.
    """
    name = model.rsplit("/", 1)[-1].casefold()
    same = {each.model for each in _capacities() if _begins(name, each.model.casefold())}
    smallest = _capacities()[0].model
    found = [each for each in published_capacities() if each.model in same]
    if smallest not in same:
        found += [each for each in published_capacities(measure="at 99") if each.model == smallest]
    return found


def _begins(name: str, model: str) -> bool:
    """Whether a name is that of a model, or of a variant of it such as "-deduped"."""
    return name == model or name.startswith(model + "-")


@cache
def _read() -> dict[str, Any]:
    file = resources.files("llmzip.lab").joinpath(_DATA)
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found


@cache
def _capacities() -> tuple[PublishedCapacity, ...]:
    shapes = {each["model"]: each for each in _read()["models"]}
    return tuple(_capacity(each, shapes[each["model"]]) for each in _read()["capacities"])


@cache
def _greedy() -> tuple[PublishedGreedy, ...]:
    return tuple(
        PublishedGreedy(
            model=each["model"],
            rule=f"margin {each['margin']:g}" if "margin" in each else each["rule"],
            loss=each["loss"],
            margin=each.get("margin"),
            tokens=each.get("tokens"),
            teacher_forced=each["teacher_forced"],
            greedy=each["greedy"],
            greedy_std=each.get("greedy_std"),
            origin=_origin(each),
        )
        for each in _read()["greedy"]
    )


def _capacity(each: Mapping[str, Any], shape: Mapping[str, Any]) -> PublishedCapacity:
    return PublishedCapacity(
        model=each["model"],
        source=each["source"],
        measure=each["measure"],
        num_mem=each.get("num_mem", 1),
        mem_dim=shape["mem_dim"],
        vocab_size=shape["vocab_size"],
        tokens=each.get("tokens"),
        tokens_std=each.get("tokens_std"),
        token_gain=each.get("token_gain"),
        info_gain_bits=_bits(each, "info_gain", ""),
        info_gain_bits_std=_bits(each, "info_gain", "_std"),
        note=each.get("note", ""),
        origin=_origin(each),
    )


def _bits(each: Mapping[str, Any], name: str, end: str) -> float | None:
    """In bits, as published or from nats."""
    if f"{name}_bits{end}" in each:
        return float(each[f"{name}_bits{end}"])
    nats = each.get(f"{name}_nats{end}")
    return None if nats is None else nats / NATS_A_BIT


def _origin(each: Mapping[str, Any]) -> Origin:
    return Origin(**_read()["papers"][each["paper"]], where=each["where"])
