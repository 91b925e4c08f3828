"""The exception tree: every failure a user can meet, with its exit code and a next step.

Owns the mapping from failure to exit code. Knows nothing of what failed: callers write the message.
Raised everywhere; turned into one line and an exit status only in `llmzip.cli`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

MEMORY_HINT = (
    "close something, raise the limit of memory (ulimit -v), or take a smaller file or model"
)
_NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "bad_alloc", "bad allocation")


class LlmzipError(Exception):
    """Base of all errors raised on purpose. `hint` is the next step, ready to print: that of the
    failure itself, or the usual one of its class."""

    exit_code = 1
    usual_hint = "llmzip doctor examines the installation"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint or self.usual_hint


class InputError(LlmzipError):
    """A file that cannot be read or written, or must not be: missing, in the way, a directory."""

    exit_code = 1
    usual_hint = "check the name, the permissions and the room on the disk, and try again"


class ResumeRefused(InputError):
    """Work that an earlier run left is of another input, model, version or of other settings."""


class SettingsError(LlmzipError):
    """A setting outside what llmzip accepts (the shell's usage errors share the code).

    `settings`: the keywords of those that the message names in backticks. The command line puts its
    options in their place.
    """

    exit_code = 2
    usual_hint = "llmzip COMMAND --help lists what is accepted"

    def __init__(self, message: str, *, settings: tuple[str, ...] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.settings = settings


class FormatError(LlmzipError):
    """Not a sound `.crm` file."""

    exit_code = 3
    usual_hint = (
        "take the file from where it came once more; decompress --salvage gives what is intact"
    )


class NotACrmFile(FormatError):
    """The magic bytes are missing or damaged."""

    usual_hint = "llmzip compress makes .crm files; decompress, test and info read them"


class Truncated(FormatError):
    """The file ends before its own header says it should."""


class Corrupt(FormatError):
    """A checksum, a count or a value in the file contradicts another."""


class UnsupportedVersion(FormatError):
    """A format version or a required feature that this llmzip does not know."""

    exit_code = 4
    usual_hint = "a newer llmzip may read this file"


class ModelUnavailable(LlmzipError):
    """The language model is not on this machine, or its files cannot be used."""

    exit_code = 5
    usual_hint = "llmzip model list shows the models, llmzip model verify checks one"


class ModelMismatch(LlmzipError):
    """The model at hand is not the one that the file was made with."""

    exit_code = 5
    usual_hint = "name the right one with --model"

    def __init__(self, message: str, *, expected: str, got: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.expected = expected
        self.got = got


class IntegrityError(LlmzipError):
    """Decoded bytes fail their hash. Nothing of them was published."""

    exit_code = 6
    usual_hint = "try --device cpu; llmzip test --full tells whether the file decodes here"


class LimitExceeded(LlmzipError):
    """A declared size is over a resource limit (`--max-output`)."""

    exit_code = 7
    usual_hint = "raise the limit if you trust this file; llmzip COMMAND --help has the limits"


class Interrupted(LlmzipError):
    """Stopped by a signal. `exit_code` is 130 for an interrupt, 143 for a termination."""

    usual_hint = "run the same command again"

    def __init__(self, message: str, *, exit_code: int = 130, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


def lacks_memory(error: BaseException) -> bool:
    """Whether an exception, or one that led to it, says that this process gets no more memory."""
    return any(
        isinstance(each, MemoryError)
        or (isinstance(each, OSError) and each.errno == errno.ENOMEM)
        or any(words in str(each).lower() for words in _NO_MEMORY)
        for each in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__
