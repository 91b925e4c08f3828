"""One worker's share: a model of its own, and one job after another.

Owns how a job is done with nothing but the settings that all jobs share. Knows nothing of how jobs
and results travel.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import cast

from llmzip.codecs.base import DecodingModel, Request
from llmzip.codecs.context import Context
from llmzip.codecs.cram.checkpoint import EngineState, pack_crammed, pack_segments, unpack_state
from llmzip.codecs.cram.decoder import decode_chunks_of
from llmzip.codecs.cram.engine import Hooks
from llmzip.codecs.cram.executor import Job, WorkerSettings
from llmzip.codecs.cram.groups import make_engine
from llmzip.codecs.cram.plan import Cut
from llmzip.config import Device
from llmzip.errors import ModelMismatch
from llmzip.lm.devices import borrowed_torch
from llmzip.lm.loaded import LoadedModel, ModelCache
from llmzip.lm.zoo import ModelFiles, resolve
from llmzip.store.container import read_container
from llmzip.store.cram_payload import CramPayload


class Worker:
    """Loads the model of the first job, and keeps it."""

    def __init__(self, *, threads: int | None) -> None:
        """threads: of the CPU, whatever the settings say; None: torch's choice."""
        self._threads = threads
        self._models = ModelCache()
        self._files: ModelFiles | None = None  # of the last job

    def read(self, shared: WorkerSettings, cut: Cut, ids: tuple[int, ...]) -> bytes:
        """The segments of a block of tokens, packed."""
        with borrowed_torch(self._threads):
            lm = self._loaded(shared).lm
            return pack_segments([list(cut(lm, ids, lambda done, total: None))])

    def cram(
        self, shared: WorkerSettings, job: Job, *, cancel: threading.Event | None = None
    ) -> bytes:
        """The chunks of a group, packed; those that its state has as finished are left out."""
        with borrowed_torch(self._threads):
            loaded = self._loaded(shared)
            segments = {segment.index: segment for segment in job.group.segments}
            state = EngineState(group=job.group.index)
            if job.state:
                state = unpack_state(job.state, segments, loaded.lm.device)
            engine = make_engine(
                job.group,
                loaded,
                shared.settings,
                min_margin=shared.min_margin,
                hooks=Hooks(cancel=cancel),
            )
            return pack_crammed(list(engine.run(job.group.tasks, state)))

    def decode(
        self,
        shared: WorkerSettings,
        packed: bytes,
        wanted: range,
        *,
        cancel: threading.Event | None = None,
    ) -> list[bytes | None]:
        """The texts of some chunks of a container; None where a check fails."""
        with borrowed_torch(self._threads):
            loaded = self._loaded(shared)
            payload = read_container(packed).payload
            assert isinstance(payload, CramPayload)
            model = DecodingModel.of(loaded)
            request = Request(wanted=wanted, batch=shared.settings.compute.batch)
            texts = decode_chunks_of(payload, model, request, Context(cancel=cancel))
            return texts[wanted.start : wanted.stop]

    def _loaded(self, shared: WorkerSettings) -> LoadedModel:
        if self._files is None or self._files.digest != shared.files.digest:
            self._files = _model_here(shared)
        # The kind of device that the file was begun on: another one gives other bits.
        device = cast(Device, shared.numerics.device_type)
        compute = replace(shared.settings.compute, device=device, threads=self._threads)
        return self._models.loaded(self._files, compute, shared.numerics)


def _model_here(shared: WorkerSettings) -> ModelFiles:
    """The model on this machine, fetched where it is missing. Raises ModelMismatch."""
    revision = shared.files.revision or None
    files = resolve(shared.model, revision=revision, offline=shared.settings.offline)
    if files.digest != shared.files.digest:
        raise ModelMismatch(
            f"{shared.model} on this worker is not the model of the run",
            expected=shared.files.digest.hex(),
            got=files.digest.hex(),
        )
    return files
