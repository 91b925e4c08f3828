"""llmzip: text compressed with a frozen language model.

Text becomes input vectors of the model, or the stream of an arithmetic coder that it predicts for.

The public functions and errors. Importing this loads neither torch nor numpy: what a function
needs is imported when it is called.

    >>> packed = llmzip.compress(b"It was the best of times.", model=model)
    >>> llmzip.decompress(packed, model=model)
    b'It was the best of times.'
    >>> llmzip.info(packed).original_bytes
    25

Without `model`, that is the default one. `Compressor` and `Decompressor` load it once for many
inputs, `open` gives file objects.
"""

from __future__ import annotations

import builtins
import importlib
import os
from typing import TYPE_CHECKING

from llmzip.api.open import open
from llmzip.api.options import bytes_of
from llmzip.api.sessions import Compressor, Decompressor
from llmzip.codecs.context import context_of
from llmzip.config import (
    DEFAULT_MAX_OUTPUT_BYTES,
    DEFAULT_MAX_PATCHES,
    VERSION,
    Attention,
    Codec,
    CompressSettings,
    ComputeSettings,
    DecompressSettings,
    Device,
    Preset,
    Verify,
)
from llmzip.errors import (
    Corrupt,
    FormatError,
    InputError,
    IntegrityError,
    Interrupted,
    LimitExceeded,
    LlmzipError,
    ModelMismatch,
    ModelUnavailable,
    NotACrmFile,
    ResumeRefused,
    SettingsError,
    Truncated,
    UnsupportedVersion,
)
from llmzip.progress import ChunkEvent, Progress

if TYPE_CHECKING:
    import threading

    from llmzip.api.options import BytesLike
    from llmzip.inspect.report import Report
    from llmzip.progress import OnProgress

__version__ = VERSION

__all__ = [
    "ChunkEvent",
    "Compressor",
    "Corrupt",
    "Decompressor",
    "FormatError",
    "InputError",
    "IntegrityError",
    "Interrupted",
    "LimitExceeded",
    "LlmzipError",
    "ModelMismatch",
    "ModelUnavailable",
    "NotACrmFile",
    "Progress",
    "Report",
    "ResumeRefused",
    "SettingsError",
    "Truncated",
    "UnsupportedVersion",
    "__version__",
    "compress",
    "decompress",
    "info",
    "open",
]


def compress(
    data: BytesLike,
    *,
    model: str | None = None,
    revision: str | None = None,
    device: Device = "auto",
    codec: Codec = "cram",
    try_cram: bool = False,
    shared_mem: int | None = None,
    verify: Verify = "quick",
    num_mem: int = 1,
    bits: int | None = None,
    max_patches: float = DEFAULT_MAX_PATCHES,
    context_tokens: int | None = None,
    budget_bits: float | None = None,
    max_steps: int | None = None,
    preset: Preset = "balanced",
    time_budget_s: float | None = None,
    bf16_safe: bool = False,
    seed: int = 0,
    threads: int | None = None,
    batch: int | None = None,
    attention: Attention = "sdpa",
    offline: bool = False,
    progress: OnProgress | None = None,
    cancel: threading.Event | None = None,
) -> bytes:
    """The `.crm` container of `data`, verified.

    `model`: a known name, a directory or "ORG/NAME"; None for the default, which is fetched if it
    is not on this machine (unless `offline`).

    `codec`: "cram" puts the text into vectors, "arith" into the streams of an arithmetic coder,
    which takes far less time and room; "auto" takes what is smallest of arith, zstd and, with
    `try_cram`, cram.

    For cram, `preset` trades time for bytes; `bits` a dimension (1 to 8, or 16 for bf16 as it is),
    by default 1; at most a share of `max_patches` of the file's tokens is patched (with `bits=16`,
    of each chunk's). What is not crammed within `time_budget_s` seconds is stored; `bf16_safe`
    asks for margins that hold in bf16, too. The container is decoded once and found equal.

    `shared_mem` vectors (0 to 16) stand before every segment: for arith of the whole file, by
    default as many as pay, for cram of some 2,000 tokens each, by default none. For arith,
    `verify`: "full" decodes the container once and finds it equal, "quick" reads its streams back
    by noisy log-odds of the encoder; short texts are always decoded.

    `progress` is called with each `Progress` event; `cancel`, once set, ends the work with
    `Interrupted`. Raises `LlmzipError`, of which `SettingsError` for settings that do not go
    together.
    """
    settings = CompressSettings(
        model=model, revision=revision, num_mem=num_mem, bits=bits, max_patches=max_patches,
        context_tokens=context_tokens, budget_bits=budget_bits, max_steps=max_steps, preset=preset,
        time_budget_s=time_budget_s, bf16_safe=bf16_safe, seed=seed, codec=codec,
        try_cram=try_cram, shared_mem=shared_mem, verify=verify, offline=offline,
        compute=ComputeSettings(device=device, threads=threads, batch=batch, attention=attention),
    )  # fmt: skip
    whole = bytes_of(data)
    from llmzip.api.compress import compress_bytes

    return compress_bytes(whole, settings, context_of(progress, cancel))


def decompress(
    data: BytesLike,
    *,
    model: str | None = None,
    revision: str | None = None,
    device: Device = "auto",
    threads: int | None = None,
    batch: int | None = None,
    attention: Attention = "sdpa",
    max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES,
    max_tokens: int | None = None,
    span: tuple[int, int] | None = None,
    chunks: tuple[int, int] | None = None,
    perturb: float = 0.0,
    offline: bool = False,
    progress: OnProgress | None = None,
    cancel: threading.Event | None = None,
) -> bytes:
    """The original of a `.crm` container, verified by its hash.

    `span`: only the bytes from its first number up to its second, which is not included; `chunks`:
    only those of the chunks (of an arith container: segments) from its first number to its second,
    counted from 1. No more is decoded than they need, and it is verified by its own checks alone.
    `max_tokens`: how many may be decoded at most; None for what the container's size makes
    plausible.
    `perturb`: how much noise to add to the model's log-odds, as a share of what an arith container
    is made to bear; up to 1 nothing changes.

    None of `device`, `threads`, `batch` and `attention` changes what comes back. Raises
    `LlmzipError`: `SettingsError` for a span beyond the end or a `perturb` that does not apply,
    `FormatError` for damage, `ModelUnavailable` or `ModelMismatch` without the right
    model, `IntegrityError` for text that fails its hash, `LimitExceeded`, `Interrupted`.
    """
    settings = DecompressSettings(
        model=model, revision=revision, max_output_bytes=max_output_bytes, max_tokens=max_tokens,
        span=span, chunks=chunks, perturb=perturb, offline=offline,
        compute=ComputeSettings(device=device, threads=threads, batch=batch, attention=attention),
    )  # fmt: skip
    whole = bytes_of(data)
    from llmzip.api.decompress import decompress_bytes

    return decompress_bytes(whole, settings, context_of(progress, cancel))


def info(source: str | os.PathLike[str] | BytesLike) -> Report:
    """What a container holds: of a file's path, or of the bytes. Needs no model.

    Raises `FormatError`, `LimitExceeded` for an original over 1 GiB, and OSError for a path that
    cannot be read.
    """
    from llmzip.inspect.report import read_report

    if isinstance(source, (str, os.PathLike)):
        with builtins.open(source, "rb") as file:
            return read_report(file.read())
    return read_report(bytes_of(source))


_FOR_OTHER_LIBRARIES = ("fsspec", "numcodecs", "zarr")


def __getattr__(name: str) -> object:
    if name in _FOR_OTHER_LIBRARIES:
        return importlib.import_module(f"llmzip.{name}")
    if name == "Report":
        from llmzip.inspect.report import Report

        return Report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
