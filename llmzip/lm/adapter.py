"""Adapters: small changes of a model's matrices, which ship with this package.

Owns what such a file holds and how it changes a matrix. The change is of low rank (LoRA, Hu et al.
2021): b [Out, r] times a [r, In], added to the matrices of one part of a layer, joined by rows.
`scripts/train_adapter.py` makes the files. Knows no names of models.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from llmzip.lm.digest import ADAPTER_HINT, unusable


class Change(NamedTuple):
    """What is added to a matrix [Out, In]: b times a."""

    b: Tensor  # [Out, r]
    a: Tensor  # [r, In]

    def add_to(self, weight: Tensor) -> None:
        """Change an fp32 matrix in place, to the same bits on every machine."""
        for column, row in zip(self.b.float().unbind(1), self.a.float().unbind(0), strict=True):
            # Products of two bf16 numbers are exact in fp32, and the order of sums is fixed.
            weight += torch.outer(column, row)

    def to(self, device: torch.device) -> Change:
        return Change(self.b.to(device), self.a.to(device))


class Adapter:
    """The changes of one file: tensors `LAYER.PART.a` and `LAYER.PART.b` in bf16."""

    def __init__(self, path: Path) -> None:
        """Raises ModelUnavailable."""
        self._path = path
        try:
            self._factors = load_file(path)
        except (OSError, SafetensorError) as cause:
            raise unusable(path, str(cause), hint=ADAPTER_HINT) from cause

    def change(self, layer: int, part: str, shape: tuple[int, int]) -> Change:
        """The change of one part of a layer. shape: of its matrix. Raises ModelUnavailable where
        the file has none, or one of another shape."""
        b, a = (self._factors.get(f"{layer}.{part}.{which}") for which in "ba")
        if a is None or b is None or (b.shape[0], a.shape[1]) != shape or b.shape[1] != a.shape[0]:
            reason = f"it has no change of {part} in layer {layer} of this model"
            raise unusable(self._path, reason, hint=ADAPTER_HINT)
        return Change(b, a)
