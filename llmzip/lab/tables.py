"""The results of studies as tables, for terminals, the summary and the report.

Owns the titles of columns and how figures are rounded. Does not know how they were measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from llmzip.lab.measures import NATS_A_BIT, CapacityFigures, Spread
from llmzip.lab.plan import BookPlan
from llmzip.lab.rate import RateFigures

Table: TypeAlias = dict[str, Any]  # title, columns, and rows, of strings


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table whose every cell is text."""
    return {
        "title": title,
        "columns": list(columns),
        "rows": [[cell_text(cell) for cell in row] for row in rows],
    }


def table_text(content: Table) -> str:
    """A table for a terminal, with aligned columns, and numbers on the right."""
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
    """A value as text: figures without digits that mean nothing."""
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
    """At least three digits, and no decimals of a large number."""
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
    rows = []
    for each in figures:
        # Where some texts were too short, the mean is a lower bound.
        cut_off = f" ({each.num_cut_off} cut off)" if each.num_cut_off else ""
        gain = each.info_gain_bits_above
        rows.append((
            each.model, each.num_mem, each.exact_tokens.count, each.source + cut_off,
            each.exact_tokens, each.exact_bits, each.bits_a_dimension, _at_99(each),
            each.token_gain_above, gain, gain.times(NATS_A_BIT),
        ))  # fmt: skip
    title = "Capacity (exact: decoded greedily; 99 % and gains: as Kuratov et al. 2025)"
    return table(title, columns, rows)


def scaling_table(figures: Sequence[CapacityFigures]) -> Table:
    """Figure 4 in numbers."""
    singles = {(f.model, f.source): f.exact_tokens.mean for f in figures if f.num_mem == 1}
    rows = []
    for each in figures:
        one = singles.get((each.model, each.source))
        share = each.exact_tokens.mean / (each.num_mem * one) if one else None
        bits = each.exact_bits.mean / each.num_mem
        rows.append((each.model, each.source, each.num_mem, each.exact_tokens, share, bits))
    columns = ("model", "source", "mem", "exact tokens", "share of ideal", "bits a vector")
    return table("Scaling (ideal: one vector's tokens, times the vectors)", columns, rows)


def utilisation_table(bounds: Sequence[dict[str, Any]]) -> Table:
    """Figure 5 in numbers. bounds: of `lab.studies.utilisation`."""
    columns = ("model", "source", "mem", "bound tokens", "exact tokens", "share", "token gain",
               "share ")  # fmt: skip
    rows = []
    for each in bounds:
        bound, exact, gain = each["bound_tokens"], each["exact_tokens"], each["token_gain"]
        head = each["model"], each["source"], each["num_mem"]
        rows.append((*head, bound, exact, exact / bound, gain, gain / bound))
    title = "Utilisation (bound: dimensions x 16 bits / log2 of the vocabulary)"
    return table(title, columns, rows)


def entropy_table(fits: Mapping[str, Mapping[str, Any]]) -> Table:
    """Figure 3 in numbers. fits: of `lab.entropy`."""
    columns = ("source", "chunks", "threshold bits", "slope beyond", "intercept bits")
    rows = []
    for source, fit in fits.items():
        line = fit.get("bias") or {}
        threshold = fit["threshold_bits"]
        rows.append((source, fit["chunks"], threshold, line.get("slope"), line.get("intercept")))
    return table("Cross-entropy that can be held, and what is left beyond it", columns, rows)


def rate_table(curve: Sequence[RateFigures]) -> Table:
    """Stored bits against the bits that vectors hold."""
    columns = ("mem", "bits", "texts", "exact tokens", "exact bits", "stored bits/dim",
               "exact bits/dim", "stored bits", "stored bits per information bit")  # fmt: skip
    return table("Rate", columns, (tuple(vars(each).values()) for each in curve))  # all fields


def greedy_table(lines: Sequence[Mapping[str, Any]]) -> Table:
    """Teacher-forced accuracy beside greedy decoding. lines: of `lab.greedy`."""
    columns = ("model", "source", "stopped at", "texts", "right, forced", "right, greedy",
               "texts exact", "token 1 wrong", "by token 2", "steps", "least margin")  # fmt: skip
    shares = ("accuracy", "greedy_accuracy", "exact_share", "first_wrong_share",
              "wrong_by_second_share")  # fmt: skip
    rows = (
        (
            *(each[name] for name in ("model", "source", "setting", "texts")),
            *(f"{100 * each[name]:.1f} %" for name in shares),
            each["steps"],
            each["min_margin"],
        )
        for each in lines
    )
    return table("Teacher-forced against greedy", columns, rows)


def geometry_table(by_model: Mapping[str, Any]) -> Table:
    """Figures of paths and solutions. by_model: of `lab.geometry`."""
    columns = ("model", "texts", "solutions", "exact", "steps", "path over displacement",
               "components for 99 %", "distance over displacement", "cosine")  # fmt: skip
    names = ("steps", "length_over_displacement", "components_99", "distance_over_displacement",
             "cosine")  # fmt: skip
    rows = []
    for model, each in by_model.items():
        head = model, each["texts"], each["solutions"], f"{100 * each['exact_share']:.0f} %"
        rows.append((*head, *(Spread(**each[name]) for name in names)))
    return table("Solutions of one text from several starts", columns, rows)


def plan_table(plan: BookPlan, *, search: bool) -> Table:
    """A forecast. search: whether what a vector holds was measured on the book."""
    held = f"{plan.gain_bits:.0f} ± {plan.gain_bits_error:.0f} bits"
    if not search:
        held = f"about {plan.gain_bits:.0f} bits, by the model's calibration"
    error = f" ± {plan.num_vectors_error:.0f}" if math.isfinite(plan.num_vectors_error) else ""
    rows = [
        ("original", f"{plan.original_bytes:,} bytes, {plan.num_tokens:,} tokens"),
        ("bits a token", f"{plan.bits_a_token:.2f} ± {plan.bits_a_token_error:.2f}"),
        ("one vector holds", f"{held}, {plan.tokens_a_vector:.0f} tokens"),
        ("vectors, each full", f"{plan.num_vectors:,}{error}"),
        ("vectors, as in the trials", f"{plan.num_vectors_at_load:,}; of "
                                      f"{plan.num_trials} trials {plan.num_trials_exact} exact"),
        ("vectors, the paper's count", f"{plan.num_vectors_by_tokens:,} in "
                                       f"{plan.num_segments:,} segments"),
        ("bytes at 16 bits", f"{plan.bytes_at_16_bits:,}"),
        (f"bytes at {plan.bits} bits", f"{plan.bytes_at_bits:,}"),
        ("optimising", _time_text(plan.optimiser_seconds)),
        ("decoding", _time_text(plan.decoding_seconds)),
    ]  # fmt: skip
    return table(f"Plan for {plan.model}", ("", ""), rows)


def _time_text(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _at_99(figures: CapacityFigures) -> str:
    if figures.capacity_tokens_at_99 is None:
        return "-"
    return f"{'≥ ' if figures.is_at_99_cut_off else ''}{figures.capacity_tokens_at_99}"


def _is_number(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:1] in ("-", "≥")
