"""Names of files: what ours end in, and what a result is called.

Owns the suffix. Called by the commands.
"""

from __future__ import annotations

from llmzip.errors import InputError

SUFFIX = ".crm"


def is_crm(path: str) -> bool:
    """Whether a file is one of ours, by its name."""
    return path.lower().endswith(SUFFIX)


def add_suffix(path: str) -> str:
    """What `compress` makes of a file's name."""
    return path + SUFFIX


def strip_suffix(path: str) -> str:
    """What `decompress` makes of it. Raises InputError."""
    stem, suffix = path[: -len(SUFFIX)], path[-len(SUFFIX) :]
    if suffix.lower() != SUFFIX or not stem or stem[-1] in "/\\":
        raise InputError(f"{path} does not end in {SUFFIX}", hint="name the output with -o")
    return stem
