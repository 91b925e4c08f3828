"""How much memory a model needs, and how much of it is free.

Owns both numbers: the first from the headers of the weights, the second from the device or from
Linux, whose control groups count as well. Knows nothing of who asks. Imports torch only inside a
function, because the command line imports this module when it starts.
"""

from __future__ import annotations

from contextlib import suppress
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from llmzip.errors import ModelUnavailable
from llmzip.lm.digest import read_header, weight_files

if TYPE_CHECKING:
    import torch

    from llmzip.lm.zoo import ModelFiles

# What a run needs beside the weights: torch and the tokenizer, the rows being worked on, the
# decoder's states. Measured with the default model on a CPU: 2.43 GB for compressing 8 KB of prose
# behind up to 2,138 tokens of left context, 1.10 GB for decompressing it.
_COMPRESS_EXTRA_BYTES, _DECOMPRESS_EXTRA_BYTES = 1_800_000_000, 600_000_000
_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
# For versions 2 and 1 of control groups: the subdirectory of the memory controller, the files with
# the limit and the usage, and the statistic that counts cached pages that can be dropped.
_CGROUP_V2 = "", "memory.max", "memory.current", "inactive_file"
_CGROUP_V1 = "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"


def needed_bytes(files: ModelFiles, *, optimises: bool) -> int | None:
    """Estimate the memory of a run: fp32 weights to decode with and, where it optimises, bf16
    weights as well. None where the files cannot be read."""
    try:
        tensors = [tensor for path in weight_files(files.path) for tensor in read_header(path)]
    except (OSError, ModelUnavailable):
        return None
    count = sum(prod(tensor.shape) for tensor in tensors)
    if count == 0:
        return None
    return 6 * count + _COMPRESS_EXTRA_BYTES if optimises else 4 * count + _DECOMPRESS_EXTRA_BYTES


def free_bytes(device: torch.device) -> int | None:
    """The memory of a device that a run may use now. None where the system does not say."""
    if device.type == "cuda":
        from torch.cuda import mem_get_info

        return int(mem_get_info(device)[0])
    return free_ram_bytes() if device.type == "cpu" else None


def free_ram_bytes() -> int | None:
    """The main memory that this process may still use. None where the system does not say."""
    known = [found for found in (_available(), _cgroup_room()) if found is not None]
    return min(known, default=None)


def _available() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in (_PROC / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return None


def _cgroup_room() -> int | None:
    """What the limits of this process's control groups and of their parents leave."""
    try:
        lines = (_PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return None
    rooms = []
    for line in lines:
        _, controllers, group_path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        subdirectory, *names = _CGROUP_V1 if controllers else _CGROUP_V2
        top = _CGROUPS / subdirectory
        group = top / group_path.lstrip("/")
        parents = [each for each in (group, *group.parents) if each.is_relative_to(top)]
        rooms += [_room_in(each, *names) for each in parents]
    return min((room for room in rooms if room is not None), default=None)


def _room_in(group: Path, limit: str, usage: str, droppable: str) -> int | None:
    """What the limit of one group leaves; cached pages that it could drop count as free."""
    try:
        left = int((group / limit).read_text()) - int((group / usage).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, left + int(stat.get(droppable, 0)))
    except (OSError, ValueError):  # "max", where there is no limit
        return None
