"""One trial: a text to be crammed, what came of it, and the row that is written of it.

Owns the columns of a row, which are the same in every study. Does not know how vectors are found.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from llmzip.lab.folder import Row
from llmzip.lab.texts import Sample

# purpose: "growth" is an attempt of the search for the longest exact length, "capacity" the longest
# exact length (0 tokens: none was found), "bin" a run at a fixed length. Other studies have
# purposes of their own.
COLUMNS = (
    "purpose", "model", "source", "text", "name", "num_mem", "mem_dim", "bits", "num_tokens",
    "seed", "steps", "best_step", "seconds",
    # Teacher-forced, with the vectors and without:
    "tokens_right", "accuracy", "plain_right", "token_gain", "plain_bits", "after_bits",
    "info_gain_bits", "min_margin",
    # As the decompressor decodes: exact means every token.
    "greedy_right", "first_wrong", "greedy_min_margin", "exact",
    "setting", "detail",  # what else a study records
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The first tokens of a text, to be crammed into a number of vectors."""

    sample: Sample
    num_tokens: int
    num_mem: int = 1
    seed: int = 0
    warm_mem: Tensor | None = None  # [K, D] to begin with; None: random vectors

    @property
    def ids(self) -> tuple[int, ...]:
        return self.sample.ids[: self.num_tokens]


@dataclass(frozen=True, kw_only=True)
class Plain:
    """What the model predicts of a text without vectors."""

    bits: Tensor  # [L] surprisal of each token
    right: Tensor  # [L] bool, whether it is the most likely one


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The best vectors of a run, and what the model predicts with them, teacher-forced."""

    trial: Trial
    mem: Tensor  # [K, D] fp32 holding bf16 values, on the CPU
    margins: Tensor  # [L] logits, on the CPU
    bits: Tensor  # [L] surprisal of each token given the vectors, on the CPU
    plain: Plain
    steps: int  # of the run
    best_step: int  # the step at which these vectors were measured
    seconds: float  # the run's share of the time of its batches

    @property
    def tokens_right(self) -> int:
        return int((self.margins > 0).sum())

    @property
    def accuracy(self) -> float:
        return self.tokens_right / self.trial.num_tokens

    @property
    def min_margin(self) -> float:
        return float(self.margins.min())

    @property
    def token_gain(self) -> int:
        """Tokens right with the vectors less tokens right without them: the paper's measure."""
        return self.tokens_right - int(self.plain.right.sum())

    @property
    def info_gain_bits(self) -> float:
        """Cross-entropy of the text without the vectors less that with them."""
        return float(self.plain.bits.sum() - self.bits.sum())


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """What the decompressor's own code decodes from vectors: token by token, on its own choices."""

    num_right: int  # tokens that are those of the text, position by position
    first_wrong: int | None  # position; None: all are right
    margins: Tensor  # [L] of its choices


def row_head(purpose: str, model: str, trial: Trial, mem_dim: int, *, bits: int = 16) -> Row:
    """The columns that say what a row is of."""
    sample = trial.sample
    return {
        "purpose": purpose, "model": model, "source": sample.source, "text": sample.index,
        "name": sample.name, "num_mem": trial.num_mem, "mem_dim": mem_dim, "bits": bits,
        "num_tokens": trial.num_tokens, "seed": trial.seed,
    }  # fmt: skip


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
    """The row of one run. greedy: None where it was not decoded, since it cannot be exact."""
    same = ("steps", "best_step", "seconds", "tokens_right", "accuracy", "token_gain",
            "info_gain_bits", "min_margin")  # fmt: skip
    return {
        **row_head(purpose, model, outcome.trial, outcome.mem.shape[1], bits=bits),
        **{name: getattr(outcome, name) for name in same},
        "plain_right": int(outcome.plain.right.sum()),
        "plain_bits": float(outcome.plain.bits.sum()),
        "after_bits": float(outcome.bits.sum()),
        "greedy_right": greedy.num_right if greedy else None,
        "first_wrong": greedy.first_wrong if greedy else None,
        "greedy_min_margin": float(greedy.margins.min()) if greedy else None,
        "exact": greedy is not None and greedy.first_wrong is None,
        "setting": setting,
        "detail": detail,
    }
