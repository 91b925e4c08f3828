"""A codec that stores the bytes: for tests of the command line, which need no model."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

TEXT = b"It was the best of times,\r\nit was the worst of times.\n"

# Stores the bytes; counts its calls; "slow" waits for a cancel, "stuck" never looks; "long" keeps
# three chunks in the journal, and "long slow" waits for a cancel after the second.
FAKE_CODEC = """
import os, time, types
from llmzip.api.existing import check_of
from llmzip.progress import Progress, check_cancelled
from llmzip.store.container import Container, StoredRun, content_hash, read_container
from llmzip.store.container import write_container

calls, journals = [], []

def on_chunk(done):
    pass  # a test may do something here, when a chunk is on disk

def keep_chunks(data, settings, journal, on_progress, cancel):
    found = {"bytes": len(data), "hash": content_hash(data).hex()}
    journal.begin({"input": found, "settings": {"seed": settings.seed}})
    first = len(journal.kept("chunks"))
    if first:
        on_progress(Progress(stage="cram", chunks_done=first, chunks_total=3,
                             message=f"resumed: {first} of 3 chunks were finished before"))
    for done in range(first + 1, 4):
        journal.keep("chunks", b"x")
        on_progress(Progress(stage="cram", chunks_done=done, chunks_total=3))
        on_chunk(done)
        while data.startswith(b"long slow") and done == 2:
            on_progress(Progress(stage="cram", chunks_done=2, chunks_total=3, message="waiting"))
            cancel.wait(20)
            check_cancelled(cancel)

def compress_bytes(
    data, settings, *, suffix="", journal=None, on_progress=None, cancel=None, **more
):
    calls.append(settings)
    journals.append(journal and journal.path)
    on_progress(Progress(stage="model", message="using a toy"))
    on_progress(Progress(stage="cram", chunks_total=2, bytes_done=5, bytes_total=len(data)))
    end = time.monotonic() + 20
    while data.startswith(b"slow") and time.monotonic() < end:
        time.sleep(0.01)
        check_cancelled(cancel)
    while data.startswith(b"stuck") and time.monotonic() < end:
        time.sleep(0.01)
    if journal and data.startswith(b"long"):
        keep_chunks(data, settings, journal, on_progress, cancel)
    runs = (StoredRun(data=data),) if data else ()
    check = None if settings.model else check_of(data, settings)
    return write_container(Container(original_bytes=len(data), original_hash=content_hash(data),
                                     xz_bytes=len(data) + 60, zstd_bytes=len(data) + 9, runs=runs,
                                     suffix=suffix, settings_check=check))

def estimate_bytes(data, settings, *, on_progress=None, cancel=None, **more):
    packed = compress_bytes(data, settings, on_progress=on_progress, cancel=cancel)
    crammed = dict(num_chunks=73, num_vectors=146, steps_a_chunk=30.5, tried_chunks=3)
    if settings.codec != "cram":
        crammed = dict.fromkeys(crammed, 0)
    return types.SimpleNamespace(
        original_bytes=len(data), container_bytes=len(packed), xz_bytes=len(data) + 60,
        seconds=852.0 if data else 0.0, bits_per_byte=lambda n: 8 * n / len(data) if data else None,
        **(crammed if data else dict.fromkeys(crammed, 0)),
    )

def decompress_bytes(data, settings, *, on_progress=None, cancel=None, **more):
    calls.append(settings)
    container = read_container(data, max_output_bytes=settings.max_output_bytes)
    whole = b"".join(run.data for run in container.runs)
    return whole if settings.span is None else whole[slice(*settings.span)]
"""


def fake_codec(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a new one in the place of `llmzip.api.compress`."""
    fake: Any = types.ModuleType("llmzip.api.compress")
    exec(FAKE_CODEC, fake.__dict__)
    monkeypatch.setitem(sys.modules, "llmzip.api.compress", fake)
    return fake
