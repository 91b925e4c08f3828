"""Power cuts: what a disk holds that has kept no more than it was told to sync.

Owns a model of such a disk. One run is watched; before each call that changes a file it gives the
directories that a cut at that moment may leave, and each of them is gone on from. Called by
`kills`. The model is harsher than a file system: what was not synced is gone, or half of it is.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.soak import faults
from tests.soak.forks import told_chunks
from tests.soak.outcome import Outcome
from tests.soak.scenes import (
    Lost,
    Undisturbed,
    Variant,
    Workplace,
    go_on,
    look,
    new_tally,
    require,
    try_case,
)

_END = "at the end"
Names = dict[str, int]  # of files, each with its inode
_open, _read, _close, _fstat, _listdir = os.open, os.read, os.close, os.fstat, os.listdir
_lstat = os.lstat


def _content(path: str | int) -> bytes:
    handle = _open(path, os.O_RDONLY) if isinstance(path, str) else path
    try:
        return os.pread(handle, _fstat(handle).st_size, 0)
    finally:
        if isinstance(path, str):
            _close(handle)


class Platter:
    """The disk under a directory: what is synced, by name and by content.

    Used as `around` of `faults.install`. Writes each image of the disk once into `images`.
    """

    def __init__(self, directory: Path, images: Path) -> None:
        self._directory, self._images = str(directory), images
        self._names = self._current_names()  # as last synced
        self._contents = {  # of inodes, as last synced
            inode: _content(f"{directory}/{name}") for name, inode in self._names.items()
        }
        self._seen: set[str] = set()

    def __call__(self, call: faults.Call, go: Callable[[], Any]) -> Any:
        self.cut(f"before call {call.index}: {call}")
        result = go()
        if call.name == "fsync":
            handle = call.arguments[0]
            if stat.S_ISDIR(_fstat(handle).st_mode):
                self._names = self._current_names()
            else:
                self._contents[_fstat(handle).st_ino] = _content(f"/proc/self/fd/{handle}")
        return result

    def cut(self, when: str) -> None:
        """Save what a cut now may leave: names as last synced, or all; of content what is synced,
        or half of the rest with it."""
        now = self._current_names()
        self._save(f"{when}, names late", self._names, self._synced)
        self._save(f"{when}, names early", now, self._synced)
        self._save(f"{when}, torn", now, self._torn)

    def _current_names(self) -> Names:
        return {
            name: _lstat(f"{self._directory}/{name}").st_ino for name in _listdir(self._directory)
        }

    def _synced(self, name: str, inode: int) -> bytes:
        return self._contents.get(inode, b"")

    def _torn(self, name: str, inode: int) -> bytes:
        before, now = self._contents.get(inode, b""), _content(f"{self._directory}/{name}")
        return now[: (len(before) + len(now)) // 2] if now.startswith(before) else before

    def _save(self, when: str, names: Names, content: Callable[[str, int], bytes]) -> None:
        files = {name: content(name, inode) for name, inode in sorted(names.items())}
        told = told_chunks(_content("/proc/self/fd/2").decode(errors="replace"))
        mark = sha256(repr((told, files, when.startswith(_END))).encode()).hexdigest()
        if mark in self._seen:
            return
        self._seen.add(mark)
        image = self._images / f"{len(self._seen):05}"
        (image / "files").mkdir(parents=True)
        for name, data in files.items():
            (image / "files" / name).write_bytes(data)
        (image / "about").write_text(json.dumps({"when": when, "told": told}))


@dataclass(frozen=True, kw_only=True)
class Image:
    """What a cut may leave."""

    files: Path
    when: str
    told: int  # chunks that were said to be done by then

    @property
    def is_late(self) -> bool:
        return self.when.startswith(_END)


def cut_power(place: Workplace, variants: Sequence[Variant], every: int = 1) -> Outcome:
    """Every image, or every so many-th, of a run of each variant."""
    tally = new_tally("power cuts")
    for variant in variants:
        plain = place.undisturbed(variant)
        for index, image in enumerate(_images(place, variant)):
            if index % every == 0 or image.is_late:
                case = partial(_after_cut, place, variant, plain, image)
                try_case(tally, case, f"{variant.name}, {image.when}")
        shutil.rmtree(place.root / "images")
    return tally.outcome()


def _images(place: Workplace, variant: Variant) -> Iterator[Image]:
    folder = place.root / "images"
    with place.directory(variant) as directory:
        platters: list[Platter] = []

        def around(call: faults.Call, go: Callable[[], Any]) -> Any:
            if not platters:
                platters.append(Platter(directory, folder))
            return platters[0](call, go)

        ended = place.start(
            variant, directory, around=around, afterwards=lambda: platters[0].cut(_END)
        ).end()
        require(ended.code == 0, str(ended))
    for path in sorted(folder.iterdir()):
        about = json.loads((path / "about").read_text())
        yield Image(files=path / "files", when=about["when"], told=about["told"])


def _after_cut(place: Workplace, variant: Variant, plain: Undisturbed, image: Image) -> None:
    with place.directory(variant) as directory:
        for old in directory.iterdir():
            old.unlink()
        shutil.copytree(image.files, directory, dirs_exist_ok=True)
        left = look(directory, variant, plain, told=image.told)
        if image.is_late and not left.is_complete:
            raise Lost("it had ended well, and the result is gone")
        go_on(place, directory, variant, plain, left)
