"""`llmzip lab`: how much a model's vectors hold, measured and drawn.

Owns the options of the studies and what is printed of their results. What they measure is said in
`llmzip.lab`, which is imported only when a study runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmzip import config
from llmzip.cli import options
from llmzip.cli import settings as words
from llmzip.cli.console import say, write_json, write_text
from llmzip.cli.panels import PanelCommand
from llmzip.cli.progress import show_progress
from llmzip.cli.signals import stop_on_signals
from llmzip.cli.startup import check_path, heavy_imports
from llmzip.cli.status import status_line
from llmzip.errors import InputError, SettingsError
from llmzip.inspect.figures import printable
from llmzip.progress import Progress

if TYPE_CHECKING:
    from llmzip.lab.studies import LabSettings

app = typer.Typer(
    help="Measure how much a model's vectors hold: figures and tables, as the paper has them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
_NEEDED = ("matplotlib", "jinja2")
_TEXTS, _HOW = "Texts", "Cramming"


def _common(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Natural texts.")
    ] = None,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="Folder for rows, pictures, report.")
    ] = Path("lab"),
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="A known name, a directory, or ORG/NAME; may be given again.",
            show_default="the default model",
        ),
    ] = None,
    random: Annotated[
        bool, typer.Option("--random", help="Random words, too.", rich_help_panel=_TEXTS)
    ] = False,
    words: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Words to draw from, one a line.  [default: the vocabulary's]",
            rich_help_panel=_TEXTS,
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV", help="Texts in a column named text, too.", rich_help_panel=_TEXTS
        ),
    ] = None,
    texts: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Texts of each source.  [default: the study's]",
            rich_help_panel=_TEXTS,
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Tokens of a text.  [default: what may fit]", rich_help_panel=_TEXTS
        ),
    ] = None,
    recipe: Annotated[
        str, typer.Option(metavar="llmzip|paper", help="The optimiser.", rich_help_panel=_HOW)
    ] = "llmzip",
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Most steps of a run.  [default: the recipe's]", rich_help_panel=_HOW
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Steps without a better result after which a run is given up.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="RATE", help="Learning rate of the paper's recipe.", rich_help_panel=_HOW
        ),
    ] = None,
    seed: options.Seed = 0,
    revision: options.Revision = None,
    device: options.Device = config.ComputeSettings.device,
    threads: options.Threads = None,
    attention: options.Attention = config.ComputeSettings.attention,
    offline: options.Offline = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard what an earlier run left in the folder.")
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """The options that all studies share."""


def _study(command: Callable[..., Any]) -> Callable[..., Any]:
    """Make a command of a function that takes the shared options as `given`, and its own."""
    shared = inspect.signature(_common, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True).parameters
    mine = {name: p for name, p in own.items() if name != "given"}

    def run(**values: Any) -> None:
        given = {name: values.pop(name) for name in shared}
        command(given=given, **values)

    parameters = [*list(shared.values())[:3], *mine.values(), *list(shared.values())[3:]]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__doc__ = command.__doc__
    return app.command(command.__name__, cls=PanelCommand)(run)


_Mem = Annotated[
    str, typer.Option("--mem", metavar="K,...", help="Numbers of vectors.", rich_help_panel=_HOW)
]


@_study
def capacity(given: dict[str, Any], mem: _Mem = "1") -> None:
    """Tokens and bits that vectors hold: exactly, and at the paper's 99 % (Table 1)."""
    _run("capacity", given, mem=mem, texts=20)


@_study
def scaling(given: dict[str, Any], mem: _Mem = "1,2,4,8") -> None:
    """Capacity against the number of vectors, beside the ideal line (Figure 4)."""
    _run("scaling", given, mem=mem, texts=4)


@_study
def entropy(given: dict[str, Any], mem: _Mem = "1") -> None:
    """Cross-entropy before and after cramming, threshold and line beyond it (Figure 3)."""
    _run("entropy", given, mem=mem, texts=8)


@_study
def utilisation(given: dict[str, Any], mem: _Mem = "1") -> None:
    """What vectors hold of what their bits could name at most (Figure 5)."""
    _run("utilisation", given, mem=mem, texts=8)


@_study
def lengths(given: dict[str, Any], mem: _Mem = "1") -> None:
    """The longest exact text of each model (Figure 1); give --model for each."""
    _run("lengths", given, mem=mem, texts=8)


@_study
def rate(
    given: dict[str, Any],
    mem: _Mem = "1",
    bits: Annotated[
        str,
        typer.Option(metavar="B,...", help="Bits a dimension: 1 to 8, 16.", rich_help_panel=_HOW),
    ] = "16,8,6,4,3,2",
    preset: options.Preset = "fast",
) -> None:
    """Bits per dimension against what vectors hold, and what a bit of text costs in stored bits."""
    _run("rate", given, mem=mem, texts=4, bits=_numbers("--bits", bits), preset=preset)


@_study
def greedy(given: dict[str, Any], mem: _Mem = "1") -> None:
    """Right when teacher-forced against right when decoded, and what a margin buys."""
    _run("greedy", given, mem=mem, texts=8)


@_study
def geometry(given: dict[str, Any]) -> None:
    """The path of the optimiser, solutions of one text from several starts, their neighbours."""
    _run("geometry", given, mem="1", texts=2)


@_study
def plan(
    given: dict[str, Any],
    bits: Annotated[
        int, typer.Option(metavar="B", help="Bits a dimension, beside 16.", rich_help_panel=_HOW)
    ] = 4,
    search: Annotated[
        bool,
        typer.Option(
            "--search",
            help="Measure what a vector holds on the book itself: many times as long.",
            rich_help_panel=_HOW,
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


def _run(study: str, given: dict[str, Any], *, mem: str, texts: int, **own: Any) -> None:
    """Run a study and print what came of it."""
    _require_extra()
    with heavy_imports():
        from llmzip import lab
    settings = _settings(given, num_mem=_numbers("--mem", mem), texts=texts)
    folder = printable(str(settings.out))
    if not given["quiet"]:
        say(f"rows, pictures and the report go into the folder {folder}")
    with (
        show_progress(quiet=given["quiet"], verbose=given["verbose"]) as show,
        stop_on_signals() as stop,
    ):
        stop.outcome = f"what is done is kept in {folder}"
        last = Progress(stage="lab")
        told = ""
        above = "\n" if show.holds_line else ""
        stop.status = lambda: above + f"{told}  {status_line(last, seconds=0.0)}".strip()

        def tell(what: str, done: int, total: int) -> None:
            nonlocal told, last
            message = what if what != told else ""
            told = what
            last = Progress(stage="lab", message=message, chunks_done=done, chunks_total=total)
            show(last)

        summary = getattr(lab, study)(settings, tell=tell, cancel=stop.cancel, **own)
    if given["json"]:
        write_json(summary)
    else:
        write_text("\n\n".join(map(lab.table_text, summary["tables"])) + "\n")
    if not given["quiet"]:
        say(f"report: {printable(str(settings.out / 'report.html'))}")


def _settings(given: dict[str, Any], *, num_mem: tuple[int, ...], texts: int) -> LabSettings:
    from llmzip import lab

    for path in (given["out"], *(given["files"] or ()), given["table"], given["words"]):
        if path is not None:
            check_path(str(path))
    changes = {
        "max_steps": given["steps"],
        "patience": given["patience"],
        "learning_rate": given["rate"],
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    if given["recipe"] not in ("llmzip", "paper"):
        raise SettingsError(f"--recipe is llmzip or paper, not {given['recipe']!r}")
    if given["rate"] is not None and given["recipe"] != "paper":
        raise SettingsError("--rate goes with --recipe paper")
    recipe = (lab.paper_recipe if given["recipe"] == "paper" else lab.Recipe)(**changes)
    models = tuple(given["model"] or ())
    return lab.LabSettings(
        out=given["out"],
        texts=lab.Texts(
            files=tuple(given["files"] or ()),
            table=given["table"],
            use_random=given["random"],
            words=given["words"],
            count=given["texts"] or texts,
            tokens=given["tokens"],
        ),
        num_mem=num_mem,
        recipe=recipe,
        seed=given["seed"],
        revision=given["revision"],
        offline=given["offline"],
        restart=given["restart"],
        compute=words.compute_settings(
            device=given["device"],
            threads=given["threads"],
            batch=None,
            attention=given["attention"],
        ),
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
