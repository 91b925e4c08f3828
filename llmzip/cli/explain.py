"""`llmzip explain`: a `.crm` file piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer

from llmzip import config
from llmzip.cli import options
from llmzip.cli import settings as words
from llmzip.cli.console import write_json, write_text
from llmzip.cli.job import run_dry
from llmzip.cli.pictures import plan_picture, write_chart, write_picture
from llmzip.cli.startup import heavy_imports
from llmzip.cli.tables import is_terminal, plain_table, write_table
from llmzip.cli.work import JobSettings, Tools
from llmzip.errors import SettingsError
from llmzip.inspect.figures import printable
from llmzip.inspect.pieces import WHY, Piece, pieces_of
from llmzip.inspect.report import Report, read_report
from llmzip.store.figures import count_text

SCHEMA = 1
_LEFT = ("kind", "text")  # columns of words
_COLOURS = {"patched": "cyan", "literal": "yellow", "segment": "green", "stored": "magenta"}
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
    chart: options.Chart = False,
    plot: options.Plot = None,
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
    force: options.ForcePicture = False,
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
    if chart and json:
        raise SettingsError("--chart and --json do not go together")
    if text and no_model:
        raise SettingsError("--text needs the model: leave --no-model out")
    picture = plan_picture(plot, file, force=force)

    def work(data: bytes, tools: Tools) -> tuple[Report, list[Piece]]:
        from llmzip.store.container import parse_container  # here: numpy

        report = read_report(data, max_output_bytes=max_output)
        found = parse_container(data, max_output_bytes=max_output)
        pieces = pieces_of(found)
        num_pieces = max((piece.number for piece in pieces), default=0)
        if wanted is not None and wanted[1] > num_pieces:
            raise SettingsError(f"--chunks: {chunks}, the last one of the file is {num_pieces}")
        if no_model or not report.needs_model:
            return report, pieces
        with heavy_imports():
            from llmzip.inspect.explain import explain_pieces
        context = replace(tools.context, on_forecast=None)
        return report, explain_pieces(found.container, pieces, settings, context)

    job = JobSettings(file=file, json=json, quiet=quiet, verbose=verbose, yes=yes)
    name, (report, pieces) = run_dry(job, work)
    shown = [each for each in pieces if wanted is None or wanted[0] <= each.number <= wanted[1]]
    if json:
        write_json(
            {
                "schema": SCHEMA,
                "codec": report.codec,
                "original_bytes": report.original_bytes,
                "container_bytes": report.container_bytes,
                "bits": report.bit_counts,
                "pieces": [piece.to_dict() for piece in shown],
            }
        )
    elif is_terminal():
        write_table(*_cells(shown, with_text=text), left=_LEFT, colours=_COLOURS)
        write_text("\n".join(_totals(name, report, pieces)) + "\n")
    else:
        write_text(explain_text(name, report, pieces, shown, with_text=text))
    if chart:
        write_chart(report, pieces)
    if picture is not None:
        write_picture(picture, report, pieces, name=name)


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
    lines = plain_table(*_cells(shown, with_text=with_text), left=_LEFT)
    return "\n".join([*lines, "", *_totals(name, report, pieces)]) + "\n"


def _cells(shown: Sequence[Piece], *, with_text: bool) -> tuple[list[str], list[list[str]]]:
    """Heads and rows."""
    heads = ["#", "bytes", "tokens", "kind", "surprisal", "bits", "of text", "patches", "margin"]
    rows = [_row(piece) for piece in shown]
    if with_text:
        heads.append("text")
        for row, piece in zip(rows, shown, strict=True):
            row.append("" if piece.head is None else printable(piece.head))
    return heads, rows


def _row(piece: Piece) -> list[str]:
    surprisal = piece.surprisal_bits
    return [
        str(piece.number) if piece.number else "-",
        f"{piece.first_byte:,}-{piece.end_byte - 1:,}",
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
