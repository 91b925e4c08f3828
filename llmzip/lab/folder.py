"""A run's folder: settings, rows as they come, and what is made of them.

Owns the files' names, that a run goes on where it was stopped, and that rows of other settings
never get mixed. Knows nothing of what the rows mean.

settings.json, rows.csv (one line a trial, tidy), summary.json, NAME.png and NAME.svg.
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
from llmzip.store.atomic import lock

Value: TypeAlias = str | int | float | bool | None
Row: TypeAlias = dict[str, Value]

SETTINGS, ROWS, SUMMARY, LOCK = "settings.json", "rows.csv", "summary.json", ".lock"


class Folder:
    """One study's folder, held by one process."""

    def __init__(self, path: Path, columns: Sequence[str], handle: int) -> None:
        self.path = path
        self._columns = list(columns)
        self._handle = handle
        self.rows: list[Row] = []
        if (path / ROWS).exists():
            write_whole(path / ROWS, _whole_lines(path / ROWS))  # without a torn last line
            self.rows = read_rows(path)

    @classmethod
    def open(
        cls,
        path: Path,
        study: str,
        settings: Mapping[str, Value | Sequence[Value]],
        *,
        columns: Sequence[str],
        restart: bool = False,
    ) -> Folder:
        """The folder of a study with these settings: new, or as an earlier run left it.

        Raises InputError where it cannot be written or another process has it, ResumeRefused where
        what it holds is of another study, other settings or another version.
        """
        owner = {"study": study, "version": VERSION, "settings": dict(settings)}
        try:
            path.mkdir(parents=True, exist_ok=True)
            handle = os.open(path / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error
        if not lock(handle):
            os.close(handle)
            raise InputError(f"another run is writing {path}")
        folder = None
        try:
            if restart:
                _forget(path)
            before = _read_json(path / SETTINGS)
            plain = json.loads(json.dumps(owner))
            if before is not None and before != plain:
                raise ResumeRefused(
                    f"{path} holds another run: {_difference(before, plain)}",
                    hint="name another --out, or discard it with --restart",
                )
            if before is None:
                others = [entry.name for entry in path.iterdir() if entry.name != LOCK]
                if others:
                    raise InputError(
                        f"{path} is not empty and holds no run of the lab",
                        hint="name another --out",
                    )
                write_json(path / SETTINGS, owner)
            folder = cls(path, columns, handle)
            return folder
        finally:
            if folder is None:
                os.close(handle)

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows; they are on disk when this returns. Raises InputError."""
        new = list(rows)
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
        """Keep the rows that are wanted: the others are of work that was not ended."""
        kept = [row for row in self.rows if is_wanted(row)]
        if len(kept) != len(self.rows):
            write_whole(self.path / ROWS, self._lines(kept, with_header=True))
            self.rows = kept

    def _lines(self, rows: Iterable[Row], *, with_header: bool) -> str:
        out = io.StringIO()
        writer = csv.DictWriter(out, self._columns, lineterminator="\n")
        if with_header:
            writer.writeheader()
        for row in rows:
            writer.writerow({name: _text(value) for name, value in row.items()})
        return out.getvalue()

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """What the rows come to. Raises InputError."""
        write_json(self.path / SUMMARY, summary)

    def close(self) -> None:
        """Let another process have it."""
        with suppress(OSError):
            (self.path / LOCK).unlink()
        os.close(self._handle)


def read_rows(path: Path) -> list[Row]:
    """The rows of a run's folder; a torn last line, or one being written, is left out. Raises
    InputError."""
    return [
        {name: _value(cell) for name, cell in row.items() if name is not None}
        for row in csv.DictReader(io.StringIO(_whole_lines(path / ROWS)))
    ]


def read_settings(path: Path) -> dict[str, Any]:
    """Study, version and settings of a run's folder. Raises InputError."""
    found = _read_json(path / SETTINGS)
    if found is None:
        raise InputError(f"{path} holds no run of the lab")
    return found


def read_summary(path: Path) -> dict[str, Any]:
    """The summary of a run's folder; empty: it has none yet."""
    return _read_json(path / SUMMARY) or {}


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """For people and programs: sorted as given, numbers that JSON has not as null."""
    write_whole(file, json.dumps(finite(content), indent=2, ensure_ascii=False) + "\n")


def write_whole(file: Path, text: str) -> None:
    """Write a file in one go: old or new, never half. Raises InputError."""
    new = file.with_name(file.name + ".new")
    try:
        with new.open("w", encoding="utf-8", newline="") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(new, file)
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}") from error


def _whole_lines(file: Path) -> str:
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file}: {error}") from error
    return text[: text.rfind("\n") + 1]


def _forget(path: Path) -> None:
    """Take away what a run has left, and nothing else."""
    if not (path / SETTINGS).exists():
        return
    made = [*path.glob("*.svg"), *path.glob("*.png"), path / "paths.json", path / "report.html"]
    for file in [*made, path / ROWS, path / SUMMARY, path / SETTINGS]:
        with suppress(FileNotFoundError):
            file.unlink()


def _read_json(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file}: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{file} is not what the lab writes")
    return found


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    for key in ("study", "version"):
        if before.get(key) != now[key]:
            return f"{key} {before.get(key)}, not {now[key]}"
    old, new = before.get("settings", {}), now["settings"]
    other = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    return ", ".join(f"{key} was {old.get(key)}, is {new.get(key)}" for key in other)


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


def finite(content: Any) -> Any:
    """The same with null for numbers that JSON has not, and lists for tuples."""
    if isinstance(content, Mapping):
        return {str(key): finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
