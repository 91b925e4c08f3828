"""`llmzip lab`: how much a model's vectors hold, measured and drawn.

Owns the options of the studies and what is printed of their results. What they measure is said in
`llmzip.lab`, which is imported only when a study runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmzip import config
from llmzip.cli import options
from llmzip.cli.commands import PanelCommand, new_group
from llmzip.cli.console import say, write_json, write_text
from llmzip.cli.events import status_line
from llmzip.cli.options import Before, Takes, setting_option, with_options
from llmzip.cli.progress import show_progress
from llmzip.cli.signals import stop_on_signals
from llmzip.cli.startup import check_path, heavy_imports
from llmzip.errors import InputError, SettingsError
from llmzip.inspect.report import printable
from llmzip.progress import Progress

if TYPE_CHECKING:
    from llmzip.lab.study import LabSettings

app = new_group(
    help="Measure how much a model's vectors hold: figures and tables, as the paper has them.",
    no_args_is_help=True,
)
_NEEDED = ("matplotlib", "jinja2")
_of_texts = partial(typer.Option, rich_help_panel="Texts")
_of_runs = partial(typer.Option, rich_help_panel=config.CRAMMING)
_PRESET = setting_option(config.CompressSettings, "preset", default="fast")


@dataclass(frozen=True, kw_only=True)
class _Given:
    """The options that all studies share."""

    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Natural texts.")
    ] = None
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="Folder for rows, pictures, report.")
    ] = Path("lab")
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="A known name, a directory, or ORG/NAME; may be given again.",
            show_default="smollm2-135m, the weights as published",
        ),
    ] = None
    random: Annotated[bool, _of_texts("--random", help="Random words, too.")] = False
    words: Annotated[
        Path | None,
        _of_texts(
            metavar="FILE", help="Words to draw from, one a line.  [default: the vocabulary's]"
        ),
    ] = None
    table: Annotated[
        Path | None, _of_texts(metavar="CSV", help="Texts in a column named text, too.")
    ] = None
    texts: Annotated[
        int | None, _of_texts(metavar="N", help="Texts of each source.  [default: the study's]")
    ] = None
    tokens: Annotated[
        int | None, _of_texts(metavar="N", help="Tokens of a text.  [default: what may fit]")
    ] = None
    recipe: Annotated[str, _of_runs(metavar="llmzip|paper", help="The optimiser.")] = "llmzip"
    steps: Annotated[
        int | None, _of_runs(metavar="N", help="Most steps of a run.  [default: the recipe's]")
    ] = None
    patience: Annotated[
        int | None,
        _of_runs(metavar="N", help="Steps without a better result after which a run is given up."),
    ] = None
    rate: Annotated[
        float | None, _of_runs(metavar="RATE", help="Learning rate of the paper's recipe.")
    ] = None
    seed: int = setting_option(config.CompressSettings, "seed")
    settings: Annotated[
        config.CompressSettings, Takes("revision", "device", "threads", "attention", "offline")
    ]
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard what an earlier run left in the folder.")
    ] = False
    json: options.Json = False
    quiet: options.Quiet = False
    verbose: options.Verbose = False


def _study(command: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a study."""
    return app.command(command.__name__, cls=PanelCommand)(with_options(command))


_OWN = Before("random")  # of options of one study, which stand before those of its texts
_Mem = Annotated[str, _OWN, _of_runs("--mem", metavar="K,...", help="Numbers of vectors.")]

_Bits = Annotated[int, _OWN, _of_runs(metavar="B", help="Bits a dimension: 1 to 8, 16.")]


def _plain_study(name: str, summary: str, *, texts: int, mem: str = "1") -> None:
    """Make a command of a study that has no options of its own but the numbers of vectors."""

    def command(given: _Given, mem: _Mem = mem) -> None:
        _run(name, given, mem=mem, texts=texts)

    command.__name__, command.__doc__ = name, summary
    _study(command)


@_study
def capacity(
    given: _Given, mem: _Mem = "1", bits: _Bits = 16, preset: Annotated[str, _OWN] = _PRESET
) -> None:
    """Tokens and bits that vectors hold: exactly, and at the paper's 99 % (Table 1)."""
    _run("capacity", given, mem=mem, texts=20, bits=bits, preset=preset)


@_study
def scaling(
    given: _Given, mem: _Mem = "1,2,4,8", bits: _Bits = 16, preset: Annotated[str, _OWN] = _PRESET
) -> None:
    """Capacity against the number of vectors, beside the ideal line (Figure 4)."""
    _run("scaling", given, mem=mem, texts=4, bits=bits, preset=preset)


_plain_study(
    "entropy",
    "Cross-entropy before and after cramming, threshold and line beyond it (Figure 3).",
    texts=8,
)
_plain_study(
    "utilisation", "What vectors hold of what their bits could name at most (Figure 5).", texts=8
)
_plain_study(
    "lengths", "The longest exact text of each model (Figure 1); give --model for each.", texts=8
)


@_study
def rate(
    given: _Given,
    mem: _Mem = "1",
    bits: Annotated[
        str, _OWN, _of_runs(metavar="B,...", help="Bits a dimension: 1 to 8, 16.")
    ] = "16,8,4,3,2,1",
    preset: Annotated[str, _OWN] = _PRESET,
) -> None:
    """Stored bits of vectors against the bits of text that they hold."""
    _run("rate", given, mem=mem, texts=4, bits=_numbers("--bits", bits), preset=preset)


_plain_study(
    "greedy",
    "Right when teacher-forced against right when decoded, and what a margin buys.",
    texts=8,
)


@_study
def geometry(given: _Given) -> None:
    """The path of the optimiser, solutions of one text from several starts, their neighbours."""
    _run("geometry", given, mem="1", texts=2)


@_study
def plan(
    given: _Given,
    bits: Annotated[int, _OWN, _of_runs(metavar="B", help="Bits a dimension, beside 16.")] = 4,
    search: Annotated[
        bool,
        _OWN,
        _of_runs(
            "--search", help="Measure what a vector holds on the book itself: many times as long."
        ),
    ] = False,
) -> None:
    """How many vectors a book needs, how many bytes and how long, from a small part of it."""
    _run("plan", given, mem="1", texts=3 if search else 2, bits=bits, search=search)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a study.")],
) -> None:
    """Write report.html anew: tables, pictures and texts of a study, in one file."""
    _require_extra()
    with heavy_imports():
        from llmzip.lab.report import write_report
    write_text(f"{write_report(folder)}\n")


def _run(study: str, given: _Given, *, mem: str, texts: int, **own: Any) -> None:
    """Run a study and print what came of it."""
    _require_extra()
    with heavy_imports():
        from llmzip import lab
    settings = _settings(given, num_mem=_numbers("--mem", mem), texts=texts)
    folder = printable(str(settings.out))
    if not given.quiet:
        say(f"rows, pictures and the report go into the folder {folder}")
    with show_progress(quiet=given.quiet, verbose=given.verbose) as show, stop_on_signals() as stop:
        stop.outcome = f"what is done is kept in {folder}"
        last = Progress(stage="lab")
        shown = ""
        above = "\n" if show.holds_line else ""
        stop.status = lambda: above + f"{shown}  {status_line(last, seconds=0.0)}".strip()

        def on_progress(what: str, done: int, total: int) -> None:
            nonlocal shown, last
            message = what if what != shown else ""
            shown = what
            last = Progress(stage="lab", message=message, chunks_done=done, chunks_total=total)
            show(last)

        summary = getattr(lab, study)(settings, on_progress=on_progress, cancel=stop.cancel, **own)
    if given.json:
        write_json(summary)
    else:
        write_text("\n\n".join(map(lab.table_text, summary["tables"])) + "\n")
    if not given.quiet:
        say(f"report: {printable(str(settings.out / 'report.html'))}")


def _settings(given: _Given, *, num_mem: tuple[int, ...], texts: int) -> LabSettings:
    from llmzip import lab

    for path in (given.out, *(given.files or ()), given.table, given.words):
        if path is not None:
            check_path(str(path))
    changes: dict[str, Any] = {
        "max_steps": given.steps, "sign_steps": given.steps,
        "patience": given.patience, "learning_rate": given.rate,
    }  # fmt: skip
    changes = {name: value for name, value in changes.items() if value is not None}
    if given.recipe not in ("llmzip", "paper"):
        raise SettingsError(f"--recipe is llmzip or paper, not {given.recipe!r}")
    if given.rate is not None and given.recipe != "paper":
        raise SettingsError("--rate goes with --recipe paper")
    recipe = (lab.paper_recipe if given.recipe == "paper" else lab.Recipe)(**changes)
    models = tuple(given.model or ())
    return lab.LabSettings(
        out=given.out,
        texts=lab.Texts(
            files=tuple(given.files or ()),
            table=given.table,
            use_random=given.random,
            words=given.words,
            count=given.texts or texts,
            tokens=given.tokens,
        ),
        num_mem=num_mem,
        recipe=recipe,
        seed=given.seed,
        revision=given.settings.revision,
        offline=given.settings.offline,
        restart=given.restart,
        compute=given.settings.compute,
        **({"models": models} if models else {}),
    )


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """Numbers with commas between them. Raises SettingsError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 4 for part in parts):
        raise SettingsError(f"{option}: {text!r} is not a list of numbers", hint="such as 1,2,4")
    return tuple(dict.fromkeys(map(int, parts)))


def _require_extra() -> None:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(
            f"the lab needs {' and '.join(missing)}", hint=f"pip install {' '.join(missing)}"
        )
