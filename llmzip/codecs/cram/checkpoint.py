"""Cramming under way as bytes, and back: segments, finished chunks, everything the engine holds.

Owns how these are written down for a later run, which then goes on to the same bits. Knows nothing
of files or of when it is done.

The bytes are a safetensors file: every tensor as it is, and one of JSON for the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from llmzip.codecs.cram.chunking import Segment, Span
from llmzip.codecs.cram.curvature import Curvature
from llmzip.codecs.cram.optimizer import Slot
from llmzip.codecs.cram.rounding import Candidate, Rounding
from llmzip.codecs.cram.state import EngineState
from llmzip.codecs.cram.tasks import Crammed, Task
from llmzip.store.journal_records import invalid_record
from llmzip.store.residual import Patch, Ranked

_PLAIN = "plain"
_KINDS = {
    kind.__name__: kind for kind in (Candidate, Crammed, Curvature, EngineState, Rounding, Slot)
}
# Tensors that stay on the CPU wherever the model is.
_ON_CPU = {"Rounding.given_up", "Candidate.margins", "Crammed.mem", "Crammed.grid_steps"}


def pack_segments(segments: Sequence[Sequence[Segment]]) -> bytes:
    """The segments of each part of the input, without their tokens."""
    plain = [
        [
            {
                "index": segment.index,
                "offset": segment.offset,
                "start": segment.start_ids,
                "tokens": len(segment.ids),
                "ends": [span.end for span in segment.spans],
                "loads": [span.surprisal_bits for span in segment.spans],
            }
            for segment in own
        ]
        for own in segments
    ]
    bits = [b for own in segments for segment in own for b in segment.surprisal_bits]
    return _save(plain, [torch.tensor(bits, dtype=torch.float64)])


def unpack_segments(data: bytes, ids: Sequence[Sequence[int] | None]) -> list[list[Segment]]:
    """What `pack_segments` was given. ids: tokens of each part. Raises Corrupt."""

    def read() -> list[list[Segment]]:
        plain, (bits,) = _load(data)
        loads = iter(bits.tolist())
        found: list[list[Segment]] = []
        for own, tokens in zip(plain, ids, strict=True):
            found.append([])
            for entry in own:
                begin, size = entry["offset"], entry["tokens"]
                starts = [0, *entry["ends"][:-1]]
                spans = zip(starts, entry["ends"], entry["loads"], strict=True)
                found[-1].append(
                    Segment(
                        index=entry["index"],
                        offset=begin,
                        start_ids=tuple(entry["start"]),
                        ids=tuple((tokens or ())[begin : begin + size]),
                        surprisal_bits=tuple(next(loads) for _ in range(size)),
                        spans=tuple(Span(start=s, end=e, surprisal_bits=b) for s, e, b in spans),
                    )
                )
        return found

    segments: list[list[Segment]] = _sound(read)
    return segments


def pack_crammed(chunks: Sequence[Crammed]) -> bytes:
    """Finished chunks."""
    return _pack(list(chunks))


def unpack_crammed(data: bytes, segments: Mapping[int, Segment]) -> list[Crammed]:
    """What `pack_crammed` was given. segments: of the plan, by index. Raises Corrupt."""
    found: list[Crammed] = _unpack(data, segments, torch.device("cpu"))
    if not isinstance(found, list) or not all(isinstance(chunk, Crammed) for chunk in found):
        raise invalid_record("no chunks")
    return found


def pack_state(state: EngineState) -> bytes:
    """What the engine holds between two steps."""
    # The path of a chunk that has settled is not asked for again; zeros take no room.
    settled = [
        replace(slot, curvature=Curvature.empty(slot.mem.numel(), torch.device("cpu")))
        for slot in state.finished
    ]
    return _pack(replace(state, finished=settled))


def unpack_state(data: bytes, segments: Mapping[int, Segment], device: torch.device) -> EngineState:
    """What `pack_state` was given, for a model on `device`. Raises Corrupt."""
    state: EngineState = _unpack(data, segments, device)
    if not isinstance(state, EngineState):
        raise invalid_record("no state of an engine")
    return state


def _save(plain: object, tensors: Sequence[Tensor]) -> bytes:
    text = torch.frombuffer(bytearray(json.dumps(plain).encode()), dtype=torch.uint8)
    # Copies: views of one batch would be written down whole.
    named = {str(i): t.detach().cpu().contiguous().clone() for i, t in enumerate(tensors)}
    return save({_PLAIN: text, **named})


def _load(data: bytes) -> tuple[Any, list[Tensor]]:
    tensors = load(data)
    plain = json.loads(tensors.pop(_PLAIN).numpy().tobytes())
    return plain, [tensors[str(index)] for index in range(len(tensors))]


def _sound(read: Callable[[], Any]) -> Any:
    """What `read` gives. What is written here is checked before it is written, and by a checksum
    after: damage at this point is foul play, or another version's."""
    try:
        return read()
    except (
        SafetensorError, ValueError, LookupError, TypeError, AttributeError, StopIteration,
        RecursionError,
    ) as error:  # fmt: skip
        raise invalid_record(repr(error)) from error


def _pack(value: object) -> bytes:
    tensors: list[Tensor] = []

    def plain(value: object) -> object:
        if isinstance(value, Tensor):
            tensors.append(value)
            return {"tensor": len(tensors) - 1}
        if isinstance(value, Task):
            place = (value.segment.index, value.segment.offset, value.start, value.end)
            return {"task": [*place, value.steps_so_far, plain(value.warm_mem)]}
        if isinstance(value, Ranked):
            return {"rank": [value.skip, value.size, value.index]}
        if isinstance(value, (list, tuple)):
            return [plain(each) for each in value]
        if type(value).__name__ in _KINDS:
            own = {f.name: plain(getattr(value, f.name)) for f in fields(value)}  # type: ignore[arg-type]
            return {"kind": type(value).__name__, **own}
        assert value is None or isinstance(value, (bool, int, float)), type(value)
        return value

    return _save(plain(value), tensors)


def _unpack(data: bytes, segments: Mapping[int, Segment], device: torch.device) -> Any:
    def read() -> Any:
        plain, tensors = _load(data)

        def full(value: Any, name: str = "") -> Any:
            if isinstance(value, list):
                return [full(each) for each in value]
            if not isinstance(value, dict):
                return value
            if "kind" in value:
                kind = _KINDS[value.pop("kind")]
                own = {k: full(v, f"{kind.__name__}.{k}") for k, v in value.items()}
                if kind is Crammed:
                    own["patches"] = tuple(_patch(*patch) for patch in own["patches"])
                return kind(**own)
            if "tensor" in value:
                found = tensors[value["tensor"]]
                return found if name in _ON_CPU else found.to(device)
            if "rank" in value:
                return Ranked(*value["rank"])
            index, offset, start, end, steps, mem = value["task"]
            segment = segments[index]
            return Task(
                segment=segment.from_token(offset - segment.offset), start=start, end=end,
                warm_mem=full(mem), steps_so_far=steps,
            )  # fmt: skip

        return full(plain)

    return _sound(read)


def _patch(position: int, token: int | Ranked) -> Patch:
    return position, token
