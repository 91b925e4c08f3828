"""`llmzip explain`: a `.crm` file piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from llmzip import config
from llmzip.cli import options, words
from llmzip.cli.console import write_json, write_text
from llmzip.cli.job import JobSettings, Tools, run_dry
from llmzip.cli.startup import heavy_imports
from llmzip.report import Report, printable, read_report
from llmzip.report_pieces import WHY, Piece, read_pieces
from llmzip.report_text import count_text

SCHEMA = 1
_Defaults = config.DecompressSettings


def explain(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .crm file, - for stdin.")],
    no_model: Annotated[
        bool,
        typer.Option(
            "--no-model", help="Only what the file itself says: no surprisal, no margins."
        ),
    ] = False,
    text: Annotated[
        bool, typer.Option("--text", help="Show how the text of each piece begins.")
    ] = False,
    chunks: options.Chunks = None,
    model: options.Model = None,
    revision: options.Revision = None,
    device: options.Device = config.ComputeSettings.device,
    threads: options.Threads = None,
    batch: options.Batch = None,
    attention: options.Attention = config.ComputeSettings.attention,
    max_output: options.MaxOutput = _Defaults.max_output_bytes,
    max_tokens: options.MaxTokens = None,
    offline: options.Offline = False,
    yes: options.Yes = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Say of each chunk of FILE how it is stored, what it takes and how safely it decodes."""
    settings = config.DecompressSettings(
        model=model,
        revision=revision,
        max_output_bytes=max_output,
        max_tokens=max_tokens,
        offline=offline,
        compute=words.compute_settings(
            device=device, threads=threads, batch=batch, attention=attention
        ),
    )
    wanted = words.chunks_of(chunks)

    def work(data: bytes, tools: Tools) -> tuple[Report, list[Piece]]:
        report = read_report(data, max_output_bytes=max_output)
        if no_model or not report.needs_model:
            return report, read_pieces(data, max_output_bytes=max_output)
        with heavy_imports():
            from llmzip.explain import explain_bytes
        return report, explain_bytes(
            data, settings, on_progress=tools.on_progress, cancel=tools.stop.cancel
        )

    job = JobSettings(file=file, json=json, quiet=quiet, verbose=verbose, yes=yes)
    name, (report, pieces) = run_dry(job, work)
    shown = [each for each in pieces if wanted is None or wanted[0] <= each.number <= wanted[1]]
    if json:
        fields = [piece.to_dict() for piece in shown]
        write_json({"schema": SCHEMA, "codec": report.codec, "pieces": fields})
    else:
        write_text(explain_text(name, report, pieces, shown, with_text=text))


def explain_text(
    name: str,
    report: Report,
    pieces: Sequence[Piece],
    shown: Sequence[Piece],
    *,
    with_text: bool,
) -> str:
    """A table of the pieces shown, totals of all, and what the kinds mean. The last line has its
    newline."""
    heads = ["#", "bytes", "tokens", "kind", "surprisal", "bits", "of text", "patches", "margin"]
    rows = [_row(piece) for piece in shown]
    if with_text:
        heads.append("text")
        for row, piece in zip(rows, shown, strict=True):
            row.append("" if piece.head is None else printable(piece.head))
    widths = [max(len(row[place]) for row in [heads, *rows]) for place in range(len(heads))]
    lines = [
        "  ".join(
            cell.ljust(width) if place in (3, 9) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [heads, *rows]
    ]
    return "\n".join([*lines, "", *_totals(name, report, pieces)]) + "\n"


def _row(piece: Piece) -> list[str]:
    surprisal = piece.surprisal_bits
    return [
        str(piece.number) if piece.number else "-",
        f"{piece.first_byte:,}-{piece.first_byte + piece.num_bytes - 1:,}",
        f"{piece.num_tokens:,}" if piece.num_tokens else "-",
        piece.kind,
        "-" if surprisal is None or piece.kind == "segment" else f"{surprisal:,.0f}",
        f"{piece.bits:,.0f}",
        f"{piece.bits / piece.num_bytes:.2f}",
        f"{piece.num_patches}" if piece.kind in ("crammed", "patched") else "-",
        "-" if piece.min_margin is None else f"{piece.min_margin:.2f}",
    ]


def _totals(name: str, report: Report, pieces: Sequence[Piece]) -> list[str]:
    metadata = report.bit_counts.metadata
    bits = sum(piece.bits for piece in pieces) + metadata
    lines = [
        f"{name}: {count_text(len(pieces), 'piece')}, {bits:,.0f} bits with {metadata:,} of "
        f"metadata, {report.container_bytes:,} bytes",
    ]
    known = [piece for piece in pieces if piece.surprisal_bits is not None and piece.vector_bits]
    if known:
        surprisal = sum(piece.surprisal_bits or 0.0 for piece in known)
        vectors = sum(piece.vector_bits for piece in known)
        lines.append(
            f"surprisal {surprisal:,.0f} bits in chunks with vectors, which take {vectors:,.0f}: "
            f"{vectors / surprisal:.2f} stored bits for one of them"
        )
    kinds = dict.fromkeys(piece.kind for piece in pieces)
    lines += [f"{kind}: {WHY[kind]}" for kind in kinds]
    lines.append(
        "bits: vectors, patches, streams or stored bytes of each; where they are coded together, "
        "about; surprisal: bits without vectors; of text: bits for each byte; margin: the weakest, "
        "in logits"
    )
    return lines
