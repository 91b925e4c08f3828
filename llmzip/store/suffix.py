"""The suffix of an original's name, which a container may keep.

Owns which texts are one: a file can never name a path by it.
"""

from __future__ import annotations

import re

from llmzip.errors import Corrupt

_MOST_BYTES = 16  # with its dot
_SUFFIX = re.compile(r"\.[A-Za-z0-9_+-]+")


def is_suffix(text: str) -> bool:
    """Whether a container can keep this: a dot, and letters, digits, "_", "+", "-" of ASCII."""
    return _SUFFIX.fullmatch(text) is not None and len(text) <= _MOST_BYTES


def check_suffix(suffix: str) -> None:
    """Raise Corrupt for what is none."""
    if not is_suffix(suffix):
        raise Corrupt("the suffix of the original's name is not one")
