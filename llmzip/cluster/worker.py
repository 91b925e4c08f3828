"""One worker's share: a model of its own, and one job after another.

Owns how a job is done where only its terms are known. Knows nothing of how jobs and results travel.
Called by `cluster.ray_crew`.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import cast

from llmzip.config import Device
from llmzip.cram.checkpoint import pack_crammed, pack_segments, unpack_state
from llmzip.cram.underway import EngineState
from llmzip.crew import Job, Terms
from llmzip.decoding import decode_chunks_of
from llmzip.errors import ModelMismatch
from llmzip.groups import make_engine
from llmzip.lm.zoo import ModelFiles, resolve
from llmzip.models import Models
from llmzip.planning import Cut
from llmzip.runtime import borrowed_torch
from llmzip.store.container import read_container
from llmzip.workshop import Workshop


class Worker:
    """Loads the model that the terms ask for when there is a first job, and keeps it."""

    def __init__(self, *, threads: int | None) -> None:
        """threads: of the CPU, whatever the terms say; None: torch's choice."""
        self._threads = threads
        self._models = Models()
        self._files: ModelFiles | None = None  # of the last job

    def read(self, terms: Terms, cut: Cut, ids: tuple[int, ...]) -> bytes:
        """The segments of a block of tokens, packed."""
        with borrowed_torch(self._threads):
            return pack_segments([list(cut(self._shop(terms).lm, ids))])

    def cram(self, terms: Terms, job: Job, *, cancel: threading.Event | None = None) -> bytes:
        """The chunks of a group, packed; those that its state has as finished are left out."""
        with borrowed_torch(self._threads):
            shop = self._shop(terms)
            segments = {segment.index: segment for segment in job.group.segments}
            state = EngineState(group=job.group.index)
            if job.state:
                state = unpack_state(job.state, segments, shop.lm.device)
            engine = make_engine(
                job.group, shop, terms.settings, min_margin=terms.min_margin, cancel=cancel
            )
            return pack_crammed(list(engine.run(job.group.tasks, state)))

    def decode(
        self, terms: Terms, packed: bytes, wanted: range, *, cancel: threading.Event | None = None
    ) -> list[bytes | None]:
        """The texts of some chunks of a container; None where a check fails."""
        with borrowed_torch(self._threads):
            shop = self._shop(terms)
            texts = decode_chunks_of(
                read_container(packed), shop.judge, shop.tokens,
                wanted=wanted, batch=terms.settings.compute.batch, cancel=cancel,
            )  # fmt: skip
            return texts[wanted.start : wanted.stop]

    def _shop(self, terms: Terms) -> Workshop:
        if self._files is None or self._files.digest != terms.files.digest:
            self._files = _model_here(terms)
        # The kind of device that the file was begun on: another one gives other bits.
        device = cast(Device, terms.numerics.split()[0])
        compute = replace(terms.settings.compute, device=device, threads=self._threads)
        return self._models.workshop(self._files, compute, terms.numerics)


def _model_here(terms: Terms) -> ModelFiles:
    """The model on this machine, fetched where it is missing. Raises ModelMismatch."""
    revision = terms.files.revision or None
    files = resolve(terms.model, revision=revision, offline=terms.settings.offline)
    if files.digest != terms.files.digest:
        raise ModelMismatch(
            f"{terms.model} on this worker is not the model of the run",
            expected=terms.files.digest.hex(),
            got=files.digest.hex(),
        )
    return files
