"""How much memory a model will take, and how much there is.

Owns both figures, as far as a system tells. Knows nothing of who asks. Called by `codec`.
"""

from __future__ import annotations

import json
import struct
from math import prod
from pathlib import Path

import torch

from llmzip.lm.zoo import ModelFiles

# Beside the weights, measured with the default model on a CPU (2.15 GB compressing 12 KB of prose,
# 1.10 GB decompressing it, pages of files left out): torch and the tokens' own, rows under way, the
# decoder's states.
_COMPRESS_EXTRA, _DECOMPRESS_EXTRA = 1_400_000_000, 600_000_000
_HEADER = struct.Struct("<Q")
_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
# Of both kinds of control groups: where the memory's are, the names of limit and use, and what the
# statistics call pages of files that nobody has looked at for a while.
_NEW_GROUPS = "", "memory.max", "memory.current", "inactive_file"
_OLD_GROUPS = "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"


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
    known = [found for found in (_available(), _cgroup_room()) if found is not None]
    return min(known, default=None)


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


def _available() -> int | None:
    try:
        for line in (_PROC / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return None


def _cgroup_room() -> int | None:
    """What the limits of this process's control groups leave, those above them included."""
    try:
        lines = (_PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return None
    rooms = []
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        where, *names = _OLD_GROUPS if controllers else _NEW_GROUPS
        top = _CGROUPS / where
        group = top / place.lstrip("/")
        rooms += [
            _room_in(each, *names)
            for each in (group, *group.parents)
            if top in (each, *each.parents)
        ]
    return min((room for room in rooms if room is not None), default=None)


def _room_in(group: Path, limit: str, use: str, droppable: str) -> int | None:
    """What one group's limit leaves; pages of files that it could drop count as free."""
    try:
        left = int((group / limit).read_text()) - int((group / use).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, left + int(stat.get(droppable, 0)))
    except (OSError, ValueError):  # no such limit: "max"
        return None
