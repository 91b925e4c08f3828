"""Faster imports of the heavy libraries.

Owns one measure: importing torch makes hundreds of thousands of objects that all stay, and looking
for garbage among them takes a tenth of the import's time. Called by `cli.compress` and
`cli.decompress`.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Iterator[None]:
    """No garbage collection inside the block; as before after it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
