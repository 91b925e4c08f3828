"""The order of the sequence that the model reads: [start token | context | mem | chunk].

Owns how the inputs of a chunk are arranged and which row predicts which token: the row of the last
mem vector predicts chunk token 0, the row of chunk token j predicts chunk token j + 1, and the last
chunk token is never read. Knows nothing of how rows are computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def segment_start(start_id: int | None) -> list[int]:
    """The ids before the first token of every segment."""
    return [] if start_id is None else [start_id]


def pad_ids(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids of several rows, padded on the right -> ids [B, L] int64, live [B, L] bool."""
    longest = max((len(row) for row in rows), default=0)
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    live = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.int64)
        live[index, : len(row)] = True
    return ids.to(device), live.to(device)


def pad_rows(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Embeddings of several rows, padded on the right. rows: [T, D] each -> embeds [B, T', D], live
    [B, T'] bool."""
    longest = max(len(row) for row in rows)
    embeds = rows[0].new_zeros(len(rows), longest, rows[0].shape[1])
    live = torch.zeros(len(rows), longest, dtype=torch.bool, device=embeds.device)
    for index, row in enumerate(rows):
        embeds[index, : len(row)] = row
        live[index, : len(row)] = True
    return embeds, live


def mem_and_chunk(mem: Tensor, chunk_embeds: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
    """The input after the context when the whole chunk is known (teacher forcing). mem: [B, K, D],
    chunk_embeds: [B, L, D], live: [B, L] -> embeds [B, K + L - 1, D], live [B, K + L - 1]."""
    num_rows, num_mem, _ = mem.shape
    embeds = torch.cat([mem, chunk_embeds[:, :-1]], dim=1)  # [B, K + L - 1, D]
    always = torch.ones(num_rows, num_mem, dtype=torch.bool, device=live.device)
    return embeds, torch.cat([always, live[:, 1:]], dim=1)


def tokens_and_mem(token_embeds: Tensor, live: Tensor, mem: Tensor) -> tuple[Tensor, Tensor]:
    """The decoder's input before a chunk: tokens that are not yet in the context, then mem.

    token_embeds: [B, T, D], live: [B, T], mem: [B, K, D] -> embeds [B, T + K, D], live [B, T + K].
    """
    always = torch.ones(mem.shape[:2], dtype=torch.bool, device=live.device)
    return torch.cat([token_embeds, mem], dim=1), torch.cat([live, always], dim=1)


def predicting_rows(hidden: Tensor, num_mem: int) -> Tensor:
    """The rows that predict the chunk, from the hidden states of `mem_and_chunk`'s inputs. hidden:
    [B, K + L - 1, D] -> [B, L, D], where row j predicts chunk token j."""
    return hidden[:, num_mem - 1 :]
