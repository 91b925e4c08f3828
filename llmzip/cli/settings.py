"""How the words of options become settings.

Owns what they may look like and what does not go together on a command line. Limits belong to
`config`; a value outside them is refused there.
"""

from __future__ import annotations

import os
import re
from typing import cast

from llmzip import config
from llmzip.errors import SettingsError

_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_NUMBER = r"\d+(?:\.\d+)?"
_PLAIN_SECONDS = re.compile(_NUMBER, re.ASCII)
_TIME = re.compile("".join(f"(?:({_NUMBER}){unit})?" for unit in _UNIT_SECONDS), re.ASCII)
_SPAN = re.compile(r"(\d{1,18}):(\d{1,18})", re.ASCII)
_CHUNKS = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?", re.ASCII)


def compute_settings(
    *, device: str, threads: int | None, batch: int | None, attention: str
) -> config.ComputeSettings:
    """The options that say where and how the model runs. Raises SettingsError."""
    return config.ComputeSettings(
        device=cast(config.Device, device),
        threads=os.cpu_count() if threads == 0 else threads,
        batch=batch,
        attention=cast(config.Attention, attention),
    )


def preset_of(preset: str, level: int | None) -> str:
    """The preset that a level stands for, or the one that is named. Raises SettingsError."""
    if level is None:
        return preset
    if preset != config.CompressSettings.preset:
        raise SettingsError("--preset and a level do not go together")
    if not 1 <= level <= 9:
        raise SettingsError("--level is a number from 1 to 9")
    return ("fast", "balanced", "small")[(level - 1) // 3]


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
    return config.ClusterSettings(address=address, num_workers=workers, cores=cores)


def span_of(text: str | None) -> tuple[int, int] | None:
    """ "A:B" as two numbers. Raises SettingsError."""
    if text is None:
        return None
    found = _SPAN.fullmatch(text)
    if found is None or int(found[1]) > int(found[2]):
        raise SettingsError(
            f"--bytes: {text!r} is not a range of bytes", hint="write A:B, such as 0:1000"
        )
    return int(found[1]), int(found[2])


def chunks_of(text: str | None) -> tuple[int, int] | None:
    """ "I-J", or one number, as two. Raises SettingsError."""
    if text is None:
        return None
    found = _CHUNKS.fullmatch(text)
    if found is None or not 1 <= int(found[1]) <= int(found[2] or found[1]):
        raise SettingsError(
            f"--chunks: {text!r} is not a range of chunks", hint="write I-J, such as 3-5"
        )
    return int(found[1]), int(found[2] or found[1])


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
