"""What teacher-forced accuracy is worth when a text is decoded, and what a margin gains.

Owns the study `greedy`, the brittleness table of Progressive Cramming (Tarasov et al. 2026): runs
that end when nearly all tokens are right, when all are, and when all have a margin, each decoded
token by token. Knows nothing of pictures.

Rows: purpose "greedy", setting "99 %" or "margin 0.5", detail the margin asked for. A run ends by
the optimiser's own numerics; all figures of a row are in the decoder's, fp32. Where the optimiser
computes in another dtype, a second row of the same vectors, setting "margin 0.5 in bfloat16", is
teacher-forced and decoded in that one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from llmzip.lab.batch import decode_greedily
from llmzip.lab.folder import Row
from llmzip.lab.measures import greedy_accuracy, grouped, mean_of, number, spread_of
from llmzip.lab.recipes import Recipe
from llmzip.lab.runner import TrialRunner
from llmzip.lab.study import Part, Study
from llmzip.lab.texts import Sample, check_length
from llmzip.lab.trials import Outcome, trial_row
from llmzip.progress import check_cancelled

MARGINS = (0.0, 0.05, 0.5, 1.0, 2.0)  # logits
_NEARLY_ALL = 0.99
_KEYS = "model", "source", "num_mem"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """When runs end."""

    name: str
    recipe: Recipe


def stop_settings(
    recipe: Recipe, num_tokens: int, margins: Sequence[float] = MARGINS
) -> list[Setting]:
    """First nearly all tokens, then all with each of the margins.

    99 % of fewer than 100 tokens are all of them. There all but one are asked for, and the name
    says what share that is; one token has no such setting. No slack is added to the margins.
    """
    recipe = replace(recipe, until=1.0, slack=False)
    settings = []
    if num_tokens > 1:
        enough, share = math.ceil(_NEARLY_ALL * num_tokens), _NEARLY_ALL
        if enough == num_tokens:
            enough, share = num_tokens - 1, (num_tokens - 1) / num_tokens
        # Half a token less, so that no rounding asks for one more.
        early = replace(recipe, until=(enough - 0.5) / num_tokens, min_margin=0.0)
        settings.append(Setting(name=f"{100 * share:.3g} %", recipe=early))
    return settings + [
        Setting(name=f"margin {margin:g}", recipe=replace(recipe, min_margin=margin))
        for margin in sorted(set(margins))
    ]


def measure_greedy(
    study: Study,
    samples: Sequence[Sample],
    *,
    num_tokens: int,
    margins: Sequence[float] = MARGINS,
    num_mem: int = 1,
) -> None:
    """Add rows of purpose greedy for samples of one source, except for those that an earlier run
    has added. num_tokens: of each text; fewer than its vectors can hold, or runs end by their last
    step alone. Raises InputError where a text is shorter.
    """
    check_length(samples, num_tokens)

    def run(setting: Setting, group: Sequence[Sample]) -> list[Row]:
        trials = study.trials(group, num_tokens, num_mem)
        return _rows(study, setting, list(study.cram(trials, recipe=setting.recipe)))

    parts: list[Part] = []
    for setting in stop_settings(study.recipe, num_tokens, margins):
        left = study.without_rows(samples, "greedy", setting=setting.name, num_mem=num_mem)
        parts.append((f"{setting.name}, {num_tokens} tokens", left, partial(run, setting)))
    study.measure(parts, total=len(parts) * len(samples), last="greedy decoding")


def _rows(study: Study, setting: Setting, outcomes: Sequence[Outcome]) -> list[Row]:
    """Rows of all outcomes, decoded whether all tokens are right or not. Those in the decoder's
    numerics come last: a text that has one of them has all of its rows."""
    loaded, margin = study.loaded, setting.recipe.min_margin
    rows: list[Row] = []
    if loaded.lm is not loaded.decode_lm:
        check_cancelled(study.cancel)
        runner = TrialRunner(loaded.lm, loaded.lm, setting.recipe, start_id=loaded.start_id)
        other = [
            runner.outcome(
                each.trial, each.mem,
                steps=each.steps, best_step=each.best_step, seconds=each.seconds,
            )
            for each in outcomes
        ]  # fmt: skip
        decoded = decode_greedily(loaded.lm, other, start_id=loaded.start_id)
        name = f"{setting.name} in {str(loaded.lm.dtype).removeprefix('torch.')}"
        rows += [
            trial_row("greedy", study.model, outcome, greedy, setting=name, detail=margin)
            for outcome, greedy in zip(other, decoded, strict=True)
        ]
    margins = [margin] * len(outcomes)
    return rows + study.decoded_rows("greedy", outcomes, setting=setting.name, details=margins)


def greedy_summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A line for each model, source, number of vectors and setting, in the order they first
    appear. Shares are of texts, except the two accuracies, which are means of shares of tokens."""
    ours = [row for row in rows if row["purpose"] == "greedy"]
    return [_line(group) for group in grouped(ours, *_KEYS, "setting").values()]


def _line(rows: Sequence[Row]) -> dict[str, Any]:
    first_wrong = [row["first_wrong"] for row in rows]
    return {
        **{name: rows[0][name] for name in (*_KEYS, "num_tokens", "setting")},
        "margin": number(rows[0], "detail"),
        "texts": len(rows),
        "accuracy": spread_of(rows, "accuracy").mean,
        "greedy_accuracy": mean_of(map(greedy_accuracy, rows)),
        "exact_share": mean_of(position is None for position in first_wrong),
        "first_wrong_share": mean_of(position == 0 for position in first_wrong),
        # Wrong from the first or the second token on.
        "wrong_by_second_share": mean_of(position in (0, 1) for position in first_wrong),
        "steps": spread_of(rows, "steps").mean,
        "min_margin": spread_of(rows, "min_margin").mean,
    }
