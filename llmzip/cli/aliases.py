"""Spellings that other compressors have taught: `-d`, `-t`, `-l`, `-dc`, `-9`; and `--ray`.

Owns how they become commands and options of ours.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence

COMMANDS = {
    "-z": "compress", "--compress": "compress",
    "-d": "decompress", "--decompress": "decompress", "--uncompress": "decompress",
    "-t": "test", "--test": "test",
    "-l": "info", "--list": "info",
}  # fmt: skip
_WITH_LETTERS = re.compile(r"(-[zdtl])([a-zA-Z]+)")
_LEVEL = re.compile(r"-([1-9])")
_RAY, _RAY_HERE = "--ray", "--ray=local"


def in_our_words(
    arguments: Sequence[str], *, takes_value: Callable[[str], bool] = lambda word: False
) -> list[str]:
    """The arguments with the spellings above replaced; what follows `--` is left alone, and so is
    the value of an option. takes_value: whether a word is an option of `compress` whose value is
    the next word."""
    found = list(arguments)
    if found and (letters := _WITH_LETTERS.fullmatch(found[0])):
        found[:1] = [letters[1], f"-{letters[2]}"]
    if found and found[0] in COMMANDS:
        found[0] = COMMANDS[found[0]]
    if not found or found[0] != "compress":
        return found
    end = found.index("--") if "--" in found else len(found)
    words = found[:1]
    for before, word in itertools.pairwise(found[:end]):
        words.append(word if takes_value(before) else _in_our_words(word))
    return words + found[end:]


def _in_our_words(word: str) -> str:
    if word == _RAY:  # which takes an address, but only after an equals sign: a file may follow
        return _RAY_HERE
    level = _LEVEL.fullmatch(word)
    return f"--level={level[1]}" if level else word
