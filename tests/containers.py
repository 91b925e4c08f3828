"""Containers put together for tests, and changed, without naming each of their parts.

Owns which dataclass a field is of, and the values of fields that a test does not care for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from llmzip.store.arith_payload import ArithPayload, ArithSegment
from llmzip.store.container import Container
from llmzip.store.cram_payload import Chunk, CramPayload
from llmzip.store.model_ref import ModelRef
from llmzip.store.payload import Payload, Run, StoredRun, TextRun

_MODEL: dict[str, Any] = {
    "model_id": "m", "revision": "", "digest": bytes(16), "start_id": None,
}  # fmt: skip
_FILE: dict[str, Any] = {"original_hash": bytes(32), "xz_bytes": 0, "zstd_bytes": 0}
_CRAM: dict[str, Any] = {"num_mem": 1, "mem_dim": 2, "bits": 16, "context_tokens": 0}
_ARITH: dict[str, Any] = {
    "prefix_tokens": 3, "window_tokens": 200, "guard_code": 0x60, "wrap": 0, "mem": None,
}  # fmt: skip


def cram_container(*parts: Sequence[Chunk] | bytes, **more: Any) -> Container:
    """A file of chunks in runs, and stored bytes. more: fields of the file, payload and model."""
    chunks = tuple(chunk for part in parts if not isinstance(part, bytes) for chunk in part)
    runs = [
        StoredRun(data=part)
        if isinstance(part, bytes)
        else TextRun(num_bytes=sum(chunk.num_bytes for chunk in part))
        for part in parts
    ]
    free = any(len(chunk.patches) < chunk.num_tokens for chunk in chunks)
    own = _CRAM | {"chunks": chunks, "min_margin": 1.0 if free else None}
    return _put_together(CramPayload, runs, own | more)


def arith_container(
    segments: Sequence[ArithSegment], *parts: int | bytes, **more: Any
) -> Container:
    """A file of segments. parts: bytes of text in a run, or stored bytes; none: one run."""
    parts = parts or (sum(segment.num_bytes for segment in segments),)
    runs = [
        StoredRun(data=part) if isinstance(part, bytes) else TextRun(num_bytes=part)
        for part in parts
    ]
    return _put_together(ArithPayload, runs, _ARITH | {"segments": tuple(segments)} | more)


def stored_container(data: bytes, **more: Any) -> Container:
    """A file of stored bytes alone."""
    runs = (StoredRun(data=data),) if data else ()
    return Container(**(_FILE | {"runs": runs, "original_bytes": len(data)} | more))


def changed(container: Container, **changes: Any) -> Container:
    """The same with other values of some fields, whether of the file, its payload or its model.
    With other runs it has as many bytes as those, unless told otherwise."""
    payload = container.payload
    if payload is not None:
        payload = replace(payload, model=replace(payload.model, **_take(changes, ModelRef)))
        payload = replace(payload, **_take(changes, type(payload)))
        changes = {"payload": payload} | changes
    if "runs" in changes:
        changes = {"original_bytes": sum(run.num_bytes for run in changes["runs"])} | changes
    return replace(container, **changes)


def cram_of(container: Container) -> CramPayload:
    """The payload of a file that has crammed chunks."""
    assert isinstance(container.payload, CramPayload)
    return container.payload


def arith_of(container: Container) -> ArithPayload:
    """The payload of an arith file."""
    assert isinstance(container.payload, ArithPayload)
    return container.payload


def _put_together(kind: type[Payload], runs: Sequence[Run], more: dict[str, Any]) -> Container:
    model = ModelRef(**(_MODEL | _take(more, ModelRef)))
    payload = kind(**({"model": model} | _take(more, kind)))
    own: dict[str, Any] = {"runs": tuple(runs), "payload": payload}
    own["original_bytes"] = sum(run.num_bytes for run in more.get("runs", runs))
    return Container(**(_FILE | own | more))


def _take(values: dict[str, Any], kind: type) -> dict[str, Any]:
    """Takes out of `values` those that a dataclass has fields for."""
    names = [field.name for field in fields(kind) if field.name in values]
    return {name: values.pop(name) for name in names}
