"""How much of the machine's memory this process may still take.

Owns what Linux says of it, its control groups included.
"""

from __future__ import annotations

from pathlib import Path

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
# Of both kinds of control groups: where the memory's are, the names of limit and use, and what the
# statistics call pages of files that nobody has looked at for a while.
_NEW_GROUPS = "", "memory.max", "memory.current", "inactive_file"
_OLD_GROUPS = "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"


def free_ram_bytes() -> int | None:
    """None where the system does not tell."""
    known = [found for found in (_available(), _cgroup_room()) if found is not None]
    return min(known, default=None)


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
