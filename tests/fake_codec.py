"""A codec that stores the bytes: for tests of the command line, which need no model."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

MODULES = ("llmzip.api.compress", "llmzip.api.decompress")
TEXT = b"It was the best of times,\r\nit was the worst of times.\n"

# Stores the bytes; counts its calls; "slow" waits for a cancel, "stuck" never looks; "long" keeps
# three chunks in the journal, and "long slow" waits for a cancel after the second.
FAKE_CODEC = """
import os, time, types
from llmzip.api.existing import check_of
from llmzip.progress import Progress, check_cancelled
from llmzip.store.container import Container, read_container, write_container
from llmzip.store.original import content_hash
from llmzip.store.payload import StoredRun

calls, journals = [], []
left_out = ()  # what a forecast says of itself

def on_chunk(done):
    pass  # a test may do something here, when a chunk is on disk

def keep_chunks(data, settings, context):
    journal, on_progress, cancel = context.journal, context.on_progress, context.cancel
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

def compress_bytes(data, settings, context, *, suffix="", models=None):
    journal, on_progress, cancel = context.journal, context.on_progress, context.cancel
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
        keep_chunks(data, settings, context)
    runs = (StoredRun(data=data),) if data else ()
    check = None if settings.model else check_of(data, settings)
    return write_container(Container(original_bytes=len(data), original_hash=content_hash(data),
                                     xz_bytes=len(data) + 60, zstd_bytes=len(data) + 9, runs=runs,
                                     suffix=suffix, settings_check=check))

def estimate_bytes(data, settings, context, *, models=None):
    packed = compress_bytes(data, settings, context)
    found = dict(codec="stored", seconds=0.0, result="", sample="", keeps_budget=False)
    counts = dict(num_chunks=0, num_vectors=0, steps_a_chunk=0.0, tried_chunks=0)
    if data and settings.codec == "cram":
        found = dict(codec="cram", seconds=852.0, result="146 vectors", sample="3 of 73 chunks",
                     keeps_budget=True)
        counts = dict(num_chunks=73, num_vectors=146, steps_a_chunk=30.5, tried_chunks=3)
    elif data:
        found = dict(codec="arith", seconds=852.0, result="codec arith",
                     sample="a small part of the text", keeps_budget=False)
    return types.SimpleNamespace(
        original_bytes=len(data), container_bytes=len(packed), xz_bytes=len(data) + 60,
        bits_per_byte=lambda n: 8 * n / len(data) if data else None, left_out=left_out,
        **found, **counts,
    )

def decompress_bytes(data, settings, context, *, models=None):
    calls.append(settings)
    container = read_container(data, max_output_bytes=settings.max_output_bytes)
    whole = b"".join(run.data for run in container.runs)
    return whole if settings.span is None else whole[slice(*settings.span)]
"""


def fake_codec(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a new one in the place of `llmzip.api.compress` and `llmzip.api.decompress`."""
    fake: Any = types.ModuleType("fake_codec")
    exec(FAKE_CODEC, fake.__dict__)
    for name in MODULES:
        monkeypatch.setitem(sys.modules, name, fake)
    return fake
