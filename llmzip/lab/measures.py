"""The paper's measures and ours, from rows.

Owns their definitions; docs/LAB.md describes them. Nats exist here alone: everything else counts in
bits. Knows nothing of models or files.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llmzip.lab.folder import Row
from llmzip.lab.rows import number

# Fixed lengths of the paper's kind, about a quarter apart.
BINS = (
    8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768,
    1024, 1280, 1568, 2048, 2560, 3072, 4096, 5120, 6144, 7168, 8192,
)  # fmt: skip
AT_99 = 0.99  # mean accuracy with which a length still counts as held, in the paper
NATS_A_BIT = math.log(2)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and standard deviation (n - 1) of some numbers."""

    mean: float
    std: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        found = [value for value in values if math.isfinite(value)]
        if not found:
            return cls(mean=math.nan, std=math.nan, count=0)
        mean = sum(found) / len(found)
        squares = sum((value - mean) ** 2 for value in found)
        std = math.sqrt(squares / (len(found) - 1)) if len(found) > 1 else 0.0
        return cls(mean=mean, std=std, count=len(found))

    @classmethod
    def in_line(cls, line: Mapping[str, Any], name: str) -> Spread:
        """Of a summary's line that keeps it as `name`, `name`_std and texts."""
        return cls(mean=line[name], std=line[f"{name}_std"], count=line["texts"])

    def times(self, factor: float) -> Spread:
        """In another unit."""
        return Spread(mean=self.mean * factor, std=self.std * factor, count=self.count)


def mean_of(values: Iterable[float]) -> float:
    """Of some numbers, or of how often something is so."""
    return Spread.of(values).mean


@dataclass(frozen=True, kw_only=True)
class CapacityFigures:
    """A line of Table 1: one model, source and number of vectors."""

    model: str
    source: str
    num_mem: int
    mem_dim: int
    exact_tokens: Spread  # longest length that greedy decoding gives back, per text
    exact_bits: Spread  # surprisal of those tokens, which the vectors hold
    num_cut_off: int  # texts that ended before their vectors were full
    capacity_tokens_at_99: int | None  # longest length whose mean accuracy is 0.99 at least
    is_at_99_cut_off: bool  # no longer length was tried
    token_gain_above: Spread  # of runs beyond that, as the paper has it
    info_gain_bits_above: Spread

    @property
    def bits_a_dimension(self) -> float:
        """Of the vectors' coordinates, by the exact measure."""
        return self.exact_bits.mean / (self.num_mem * self.mem_dim)

    def to_dict(self) -> dict[str, object]:
        """For the summary; gains in nats as well, labelled, for comparison with the paper."""
        nats = asdict(self.info_gain_bits_above.times(NATS_A_BIT))
        return {
            **asdict(self),
            "bits_a_dimension": self.bits_a_dimension,
            "info_gain_nats_above": nats,
        }


def capacity_figures(rows: Sequence[Row]) -> list[CapacityFigures]:
    """A line for each model, source and number of vectors, in the order they first appear."""
    groups: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["model"], row["source"], row["num_mem"]].append(row)
    return [_figures(group) for group in groups.values()]


def _figures(rows: Sequence[Row]) -> CapacityFigures:
    exact = [row for row in rows if row["purpose"] == "capacity"]
    bins = [row for row in rows if row["purpose"] == "bin"]
    at_99, is_cut_off = _capacity_at_99(exact, bins)
    above = [row for row in bins if number(row, "accuracy") < AT_99]
    first = rows[0]
    return CapacityFigures(
        model=str(first["model"]),
        source=str(first["source"]),
        num_mem=int(number(first, "num_mem")),
        mem_dim=int(number(first, "mem_dim")),
        exact_tokens=Spread.of(number(row, "num_tokens") for row in exact),
        exact_bits=Spread.of(number(row, "plain_bits") for row in exact),
        num_cut_off=sum(row["setting"] == "cut off" for row in exact),
        capacity_tokens_at_99=at_99,
        is_at_99_cut_off=is_cut_off,
        token_gain_above=Spread.of(number(row, "token_gain") for row in above),
        info_gain_bits_above=Spread.of(number(row, "info_gain_bits") for row in above),
    )


def _capacity_at_99(exact: Sequence[Row], bins: Sequence[Row]) -> tuple[int | None, bool]:
    """The longest fixed length with which all texts together are right to 99 %, and whether none
    longer was tried. A text that was exact at more tokens counts as right at fewer."""
    held_by_all = min((number(row, "num_tokens") for row in exact), default=0)
    found = max((length for length in BINS if length <= held_by_all), default=None)
    is_last = True
    for length in sorted({int(number(row, "num_tokens")) for row in bins}):
        accuracy = mean_accuracy(exact, bins, length)
        if accuracy >= AT_99:
            found, is_last = length, True
        else:
            is_last = False
    return found, is_last


def mean_accuracy(exact: Sequence[Row], bins: Sequence[Row], length: int) -> float:
    """Of all texts at one length: those that hold it exactly, and the runs of the others."""
    held = {row["text"] for row in exact if number(row, "num_tokens") >= length}
    tried = {row["text"]: number(row, "accuracy") for row in bins if row["num_tokens"] == length}
    values = [1.0] * len(held) + [tried[text] for text in tried if text not in held]
    return sum(values) / len(values) if values else math.nan


def bound_tokens(num_mem: int, mem_dim: int, bits: int, vocab_size: int) -> float:
    """Tokens that so many bits could name at most, if each were as likely: the paper's bound
    d x b / log2 V."""
    return num_mem * mem_dim * bits / math.log2(vocab_size)


@dataclass(frozen=True, kw_only=True)
class Line:
    """y = slope x + intercept, by least squares."""

    slope: float
    intercept: float

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> Line:
        """Raises ValueError for fewer than two different x."""
        mean_x = sum(x for x, _ in points) / max(1, len(points))
        mean_y = sum(y for _, y in points) / max(1, len(points))
        spread = sum((x - mean_x) ** 2 for x, _ in points)
        if not spread:
            raise ValueError("a line needs two different x")
        slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
        return cls(slope=slope, intercept=mean_y - slope * mean_x)


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Figure 3: nothing is left below a cross-entropy; above it, all but a constant is."""

    threshold_bits: float  # largest cross-entropy with which a text can be held
    bias: Line  # through the texts that cannot: left over against before


def fit_threshold(points: Sequence[tuple[float, float]], *, held_share: float = 0.05) -> Threshold:
    """points: (bits before, bits after). A text is held if at most `held_share` of its bits is
    left.

    The threshold is where holding and not holding are told apart with the fewest mistakes. Raises
    ValueError where there are not both, or too few.
    """
    held = sorted(x for x, y in points if y <= held_share * x)
    beyond = [(x, y) for x, y in points if y > held_share * x]
    if not held or len(beyond) < 2:
        raise ValueError("there must be texts that are held and texts that are not")
    candidates = sorted({0.0, *held})

    def mistakes(limit: float) -> int:
        return sum(x > limit for x in held) + sum(x <= limit for x, _ in beyond)

    return Threshold(threshold_bits=min(candidates, key=mistakes), bias=Line.through(beyond))
