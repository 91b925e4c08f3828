"""The options that commands share, each described once.

Owns names, help texts and environment variables. Defaults and limits belong to `config`; a value
outside them is refused there. Called by `cli.compress` and `cli.decompress`.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

Output: TypeAlias = Annotated[
    str | None,
    typer.Option("-o", "--output", metavar="FILE", help="Output file, - for standard output."),
]
Force: TypeAlias = Annotated[
    bool, typer.Option("-f", "--force", help="Replace the output file, once the new one is whole.")
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
    int | None, typer.Option(metavar="N", help="Chunks worked on together.  [default: by size]")
]
Attention: TypeAlias = Annotated[str, typer.Option(metavar="sdpa|eager", help="Attention kernel.")]
Mem: TypeAlias = Annotated[int, typer.Option("--mem", metavar="K", help="Mem vectors a chunk.")]
Bits: TypeAlias = Annotated[
    int, typer.Option(metavar="B", help="Bits a dimension of a stored vector.")
]
Context: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--context", metavar="C", help="Left context of a chunk, in tokens.  [default: by size]"
    ),
]
BudgetBits: TypeAlias = Annotated[
    float | None,
    typer.Option(metavar="N", help="Surprisal a chunk may hold.  [default: the model's capacity]"),
]
MaxSteps: TypeAlias = Annotated[
    int, typer.Option(metavar="N", help="Optimiser steps before a chunk is split.")
]
Seed: TypeAlias = Annotated[int, typer.Option(metavar="S", help="Seed of the starting vectors.")]
MaxOutput: TypeAlias = Annotated[
    int, typer.Option("--max-output", metavar="BYTES", help="Refuse originals larger than this.")
]
