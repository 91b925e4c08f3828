"""Paths of the optimiser: the points that are kept of them, their principal components, and the
file of those that are drawn.

Owns `paths.json` in a study's folder. Knows nothing of what a study asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmzip.codecs.cram.slots import as_stored
from llmzip.errors import InputError
from llmzip.lab.folder import read_json, write_json
from llmzip.lab.measures import evenly
from llmzip.lab.runner import Run
from llmzip.lab.trials import Outcome

PATHS = "paths.json"
_SHARE_OF_VARIANCE = 0.99
_MAX_POINTS = 256  # of a path that are kept
_DRAWN_POINTS = 60  # of a path, in the file


@dataclass(kw_only=True)
class OptimiserPath:
    """The path of one run's vectors, as they would be stored, from the start to the best ones."""

    steps: list[int] = field(default_factory=list)  # at which points are kept
    points: list[Tensor] = field(default_factory=list)  # [P] each, on the CPU
    length: float = 0.0  # over every step, up to the best vectors
    _whole_length: float = 0.0
    _every: int = 1  # one step in so many is kept
    _last: Tensor | None = None

    def add(self, run: Run) -> None:
        """Add the present vectors of a run."""
        point = as_stored(run.mem).flatten().cpu()
        if self._last is not None:
            self._whole_length += float((point - self._last).norm())
        self._last = point
        if run.best_step == run.step:
            self.length = self._whole_length
        if run.step % self._every == 0:
            self.steps.append(run.step)
            self.points.append(point)
        if len(self.points) > _MAX_POINTS:
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
    """Principal components that together have a share of the points' variance. points: [N, P]."""
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


def write_paths(
    folder: Path, model: str, outcomes: Sequence[Outcome], paths: Sequence[OptimiserPath]
) -> None:
    """Write the paths of one text's seeds to a study's folder, in place of any that it has of that
    text; all seeds on the same two components. Raises InputError."""
    sample = outcomes[0].trial.sample
    flat, shares = on_two_components(torch.stack([p for path in paths for p in path.points]))
    parts = flat.split([len(path.points) for path in paths])
    runs = []
    for outcome, path, part in zip(outcomes, paths, parts, strict=True):
        drawn = evenly(range(len(path.steps)), _DRAWN_POINTS)
        runs.append({
            "seed": outcome.trial.seed,
            "steps": [path.steps[place] for place in drawn],
            "points": part[drawn].tolist(),
        })  # fmt: skip
    owner = {"model": model, "source": sample.source, "text": sample.index}
    entry = {**owner, "name": sample.name, "shown_variance": list(shares), "runs": runs}
    others = [each for each in read_paths(folder) if {**each, **owner} != each]
    write_json(folder / PATHS, {"paths": [*others, entry]})


def read_paths(folder: Path) -> list[dict[str, Any]]:
    """For each text in a study's folder its model, source, text, name, shown_variance (shares of
    the two components), and runs, each of seed, steps and points. Raises InputError."""
    found = read_json(folder / PATHS) or {"paths": []}
    if not isinstance(found.get("paths"), list):
        raise InputError(f"cannot read {folder / PATHS}: it is not what the lab writes")
    return list(found["paths"])
