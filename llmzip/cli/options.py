"""The options that commands share, each described once, and how their words become settings.

Owns names, help texts and environment variables. Defaults and limits belong to `config`; a value
outside them is refused there. Called by `cli.compress` and `cli.decompress`.
"""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias, cast

import typer

from llmzip import config
from llmzip.cli.panels import ARITH, CRAMMING
from llmzip.errors import SettingsError

_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_NUMBER = r"\d+(?:\.\d+)?"
_PLAIN_SECONDS = re.compile(_NUMBER, re.ASCII)
_TIME = re.compile("".join(f"(?:({_NUMBER}){unit})?" for unit in _UNIT_SECONDS), re.ASCII)
_SPAN = re.compile(r"(\d{1,18}):(\d{1,18})", re.ASCII)
_CHUNKS = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?", re.ASCII)

Output: TypeAlias = Annotated[
    str | None,
    typer.Option("-o", "--output", metavar="FILE", help="Output file, - for standard output."),
]
Force: TypeAlias = Annotated[
    bool, typer.Option("-f", "--force", help="Replace the output file, once the new one is whole.")
]
Restart: TypeAlias = Annotated[
    bool, typer.Option("--restart", help="Discard what an earlier run left in the .part file.")
]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output.")
]
Quiet: TypeAlias = Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.")]
Verbose: TypeAlias = Annotated[
    bool, typer.Option("-v", "--verbose", help="Full report, and progress lines in logs.")
]
Model: TypeAlias = Annotated[
    str | None,
    typer.Option(
        envvar="LLMZIP_MODEL", metavar="MODEL", help="A known name, a directory, or ORG/NAME."
    ),
]
Revision: TypeAlias = Annotated[
    str | None, typer.Option(metavar="COMMIT", help="Revision of an ORG/NAME model.")
]
Offline: TypeAlias = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
Device: TypeAlias = Annotated[
    str,
    typer.Option(envvar="LLMZIP_DEVICE", metavar="auto|cpu|cuda|mps", help="Where the model runs."),
]
Threads: TypeAlias = Annotated[
    int | None, typer.Option(metavar="N", help="CPU threads.  [default: torch's choice]")
]
Batch: TypeAlias = Annotated[
    int | None, typer.Option(metavar="N", help="Rows worked on together.  [default: by size]")
]
Attention: TypeAlias = Annotated[str, typer.Option(metavar="sdpa|eager", help="Attention kernel.")]
Mem: TypeAlias = Annotated[
    int,
    typer.Option("--mem", metavar="K", help="Mem vectors a chunk.", rich_help_panel=CRAMMING),
]
Bits: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="B",
        help="Bits a dimension of a stored vector: 1 to 8, or 16.  [default: the preset's]",
        rich_help_panel=CRAMMING,
    ),
]
MaxPatches: TypeAlias = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        help="Share of a chunk's tokens that may be patched.",
        rich_help_panel=CRAMMING,
    ),
]
Context: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--context",
        metavar="C",
        help="Left context of a chunk, in tokens.  [default: by size]",
        rich_help_panel=CRAMMING,
    ),
]
BudgetBits: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="N",
        help="Surprisal a chunk may hold.  [default: the model's capacity]",
        rich_help_panel=CRAMMING,
    ),
]
MaxSteps: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Optimiser steps before a chunk is split.  [default: the preset's]",
        rich_help_panel=CRAMMING,
    ),
]
Preset: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="fast|balanced|small",
        help="What to spend: bytes or time.",
        rich_help_panel=CRAMMING,
    ),
]
TimeBudget: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Time for everything, such as 90s, 10m, 1.5h; the rest is stored.",
        rich_help_panel=CRAMMING,
    ),
]
Bf16Safe: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--bf16-safe",
        help="Ask for margins that hold when decoded in bf16.",
        rich_help_panel=CRAMMING,
    ),
]
DryRun: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Try a small part, predict time and size of the whole, write nothing."
    ),
]
Watch: TypeAlias = Annotated[
    bool, typer.Option("--watch", help="Show a chunk coming into focus, on a terminal.")
]
Seed: TypeAlias = Annotated[int, typer.Option(metavar="S", help="Seed of the starting vectors.")]
Codec: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="cram|arith|auto",
        help="Vectors for each chunk (cram), an arithmetic coder (arith), or the smaller of arith "
        "and zstd (auto).",
    ),
]
TryCram: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--try-cram",
        help="With --codec auto: cram the file, too, and keep the smaller result.",
        rich_help_panel=ARITH,
    ),
]
SharedMem: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="K",
        help="Vectors that the whole file shares, 0 to 16.  [default: what pays]",
        rich_help_panel=ARITH,
    ),
]
Verify: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="quick|full",
        help="Check the streams under noise, or decode the whole file once more.",
        rich_help_panel=ARITH,
    ),
]
Bytes: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--bytes",
        metavar="A:B",
        help="Only the original's bytes from A up to B, without B; no more is decoded than they "
        "need.",
    ),
]
Chunks: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--chunks",
        metavar="I-J",
        help="Only the bytes of chunks I to J, counted from 1; of arith files, of segments.",
    ),
]
Salvage: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--salvage", help="Of a damaged file, give what is intact, gaps marked; exit 6 if any."
    ),
]
MaxTokens: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--max-tokens",
        metavar="N",
        help="Refuse files with more tokens to decode.  [default: 64 a byte of the file + 65536]",
    ),
]
Perturb: TypeAlias = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        help="Add noise to the model's log-odds, as a share of the file's guard, to try what it "
        "bears.",
        rich_help_panel=ARITH,
    ),
]
MaxOutput: TypeAlias = Annotated[
    int, typer.Option("--max-output", metavar="BYTES", help="Refuse originals larger than this.")
]


def compute_settings(
    *, device: str, threads: int | None, batch: int | None, attention: str
) -> config.ComputeSettings:
    """The options that say where and how the model runs. Raises SettingsError."""
    return config.ComputeSettings(
        device=cast(config.Device, device),
        threads=threads,
        batch=batch,
        attention=cast(config.Attention, attention),
    )


def span_of(text: str | None) -> tuple[int, int] | None:
    """ "A:B" as two numbers. Raises SettingsError."""
    if text is None:
        return None
    found = _SPAN.fullmatch(text)
    if found is None or int(found[1]) > int(found[2]):
        raise SettingsError(
            f"--bytes: {text!r} is not a range of bytes", hint="write A:B, such as 0:1000"
        )
    return int(found[1]), int(found[2])


def chunks_of(text: str | None) -> tuple[int, int] | None:
    """ "I-J", or one number, as two. Raises SettingsError."""
    if text is None:
        return None
    found = _CHUNKS.fullmatch(text)
    if found is None or not 1 <= int(found[1]) <= int(found[2] or found[1]):
        raise SettingsError(
            f"--chunks: {text!r} is not a range of chunks", hint="write I-J, such as 3-5"
        )
    return int(found[1]), int(found[2] or found[1])


def seconds_of(time: str | None) -> float | None:
    """A time in seconds: "90", "90s", "10m", "1.5h", "1h30m". Raises SettingsError."""
    if time is None:
        return None
    if _PLAIN_SECONDS.fullmatch(time):
        return float(time)
    found = _TIME.fullmatch(time)
    if found is None or not any(found.groups()):
        raise SettingsError(
            f"--time-budget: {time!r} is not a time", hint="write 90, 90s, 10m, 1.5h or 1h30m"
        )
    parts = zip(found.groups(), _UNIT_SECONDS.values(), strict=True)
    return sum(float(number) * seconds for number, seconds in parts if number)
