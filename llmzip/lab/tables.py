"""Results as tables, for terminals, the summary and the report.

Owns the words over each column and how a figure is rounded. Knows nothing of how it was measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from llmzip.lab.measures import NATS_A_BIT, CapacityFigures, Spread

Table: TypeAlias = dict[str, Any]  # title, columns, rows of texts


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Ready to be shown: every cell is text."""
    return {
        "title": title,
        "columns": list(columns),
        "rows": [[cell_text(cell) for cell in row] for row in rows],
    }


def table_text(content: Table) -> str:
    """For a terminal: columns aligned, numbers to the right."""
    lines = [content["columns"], *content["rows"]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            cell.rjust(width)
            if _is_number(cell) or row is lines[0] and place
            else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in lines
    ]
    return "\n".join([content["title"], *text])


def cell_text(cell: object) -> str:
    """A figure in as many digits as it has meaning."""
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, Spread):
        if cell.count < 2:  # one has no deviation
            return number_text(cell.mean)
        return f"{number_text(cell.mean)} ± {number_text(cell.std)}"
    return number_text(cell) if isinstance(cell, float) else str(cell)


def number_text(value: float) -> str:
    """Three digits at least, none behind the point of a large number."""
    if not math.isfinite(value):
        return "-"
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2
    return f"{value:,.{digits}f}"


def capacity_table(figures: Sequence[CapacityFigures]) -> Table:
    """Table 1: ours exact, the paper's at 99 %."""
    columns = (
        "model", "mem", "texts", "source", "exact tokens", "exact bits", "bits/dim",
        "tokens at 99 %", "token gain", "gain bits", "gain nats",
    )  # fmt: skip
    rows = [
        (
            each.model,
            each.num_mem,
            each.exact_tokens.count,
            each.source + _cut_off(each),
            each.exact_tokens,
            each.exact_bits,
            each.bits_a_dimension,
            _at_99(each),
            each.token_gain_above,
            each.info_gain_bits_above,
            each.info_gain_bits_above.times(NATS_A_BIT),
        )
        for each in figures
    ]
    title = "Capacity (exact: decoded greedily; 99 % and gains: as Kuratov et al. 2025)"
    return table(title, columns, rows)


def scaling_table(figures: Sequence[CapacityFigures]) -> Table:
    """Figure 4 in numbers."""
    singles = {(f.model, f.source): f for f in figures if f.num_mem == 1}
    rows = []
    for each in figures:
        one = singles.get((each.model, each.source))
        share = None
        if one is not None and one.exact_tokens.mean:
            share = each.exact_tokens.mean / (each.num_mem * one.exact_tokens.mean)
        bits = each.exact_bits.mean / each.num_mem
        rows.append((each.model, each.source, each.num_mem, each.exact_tokens, share, bits))
    columns = ("model", "source", "mem", "exact tokens", "share of ideal", "bits a vector")
    return table("Scaling (ideal: one vector's tokens, times the vectors)", columns, rows)


def utilisation_table(bounds: Sequence[dict[str, Any]]) -> Table:
    """Figure 5 in numbers. bounds: of `lab.runs.utilisation`."""
    columns = ("model", "source", "mem", "bound tokens", "exact tokens", "share", "token gain",
               "share ")  # fmt: skip
    rows = [
        (
            each["model"], each["source"], each["num_mem"], each["bound_tokens"],
            each["exact_tokens"], each["exact_tokens"] / each["bound_tokens"],
            each["token_gain"], each["token_gain"] / each["bound_tokens"],
        )
        for each in bounds
    ]  # fmt: skip
    return table(
        "Utilisation (bound: dimensions x 16 bits / log2 of the vocabulary)", columns, rows
    )


def entropy_table(fits: dict[str, dict[str, Any]]) -> Table:
    """Figure 3 in numbers. fits: of `lab.entropy`."""
    columns = ("source", "chunks", "threshold bits", "slope beyond", "intercept bits")
    rows = []
    for source, fit in fits.items():
        line = fit.get("bias") or {}
        threshold = fit["threshold_bits"]
        rows.append((source, fit["chunks"], threshold, line.get("slope"), line.get("intercept")))
    return table("Cross-entropy that can be held, and what is left beyond it", columns, rows)


def rate_table(curve: Sequence[dict[str, Any]]) -> Table:
    """What fewer bits hold; `--bits` is where the grid begins, that of a text may end finer or
    coarser. curve: of `lab.rate`."""
    columns = ("--bits", "texts", "exact tokens", "exact bits", "stored bits/dim", "exact bits/dim",
               "stored bits per information bit")  # fmt: skip
    rows = [
        (
            each["bits"], each["texts"],
            Spread.in_line(each, "tokens"), Spread.in_line(each, "exact_bits"),
            each["coded_bits_a_dimension"], each["exact_bits_a_dimension"],
            each["stored_bits_an_information_bit"],
        )
        for each in curve
    ]  # fmt: skip
    return table("Rate", columns, rows)


def _cut_off(figures: CapacityFigures) -> str:
    """Texts that ended too soon make the mean a lower bound."""
    return f" ({figures.num_cut_off} cut off)" if figures.num_cut_off else ""


def _at_99(figures: CapacityFigures) -> str:
    if figures.capacity_tokens_at_99 is None:
        return "-"
    return f"{'≥ ' if figures.is_at_99_cut_off else ''}{figures.capacity_tokens_at_99}"


def _is_number(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:1] in ("-", "≥")
