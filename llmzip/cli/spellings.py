"""Spellings that other compressors have taught: `-d`, `-t`, `-l`, `-dc`, `-9`; and `--ray`.

Owns how they become commands and options of ours. Called by `cli.main`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

COMMANDS = {
    "-z": "compress", "--compress": "compress",
    "-d": "decompress", "--decompress": "decompress", "--uncompress": "decompress",
    "-t": "test", "--test": "test",
    "-l": "info", "--list": "info",
}  # fmt: skip
_WITH_LETTERS = re.compile(r"(-[zdtl])([a-zA-Z]+)")
_LEVEL = re.compile(r"-([1-9])")
_RAY, _RAY_HERE = "--ray", "--ray=local"


def in_our_words(arguments: Sequence[str]) -> list[str]:
    """The arguments with the spellings above replaced; what follows `--` is left alone."""
    found = list(arguments)
    if found and (letters := _WITH_LETTERS.fullmatch(found[0])):
        found[:1] = [letters[1], f"-{letters[2]}"]
    if found and found[0] in COMMANDS:
        found[0] = COMMANDS[found[0]]
    if not found or found[0] != "compress":
        return found
    end = found.index("--") if "--" in found else len(found)
    return [
        *(_in_our_words(word) if place else word for place, word in enumerate(found[:end])),
        *found[end:],
    ]


def _in_our_words(word: str) -> str:
    if word == _RAY:  # which takes an address, but only after an equals sign: a file may follow
        return _RAY_HERE
    level = _LEVEL.fullmatch(word)
    return f"--level={level[1]}" if level else word
