"""The options that commands share, each described once.

Owns names, help texts and environment variables; `cli.words` owns what becomes of their words.
Defaults and limits belong to `config`.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from llmzip.cli.completing import any_of, model_names
from llmzip.cli.panels import ARITH, CLUSTER, CRAMMING

_DEVICES = "auto|cpu|cuda|mps"
_ATTENTION = "sdpa|eager"
_PRESETS = "fast|balanced|small"
_CODECS = "cram|arith|auto"
_VERIFY = "quick|full"

Output: TypeAlias = Annotated[
    str | None,
    typer.Option("-o", "--output", metavar="FILE", help="Output file, - for standard output."),
]
Stdout: TypeAlias = Annotated[
    bool, typer.Option("-c", "--stdout", help="Write to standard output.")
]
OutputDir: TypeAlias = Annotated[
    str | None,
    typer.Option("--output-dir", metavar="DIR", help="Put results there, under their own names."),
]
Recursive: TypeAlias = Annotated[
    bool, typer.Option("-r", "--recursive", help="Take the files in directories, too.")
]
Keep: TypeAlias = Annotated[
    bool, typer.Option("-k", "--keep", help="Keep the input, as is done anyway.")
]
Remove: TypeAlias = Annotated[
    bool, typer.Option("--rm", help="Remove the input once the result is safely on disk.")
]
Yes: TypeAlias = Annotated[
    bool, typer.Option("-y", "--yes", help="Do not ask, nor refuse for want of memory.")
]
NoProgress: TypeAlias = Annotated[
    bool, typer.Option("--no-progress", help="No bar and no lines of progress.")
]
Level: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--level",
        metavar="N",
        help="A preset, also written -1 to -9: 1 to 3 fast, 4 to 6 balanced, 7 to 9 small.",
        rich_help_panel=CRAMMING,
    ),
]
Ray: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[=ADDRESS]",
        help="Cram on a Ray cluster: --ray for this machine, --ray=auto or --ray=HOST:PORT.",
        rich_help_panel=CLUSTER,
    ),
]
RayWorkers: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Workers.  [default: as there is room]", rich_help_panel=CLUSTER
    ),
]
RayCores: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Cores of a worker.  [default: up to 4]", rich_help_panel=CLUSTER
    ),
]
Force: TypeAlias = Annotated[
    bool, typer.Option("-f", "--force", help="Replace the output file, once the new one is whole.")
]
ForcePicture: TypeAlias = Annotated[
    bool, typer.Option("-f", "--force", help="Replace the picture, once the new one is whole.")
]
Restart: TypeAlias = Annotated[
    bool, typer.Option("--restart", help="Discard what an earlier run left in the .part file.")
]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output.")
]
JsonLines: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--json", help="Print JSON lines on standard output: what happens, and the result."
    ),
]
Plot: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="FILE.png|FILE.svg", help="Draw a picture; needs pip install matplotlib."),
]
Chart: TypeAlias = Annotated[
    bool, typer.Option("--chart", help="Draw a chart in the terminal, too.")
]
Quiet: TypeAlias = Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.")]
Verbose: TypeAlias = Annotated[
    bool, typer.Option("-v", "--verbose", help="Full report, and progress lines in logs.")
]
Model: TypeAlias = Annotated[
    str | None,
    typer.Option(
        envvar="LLMZIP_MODEL",
        metavar="MODEL",
        help="A known name, a directory, or ORG/NAME.",
        autocompletion=model_names,
    ),
]
Revision: TypeAlias = Annotated[
    str | None, typer.Option(metavar="COMMIT", help="Revision of an ORG/NAME model.")
]
Offline: TypeAlias = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
Device: TypeAlias = Annotated[
    str,
    typer.Option(
        envvar="LLMZIP_DEVICE",
        metavar=_DEVICES,
        help="Where the model runs.",
        autocompletion=any_of(_DEVICES),
    ),
]
Threads: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "-T", "--threads", metavar="N", help="CPU threads; 0 for all.  [default: torch's choice]"
    ),
]
Batch: TypeAlias = Annotated[
    int | None, typer.Option(metavar="N", help="Rows worked on together.  [default: by size]")
]
Attention: TypeAlias = Annotated[
    str,
    typer.Option(metavar=_ATTENTION, help="Attention kernel.", autocompletion=any_of(_ATTENTION)),
]
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
        metavar=_PRESETS,
        autocompletion=any_of(_PRESETS),
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
        metavar=_CODECS,
        autocompletion=any_of(_CODECS),
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
        metavar=_VERIFY,
        autocompletion=any_of(_VERIFY),
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
