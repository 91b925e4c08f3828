"""`.crm` files for whatever opens files with fsspec: pandas, dask, datasets and others.

    >>> import fsspec, llmzip.fsspec
    >>> llmzip.fsspec.register(reading={"model": model}, writing={"model": model})
    >>> with fsspec.open("memory://novel.crm", "wt", compression="infer") as file:
    ...     _ = file.write("It was the best of times.")
    >>> with fsspec.open("memory://novel.crm", "rt", compression="infer") as file:
    ...     file.read()
    'It was the best of times.'

Owns the name and the suffix that fsspec knows. `llmzip.open` does the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any, BinaryIO

from fsspec.compression import register_compression

import llmzip

COMPRESSION, SUFFIX = "crm", "crm"


def register(
    *, reading: Mapping[str, Any] | None = None, writing: Mapping[str, Any] | None = None
) -> None:
    """Teach fsspec the compression "crm", by name and by suffix.

    reading, writing: options of `llmzip.open` for files that are read and written, such as
    `writing={"codec": "arith"}`. Calling it again replaces them. In each process that opens files.
    """
    options = {"r": dict(reading or {}), "w": dict(writing or {})}

    def opened(file: BinaryIO, mode: str = "rb", **more: Any) -> IO[bytes]:
        kind = mode.replace("b", "")
        return llmzip.open(file, f"{kind}b", **{**options.get(kind, {}), **more})

    register_compression(COMPRESSION, opened, SUFFIX, force=True)
