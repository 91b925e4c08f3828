"""Every setting of a run, declared once: name, type, default, limits, help.

Owns the defaults and the limits, and checks them before any work. The keywords of the Python API
have the names of the fields; the command line makes its options from the declarations. Knows
nothing of models or files.
"""

# No `from __future__ import annotations`: the command line needs the fields' types as objects.

import math
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin

from llmzip.errors import SettingsError

Device = Literal["auto", "cpu", "cuda", "mps"]
Attention = Literal["sdpa", "eager"]
Preset = Literal["fast", "balanced", "small"]
Codec = Literal["cram", "arith", "auto"]
EXTRA_CODECS: list[str] = []  # names of codecs that were registered from elsewhere
Verify = Literal["quick", "full"]

VERSION = "0.1.0"  # of llmzip
DEFAULT_MAX_OUTPUT_BYTES = 1 << 30
DEFAULT_MAX_STEPS = 240  # for vectors of 16 bits
DEFAULT_MAX_PATCHES = 1 / 8
BITS = (1, 2, 3, 4, 5, 6, 7, 8, 16)
LOCAL_CLUSTER = "local"  # an address: of this machine alone; it ends with the run

# Titles of the groups that help shows settings in.
ARITH, CRAMMING, CLUSTER = "Arith codec", "Cramming", "Cluster"

_T = TypeVar("_T")


# Named tuples, since every start of the command line makes them: a dataclass takes a millisecond.
class Limits(NamedTuple):
    """Which values a setting may have."""

    accepts: Callable[[Any], bool]
    text: str  # what is said of a value that it refuses, after the setting's name


class Setting(NamedTuple):
    """What a setting means; its name, type and default are those of the field that it belongs to.

    Fields whose type is a Literal need no limits. None is accepted where it is the default.
    """

    help: str
    limits: Limits | None = None
    option: str = ""  # on the command line; by default the name, with hyphens
    short: str = ""  # a letter for the same, with its hyphen
    metavar: str = ""  # what help calls its value; of a Literal, by default, all that it may be
    usual: str = ""  # what None stands for, where help is to say so
    group: str = ""


def _declared(default: _T, setting: Setting) -> _T:
    return field(default=default, metadata={"setting": setting})


def _setting(default: _T, help: str, limits: Limits | None = None, **more: str) -> _T:
    return _declared(default, Setting(help=help, limits=limits, **more))


def _limits(low: float, high: float = math.inf, *, of: str = "a number", text: str = "") -> Limits:
    """Numbers from `low` up to `high`, both included; never infinity or NaN."""
    usual = f"at least {low}" if high == math.inf else f"from {low} to {high}"
    comma = "," if high == math.inf else ""
    return Limits(
        accepts=lambda value: low <= value <= high and value < math.inf,
        text=text or f"is {of}{comma} {usual}",
    )


def setting_of(each: Field[Any]) -> Setting:
    """What is declared of a field."""
    found: Setting = each.metadata["setting"]
    return found


def choices_of(each: Field[Any]) -> tuple[str, ...]:
    """The words that a setting may be; none where it is no choice."""
    return get_args(each.type) if get_origin(each.type) is Literal else ()


def _check(settings: Any) -> None:
    """Raises SettingsError for the first setting outside its limits."""
    for each in fields(settings):
        value = getattr(settings, each.name)
        if not each.metadata or (value is None and each.default is None):
            continue  # settings that are checked on their own, or None where that is the default
        words, limits = choices_of(each), setting_of(each).limits
        if each.name == "codec":
            words = (*words, *EXTRA_CODECS)
        if words and value not in words:
            of_them = f"one of {', '.join(words)}" if len(words) > 2 else " or ".join(words)
            raise SettingsError(f"`{each.name}` is {of_them}, not {value!r}", settings=(each.name,))
        if limits is not None and not limits.accepts(value):
            raise SettingsError(f"`{each.name}` {limits.text}", settings=(each.name,))


_MODEL = Setting(
    help="A known name, a directory, or ORG/NAME.",
    metavar="MODEL",
    limits=Limits(accepts=bool, text="is empty: name a model, or leave it out"),
)
_REVISION = Setting(
    help="Revision of an ORG/NAME model.",
    metavar="COMMIT",
    limits=Limits(accepts=bool, text="is empty: name a commit, or leave it out"),
)
_OFFLINE = Setting(help="Never use the network.")


@dataclass(frozen=True, kw_only=True)
class ComputeSettings:
    """Where and how the language model runs. None of it changes decoded bytes."""

    device: Device = _setting("auto", "Where the model runs.")
    threads: int | None = _setting(
        None, "CPU threads; 0 for all.", _limits(1, 1024),
        short="-T", metavar="N", usual="torch's choice",
    )  # fmt: skip
    batch: int | None = _setting(  # rows of text that go through the model together
        None, "Rows worked on together.", _limits(1, 4096), metavar="N", usual="by size"
    )
    attention: Attention = _setting("sdpa", "Attention kernel.")

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True, kw_only=True)
class CompressSettings:
    """How a text becomes a container."""

    model: str | None = _declared(None, _MODEL)  # None: the default model
    revision: str | None = _declared(None, _REVISION)
    num_mem: int = _setting(
        1, "Mem vectors a chunk.", _limits(1, 64), option="--mem", metavar="K", group=CRAMMING
    )
    bits: int | None = _setting(
        None, "Bits a dimension of a stored vector: 1 to 8, or 16.",
        Limits(accepts=BITS.__contains__, text="is a number from 1 to 8, or 16"),
        metavar="B", usual="1", group=CRAMMING,
    )  # fmt: skip
    max_patches: float = _setting(
        DEFAULT_MAX_PATCHES, "Share of the tokens that may be patched.",
        _limits(0, 0.5, of="a share"), metavar="SHARE", group=CRAMMING,
    )  # fmt: skip
    context_tokens: int | None = _setting(
        None, "Left context of a chunk, in tokens.", _limits(0, 65536, of="a number of tokens"),
        option="--context", metavar="C", usual="by size", group=CRAMMING,
    )  # fmt: skip
    budget_bits: float | None = _setting(
        None, "Surprisal a chunk may hold.", _limits(1, of="a number of bits"),
        metavar="N", usual="the model's capacity", group=CRAMMING,
    )  # fmt: skip
    max_steps: int | None = _setting(
        None, "Optimiser steps of a chunk at most.", _limits(1, 100_000),
        metavar="N", usual="the preset's", group=CRAMMING,
    )  # fmt: skip
    preset: Preset = _setting("balanced", "What to spend: bytes or time.", group=CRAMMING)
    time_budget_s: float | None = _setting(
        None, "Time for everything, such as 90s, 10m, 1.5h; the rest is stored.",
        Limits(
            accepts=lambda seconds: 0 < seconds < math.inf,
            text="is a time above 0, such as 90s, 10m or 1.5h",
        ),
        option="--time-budget", metavar="TIME", group=CRAMMING,
    )  # fmt: skip
    bf16_safe: bool = _setting(
        False, "Ask for margins that hold when decoded in bf16.", group=CRAMMING
    )
    seed: int = _setting(
        0, "Seed of the starting vectors.",
        _limits(0, 2**63 - 1, text="is a number from 0 to 2^63 - 1"), metavar="S",
    )  # fmt: skip
    codec: Codec = _setting(
        "cram",
        "Vectors for each chunk (cram), an arithmetic coder (arith), or the smaller of arith and "
        "zstd (auto).",
    )
    try_cram: bool = _setting(
        False, "With --codec auto: cram the file, too, and keep the smaller result.", group=ARITH
    )
    shared_mem: int | None = _setting(
        None, "Vectors that stand before whole segments, 0 to 16.", _limits(0, 16),
        metavar="K", usual="cram: none; arith: what pays",
    )  # fmt: skip
    verify: Verify = _setting(
        "quick", "Check the streams under noise, or decode the whole file once more.", group=ARITH
    )
    offline: bool = _declared(False, _OFFLINE)
    compute: ComputeSettings = ComputeSettings()

    def __post_init__(self) -> None:
        _check(self)
        if self.try_cram and self.codec != "auto":
            raise SettingsError("`try_cram` goes with `codec` auto", settings=("try_cram", "codec"))
        if self.codec == "cram" and self.verify != "quick":
            raise SettingsError(
                "`verify` goes with `codec` arith or auto", settings=("verify", "codec")
            )
        if self.codec == "cram" and self.shared_mem and self.bits == 16:
            raise SettingsError(
                "shared vectors are coded: `shared_mem` does not go with 16 `bits`",
                settings=("shared_mem", "bits"),
            )
        if self.codec != "cram" and not self.try_cram:
            self._refuse_cramming()

    def _refuse_cramming(self) -> None:
        own = [each for each in fields(self) if each.metadata]
        cramming = [each for each in own if setting_of(each).group == CRAMMING]
        if any(getattr(self, each.name) != each.default for each in cramming):
            listed = ", ".join(f"`{each.name}`" for each in cramming)
            raise SettingsError(
                f"`codec` {self.codec} without `try_cram` takes none of the options of cramming: "
                f"{listed}",
                settings=("codec", "try_cram", *(each.name for each in cramming)),
            )


@dataclass(frozen=True, kw_only=True)
class DecompressSettings:
    """How a container becomes bytes again."""

    # None: the model named in the container, if it is already on this machine
    model: str | None = _declared(None, _MODEL)
    revision: str | None = _declared(None, _REVISION)
    max_output_bytes: int = _setting(
        DEFAULT_MAX_OUTPUT_BYTES, "Refuse originals larger than this.",
        _limits(0, of="a number of bytes"), option="--max-output", metavar="BYTES",
    )  # fmt: skip
    max_tokens: int | None = _setting(
        None, "Refuse files with more tokens to decode.", _limits(0, of="a number of tokens"),
        metavar="N", usual="64 a byte of the file + 65536",
    )  # fmt: skip
    span: tuple[int, int] | None = _setting(  # of bytes
        None,
        "Only the original's bytes from A up to B, without B; no more is decoded than they need.",
        Limits(
            accepts=lambda span: 0 <= span[0] <= span[1],
            text="is A:B, from byte A up to byte B, which is not included",
        ),
        option="--bytes", metavar="A:B",
    )  # fmt: skip
    chunks: tuple[int, int] | None = _setting(
        None, "Only the bytes of chunks I to J, counted from 1; of arith files, of segments.",
        Limits(
            accepts=lambda chunks: 1 <= chunks[0] <= chunks[1],
            text="is I-J, from chunk I up to chunk J, counted from 1",
        ),
        metavar="I-J",
    )  # fmt: skip
    perturb: float = _setting(
        0.0,
        "Add noise to the model's log-odds, as a share of the file's guard, to try what it bears.",
        _limits(0, 1e6, text="is a share of the file's guard, from 0 up"),
        metavar="SHARE", group=ARITH,
    )  # fmt: skip
    offline: bool = _declared(False, _OFFLINE)
    compute: ComputeSettings = ComputeSettings()

    def __post_init__(self) -> None:
        _check(self)
        if self.span is not None and self.chunks is not None:
            raise SettingsError(
                "`span` and `chunks` exclude each other", settings=("span", "chunks")
            )


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """Which Ray cluster crams, and how it is divided."""

    address: str = _setting(  # "auto": the cluster that this machine belongs to
        LOCAL_CLUSTER,
        "Cram on a Ray cluster: --ray for this machine, --ray=auto or --ray=HOST:PORT.",
        Limits(accepts=bool, text="is empty: name HOST:PORT, auto or local"),
        option="--ray", metavar="[=ADDRESS]", group=CLUSTER,
    )  # fmt: skip
    num_workers: int | None = _setting(
        None, "Workers.", _limits(1, 100_000),
        option="--ray-workers", metavar="N", usual="as there is room", group=CLUSTER,
    )  # fmt: skip
    cores: int | None = _setting(
        None, "Cores of a worker.", _limits(1, 100_000),
        option="--ray-cores", metavar="N", usual="up to 4", group=CLUSTER,
    )  # fmt: skip

    def __post_init__(self) -> None:
        _check(self)


_Settings = TypeVar("_Settings", CompressSettings, DecompressSettings)


def from_keywords(kind: type[_Settings], keywords: Mapping[str, Any]) -> _Settings:
    """Settings of the keywords of the Python API, which has those of `ComputeSettings` among the
    others. Raises SettingsError, TypeError for a name that no setting has."""
    own, compute = dict(keywords), {}
    for name in declared(ComputeSettings).keys() & own.keys():
        compute[name] = own.pop(name)
    return kind(**own, compute=ComputeSettings(**compute))


def declared(kind: type) -> dict[str, Field[Any]]:
    """The settings of a class by keyword, those of where it is computed among them."""
    found: dict[str, Field[Any]] = {}
    for each in fields(kind):
        found |= declared(each.type) if each.type is ComputeSettings else {each.name: each}
    return found
