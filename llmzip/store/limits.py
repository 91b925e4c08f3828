"""What a file may ask for without being asked whether it is meant.

Owns the limits and their defaults. Knows nothing of how a file is read.
"""

from __future__ import annotations

from llmzip.errors import LimitExceeded

# Tokens to be decoded. No file that is smaller than what zstd makes of its text comes near it.
TOKENS_PER_FILE_BYTE, TOKENS_OF_ANY_FILE = 64, 1 << 16

# Tokens that a coded patch plane is asked about: each takes a little time, and may take no bytes.
READ_TOKENS_PER_PLANE_BYTE, READ_TOKENS_OF_ANY_FILE = 256, 1 << 22


def check_size(original_bytes: int, max_output_bytes: int) -> None:
    """Raise LimitExceeded for an original over the limit."""
    if original_bytes > max_output_bytes:
        raise LimitExceeded(
            f"the original has {original_bytes} bytes, the limit is {max_output_bytes}",
            hint="raise the limit with --max-output if you trust this file",
        )


def check_work(num_tokens: int, file_bytes: int, max_tokens: int | None = None) -> None:
    """Raise LimitExceeded where a file asks for more tokens to be decoded than `max_tokens`, by
    default than its own size makes plausible."""
    most = TOKENS_OF_ANY_FILE + TOKENS_PER_FILE_BYTE * file_bytes
    most = most if max_tokens is None else max_tokens
    if num_tokens > most:
        raise LimitExceeded(
            f"the file asks for {num_tokens} tokens to be decoded, the limit is {most}",
            hint="raise the limit with --max-tokens if you trust this file",
        )


def check_reading(num_tokens: int, plane_bytes: int) -> None:
    """Raise LimitExceeded where coded planes speak of so many tokens that to read them alone would
    take long. Far more than `check_work` takes for plausible."""
    most = READ_TOKENS_OF_ANY_FILE + READ_TOKENS_PER_PLANE_BYTE * plane_bytes
    if num_tokens > most:
        raise LimitExceeded(
            f"coded planes of {plane_bytes} bytes for {num_tokens} tokens, the limit is {most}"
        )
