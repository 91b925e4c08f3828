"""The keywords of the public functions, and the settings that they become.

Owns the names that compressing and decompressing take in Python. Limits belong to `config`. Called
by `llmzip` and `llmzip.session`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from llmzip.config import (
    Attention,
    Codec,
    CompressSettings,
    ComputeSettings,
    DecompressSettings,
    Device,
    Preset,
    Verify,
)

if TYPE_CHECKING:
    BytesLike: TypeAlias = bytes | bytearray | memoryview

_COMPUTE = ("device", "threads", "batch", "attention")


class CompressOptions(TypedDict, total=False):
    """What `llmzip.compress` takes, which says what each means."""

    model: str | None
    revision: str | None
    device: Device
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
    threads: int | None
    batch: int | None
    attention: Attention
    offline: bool


class DecompressOptions(TypedDict, total=False):
    """What `llmzip.decompress` takes, but for the part that is wanted."""

    model: str | None
    revision: str | None
    device: Device
    threads: int | None
    batch: int | None
    attention: Attention
    max_output_bytes: int
    max_tokens: int | None
    perturb: float
    offline: bool


def compress_settings(options: CompressOptions) -> CompressSettings:
    """Raises SettingsError for values, TypeError for names that there are not."""
    own, compute = _apart(dict(options))
    return CompressSettings(**own, compute=compute)


def decompress_settings(options: DecompressOptions) -> DecompressSettings:
    """Raises SettingsError for values, TypeError for names that there are not."""
    own, compute = _apart(dict(options))
    return DecompressSettings(**own, compute=compute)


def _apart(options: dict[str, Any]) -> tuple[dict[str, Any], ComputeSettings]:
    compute = {name: options.pop(name) for name in _COMPUTE if name in options}
    return options, ComputeSettings(**compute)


def bytes_of(data: BytesLike) -> bytes:
    """Bytes, whatever holds them. Raises TypeError."""
    if isinstance(data, str):
        raise TypeError("llmzip takes bytes, not str: encode text first")
    try:
        return bytes(memoryview(data))
    except TypeError:
        raise TypeError(f"llmzip takes bytes, not {type(data).__name__}") from None
