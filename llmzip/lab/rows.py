"""What is written of one trial: a flat row, the same columns in every study.

Owns the columns and their meaning. Knows nothing of files.
"""

from __future__ import annotations

from llmzip.lab.crammer import Outcome, Trial
from llmzip.lab.decoding import Greedy
from llmzip.lab.folder import Row

# purpose: "growth" an attempt of the search for the longest exact length, "capacity" the longest
# exact one (0 tokens: none), "bin" a run at a fixed length; other studies have their own.
COLUMNS = (
    "purpose", "model", "source", "text", "name", "num_mem", "mem_dim", "bits", "num_tokens",
    "seed", "steps", "best_step", "seconds",
    # Teacher-forced, with the vectors and without:
    "tokens_right", "accuracy", "plain_right", "token_gain", "plain_bits", "after_bits",
    "info_gain_bits", "min_margin",
    # As the decompressor decodes: exact means every token.
    "greedy_right", "first_wrong", "greedy_min_margin", "exact",
    "setting", "detail",  # of studies that have more to say
)  # fmt: skip


def row_head(purpose: str, model: str, trial: Trial, mem_dim: int, *, bits: int = 16) -> Row:
    """What a row is of."""
    return {
        "purpose": purpose,
        "model": model,
        "source": trial.sample.source,
        "text": trial.sample.index,
        "name": trial.sample.name,
        "num_mem": trial.num_mem,
        "mem_dim": mem_dim,
        "bits": bits,
        "num_tokens": trial.num_tokens,
        "seed": trial.seed,
    }


def trial_row(
    purpose: str,
    model: str,
    outcome: Outcome,
    greedy: Greedy | None,
    *,
    bits: int = 16,
    setting: str = "",
    detail: float | None = None,
) -> Row:
    """Of one run. greedy: None where it was not decoded, since it cannot be exact."""
    plain = outcome.plain
    return {
        **row_head(purpose, model, outcome.trial, outcome.mem.shape[1], bits=bits),
        "steps": outcome.steps,
        "best_step": outcome.best_step,
        "seconds": outcome.seconds,
        "tokens_right": outcome.tokens_right,
        "accuracy": outcome.accuracy,
        "plain_right": int(plain.right.sum()),
        "token_gain": outcome.token_gain,
        "plain_bits": float(plain.bits.sum()),
        "after_bits": float(outcome.bits.sum()),
        "info_gain_bits": outcome.info_gain_bits,
        "min_margin": outcome.min_margin,
        "greedy_right": greedy.num_right if greedy else None,
        "first_wrong": greedy.first_wrong if greedy else None,
        "greedy_min_margin": float(greedy.margins.min()) if greedy else None,
        "exact": greedy is not None and greedy.first_wrong is None,
        "setting": setting,
        "detail": detail,
    }


def greedy_accuracy(row: Row) -> float:
    """Share of the tokens that are right when decoded."""
    return number(row, "greedy_right") / number(row, "num_tokens")


def number(row: Row, name: str) -> float:
    """A column that has a number, as one. An empty one counts as 0."""
    value = row.get(name)
    if isinstance(value, str):
        raise TypeError(f"{name} is {value!r}")
    return float(value or 0)
