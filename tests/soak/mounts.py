"""A small real disk that can be filled.

Owns the ways to get one: a tmpfs, one in a name space of this process, an image of a file system.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SIZE = "4m"
_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x00020000  # flags of unshare(2)


class NoDisk(Exception):
    """Why there is none."""


@dataclass(frozen=True, kw_only=True)
class SmallDisk:
    """Where it is mounted, and how it was come by."""

    path: Path
    way: str

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"

    @property
    def block_bytes(self) -> int:
        return os.statvfs(self.path).f_frsize

    def fill(self, *, but_blocks: int | None = None, but_files: int | None = None) -> None:
        """Leave room for so many blocks, and for so many files."""
        self._ballast.mkdir()
        if but_files is not None:
            for index in range(max(0, os.statvfs(self.path).f_ffree - but_files)):
                (self._ballast / str(index)).touch()
        if but_blocks is None:
            return
        handle = os.open(self._ballast / "blocks", os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            # Some file systems take blocks of their own on the way: count again after each round.
            while (extra := os.statvfs(self.path).f_bavail - but_blocks) > 0:
                os.write(handle, bytes(min(extra, 64) * self.block_bytes))
                os.fsync(handle)
        finally:
            os.close(handle)

    def make_room(self) -> None:
        """Undo `fill`."""
        for path in self._ballast.iterdir():
            path.unlink()
        self._ballast.rmdir()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Nothing can be written inside the block."""
        _call("mount", "-o", "remount,ro", str(self.path))
        try:
            yield
        finally:
            _call("mount", "-o", "remount,rw", str(self.path))


@contextmanager
def small_disk() -> Iterator[SmallDisk]:
    """A disk of a few MB. Raises NoDisk. May move this process to a name space, for good."""
    with tempfile.TemporaryDirectory() as name:
        path, image = Path(name) / "disk", Path(name) / "image"
        path.mkdir()
        way = _mount(path, image)
        path.chmod(0o777)
        try:
            yield SmallDisk(path=path, way=way)
        finally:
            _call("umount", "-l", str(path))


def _mount(path: Path, image: Path) -> str:
    reasons = []
    tmpfs = ("mount", "-t", "tmpfs", "-o", f"size={_SIZE},nr_inodes=64", "tmpfs", str(path))
    try:
        _call(*tmpfs)
        return "tmpfs"
    except NoDisk as error:
        reasons.append(str(error))
    try:
        with open(image, "wb") as file:
            file.truncate(4 << 20)
        _call("mkfs.ext2", "-q", "-F", "-m", "0", "-N", "64", str(image))
        _call("mount", "-o", "loop", str(image), str(path))
        return "an ext2 image"
    except NoDisk as error:
        reasons.append(str(error))
    try:
        _enter_name_space()
        _call(*tmpfs)
        return "tmpfs in a name space"
    except NoDisk as error:
        reasons.append(str(error))
    raise NoDisk("; ".join(reasons))


def _enter_name_space() -> None:
    """Become root of a name space of one user. The process must have one thread."""
    user, group = os.getuid(), os.getgid()
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_USER | _NEW_MOUNTS):
        raise NoDisk(f"unshare: {os.strerror(ctypes.get_errno())}")
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    except OSError as error:
        raise NoDisk(f"a name space: {error.strerror}") from error


def _call(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NoDisk(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        raise NoDisk(f"{' '.join(command[:3])}: {done.stderr.strip() or done.returncode}")
