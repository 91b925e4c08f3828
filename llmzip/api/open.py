"""`llmzip.open` and its types.

Owns what it takes and gives, as type checkers see it, and its documentation; `api.reader` and
`api.writer` do the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from llmzip.codecs.context import context_of

if TYPE_CHECKING:
    import threading
    from typing import IO, Any, Literal

    from typing_extensions import Unpack

    from llmzip.api.options import CompressOptions, DecompressOptions, SharedOptions, Where
    from llmzip.progress import OnProgress


@overload
def open(
    file: Where,
    mode: Literal["r", "rb"] = "rb",
    *,
    progress: OnProgress | None = None,
    cancel: threading.Event | None = None,
    **options: Unpack[DecompressOptions],
) -> IO[bytes]: ...


@overload
def open(
    file: Where,
    mode: Literal["rt"],
    *,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    progress: OnProgress | None = None,
    cancel: threading.Event | None = None,
    **options: Unpack[DecompressOptions],
) -> IO[str]: ...


@overload
def open(
    file: Where,
    mode: Literal["w", "wb", "x", "xb"],
    *,
    progress: OnProgress | None = None,
    cancel: threading.Event | None = None,
    **options: Unpack[CompressOptions],
) -> IO[bytes]: ...


@overload
def open(
    file: Where,
    mode: Literal["wt", "xt"],
    *,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    progress: OnProgress | None = None,
    cancel: threading.Event | None = None,
    **options: Unpack[CompressOptions],
) -> IO[str]: ...


@overload
def open(
    file: Where,
    mode: str,
    *,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    progress: OnProgress | None = None,
    cancel: threading.Event | None = None,
    **options: Unpack[SharedOptions],
) -> IO[Any]: ...


def open(
    file: Where,
    mode: str = "rb",
    *,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    progress: OnProgress | None = None,
    cancel: threading.Event | None = None,
    **options: Any,
) -> IO[Any]:
    r"""A `.crm` file as a file object, by its path or from an opened binary file, which stays open.

    `mode`: "r" and "rb" read bytes, "rt" text; "w" and "wb", or "x" and "xb" for a file that must
    be new, write bytes, "wt" and "xt" text. `encoding`, `errors` and `newline` are for text, as
    those of Python's `open`. Other keywords are the settings of `decompress`, without `span` and
    `chunks`, or of `compress`.

    Reading decodes whole segments as they are needed, keeps the last 64 MB, and may seek. Each is
    verified by its own checks. The hash of the whole is checked as well, before the last bytes are
    given, of what is read from the start to the end, in one go or not. What is written is
    compressed when the file is closed, and appears complete or not at all; after an exception in a
    `with` block, or if nobody closes it, it does not. `progress` and `cancel` are as those of
    `compress`, for all that is decoded or compressed.

        >>> with llmzip.open("novel.crm", "wt", model=model, codec="arith") as file:
        ...     _ = file.write("It was the best of times,\nit was the worst of times.\n")
        >>> with llmzip.open("novel.crm", "rt", model=model) as file:
        ...     file.readlines()[1]
        'it was the worst of times.\n'

    Raises OSError, ValueError for a mode that there is not, and LlmzipError.
    """
    from llmzip.api.reader import open_crm

    context = context_of(progress, cancel)
    return open_crm(
        file, mode, encoding=encoding, errors=errors, newline=newline,
        context=context, options=options,
    )  # fmt: skip
