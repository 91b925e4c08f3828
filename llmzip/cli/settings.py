"""How the words of options become settings, and the names of settings those of options.

Owns what words may look like and what does not go together on a command line. Limits belong to
`config`; a value outside them is refused there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, replace
from typing import Any, TypeVar

from llmzip import config
from llmzip.errors import SettingsError

_Settings = TypeVar("_Settings", config.CompressSettings, config.DecompressSettings)

_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_NUMBER = r"\d+(?:\.\d+)?"
_PLAIN_SECONDS = re.compile(_NUMBER, re.ASCII)
_TIME = re.compile("".join(f"(?:({_NUMBER}){unit})?" for unit in _UNIT_SECONDS), re.ASCII)
_SPAN = re.compile(r"(\d{1,18}):(\d{1,18})", re.ASCII)
_CHUNKS = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?", re.ASCII)
_LEVELS: tuple[config.Preset, ...] = ("fast", "balanced", "small")  # three levels each


def option_name(each: Field[Any]) -> str:
    """The long spelling of a setting's option."""
    return config.setting_of(each).option or f"--{each.name.replace('_', '-')}"


_OPTIONS = {
    name: option_name(each)
    for kind in (config.CompressSettings, config.DecompressSettings, config.ClusterSettings)
    for name, each in config.declared(kind).items()
}


def with_options_named(text: str, names: Iterable[str]) -> str:
    """A text of the library with options in the place of the names of settings in backticks."""
    for name in names:
        text = text.replace(f"`{name}`", _OPTIONS[name])
    return text


def settings_of_options(kind: type[_Settings], values: Mapping[str, Any]) -> _Settings:
    """The settings that the values of options mean, by keyword. Raises SettingsError."""
    read = {name: READERS[name](value) for name, value in values.items() if name in READERS}
    return config.from_keywords(kind, {**values, **read})


def with_level(settings: config.CompressSettings, level: int | None) -> config.CompressSettings:
    """With the preset that a level stands for, if there is one. Raises SettingsError."""
    if level is None:
        return settings
    if settings.preset != config.CompressSettings.preset:
        raise SettingsError("--preset and a level do not go together")
    if not 1 <= level <= 9:
        raise SettingsError("--level is a number from 1 to 9")
    return replace(settings, preset=_LEVELS[(level - 1) // 3])


def output_of(output: str | None, *, stdout: bool) -> str | None:
    """What -o and -c say together. Raises SettingsError."""
    if output == "":
        raise SettingsError("--output is empty", hint="name a file, or - for standard output")
    if not stdout:
        return output
    if output not in (None, "-"):
        raise SettingsError("--stdout and --output do not go together")
    return "-"


def check_removal(*, keep: bool, remove: bool, output: str | None) -> None:
    """Raises SettingsError for what cannot be meant with --rm."""
    if remove and keep:
        raise SettingsError("--rm and --keep do not go together")
    if remove and output == "-":
        raise SettingsError("--rm needs a file as output: what leaves through a pipe may be lost")


def cluster_settings(
    address: str | None, *, workers: int | None, cores: int | None
) -> config.ClusterSettings | None:
    """The cluster that the options name. Raises SettingsError."""
    if address is None:
        if workers is not None or cores is not None:
            raise SettingsError("--ray-workers and --ray-cores go with --ray")
        return None
    if address == "":
        raise SettingsError("--ray= is empty: --ray=auto or --ray=HOST:PORT, or --ray alone")
    return config.ClusterSettings(address=address, num_workers=workers, cores=cores)


def span_of(text: str | None) -> tuple[int, int] | None:
    """ "A:B" as two numbers. Raises SettingsError."""
    if text is None:
        return None
    found = _SPAN.fullmatch(text)
    if found and int(found[1]) <= int(found[2]):
        return int(found[1]), int(found[2])
    message = f"--bytes: {text!r} is not a range of bytes"
    raise SettingsError(message, hint="write A:B, such as 0:1000")


def chunks_of(text: str | None) -> tuple[int, int] | None:
    """ "I-J", or one number, as two. Raises SettingsError."""
    if text is None:
        return None
    found = _CHUNKS.fullmatch(text)
    if found and 1 <= int(found[1]) <= int(found[2] or found[1]):
        return int(found[1]), int(found[2] or found[1])
    message = f"--chunks: {text!r} is not a range of chunks"
    raise SettingsError(message, hint="write I-J, such as 3-5")


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


# Settings whose option is given as text.
TEXT_READERS: Mapping[str, Callable[[str | None], object]] = {
    "time_budget_s": seconds_of,
    "span": span_of,
    "chunks": chunks_of,
}
READERS: Mapping[str, Callable[[Any], object]] = {
    **TEXT_READERS,
    "threads": lambda number: os.cpu_count() if number == 0 else number,
}
