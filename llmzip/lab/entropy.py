"""Cross-entropy before and after cramming: what can be held, and what is left of the rest.

Owns the study `entropy`, Figure 3 of Kuratov et al. 2025: texts of many lengths, some held, some
beyond what their vectors can. Knows nothing of pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from llmzip.lab.crammer import Trial
from llmzip.lab.folder import Row
from llmzip.lab.measures import Threshold, fit_threshold
from llmzip.lab.rows import number
from llmzip.lab.study import Study
from llmzip.lab.texts import Sample

# Of the length that one vector is expected to hold.
SHARES = (0.4, 0.6, 0.8, 1.0, 1.25, 1.6, 2.0, 2.6)


def chunk_lengths(expected_tokens: int, most_tokens: int) -> list[int]:
    """Lengths around what is expected to fit, shortest first."""
    lengths = {max(2, round(share * expected_tokens)) for share in SHARES}
    return sorted(length for length in lengths if length <= most_tokens)


def measure_entropy(
    study: Study, samples: Sequence[Sample], *, lengths: Sequence[int], num_mem: int = 1
) -> None:
    """Leave a row of purpose chunk for every text at every length."""
    known = {
        (row["source"], row["text"], row["num_tokens"])
        for row in study.own_rows
        if row["purpose"] == "chunk" and row["num_mem"] == num_mem
    }
    left = {n: [s for s in samples if (s.source, s.index, n) not in known] for n in lengths}
    total, recipe = len(samples) * len(lengths), study.recipe.for_entropy()
    done = total - sum(map(len, left.values()))
    for length, texts in left.items():
        for group in study.groups(texts, f"chunks of {length} tokens", done=done, total=total):
            trials = [
                Trial(sample=s, num_tokens=length, num_mem=num_mem, seed=study.seed) for s in group
            ]
            study.folder.add(study.rows_of("chunk", list(study.cram(trials, recipe=recipe))))
        done += len(texts)
    study.tell("chunks", total, total)


def entropy_points(rows: Sequence[Row]) -> dict[str, list[tuple[float, float]]]:
    """Bits before and after, by source."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["purpose"] == "chunk":
            pair = number(row, "plain_bits"), number(row, "after_bits")
            points.setdefault(str(row["source"]), []).append(pair)
    return points


def entropy_summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Threshold and bias line, of each source and of all."""
    by_source = entropy_points(rows)
    groups = {**by_source, "all": _all(by_source)} if len(by_source) > 1 else by_source
    return {source: _fit_line(pairs) for source, pairs in groups.items()}


def threshold_of(rows: Sequence[Row]) -> Threshold | None:
    """Of all chunks; None: there are too few that are held, or that are not."""
    fit = _fit(_all(entropy_points(rows)))
    return fit if isinstance(fit, Threshold) else None


def _all(by_source: dict[str, list[tuple[float, float]]]) -> list[tuple[float, float]]:
    return [pair for pairs in by_source.values() for pair in pairs]


def _fit(pairs: Sequence[tuple[float, float]]) -> Threshold | str:
    """The threshold, or why there is none."""
    try:
        return fit_threshold(pairs)
    except ValueError as error:
        return str(error)


def _fit_line(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    fit = _fit(pairs)
    found = {"threshold_bits": None, "why": fit} if isinstance(fit, str) else asdict(fit)
    return {"chunks": len(pairs), **found}
