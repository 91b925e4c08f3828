"""The paper's measures and ours, computed from rows.

Owns their definitions, which docs/LAB.md describes. Only this module knows nats: everything else
counts in bits. Knows nothing of models or files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from llmzip.lab.folder import Row, Value

# Fixed lengths like those of the paper, each about a quarter longer than the one before.
BINS = (
    8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768,
    1024, 1280, 1568, 2048, 2560, 3072, 4096, 5120, 6144, 7168, 8192,
)  # fmt: skip
AT_99 = 0.99  # mean accuracy from which on a length counts as held, in the paper
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

    def times(self, factor: float) -> Spread:
        """The same in another unit."""
        return Spread(mean=self.mean * factor, std=self.std * factor, count=self.count)


def mean_of(values: Iterable[float]) -> float:
    """The mean of some numbers; of booleans, the share that is true."""
    return Spread.of(values).mean


def number(row: Row, name: str) -> float:
    """The number in a column. An empty column counts as 0."""
    value = row.get(name)
    if isinstance(value, str):
        raise TypeError(f"{name} is {value!r}")
    return float(value or 0)


def spread_of(rows: Iterable[Row], name: str) -> Spread:
    """Mean and standard deviation of a column."""
    return Spread.of(number(row, name) for row in rows)


def greedy_accuracy(row: Row) -> float:
    """Share of the tokens that are right when decoded."""
    return number(row, "greedy_right") / number(row, "num_tokens")


def grouped(rows: Iterable[Row], *names: str) -> dict[tuple[Value, ...], list[Row]]:
    """Rows by what they have in some columns, in the order in which the values first appear."""
    groups: dict[tuple[Value, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


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
    token_gain_above: Spread  # of runs beyond that capacity, as in the paper
    info_gain_bits_above: Spread

    @property
    def bits_a_dimension(self) -> float:
        """Exact bits, divided by the coordinates of the vectors."""
        return self.exact_bits.mean / (self.num_mem * self.mem_dim)

    def to_dict(self) -> dict[str, object]:
        """For the summary; gains in nats as well, labelled, for comparison with the paper."""
        return {
            **asdict(self),
            "bits_a_dimension": self.bits_a_dimension,
            "info_gain_nats_above": asdict(self.info_gain_bits_above.times(NATS_A_BIT)),
        }


def capacity_figures(rows: Sequence[Row]) -> list[CapacityFigures]:
    """A line for each model, source and number of vectors, in the order they first appear."""
    return [_figures(group) for group in grouped(rows, "model", "source", "num_mem").values()]


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
        exact_tokens=spread_of(exact, "num_tokens"),
        exact_bits=spread_of(exact, "plain_bits"),
        num_cut_off=sum(row["setting"] == "cut off" for row in exact),
        capacity_tokens_at_99=at_99,
        is_at_99_cut_off=is_cut_off,
        token_gain_above=spread_of(above, "token_gain"),
        info_gain_bits_above=spread_of(above, "info_gain_bits"),
    )


def _capacity_at_99(exact: Sequence[Row], bins: Sequence[Row]) -> tuple[int | None, bool]:
    """The longest fixed length with which all texts together are right to 99 %, and whether none
    longer was tried. A text that was exact at more tokens counts as right at fewer."""
    held_by_all = min((number(row, "num_tokens") for row in exact), default=0)
    found, is_last = max((length for length in BINS if length <= held_by_all), default=None), True
    for length in sorted({int(number(row, "num_tokens")) for row in bins}):
        is_last = mean_accuracy(exact, bins, length) >= AT_99
        found = length if is_last else found
    return found, is_last


def mean_accuracy(exact: Sequence[Row], bins: Sequence[Row], length: int) -> float:
    """Mean accuracy at one length: 1 for texts that hold it exactly, else that of their run."""
    held = {row["text"] for row in exact if number(row, "num_tokens") >= length}
    tried = {row["text"]: number(row, "accuracy") for row in bins if row["num_tokens"] == length}
    values = [1.0] * len(held) + [tried[text] for text in tried if text not in held]
    return sum(values) / len(values) if values else math.nan


def evenly(values: Sequence[int], count: int) -> list[int]:
    """At most so many of the values, evenly spread, the first and the last among them."""
    last, steps = len(values) - 1, min(len(values), count) - 1
    return [values[round(place * last / max(1, steps))] for place in range(steps + 1)]


def bound_tokens(num_mem: int, mem_dim: int, bits: int, vocab_size: int) -> float:
    """Tokens that so many bits could name at most, if all tokens were equally likely: the paper's
    bound d x b / log2 V."""
    return num_mem * mem_dim * bits / math.log2(vocab_size)


@dataclass(frozen=True, kw_only=True)
class Line:
    """y = slope x + intercept, by least squares."""

    slope: float
    intercept: float

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> Line:
        """The line nearest to the points. Raises ValueError for fewer than two different x."""
        mean_x = sum(x for x, _ in points) / max(1, len(points))
        mean_y = sum(y for _, y in points) / max(1, len(points))
        spread = sum((x - mean_x) ** 2 for x, _ in points)
        if not spread:
            raise ValueError("a line needs two different x")
        slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
        return cls(slope=slope, intercept=mean_y - slope * mean_x)


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Figure 3: below a cross-entropy nothing is left; above it, what is left grows linearly."""

    threshold_bits: float  # largest cross-entropy with which a text can be held
    bias: Line  # through the texts that are not held: bits left, by bits before


def fit_threshold(points: Sequence[tuple[float, float]], *, held_share: float = 0.05) -> Threshold:
    """Fit the threshold, and the line beyond it. points: (bits before, bits after). A text is held
    if at most `held_share` of its bits is left.

    The threshold is the limit that separates the texts that are held from the others with the
    fewest mistakes. Raises ValueError where one of the two kinds is missing or too rare.
    """
    held = sorted(x for x, y in points if y <= held_share * x)
    beyond = [(x, y) for x, y in points if y > held_share * x]
    if not held or len(beyond) < 2:
        raise ValueError("there must be texts that are held and texts that are not")
    candidates = sorted({0.0, *held})

    def mistakes(limit: float) -> int:
        return sum(x > limit for x in held) + sum(x <= limit for x, _ in beyond)

    return Threshold(threshold_bits=min(candidates, key=mistakes), bias=Line.through(beyond))
