"""`llmzip explain`: how each piece of a `.crm` file is stored, and how safely it decodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated

import typer

from llmzip import config
from llmzip.cli import options
from llmzip.cli.console import is_terminal, plain_table, write_json, write_table, write_text
from llmzip.cli.job import run_dry
from llmzip.cli.options import Before, Takes, with_options
from llmzip.cli.pictures import plan_page, plan_picture, write_chart, write_page, write_picture
from llmzip.cli.startup import heavy_imports
from llmzip.cli.work import Tools
from llmzip.errors import SettingsError
from llmzip.inspect.pieces import WHY, Piece, pieces_of
from llmzip.inspect.report import Report, printable, read_report
from llmzip.store.figures import count_text

if TYPE_CHECKING:
    from llmzip.inspect.explain import TokenFacts
    from llmzip.store.container import Container

SCHEMA = 1
_LEFT = ("kind", "text")  # columns of words
_COLOURS = {"patched": "cyan", "literal": "yellow", "segment": "green", "stored": "magenta"}


@with_options
def explain(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .crm file, - for stdin.")],
    *,
    no_model: Annotated[
        bool,
        typer.Option(
            "--no-model", help="Only what the file itself says: no surprisal, no margins."
        ),
    ] = False,
    text: Annotated[
        bool, typer.Option("--text", help="Show how the text of each piece begins.")
    ] = False,
    settings: Annotated[
        config.DecompressSettings,
        Takes("chunks", *options.MODEL, *options.COMPUTE, *options.LIMITS, "offline"),
    ],
    chart: Annotated[options.Chart, Before("model")] = False,
    plot: Annotated[options.Plot, Before("model")] = None,
    html: Annotated[options.Html, Before("model")] = None,
    messages: options.Messages,
    force: options.ForcePicture = False,
) -> None:
    """Say of each chunk of FILE how it is stored, what it takes and how safely it decodes."""
    if chart and messages.json:
        raise SettingsError("--chart and --json do not go together")
    if text and no_model:
        raise SettingsError("--text needs the model: leave --no-model out")
    if html and no_model:
        raise SettingsError("--html needs the model: leave --no-model out")
    picture = plan_picture(plot, file, force=force)
    page = plan_page(html, file, force=force)
    looks = _Looks(with_model=not no_model, with_tokens=page is not None)
    name, found = run_dry(
        messages.job(file), lambda data, tools: _explained(data, settings, tools, looks)
    )
    report, pieces = found.report, found.pieces
    first, last = settings.chunks or (0, len(pieces))
    shown = [each for each in pieces if first <= each.number <= last]
    if messages.json:
        write_json(_fields(report, shown))
    elif is_terminal():
        write_table(*_cells(shown, with_text=text), left=_LEFT, colours=_COLOURS)
        write_text("\n".join(_totals(name, report, pieces)) + "\n")
    else:
        write_text(explain_text(name, report, pieces, shown, with_text=text))
    if chart:
        write_chart(report, pieces)
    if picture is not None:
        write_picture(picture, report, pieces, name=name)
    if page is not None:
        write_page(page, report, pieces, found.facts, found.stored, name=name)


@dataclass(frozen=True, kw_only=True)
class _Looks:
    """How closely a file is looked at."""

    with_model: bool
    with_tokens: bool


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What was found of a file; of tokens and stored texts only where they are shown."""

    report: Report
    pieces: list[Piece]
    facts: dict[int, list[TokenFacts]] = field(default_factory=dict)  # by number of the piece
    stored: dict[int, bytes] = field(default_factory=dict)  # by their first byte


def _explained(
    data: bytes, settings: config.DecompressSettings, tools: Tools, looks: _Looks
) -> _Found:
    """All pieces of a file. Raises SettingsError where it has fewer chunks than are wanted."""
    from llmzip.store.container import parse_container  # here: numpy

    report = read_report(data, max_output_bytes=settings.max_output_bytes)
    found = parse_container(data, max_output_bytes=settings.max_output_bytes)
    pieces = pieces_of(found)
    num_pieces = max((piece.number for piece in pieces), default=0)
    if settings.chunks is not None and settings.chunks[1] > num_pieces:
        first, last = settings.chunks
        raise SettingsError(f"--chunks: {first}-{last}, the last one of the file is {num_pieces}")
    stored = _stored_texts(found.container) if looks.with_tokens else {}
    if not looks.with_model or not report.needs_model:
        return _Found(report=report, pieces=pieces, stored=stored)
    with heavy_imports():
        from llmzip.inspect.explain import explain_tokens
    context = replace(tools.context, on_forecast=None)
    told, facts = explain_tokens(
        found.container, pieces, settings, context, segments=looks.with_tokens
    )
    return _Found(report=report, pieces=told, facts=facts, stored=stored)


def _stored_texts(container: Container) -> dict[int, bytes]:
    """What no model holds, by its first byte."""
    from llmzip.store.pieces import PieceMap

    extents = PieceMap.of(container).extents(0, container.original_bytes)
    return {each.first: each.bytes_of([]) or b"" for each in extents if each.piece is None}


def _fields(report: Report, shown: Sequence[Piece]) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "codec": report.codec,
        "original_bytes": report.original_bytes,
        "container_bytes": report.container_bytes,
        "bits": report.bit_counts,
        "pieces": [piece.to_dict() for piece in shown],
    }


def explain_text(
    name: str, report: Report, pieces: Sequence[Piece], shown: Sequence[Piece], *, with_text: bool
) -> str:
    """A table of the pieces in `shown`, totals of all, what the kinds mean; ends with a newline."""
    lines = plain_table(*_cells(shown, with_text=with_text), left=_LEFT)
    return "\n".join([*lines, "", *_totals(name, report, pieces)]) + "\n"


def _cells(shown: Sequence[Piece], *, with_text: bool) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table."""
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
    bits = 8 * report.container_bytes  # with vectors that stand before whole segments
    lines = [
        f"{name}: {count_text(len(pieces), 'piece')}, {bits:,.0f} bits with {metadata:,} of "
        f"metadata, {report.container_bytes:,} bytes"
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
