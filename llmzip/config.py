"""Every setting of a run, validated once, before any work.

Owns the defaults and the limits of the settings. Knows nothing of models or files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

from llmzip.errors import SettingsError

Device = Literal["auto", "cpu", "cuda", "mps"]
Attention = Literal["sdpa", "eager"]
Preset = Literal["fast", "balanced", "small"]
Codec = Literal["cram", "arith", "auto"]
Verify = Literal["quick", "full"]

VERSION = "0.1.0"  # of llmzip
DEFAULT_MAX_OUTPUT_BYTES = 1 << 30
DEFAULT_MAX_STEPS = 240  # for vectors of 16 bits
DEFAULT_MAX_PATCHES = 1 / 8
BITS = (1, 2, 3, 4, 5, 6, 7, 8, 16)
_CRAM_ONLY = (
    "num_mem", "bits", "max_patches", "context_tokens", "budget_bits", "max_steps", "preset",
    "time_budget_s", "bf16_safe",
)  # fmt: skip


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise SettingsError(message)


def _check_model(model: str | None, revision: str | None) -> None:
    _require(model != "", "--model is empty: name a model, or leave it out")
    _require(revision != "", "--revision is empty: name a commit, or leave it out")


def _check_device(device: str) -> None:
    _require(
        device in get_args(Device),
        f"--device is one of {', '.join(get_args(Device))}, not {device!r}",
    )


@dataclass(frozen=True, kw_only=True)
class ComputeSettings:
    """Where and how the language model runs. None of it changes decoded bytes."""

    device: Device = "auto"
    threads: int | None = None  # None: leave torch's own choice
    batch: int | None = None  # rows decoded together; None: chosen by size
    attention: Attention = "sdpa"

    def __post_init__(self) -> None:
        _check_device(self.device)
        _require(
            self.threads is None or 1 <= self.threads <= 1024,
            "--threads is a number from 1 to 1024",
        )
        _require(
            self.batch is None or 1 <= self.batch <= 4096, "--batch is a number from 1 to 4096"
        )
        _require(self.attention in get_args(Attention), "--attention is sdpa or eager")


@dataclass(frozen=True, kw_only=True)
class CompressSettings:
    """How a text becomes a container."""

    model: str | None = None  # None: the default model
    revision: str | None = None
    num_mem: int = 1  # K, mem vectors a chunk
    bits: int | None = None  # bits a dimension of a stored vector; None: the preset's
    max_patches: float = DEFAULT_MAX_PATCHES  # share of a chunk's tokens that may be patched
    context_tokens: int | None = (
        None  # left context a chunk may see; None: chosen by the text's size
    )
    budget_bits: float | None = (
        None  # surprisal a chunk may hold; None: from the model's measured capacity
    )
    max_steps: int | None = None  # optimiser steps before a chunk is split; None: the preset's
    preset: Preset = "balanced"
    time_budget_s: float | None = None  # seconds for everything; the rest is stored
    bf16_safe: bool = False  # ask for margins that hold when decoded in bf16, too
    seed: int = 0
    codec: Codec = "cram"  # auto: whichever of arith and zstd holds each run of bytes in less
    try_cram: bool = False  # auto: cram the file, too, and keep the smaller container
    shared_mem: int | None = None  # arith: vectors for the whole file; None: what pays
    verify: Verify = "quick"  # arith: full decodes the whole file once more
    offline: bool = False
    compute: ComputeSettings = ComputeSettings()

    def __post_init__(self) -> None:
        _check_model(self.model, self.revision)
        self._check_codec()
        _require(1 <= self.num_mem <= 64, "--mem is a number from 1 to 64")
        _require(self.bits is None or self.bits in BITS, "--bits is a number from 1 to 8, or 16")
        _require(
            math.isfinite(self.max_patches) and 0 <= self.max_patches <= 0.5,
            "--max-patches is a share from 0 to 0.5",
        )
        _require(
            self.context_tokens is None or 0 <= self.context_tokens <= 65536,
            "--context is a number of tokens from 0 to 65536",
        )
        _require(
            self.budget_bits is None or (math.isfinite(self.budget_bits) and self.budget_bits >= 1),
            "--budget-bits is a number of bits, at least 1",
        )
        _require(
            self.max_steps is None or 1 <= self.max_steps <= 100_000,
            "--max-steps is a number from 1 to 100000",
        )
        _require(
            self.preset in get_args(Preset),
            f"--preset is one of {', '.join(get_args(Preset))}, not {self.preset!r}",
        )
        _require(
            self.time_budget_s is None
            or (math.isfinite(self.time_budget_s) and self.time_budget_s > 0),
            "--time-budget is a time above 0, such as 90s, 10m or 1.5h",
        )
        _require(0 <= self.seed < 2**63, "--seed is a number from 0 to 2^63 - 1")

    def _check_codec(self) -> None:
        _require(
            self.codec in get_args(Codec),
            f"--codec is one of {', '.join(get_args(Codec))}, not {self.codec!r}",
        )
        _require(self.verify in get_args(Verify), f"--verify is quick or full, not {self.verify!r}")
        _require(
            self.shared_mem is None or 0 <= self.shared_mem <= 16,
            "--shared-mem is a number from 0 to 16",
        )
        _require(self.codec == "auto" or not self.try_cram, "--try-cram goes with --codec auto")
        is_cram = self.codec == "cram"
        _require(
            not is_cram or (self.shared_mem is None and self.verify == "quick"),
            "--shared-mem and --verify go with --codec arith or auto",
        )
        _require(
            is_cram
            or self.try_cram
            or all(
                getattr(self, field.name) == field.default
                for field in fields(self)
                if field.name in _CRAM_ONLY
            ),
            f"--codec {self.codec} without --try-cram takes none of the options of cramming: "
            "--mem, --bits, --max-patches, --context, --budget-bits, --max-steps, --preset, "
            "--time-budget, --bf16-safe",
        )


@dataclass(frozen=True, kw_only=True)
class DecompressSettings:
    """How a container becomes bytes again."""

    model: str | None = (
        None  # None: the model named in the container, if it is already on this machine
    )
    revision: str | None = None
    max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES
    max_tokens: int | None = None  # to be decoded; None: what the file's size makes plausible
    span: tuple[int, int] | None = None  # first and last (not included) byte wanted; None: all
    chunks: tuple[int, int] | None = None  # first and last chunk wanted, counted from 1; None: all
    perturb: float = 0.0  # noise to add to the model's output, as a share of what the file bears
    offline: bool = False
    compute: ComputeSettings = ComputeSettings()

    def __post_init__(self) -> None:
        _check_model(self.model, self.revision)
        _require(self.max_output_bytes >= 0, "--max-output is a number of bytes, at least 0")
        _require(
            self.span is None or 0 <= self.span[0] <= self.span[1],
            "--bytes is A:B, from byte A up to byte B, which is not included",
        )
        _require(
            self.chunks is None or 1 <= self.chunks[0] <= self.chunks[1],
            "--chunks is I-J, from chunk I up to chunk J, counted from 1",
        )
        _require(
            self.max_tokens is None or self.max_tokens >= 0,
            "--max-tokens is a number of tokens, at least 0",
        )
        _require(
            self.span is None or self.chunks is None, "--bytes and --chunks exclude each other"
        )
        _require(
            math.isfinite(self.perturb) and 0 <= self.perturb <= 1e6,
            "--perturb is a share of the file's guard, from 0 up",
        )


LOCAL_CLUSTER = "local"  # an address: of this machine alone; it ends with the run


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """Which Ray cluster crams, and how it is divided."""

    address: str = LOCAL_CLUSTER  # HOST:PORT, or "auto": that which this machine belongs to
    num_workers: int | None = None  # None: as many as there is room for
    cores: int | None = None  # of a worker; None: by room

    def __post_init__(self) -> None:
        _require(
            self.address != "", "--ray= is empty: --ray=auto or --ray=HOST:PORT, or --ray alone"
        )
        for name, value in (("--ray-workers", self.num_workers), ("--ray-cores", self.cores)):
            _require(value is None or 1 <= value <= 100_000, f"{name} is a number from 1 to 100000")
