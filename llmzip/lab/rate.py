"""What becomes of bits: cross-entropy before and after cramming, and stored bits against the bits
that vectors hold.

Owns the measurements of both studies. Knows nothing of how they are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from typing import Any

from llmzip.config import Preset
from llmzip.lab.folder import Row
from llmzip.lab.measures import Spread, Threshold, fit_threshold, grouped, number, spread_of
from llmzip.lab.signs import search_bits
from llmzip.lab.study import Part, Study
from llmzip.lab.texts import Sample

SHARES = (0.4, 0.6, 0.8, 1.0, 1.25, 1.6, 2.0, 2.6)  # of the length that is expected to be held


def chunk_lengths(expected_tokens: int, max_tokens: int) -> list[int]:
    """Lengths around the one that is expected to be held, shortest first."""
    lengths = {max(2, round(share * expected_tokens)) for share in SHARES}
    return sorted(length for length in lengths if length <= max_tokens)


def measure_entropy(
    study: Study, samples: Sequence[Sample], *, lengths: Sequence[int], num_mem: int = 1
) -> None:
    """Add a row of purpose chunk for every text at every length."""
    recipe = study.recipe.for_entropy()

    def run(length: int, group: Sequence[Sample]) -> list[Row]:
        trials = study.trials(group, length, num_mem)
        return study.rows_of("chunk", list(study.cram(trials, recipe=recipe)))

    parts: list[Part] = []
    for length in lengths:
        left = study.without_rows(samples, "chunk", num_mem=num_mem, num_tokens=length)
        parts.append((f"chunks of {length} tokens", left, partial(run, length)))
    study.measure(parts, total=len(samples) * len(lengths), last="chunks")


def entropy_points(rows: Sequence[Row]) -> dict[str, list[tuple[float, float]]]:
    """Bits before and after cramming of each chunk, by source."""
    chunks = grouped((row for row in rows if row["purpose"] == "chunk"), "source")
    return {
        str(source): [(number(row, "plain_bits"), number(row, "after_bits")) for row in group]
        for (source,), group in chunks.items()
    }


def entropy_summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Threshold, and line through the texts beyond it, of each source and of all together."""
    groups = entropy_points(rows)
    if len(groups) > 1:
        groups["all"] = list(chain(*groups.values()))
    summary: dict[str, Any] = {}
    for source, points in groups.items():
        try:
            found = asdict(fit_threshold(points))
        except ValueError as error:
            found = {"threshold_bits": None, "why": str(error)}
        summary[source] = {"chunks": len(points), **found}
    return summary


def threshold_of(rows: Sequence[Row]) -> Threshold | None:
    """Of all chunks; None: too few of them are held, or too few are not."""
    with suppress(ValueError):
        return fit_threshold(list(chain(*entropy_points(rows).values())))
    return None


_RESOLUTION = 0.08  # of the length


def measure_rate(
    study: Study,
    samples: Sequence[Sample],
    *,
    bits: Sequence[int],
    num_mem: int = 1,
    preset: Preset = "fast",
) -> None:
    """Add rows of purpose growth and capacity for each number of bits, most bits first."""
    for each in sorted(bits, reverse=True):
        search_bits(
            study, samples, num_mem=num_mem, bits=each, preset=preset, resolution=_RESOLUTION
        )


@dataclass(frozen=True, kw_only=True)
class RateFigures:
    """What so many vectors of one number of bits a dimension hold."""

    num_mem: int
    bits: int
    texts: int
    tokens: Spread
    exact_bits: Spread
    coded_bits_a_dimension: float  # as stored, on average
    exact_bits_a_dimension: float
    stored_bits: float  # of all vectors of a text, on average
    stored_bits_an_information_bit: float | None  # None: nothing is held

    def to_dict(self) -> dict[str, Any]:
        """For the summary, which has mean and standard deviation of a figure side by side."""
        flat: dict[str, Any] = {}
        for name, value in vars(self).items():
            is_spread = isinstance(value, Spread)
            flat |= {name: value.mean, f"{name}_std": value.std} if is_spread else {name: value}
        return flat


def rate_figures(rows: Sequence[Row]) -> list[RateFigures]:
    """A line for each number of vectors and of bits, fewest first."""
    exact = [row for row in rows if row["purpose"] == "capacity"]
    groups = grouped(exact, "num_mem", "bits").values()
    return sorted(map(_figures, groups), key=lambda each: (each.num_mem, each.bits))


def _figures(rows: Sequence[Row]) -> RateFigures:
    num_mem, bits = (int(number(rows[0], name)) for name in ("num_mem", "bits"))
    held = [row for row in rows if number(row, "num_tokens")]
    coded = [number(row, "detail") if row["detail"] is not None else 16.0 for row in held]
    coded_bits = Spread.of(coded or [float(bits)]).mean
    exact_bits = spread_of(rows, "plain_bits")
    coordinates = num_mem * number(rows[0], "mem_dim")
    stored_bits = coded_bits * coordinates
    return RateFigures(
        num_mem=num_mem, bits=bits, texts=len(rows), tokens=spread_of(rows, "num_tokens"),
        exact_bits=exact_bits, coded_bits_a_dimension=coded_bits,
        exact_bits_a_dimension=exact_bits.mean / coordinates, stored_bits=stored_bits,
        stored_bits_an_information_bit=stored_bits / exact_bits.mean if exact_bits.mean else None,
    )  # fmt: skip
