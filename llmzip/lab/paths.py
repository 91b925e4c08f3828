"""Paths of the optimiser: what is kept of them, their principal components, and the file of those
that are drawn.

Owns `paths.json` in a run's folder. Knows nothing of what a study asks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmzip.codecs.cram.optimizer import as_stored
from llmzip.errors import InputError
from llmzip.lab.crammer import Outcome, Run
from llmzip.lab.folder import write_json

PATHS = "paths.json"
_SHARE_OF_VARIANCE = 0.99
_MOST_POINTS = 256  # of a path that are kept
_DRAWN_POINTS = 60  # of a path, in the file


@dataclass(kw_only=True)
class Trail:
    """The way of one run's vectors, as they would be stored, up to its best ones."""

    steps: list[int] = field(default_factory=list)  # those that are kept
    points: list[Tensor] = field(default_factory=list)  # [P] each, on the CPU
    length: float = 0.0  # over every step, up to the best vectors
    _whole_length: float = 0.0
    _every: int = 1  # a step in so many is kept
    _last: Tensor | None = None

    def add(self, run: Run) -> None:
        """Note where a run is."""
        point = as_stored(run.mem).flatten().cpu()
        if self._last is not None:
            self._whole_length += float((point - self._last).norm())
        self._last = point
        if run.best_step == run.step:
            self.length = self._whole_length
        if run.step % self._every == 0:
            self.steps.append(run.step)
            self.points.append(point)
        if len(self.points) > _MOST_POINTS:
            self.steps, self.points = self.steps[::2], self.points[::2]
            self._every *= 2

    def end(self, outcome: Outcome) -> None:
        """Cut off what came after the best vectors, and end with them."""
        num_before = sum(step < outcome.best_step for step in self.steps)
        self.steps = [*self.steps[:num_before], outcome.best_step]
        self.points = [*self.points[:num_before], outcome.mem.flatten()]

    @property
    def move(self) -> Tensor:
        """From the start to the solution: [P]."""
        return self.points[-1] - self.points[0]


def num_components(points: Tensor, share: float = _SHARE_OF_VARIANCE) -> int:
    """Principal components that together hold a share of the points' variance. points: [N, P]."""
    variance = torch.linalg.svdvals(_centred(points)).square()
    total = float(variance.sum())
    return int((variance.cumsum(0) < share * total).sum()) + 1 if total else 0


def on_two_components(points: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """points: [N, P] -> [N, 2], and the share of the variance on each of the two."""
    left, sizes, _ = torch.linalg.svd(_centred(points), full_matrices=False)
    flat = torch.zeros(len(points), 2, dtype=torch.float64)
    flat[:, : len(sizes)] = left[:, :2] * sizes[:2]
    variance = flat.square().sum(dim=0) / max(float(sizes.square().sum()), 1e-300)
    return flat, (float(variance[0]), float(variance[1]))


def _centred(points: Tensor) -> Tensor:
    points = points.double()
    return points - points.mean(dim=0)


def keep_paths(
    path: Path, model: str, outcomes: Sequence[Outcome], trails: Sequence[Trail]
) -> None:
    """Write the paths of one text's seeds to a run's folder, in place of any that it has of that
    text; all seeds on the same two components. Raises InputError."""
    sample = outcomes[0].trial.sample
    flat, shares = on_two_components(torch.stack([p for trail in trails for p in trail.points]))
    parts = flat.split([len(trail.points) for trail in trails])
    runs = []
    for outcome, trail, part in zip(outcomes, trails, parts, strict=True):
        last = len(trail.steps) - 1
        count = min(last, _DRAWN_POINTS - 1)
        drawn = [round(place * last / max(1, count)) for place in range(count + 1)]
        runs.append({
            "seed": outcome.trial.seed,
            "steps": [trail.steps[place] for place in drawn],
            "points": part[drawn].tolist(),
        })  # fmt: skip
    owner = {"model": model, "source": sample.source, "text": sample.index}
    entry = {**owner, "name": sample.name, "shown_variance": list(shares), "runs": runs}
    others = [each for each in read_paths(path) if {**each, **owner} != each]
    write_json(path / PATHS, {"paths": [*others, entry]})


def read_paths(path: Path) -> list[dict[str, Any]]:
    """Of a run's folder: for each text its model, source, text, name, shown_variance (shares of
    the two components), and runs, each of seed, steps and points. Raises InputError."""
    file = path / PATHS
    try:
        return list(json.loads(file.read_text("utf-8"))["paths"])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read {file}: {error}") from error
