"""Others who work on one file: what they are given and what they give back.

Owns the agreement between those who hand groups out and those who cram them somewhere else. Knows
nothing of how they reach each other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from llmzip.codecs.cram.groups import Group
from llmzip.codecs.cram.plan import Cut
from llmzip.config import CompressSettings
from llmzip.lm.zoo import ModelFiles


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What every group of a file has in common: with it, any worker crams one to the same bits."""

    model: str  # what names it on another machine that shares this one's files, or the hub
    files: ModelFiles
    numerics: str  # of the optimiser, see `workshop.optimiser_numerics`
    min_margin: float  # logits
    settings: CompressSettings


@dataclass(frozen=True, kw_only=True)
class Job:
    """A group to be crammed. state: what an earlier run had under way of it, else empty."""

    group: Group
    state: bytes = b""


class Executor(Protocol):
    """Workers that have, or can load, the same model."""

    def read(
        self,
        shared: WorkerSettings,
        cut: Cut,
        blocks: Sequence[tuple[int, ...]],
        *,
        say: Callable[[str], None],
        cancel: threading.Event | None,
    ) -> Iterator[tuple[int, bytes]]:
        """The number of each block of tokens and its segments, packed, as they are read."""

    def cram(
        self,
        shared: WorkerSettings,
        jobs: Sequence[Job],
        *,
        say: Callable[[str], None],
        cancel: threading.Event | None,
    ) -> Iterator[bytes]:
        """The finished chunks of each group (but those that its state leaves out), packed, one
        group after another as they are done."""

    def decode(
        self,
        shared: WorkerSettings,
        packed: bytes,
        wanted: Sequence[range],
        *,
        say: Callable[[str], None],
        cancel: threading.Event | None,
    ) -> Iterator[tuple[range, list[bytes | None]]]:
        """The texts of ranges of a container's chunks, as they are done; None for a chunk whose
        check fails."""


@dataclass(frozen=True, kw_only=True)
class Hands:
    """An executor, and the shared of the file that it works on."""

    executor: Executor
    shared: WorkerSettings
