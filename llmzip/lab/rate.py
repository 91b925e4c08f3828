"""Bits per dimension against what vectors hold.

Owns the study `rate`: the longest exact text for vectors of 16 bits, as they are, and of fewer, on
a grid as `compress` makes it. Knows nothing of how a grid is reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmzip.codecs.cram.presets import held_share
from llmzip.config import Preset
from llmzip.lab.capacity import CramAll, search_exact
from llmzip.lab.crammer import Outcome, Trial
from llmzip.lab.folder import Row
from llmzip.lab.grids import cram_on_grid
from llmzip.lab.measures import Spread
from llmzip.lab.rows import number
from llmzip.lab.study import Study
from llmzip.lab.texts import Sample

RESOLUTION = 0.08  # of the length


def measure_rate(
    study: Study,
    samples: Sequence[Sample],
    *,
    bits: Sequence[int],
    num_mem: int = 1,
    first_bits: float,
    preset: Preset = "fast",
) -> None:
    """Leave rows of purpose growth and capacity for each number of bits, most bits first.

    The `detail` of a row on a grid is what a coordinate takes, entropy-coded.
    """
    for each in sorted(bits, reverse=True):
        cram = None if each == 16 else _on_grid(study, each, preset)
        share = 1.0 if each == 16 else held_share(each)
        search_exact(
            study, samples, num_mem=num_mem, first_bits=share * first_bits,
            bits=each, resolution=RESOLUTION, cram=cram,
        )  # fmt: skip


def _on_grid(study: Study, bits: int, preset: Preset) -> CramAll:
    def cram(trials: Sequence[Trial]) -> list[tuple[Outcome, float]]:
        found = cram_on_grid(study, trials, bits=bits, preset=preset)
        return [(each.outcome, each.coded_bits_a_dimension) for each in found]

    return cram


def rate_summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A line for each number of bits, fewest first."""
    exact = [row for row in rows if row["purpose"] == "capacity"]
    return [_line(bits, exact) for bits in sorted({int(number(row, "bits")) for row in exact})]


def _line(bits: int, exact: Sequence[Row]) -> dict[str, Any]:
    rows = [row for row in exact if row["bits"] == bits]
    held = [row for row in rows if number(row, "num_tokens")]
    tokens = Spread.of(number(row, "num_tokens") for row in rows)
    exact_bits = Spread.of(number(row, "plain_bits") for row in rows)
    coded = [number(row, "detail") if row["detail"] is not None else 16.0 for row in held]
    numbers = number(rows[0], "num_mem") * number(rows[0], "mem_dim")
    stored = Spread.of(coded or [float(bits)]).mean
    an_exact_bit = stored * numbers / exact_bits.mean if exact_bits.mean else None
    return {
        "bits": bits,
        "texts": len(rows),
        "tokens": tokens.mean,
        "tokens_std": tokens.std,
        "exact_bits": exact_bits.mean,
        "exact_bits_std": exact_bits.std,
        "coded_bits_a_dimension": stored,
        "exact_bits_a_dimension": exact_bits.mean / numbers,
        "stored_bits_an_information_bit": an_exact_bit,
    }
