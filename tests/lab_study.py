"""Studies of the lab on tiny models, for its tests."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import torch

from llmzip.config import ComputeSettings
from llmzip.lab.folder import Folder, Row, read_rows
from llmzip.lab.recipes import Recipe
from llmzip.lab.study import Study
from llmzip.lab.texts import Sample
from llmzip.lab.trials import COLUMNS, Outcome
from llmzip.lm.devices import Numerics
from llmzip.lm.loaded import LoadedModel, load_for_compression
from llmzip.lm.tokens import Tokens
from llmzip.lm.zoo import resolve
from tests.tiny_models import TEXT

BF16_ARCH = "olmo"  # whose optimiser computes in another dtype than its decoder


def tiny_loaded_model(tiny_model: Callable[..., Path], arch: str) -> LoadedModel:
    files = resolve(str(tiny_model(arch, bos=arch == "llama")))
    numerics = Numerics("cpu", "torch.bfloat16" if arch == BF16_ARCH else "torch.float32")
    return load_for_compression(
        files, Tokens.load(files.path), ComputeSettings(device="cpu"), numerics=numerics
    )


def texts_of(loaded: LoadedModel, *, count: int, num_tokens: int) -> list[Sample]:
    ids = loaded.tokens.ids_of(TEXT.encode())
    return [
        Sample(source="natural", index=i, name=f"text {i}", ids=tuple(ids[40 * i :][:num_tokens]))
        for i in range(count)
    ]


@contextmanager
def opened_study(
    loaded: LoadedModel,
    path: Path,
    recipe: Recipe,
    *,
    cancel_at: Callable[[str, int], bool] = lambda what, done: False,
) -> Iterator[Study]:
    """cancel_at: whether the study is stopped at this progress."""
    cancel = threading.Event()

    def on_progress(what: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        if cancel_at(what, done):
            cancel.set()

    folder = Folder.open(path, "test", {}, columns=COLUMNS)
    with closing(folder):
        yield Study(
            loaded=loaded, folder=folder, recipe=recipe, seed=0, on_progress=on_progress,
            cancel=cancel,
        )  # fmt: skip


def timeless_rows(path: Path, *, but: Callable[[Row], bool] = lambda row: False) -> list[Row]:
    """Rows as they are on disk, without what depends on the clock. but: rows whose detail does."""
    rows = read_rows(path)
    return [{**row, "seconds": None, "detail": None if but(row) else row["detail"]} for row in rows]


@contextmanager
def seen_outcomes(study: Study) -> Iterator[list[Outcome]]:
    """The outcomes of everything that the study crams meanwhile."""
    seen: list[Outcome] = []
    cram = study.cram

    def spy(*args: object, **more: object) -> Iterator[Outcome]:
        for outcome in cram(*args, **more):  # type: ignore[arg-type]
            seen.append(outcome)
            yield outcome

    study.cram = spy  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        study.cram = cram  # type: ignore[method-assign]


def logits_by_hand(loaded: LoadedModel, mem: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
    """Logits of len(ids) + 1 tokens, from one plain pass over [start | mem | ids] in fp32."""
    start = [] if loaded.start_id is None else [loaded.start_id]
    decode_lm = loaded.decode_lm
    parts = [decode_lm.embed(torch.tensor(start, dtype=torch.int64)), mem,
             decode_lm.embed(torch.tensor(list(ids), dtype=torch.int64))]  # fmt: skip
    embeds = torch.cat(parts)[None]
    live = torch.ones(embeds.shape[:2], dtype=torch.bool)
    hidden, _ = decode_lm.extend(decode_lm.empty(1), embeds, live)
    return decode_lm.logits(hidden[0, len(start) + len(mem) - 1 :])


def decoded_by_hand(loaded: LoadedModel, mem: torch.Tensor, num_tokens: int) -> list[int]:
    """Token by token, everything read anew for each."""
    ids: list[int] = []
    for _ in range(num_tokens):
        ids.append(int(logits_by_hand(loaded, mem, ids)[-1].argmax()))
    return ids


def accuracy_by_hand(loaded: LoadedModel, outcome: Outcome) -> float:
    """Teacher-forced."""
    ids = outcome.trial.ids
    chosen = logits_by_hand(loaded, outcome.mem, ids[:-1]).argmax(dim=1)
    return int((chosen == torch.tensor(ids)).sum()) / len(ids)


def is_close(a: float, b: float) -> bool:
    """As a row keeps it: six digits."""
    return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-9)
