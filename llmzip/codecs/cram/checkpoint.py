"""What is under way in the cram engine, as objects and as bytes.

Owns what the engine holds between two steps and how that, segments and finished chunks are packed
and unpacked. Does not know where the bytes are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from llmzip.codecs.cram.allowance import Allowance
from llmzip.codecs.cram.chunking import Segment, Span
from llmzip.codecs.cram.curvature import Curvature
from llmzip.codecs.cram.signs import Signs
from llmzip.codecs.cram.slots import Slot
from llmzip.codecs.cram.tasks import Crammed, Task
from llmzip.codecs.shared import SharedMem
from llmzip.store.journal_records import invalid_record
from llmzip.store.vectors import GridMem


@dataclass(kw_only=True)
class EngineState:
    """All that the engine holds between two steps: with it, another run goes on to the same bits.
    On an accelerator nearly so: there the batch follows the memory that is free."""

    group: int = 0  # whose tasks they are: the index of its first segment
    taken: int = 0  # tasks that were taken from the queue
    again: list[Task | Slot] = field(default_factory=list)  # sent back, split or put off; first
    slots: list[Slot] = field(default_factory=list)
    finished: list[Slot] = field(default_factory=list)  # wait for certification
    allowance: Allowance = field(default_factory=Allowance)


# Takes the chunks just accepted, and what is under way then.
OnSave: TypeAlias = Callable[[Sequence[Crammed], EngineState], None]


@dataclass(frozen=True, kw_only=True)
class SlotView:
    """A chunk under way as it was measured last."""

    slot: Slot
    margins: Tensor  # [L] on the CPU; minus infinity: not yet taken up
    wanted: float  # logits by which a token must lead


@dataclass(frozen=True, kw_only=True)
class UnderWay:
    """How far the chunks are that are not accepted yet."""

    num_right: int  # tokens that greedy decoding would get right now
    # The work on them, in tokens: of each chunk so many as its steps are of all that it will take.
    tokens_worth: float
    view: Callable[[], SlotView]  # what shows one of them


OnStep: TypeAlias = Callable[[UnderWay], None]
# Takes what has happened to a task, and its steps so far.
OnTask: TypeAlias = Callable[[Literal["started", "refused", "split"], Task, int], None]


def num_right(slot: Slot) -> int:
    """Tokens of a chunk that greedy decoding would get right now."""
    return slot.task.num_tokens - slot.num_wrong


_PLAIN = "plain"
_KINDS = {kind.__name__: kind for kind in (Crammed, Curvature, EngineState, Allowance, Signs, Slot)}
# Tensors that stay on the CPU wherever the model is.
_ON_CPU = {"Crammed.mem", "Crammed.grid_steps", "Crammed.patch_odds"}


def pack_segments(segments: Sequence[Sequence[Segment]]) -> bytes:
    """The segments of each part of the input, without their tokens."""

    def plain(segment: Segment) -> dict[str, object]:
        return {
            "index": segment.index,
            "offset": segment.offset,
            "start": segment.start_ids,
            "tokens": len(segment.ids),
            "ends": [span.end for span in segment.spans],
            "loads": [span.surprisal_bits for span in segment.spans],
            "most": segment.most_bits,
            "shared": None if segment.shared is None else sets.index(segment.shared),
        }

    sets = list({s.shared: 0 for own in segments for s in own if s.shared is not None})
    bits = [b for own in segments for segment in own for b in segment.surprisal_bits]
    parts = [list(map(plain, own)) for own in segments]
    tensors = [torch.tensor(bits, dtype=torch.float64)]
    for shared in sets:
        grid = shared.grid
        tensors += [torch.from_numpy(grid.symbols), torch.from_numpy(grid.steps.view(np.int16))]
    return _save(parts, tensors)


def unpack_segments(data: bytes, ids: Sequence[Sequence[int] | None]) -> list[list[Segment]]:
    """What `pack_segments` was given. ids: tokens of each part. Raises Corrupt."""

    def full(entry: Any, tokens: Sequence[int], bits: Iterator[float]) -> Segment:
        which = entry["shared"]
        begin, size, ends = entry["offset"], entry["tokens"], entry["ends"]
        spans = zip([0, *ends[:-1]], ends, entry["loads"], strict=True)
        return Segment(
            index=entry["index"],
            offset=begin,
            start_ids=tuple(entry["start"]),
            ids=tuple(tokens[begin : begin + size]),
            surprisal_bits=tuple([next(bits) for _ in range(size)]),  # StopIteration: too few
            spans=tuple(Span(start=s, end=e, surprisal_bits=b) for s, e, b in spans),
            most_bits=entry["most"],
            shared=None if which is None else sets[which],
        )

    with _sound():
        parts, (bits, *grids) = _load(data)
        sets = [
            SharedMem(grid=GridMem(symbols=symbols.numpy(), steps=steps.numpy().view(np.uint16)))
            for symbols, steps in zip(grids[::2], grids[1::2], strict=True)
        ]
        left = iter(bits.tolist())
        return [
            [full(entry, tokens or (), left) for entry in own]
            for own, tokens in zip(parts, ids, strict=True)
        ]


def pack_crammed(chunks: Sequence[Crammed]) -> bytes:
    """Finished chunks."""
    return _pack(chunks)


def unpack_crammed(data: bytes, segments: Mapping[int, Segment]) -> list[Crammed]:
    """What `pack_crammed` was given. segments: of the plan, by index. Raises Corrupt."""
    found = _unpack(data, segments, torch.device("cpu"))
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
    state = _unpack(data, segments, device)
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


@contextmanager
def _sound() -> Iterator[None]:
    """Turn the errors of unsound bytes into Corrupt. Accidental damage fails a checksum before
    this, so the bytes are forged or another version's."""
    try:
        yield
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
            so_far = (value.is_part, value.failures, value.steps_so_far)
            return {"task": [*place, *so_far, plain(value.warm_mem)]}
        if isinstance(value, (list, tuple)):
            return [plain(each) for each in value]
        if type(value).__name__ in _KINDS:
            own = {f.name: plain(getattr(value, f.name)) for f in fields(value)}  # type: ignore[arg-type]
            return {"kind": type(value).__name__, **own}
        assert value is None or isinstance(value, (bool, int, float)), type(value)
        return value

    return _save(plain(value), tensors)


def _unpack(data: bytes, segments: Mapping[int, Segment], device: torch.device) -> Any:
    def full(value: Any, name: str = "") -> Any:
        if isinstance(value, list):
            return [full(each) for each in value]
        if not isinstance(value, dict):
            return value
        if "kind" in value:
            kind = _KINDS[value.pop("kind")]
            own = {k: full(v, f"{kind.__name__}.{k}") for k, v in value.items()}
            if kind is Crammed:
                own["patches"] = tuple((position, token) for position, token in own["patches"])
            return kind(**own)
        if "tensor" in value:
            found = tensors[value["tensor"]]
            return found if name in _ON_CPU else found.to(device)
        index, offset, start, end, is_part, failures, steps, mem = value["task"]
        segment = segments[index]
        return Task(
            segment=segment.from_token(offset - segment.offset), start=start, end=end,
            warm_mem=full(mem), steps_so_far=steps, failures=failures, is_part=is_part,
        )  # fmt: skip

    with _sound():
        plain, tensors = _load(data)
        return full(plain)
