"""A text coming into focus: which tokens are right at which step.

Owns what is recorded of one run, for the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmzip.lab.crammer import Run, Trial
from llmzip.lab.study import Study

_MOST_STEPS = 40  # shown, spread evenly


def token_view(study: Study, trial: Trial, *, title: str) -> dict[str, Any]:
    """Cram a text once more and note every token's surprisal, margin, and at which steps it was
    right."""
    seen: dict[int, list[bool]] = {}

    def note(runs: Sequence[Run]) -> None:
        (run,) = runs
        assert run.margins is not None
        seen[run.step] = (run.margins > 0).tolist()

    (outcome,) = study.cram([trial], on_step=note)
    steps = sorted(seen)
    if len(steps) > _MOST_STEPS:
        last = len(steps) - 1
        steps = [steps[round(i * last / (_MOST_STEPS - 1))] for i in range(_MOST_STEPS)]
    tokens = study.loaded.tokens
    return {
        "title": title,
        "steps": steps,
        "tokens": [
            {
                "text": tokens.bytes_of([token]).decode("utf-8", errors="replace"),
                "bits": float(outcome.plain.bits[place]),
                "margin": float(outcome.margins[place]),
                "right": [seen[step][place] for step in steps],
            }
            for place, token in enumerate(trial.ids)
        ],
    }
