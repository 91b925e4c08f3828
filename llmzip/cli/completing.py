"""What the shell is offered when it completes a value.

Owns the choice of words and files. Where nothing is offered, the shell completes names of files by
itself.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from glob import escape, iglob

from llmzip.cli.names import is_crm


def any_of(words: str) -> Callable[[str], list[str]]:
    """Completes to a word of "auto|cpu|cuda", as an option's help shows them."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words.split("|") if word.startswith(incomplete)]

    return complete


def model_names(incomplete: str) -> list[str]:
    """Models with a name; others are directories, or on the hub."""
    from llmzip.lm.zoo import MODELS

    return [name for name in MODELS if name.startswith(incomplete)]


def crm_files(incomplete: str) -> list[str]:
    """Files that end in .crm, and directories beside them.

    Nothing where there is no such file, or where a name would have to be quoted, which the shell
    does with its own.
    """
    found = sorted(iglob(escape(incomplete) + "*"))
    files = [path for path in found if is_crm(path) and os.path.isfile(path)]
    folders = [path + os.sep for path in found if os.path.isdir(path)]
    names = files + folders
    return names if files and all(shlex.quote(name) == name for name in names) else []
