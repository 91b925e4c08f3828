"""State of many independent rows as tensors: put together for a batch, taken apart again.

Owns that alone. Knows nothing of what the rows are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import torch

_State = TypeVar("_State", bound="RowState")


@dataclass(kw_only=True)
class RowState:
    """A dataclass whose fields are all tensors [B, ...], a row for each of B."""

    @classmethod
    def stack(cls: type[_State], rows: Sequence[_State]) -> _State:
        """The rows of several as one."""
        return cls(
            **{f.name: torch.cat([getattr(row, f.name) for row in rows]) for f in fields(cls)}
        )

    def clone(self: _State) -> _State:
        """All rows, in memory of their own."""
        return type(self)(**{f.name: getattr(self, f.name).clone() for f in fields(self)})

    def row(self: _State, index: int) -> _State:
        """One row of several."""
        own = {f.name: getattr(self, f.name)[index : index + 1] for f in fields(self)}
        return type(self)(**own)
