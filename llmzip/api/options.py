"""The keywords of the public functions, and the settings that they become.

Owns the names that compressing and decompressing take in Python. Limits belong to `config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from llmzip.config import (
    Attention,
    Codec,
    CompressSettings,
    DecompressSettings,
    Device,
    Preset,
    Verify,
    from_keywords,
)

if TYPE_CHECKING:
    import os
    from typing import BinaryIO

    from typing_extensions import Buffer

    BytesLike: TypeAlias = Buffer
    Where: TypeAlias = str | os.PathLike[str] | BinaryIO


class _Keywords(TypedDict, total=False):
    revision: str | None
    device: Device
    threads: int | None
    batch: int | None
    attention: Attention
    offline: bool


class SharedOptions(_Keywords, total=False):
    """What both functions take."""

    model: str | None


class CompressKeywords(_Keywords, total=False):
    """What `llmzip.compress` takes, which says what each means; but for the model."""

    codec: Codec
    try_cram: bool
    shared_mem: int | None
    verify: Verify
    num_mem: int
    bits: int | None
    max_patches: float
    context_tokens: int | None
    budget_bits: float | None
    max_steps: int | None
    preset: Preset
    time_budget_s: float | None
    bf16_safe: bool
    seed: int


class CompressOptions(CompressKeywords, total=False):
    """With the model."""

    model: str | None


class DecompressKeywords(_Keywords, total=False):
    """What `llmzip.decompress` takes, but for the model and the part that is wanted."""

    max_output_bytes: int
    max_tokens: int | None
    perturb: float


class DecompressOptions(DecompressKeywords, total=False):
    """With the model."""

    model: str | None


def compress_settings(options: CompressOptions) -> CompressSettings:
    """Raises SettingsError for values, TypeError for names that there are not."""
    _refuse_unknown(options, CompressOptions)
    return from_keywords(CompressSettings, options)


def decompress_settings(options: DecompressOptions) -> DecompressSettings:
    """Raises SettingsError for values, TypeError for names that there are not."""
    _refuse_unknown(options, DecompressOptions)
    return from_keywords(DecompressSettings, options)


def _refuse_unknown(options: Mapping[str, Any], known: type) -> None:
    for name in options:
        if name not in known.__annotations__:
            raise TypeError(f"unexpected keyword argument {name!r}")


def bytes_of(data: BytesLike) -> bytes:
    """Bytes, whatever holds them. Raises TypeError."""
    if isinstance(data, str):
        raise TypeError("llmzip takes bytes, not str: encode text first")
    try:
        return bytes(memoryview(data))
    except TypeError:
        raise TypeError(f"llmzip takes bytes, not {type(data).__name__}") from None
