"""The options that commands share, each described once, and how a command gets them.

Owns the options that are no settings, in groups, and `with_options`, which gives a command each
group as one object. Options of settings are made from their declarations in `config`; what becomes
of their words belongs to `cli.settings`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, TypeAlias, get_args, get_origin, get_type_hints

import typer

from llmzip import config
from llmzip.cli.names import any_of, crm_files, model_names
from llmzip.cli.settings import (
    TEXT_READERS,
    check_removal,
    option_name,
    output_of,
    settings_of_options,
)
from llmzip.cli.work import JobSettings

# Settings that commands take together, in the order of their help. A group of `config` is named
# by its title.
CODEC = ("codec", "shared_mem", config.ARITH)
MODEL = ("model", "revision", "device")
COMPUTE = ("threads", "batch", "attention")
LIMITS = ("max_output_bytes", "max_tokens")

_OF_SHELL: Mapping[str, Mapping[str, Any]] = {
    "model": {"envvar": "LLMZIP_MODEL", "autocompletion": model_names},
    "device": {"envvar": "LLMZIP_DEVICE"},
}

# --- one option each

Output: TypeAlias = Annotated[
    str | None,
    typer.Option("-o", "--output", metavar="FILE", help="Output file, - for standard output."),
]
Stdout: TypeAlias = Annotated[
    bool, typer.Option("-c", "--stdout", help="Write to standard output.")
]
CrmFiles: TypeAlias = Annotated[
    list[str],
    typer.Argument(metavar="FILE", help=".crm files, - for stdin.", autocompletion=crm_files),
]
Recursive: TypeAlias = Annotated[
    bool, typer.Option("-r", "--recursive", help="Take the files in directories, too.")
]
Yes: TypeAlias = Annotated[
    bool, typer.Option("-y", "--yes", help="Do not ask, nor refuse for want of memory.")
]
NoProgress: TypeAlias = Annotated[
    bool, typer.Option("--no-progress", help="No bar and no lines of progress.")
]
Force: TypeAlias = Annotated[
    bool, typer.Option("-f", "--force", help="Replace the output file, once the new one is whole.")
]
ForcePicture: TypeAlias = Annotated[
    bool, typer.Option("-f", "--force", help="Replace the picture, once the new one is whole.")
]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output.")
]
Plot: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="FILE.png|FILE.svg", help="Draw a picture; needs pip install matplotlib."),
]
Html: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--html",
        metavar="FILE.html",
        help="Write a page: the text token by token; needs pip install jinja2.",
    ),
]
Chart: TypeAlias = Annotated[
    bool, typer.Option("--chart", help="Draw a chart in the terminal, too.")
]
Quiet: TypeAlias = Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.")]
Verbose: TypeAlias = Annotated[
    bool, typer.Option("-v", "--verbose", help="Full report, and progress lines in logs.")
]

# --- groups


@dataclass(frozen=True, kw_only=True)
class Results:
    """Where results go, and what becomes of the inputs."""

    output: Output = None
    stdout: Stdout = False
    output_dir: Annotated[
        str | None,
        typer.Option(
            "--output-dir", metavar="DIR", help="Put results there, under their own names."
        ),
    ] = None
    recursive: Recursive = False
    keep: Annotated[
        bool, typer.Option("-k", "--keep", help="Keep the input, as is done anyway.")
    ] = False
    remove: Annotated[
        bool, typer.Option("--rm", help="Remove the input once the result is safely on disk.")
    ] = False

    def checked_output(self) -> str | None:
        """The one output that is named. Raises SettingsError for what does not go together."""
        output = output_of(self.output, stdout=self.stdout)
        check_removal(keep=self.keep, remove=self.remove, output=output)
        return output


@dataclass(frozen=True, kw_only=True)
class Messages:
    """What is said, and asked, during a job."""

    yes: Yes = False
    json: Json = False
    quiet: Quiet = False
    verbose: Verbose = False

    def job(self, file: str = "", **more: Any) -> JobSettings:
        """A job with these messages."""
        return JobSettings(
            file=file, yes=self.yes, json=self.json, quiet=self.quiet, verbose=self.verbose, **more
        )


@dataclass(frozen=True, kw_only=True)
class EventMessages(Messages):
    """With events as JSON lines."""

    json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print JSON lines on standard output: what happens, and the result."
        ),
    ] = False
    no_progress: NoProgress = False


# --- options of settings


class Takes:
    """Beside a class of settings, in Annotated: which of them a command takes, in the order of its
    help. The title of a group stands for all settings of the group."""

    def __init__(self, *names: str) -> None:
        self.names = names


@dataclass(frozen=True)
class Before:
    """In Annotated: help has this option before another one, not in its own place."""

    name: str


def setting_option(kind: type, name: str, **changes: Any) -> Any:
    """The option of a setting, as the default of a parameter. changes: of what typer is told."""
    each = config.declared(kind)[name]
    setting, words = config.setting_of(each), "|".join(config.choices_of(each))
    usual = f"  [default: {setting.usual}]" if setting.usual else ""
    told = {
        "default": each.default,
        "help": setting.help + usual,
        "metavar": setting.metavar or words or None,
        "rich_help_panel": setting.group or None,
        **({"autocompletion": any_of(words)} if words else {}),
        **_OF_SHELL.get(name, {}),
        **changes,
    }
    spellings = [setting.short, option_name(each)] if setting.short else [option_name(each)]
    return typer.Option(told.pop("default"), *spellings, **told)


MAX_OUTPUT = setting_option(config.DecompressSettings, "max_output_bytes")
REVISION = setting_option(config.CompressSettings, "revision")


def _setting_parameter(kind: type, name: str) -> inspect.Parameter:
    each = config.declared(kind)[name]
    annotation: Any = str if config.choices_of(each) else each.type
    if name in TEXT_READERS:
        annotation = str | None
    return _parameter(name, annotation, setting_option(kind, name))


# --- commands


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """What typer makes a command of, from a function whose parameters may be groups of options.

    A group is a dataclass, with an option, or another group, for each field; or a class of settings
    with `Takes`, whose SettingsError then comes before the function is called.
    """
    own = inspect.signature(command, eval_str=True).parameters
    parts = {name: _part(name, each.annotation, each.default) for name, each in own.items()}
    parameters = _in_order(each for part, _ in parts.values() for each in part)

    def run(**values: Any) -> None:
        command(**{name: build(values) for name, (_, build) in parts.items()})

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


_Part: TypeAlias = tuple[list[inspect.Parameter], Callable[[Mapping[str, Any]], Any]]


def _part(name: str, annotation: Any, default: Any) -> _Part:
    """The options of a parameter, and what makes its value of theirs."""
    kind, *notes = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    takes = next((each for each in notes if isinstance(each, Takes)), None)
    if takes is not None:
        return _settings_part(kind, _names(kind, takes))
    if is_dataclass(kind):
        return _group_part(kind)
    return [_parameter(name, annotation, default)], lambda values: values[name]


def _settings_part(kind: Any, names: Iterable[str]) -> _Part:
    def build(values: Mapping[str, Any]) -> Any:
        return settings_of_options(kind, {name: values[name] for name in names})

    return [_setting_parameter(kind, name) for name in names], build


def _group_part(kind: Any) -> _Part:
    hints = get_type_hints(kind, include_extras=True)
    parts = {each.name: _part(each.name, hints[each.name], each.default) for each in fields(kind)}

    def build(values: Mapping[str, Any]) -> Any:
        return kind(**{name: own(values) for name, (_, own) in parts.items()})

    return [each for part, _ in parts.values() for each in part], build


def _names(kind: type, takes: Takes) -> list[str]:
    found = config.declared(kind)
    return [
        name
        for word in takes.names
        for name, each in found.items()
        if word in (name, config.setting_of(each).group)
    ]


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, annotation=annotation, default=default)


def _in_order(parameters: Iterable[inspect.Parameter]) -> list[inspect.Parameter]:
    """Those with `Before` where they belong."""
    found: list[inspect.Parameter] = []
    moved: list[tuple[str, inspect.Parameter]] = []
    for each in parameters:
        notes = [note for note in get_args(each.annotation) if isinstance(note, Before)]
        if notes:
            moved.append((notes[0].name, each))
        else:
            found.append(each)
    for before, each in moved:
        found.insert([other.name for other in found].index(before), each)
    return found
