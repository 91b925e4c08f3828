"""A model's stored tensors as what a forward pass computes with: in its dtype, on its device.

Owns their conversion, the layout of matrices, and how an adapter comes into them. Knows no
architecture: names come from the caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from llmzip.lm.adapter import Adapter
from llmzip.lm.products import Matrix


class Weights:
    """The tensors of a model, by their Hugging Face names without `.weight`."""

    def __init__(
        self,
        stored: Mapping[str, Tensor],
        *,
        dtype: torch.dtype,
        device: torch.device,
        decode_only: bool = False,
        adapter: Adapter | None = None,
    ) -> None:
        """stored: in any dtype. decode_only: matrices are packed, see `Matrix`."""
        self.dtype, self.device, self.decode_only = dtype, device, decode_only
        self._stored, self._adapter = stored, adapter
        # To be packed, all matrices are converted in this one buffer. Allocating memory for each of
        # them would be slower.
        self._scratch = torch.empty(0, dtype=dtype, device=device)

    def vector(self, name: str) -> Tensor:
        """A tensor that is no matrix."""
        return _copy_of(self._stored[f"{name}.weight"], self.device, self.dtype)

    def table(self, name: str) -> Tensor | None:
        """The embedding or the head, [V, D], None where the model has none of that name. For
        decoding, they keep their stored dtype: one will be packed, the other is only looked up."""
        found = self._stored.get(f"{name}.weight")
        if found is None:
            return None
        return _copy_of(found, self.device, found.dtype if self.decode_only else self.dtype)

    def matrix(self, layer: int, part: str, names: Sequence[str]) -> Matrix:
        """The matrices of one part of a layer, joined by rows. part: its name in adapters."""
        parts = [self._stored[f"model.layers.{layer}.{name}.weight"] for name in names]
        num_rows, num_columns = sum(map(len, parts)), parts[0].shape[1]
        if self.decode_only:
            whole = self._scratch_of(num_rows * num_columns).view(num_rows, num_columns)
            for rows, each in zip(whole.split([len(each) for each in parts]), parts, strict=True):
                rows.copy_(each)
        elif len(parts) == 1:
            whole = _copy_of(parts[0], self.device, self.dtype)
        else:  # converting after joining moves half as many bytes as before it
            whole = torch.cat(parts).to(device=self.device, dtype=self.dtype)
        if self._adapter is not None:
            change = self._adapter.change(layer, part, (num_rows, num_columns))
            exact = whole.float()  # of an fp32 matrix, itself
            change.to(self.device).add_to(exact)
            # Most changes are smaller than half a step of bf16, but those that are rounded up make
            # good for those that are lost: the surprisal of text is 0.1 % from that in fp32.
            whole = exact.to(self.dtype)
        return Matrix(whole, packed=self.decode_only)

    def _scratch_of(self, size: int) -> Tensor:
        if self._scratch.numel() < size:
            self._scratch = torch.empty(size, dtype=self.dtype, device=self.device)
        return self._scratch[:size]


def _copy_of(weight: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Always a copy, because a view of the memory-mapped file would keep the whole file mapped."""
    return weight.to(device=device, dtype=dtype, copy=True)
