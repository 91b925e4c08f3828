"""The exception tree: every failure a user can meet, with its exit code and a next step.

Owns the mapping from failure to exit code. Knows nothing of what failed: callers write the message.
Raised everywhere; turned into one line and an exit status only in `llmzip.cli`.
"""

from __future__ import annotations


class LlmzipError(Exception):
    """Base of all errors raised on purpose. `hint` is the next step, ready to print."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class InputError(LlmzipError):
    """A file that cannot be read or written, or must not be: missing, in the way, a directory."""

    exit_code = 1


class ResumeRefused(InputError):
    """Work that an earlier run left is of another input, model, version or of other settings."""


class SettingsError(LlmzipError):
    """A setting outside what llmzip accepts (the shell's usage errors share the code)."""

    exit_code = 2


class FormatError(LlmzipError):
    """Not a sound `.crm` file."""

    exit_code = 3


class NotACrmFile(FormatError):
    """The magic bytes are missing or damaged."""


class Truncated(FormatError):
    """The file ends before its own header says it should."""


class Corrupt(FormatError):
    """A checksum, a count or a value in the file contradicts another."""


class UnsupportedVersion(FormatError):
    """A format version or a required feature that this llmzip does not know."""

    exit_code = 4


class ModelUnavailable(LlmzipError):
    """The language model is not on this machine, or its files cannot be used."""

    exit_code = 5


class ModelMismatch(LlmzipError):
    """The model at hand is not the one that the file was made with."""

    exit_code = 5

    def __init__(self, message: str, *, expected: str, got: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.expected = expected
        self.got = got


class IntegrityError(LlmzipError):
    """Decoded bytes fail their hash. Nothing of them was published."""

    exit_code = 6


class LimitExceeded(LlmzipError):
    """A declared size is over a resource limit (`--max-output`)."""

    exit_code = 7


class Interrupted(LlmzipError):
    """Stopped by a signal. `exit_code` is 130 for an interrupt, 143 for a termination."""

    def __init__(self, message: str, *, exit_code: int = 130, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
