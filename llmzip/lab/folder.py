"""The folder of a study: settings, rows as they come, and what is made of them.

Owns the files' names, that a study which was stopped goes on where it was, and that rows of
different settings are never mixed. Knows nothing of what the rows mean.

settings.json, rows.csv (one line a trial), summary.json, NAME.png and NAME.svg.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from llmzip.config import VERSION
from llmzip.errors import InputError, ResumeRefused
from llmzip.store.atomic import lock, new_file

Value: TypeAlias = str | int | float | bool | None
Row: TypeAlias = dict[str, Value]
Settings: TypeAlias = Mapping[str, Value | Sequence[Value]]

SETTINGS, ROWS, SUMMARY, LOCK = "settings.json", "rows.csv", "summary.json", ".lock"


class Folder:
    """One study's folder, locked by one process."""

    def __init__(self, path: Path, columns: Sequence[str], handle: int) -> None:
        self.path, self._columns, self._handle = path, list(columns), handle
        self.rows: list[Row] = []
        if (path / ROWS).exists():
            write_whole(path / ROWS, _whole_lines(path / ROWS))  # without an incomplete last line
            self.rows = read_rows(path)

    @classmethod
    def open(
        cls,
        path: Path,
        study: str,
        settings: Settings,
        *,
        columns: Sequence[str],
        restart: bool = False,
    ) -> Folder:
        """The folder of a study with these settings: new, or as an earlier run left it.

        Raises InputError where it cannot be written or another process has it, ResumeRefused where
        it belongs to another study, other settings or another version.
        """
        owner = {"study": study, "version": VERSION, "settings": dict(settings)}
        try:
            path.mkdir(parents=True, exist_ok=True)
            handle = os.open(path / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error
        try:
            if not lock(handle):
                raise InputError(f"another run is writing {path}")
            if restart:
                _delete_run(path)
            _claim(path, owner)
            return cls(path, columns, handle)
        except BaseException:
            os.close(handle)
            raise

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows, None in columns that they lack, and sync the file. Raises InputError."""
        new = [{**dict.fromkeys(self._columns), **row} for row in rows]
        file = self.path / ROWS
        try:
            lines = self._lines(new, with_header=not file.exists())
            with file.open("a", encoding="utf-8", newline="") as handle:
                handle.write(lines)
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:
            raise InputError(f"cannot write {file}: {error.strerror}") from error
        self.rows.extend(new)

    def drop(self, is_wanted: Callable[[Row], bool]) -> None:
        """Keep only the rows that are wanted: the others are of work that was not finished."""
        kept = [row for row in self.rows if is_wanted(row)]
        if len(kept) != len(self.rows):
            write_whole(self.path / ROWS, self._lines(kept, with_header=True))
            self.rows = kept

    def _lines(self, rows: Iterable[Row], *, with_header: bool) -> str:
        out = io.StringIO()
        writer = csv.DictWriter(out, self._columns, lineterminator="\n")
        if with_header:
            writer.writeheader()
        writer.writerows({name: _text(value) for name, value in row.items()} for row in rows)
        return out.getvalue()

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json. Raises InputError."""
        write_json(self.path / SUMMARY, summary)

    def close(self) -> None:
        """Release the folder for another process."""
        with suppress(OSError):
            (self.path / LOCK).unlink()
        os.close(self._handle)


def read_rows(path: Path) -> list[Row]:
    """The rows of a study's folder, without an incomplete last line. Raises InputError."""
    return [
        {name: _value(cell) for name, cell in row.items() if name is not None}
        for row in csv.DictReader(io.StringIO(_whole_lines(path / ROWS)))
    ]


def read_settings(path: Path) -> dict[str, Any]:
    """Study, version and settings of a study's folder. Raises InputError."""
    found = read_json(path / SETTINGS)
    if found is None:
        raise InputError(f"{path} holds no run of the lab")
    return found


def read_summary(path: Path) -> dict[str, Any]:
    """The summary of a study's folder; empty if there is none yet. Raises InputError."""
    return read_json(path / SUMMARY) or {}


def read_bytes(file: Path, size: int = -1) -> bytes:
    """The bytes of a file, no more than so many unless it is -1. Raises InputError."""
    try:
        with file.open("rb") as handle:
            return handle.read(size)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error


def read_json(file: Path) -> dict[str, Any] | None:
    """What `write_json` has written; None if there is no such file. Raises InputError."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file}: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"cannot read {file}: it is not what the lab writes")
    return found


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write JSON in the given order, with null for nan and infinity. Raises InputError."""
    write_whole(file, json.dumps(finite(content), indent=2, ensure_ascii=False) + "\n")


def write_whole(file: Path, content: str | bytes) -> None:
    """Write a file whole or not at all. Raises InputError."""
    try:
        with new_file(str(file), mode=0o666, is_locked=True) as new:
            new.write(content.encode() if isinstance(content, str) else content)
            new.sync()
            new.publish(replace=True)
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}") from error


def finite(content: Any) -> Any:
    """The same with null for numbers that JSON does not have, and lists for tuples."""
    if isinstance(content, Mapping):
        return {str(key): finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def _claim(path: Path, owner: Mapping[str, Any]) -> None:
    """Write settings.json into an empty folder, or check that the one there is the same."""
    before = read_json(path / SETTINGS)
    if before is None:
        if any(entry.name != LOCK for entry in path.iterdir()):
            message = f"{path} is not empty and holds no run of the lab"
            raise InputError(message, hint="name another --out")
        write_json(path / SETTINGS, owner)
        return
    now = json.loads(json.dumps(owner))
    if before != now:
        message = f"{path} holds another run: {_difference(before, now)}"
        raise ResumeRefused(message, hint="name another --out, or discard it with --restart")


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    for key in ("study", "version"):
        if before.get(key) != now[key]:
            return f"{key} {before.get(key)}, not {now[key]}"
    old, new = before.get("settings", {}), now["settings"]
    other = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    return ", ".join(f"{key} was {old.get(key)}, is {new.get(key)}" for key in other)


def _delete_run(path: Path) -> None:
    """Delete the files of a study, and nothing else."""
    if (path / SETTINGS).exists():
        named = ("paths.json", "report.html", ROWS, SUMMARY, SETTINGS)
        for file in (*path.glob("*.svg"), *path.glob("*.png"), *map(path.joinpath, named)):
            file.unlink(missing_ok=True)


def _whole_lines(file: Path) -> str:
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file}: {error}") from error
    return text[: text.rfind("\n") + 1]


def _text(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _value(cell: str | None) -> Value:
    """The inverse of `_text`, as far as there is one: a number where it looks like one."""
    if cell is None or cell == "":
        return None
    if cell in ("true", "false"):
        return cell == "true"
    for kind in (int, float):
        with suppress(ValueError):
            return kind(cell)
    return cell
