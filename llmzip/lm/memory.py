"""How much memory a model will take, and how much there is.

Owns both figures, as far as a system tells. Knows nothing of who asks.
"""

from __future__ import annotations

import json
import struct
from math import prod
from pathlib import Path

import torch

from llmzip.lm.ram import free_ram_bytes
from llmzip.lm.zoo import ModelFiles

# Beside the weights, measured with the default model on a CPU (2.15 GB compressing 12 KB of prose,
# 1.10 GB decompressing it, pages of files left out): torch and the tokens' own, rows under way, the
# decoder's states.
_COMPRESS_EXTRA, _DECOMPRESS_EXTRA = 1_400_000_000, 600_000_000
_HEADER = struct.Struct("<Q")


def needed_bytes(files: ModelFiles, *, optimises: bool) -> int | None:
    """About what a run takes: fp32 weights to decode with, bf16 ones to optimise; None where the
    files do not say."""
    count = _num_parameters(files.path)
    if count is None:
        return None
    if optimises:
        return 6 * count + _COMPRESS_EXTRA
    return 4 * count + _DECOMPRESS_EXTRA


def free_bytes(device: torch.device) -> int | None:
    """What a run may take of a device's memory now. None: the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    return free_ram_bytes()


def _num_parameters(path: Path) -> int | None:
    """Of the tensors in a model's files, by their headers."""
    count = 0
    for file in path.glob("*.safetensors"):
        try:
            with file.open("rb") as opened:
                (size,) = _HEADER.unpack(opened.read(_HEADER.size))
                tensors = json.loads(opened.read(size))
            count += sum(prod(each["shape"]) for n, each in tensors.items() if n != "__metadata__")
        except (OSError, ValueError, struct.error, KeyError, TypeError):
            return None
    return count or None
