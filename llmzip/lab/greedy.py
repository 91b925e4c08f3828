"""What teacher-forced accuracy is worth when a text is decoded, and what a margin buys.

Owns the study `greedy`, the brittleness table of Progressive Cramming (Tarasov et al. 2026): runs
stopped just short of all tokens, at all of them, and at all of them with a margin, each decoded
token by token. Knows nothing of pictures.

Rows: purpose "greedy", setting "99 %" or "margin 0.5", detail the margin asked for. A run is
stopped by the optimiser's own numerics; all figures of a row are in the decoder's, fp32. Where the
optimiser computes in another dtype, a second row of the same vectors, setting "margin 0.5 in
bfloat16", is teacher-forced and decoded in that one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmzip.lab.crammer import Crammer, Outcome, Trial
from llmzip.lab.decoding import decode_greedily
from llmzip.lab.folder import Row
from llmzip.lab.measures import mean_of
from llmzip.lab.recipes import Recipe
from llmzip.lab.rows import greedy_accuracy, number, trial_row
from llmzip.lab.study import Study
from llmzip.lab.texts import Sample, check_length
from llmzip.progress import check_cancelled

MARGINS = (0.0, 0.05, 0.5, 1.0, 2.0)  # logits
_NEARLY_ALL = 0.99


@dataclass(frozen=True, kw_only=True)
class Setting:
    """When a run is over."""

    name: str
    recipe: Recipe


def stop_settings(
    recipe: Recipe, num_tokens: int, margins: Sequence[float] = MARGINS
) -> list[Setting]:
    """Just short of all tokens, then all with each of the margins.

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
    for margin in sorted(set(margins)):
        name = f"margin {margin:g}"
        settings.append(Setting(name=name, recipe=replace(recipe, min_margin=margin)))
    return settings


def measure_greedy(
    study: Study,
    samples: Sequence[Sample],
    *,
    num_tokens: int,
    margins: Sequence[float] = MARGINS,
    num_mem: int = 1,
) -> None:
    """Leave rows of purpose greedy for samples of one source, those that an earlier run has left
    excepted. num_tokens: of each text; less than its vectors can hold, else no run ends early.

    Raises InputError where a text is shorter.
    """
    check_length(samples, num_tokens)
    settings = stop_settings(study.recipe, num_tokens, margins)
    left = [(setting, _left(study, samples, setting, num_mem)) for setting in settings]
    total = len(settings) * len(samples)
    done = total - sum(len(texts) for _, texts in left)
    for setting, texts in left:
        what = f"{setting.name}, {num_tokens} tokens"
        for group in study.groups(texts, what, done=done, total=total):
            trials = [
                Trial(sample=sample, num_tokens=num_tokens, num_mem=num_mem, seed=study.seed)
                for sample in group
            ]
            outcomes = list(study.cram(trials, recipe=setting.recipe))
            study.folder.add(_rows(study, setting, outcomes))
        done += len(texts)
    study.tell("greedy decoding", total, total)


def _left(study: Study, samples: Sequence[Sample], setting: Setting, num_mem: int) -> list[Sample]:
    """Texts that have no row of this setting."""
    done = {
        (row["source"], row["text"])
        for row in study.own_rows
        if row["purpose"] == "greedy"
        and row["setting"] == setting.name
        and row["num_mem"] == num_mem
    }
    return [sample for sample in samples if (sample.source, sample.index) not in done]


def _rows(study: Study, setting: Setting, outcomes: Sequence[Outcome]) -> list[Row]:
    """Of every outcome, decoded whether all of it is right or not. Those in the decoder's numerics
    come last: a text that has one has them all."""
    loaded, margin = study.loaded, setting.recipe.min_margin
    rows: list[Row] = []
    if loaded.lm is not loaded.decode_lm:
        check_cancelled(study.cancel)
        crammer = Crammer(loaded.lm, loaded.lm, setting.recipe, start_id=loaded.start_id)
        other = [
            crammer.outcome(
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
    return rows + [
        trial_row("greedy", study.model, outcome, greedy, setting=setting.name, detail=margin)
        for outcome, greedy in zip(outcomes, study.decode(outcomes), strict=True)
    ]


def greedy_table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A line for each model, source, number of vectors and setting, in the order they first
    appear. Shares are of texts, except the two accuracies, which are means of shares of tokens."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        if row["purpose"] == "greedy":
            key = row["model"], row["source"], row["num_mem"], row["setting"]
            groups.setdefault(key, []).append(row)
    return [_line(group) for group in groups.values()]


def _line(rows: Sequence[Row]) -> dict[str, Any]:
    first = rows[0]
    wrong = [None if row["first_wrong"] is None else number(row, "first_wrong") for row in rows]
    return {
        "model": first["model"],
        "source": first["source"],
        "num_mem": first["num_mem"],
        "num_tokens": first["num_tokens"],
        "setting": first["setting"],
        "margin": number(first, "detail"),
        "texts": len(rows),
        "accuracy": mean_of(number(row, "accuracy") for row in rows),
        "greedy_accuracy": mean_of(map(greedy_accuracy, rows)),
        "exact_share": mean_of(place is None for place in wrong),
        "first_wrong_share": mean_of(place == 0 for place in wrong),
        # Wrong from the first or the second token on.
        "wrong_by_second_share": mean_of(place in (0, 1) for place in wrong),
        "steps": mean_of(number(row, "steps") for row in rows),
        "min_margin": mean_of(number(row, "min_margin") for row in rows),
    }
