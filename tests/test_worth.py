"""Small files: no vectors, and no steps, where they cannot pay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import llmzip
from llmzip.api.compress import estimate_bytes
from llmzip.codecs.base import Draft, Source, stored_draft
from llmzip.codecs.cram.chunking import Segment, Span
from llmzip.codecs.cram.payload import GROWTH_BYTES, is_worth_cramming, smaller_draft
from llmzip.codecs.cram.plan import Plan
from llmzip.codecs.cram.presets import signs_of
from llmzip.codecs.input import Part
from llmzip.config import CompressSettings
from tests.tiny_models import SHORT_TEXT

ROOT = Path(__file__).resolve().parent.parent
PROSE = (ROOT / "examples" / "long.txt").read_bytes()
DEFAULT = CompressSettings()


def plan_of(data: bytes, chunk_tokens: Sequence[int], settings: CompressSettings) -> Plan:
    """Chunks of so many tokens in one segment."""
    ids = tuple(range(sum(chunk_tokens)))
    spans, start = [], 0
    for size in chunk_tokens:
        spans.append(Span(start=start, end=start + size, surprisal_bits=300.0))
        start += size
    segment = Segment(
        index=0, offset=0, start_ids=(), ids=ids,
        surprisal_bits=(1.0,) * len(ids), spans=tuple(spans),
    )  # fmt: skip
    signs = signs_of(settings.preset, settings.bits, settings.max_steps)
    part = Part(data=data, ids=ids)
    return Plan(parts=[(part, [segment])], context_tokens=0, signs=signs)


def is_worth(
    data: bytes, chunk_tokens: Sequence[int], settings: CompressSettings, dim: int
) -> bool:
    plan = plan_of(data, chunk_tokens, settings)
    source = Source(data=data, parts=[part for part, _ in plan.parts])
    return is_worth_cramming(source, plan, settings, mem_dim=dim)


@pytest.mark.parametrize(
    ("size", "chunk_tokens", "changes", "expected"),
    [
        (300, [25] * 3, {}, False),  # stored, it takes less
        (300, [38, 37], {}, True),
        (300, [75], {"bits": 2}, True),  # asked for
        (300, [75], {"bits": 16}, True),
        (300, [38, 37], {"num_mem": 2}, True),
        (300, [25] * 3, {"preset": "fast"}, False),  # far larger than the text
        (500, [33] * 4, {}, False),
        (600, [75], {}, True),  # well predicted, and zstd holds no more of it than of other prose
        (1500, [75] * 5, {}, True),
        (1500, [38] * 10, {"preset": "fast"}, True),  # time, not bytes
        (1500, [15] * 25, {}, False),  # text that the model cannot predict
    ],
)
def test_what_is_worth_its_steps(
    size: int, chunk_tokens: list[int], changes: dict[str, Any], expected: bool
) -> None:
    settings = replace(DEFAULT, **changes)
    assert is_worth(PROSE[:size], chunk_tokens, settings, 576) == expected


def test_a_lone_chunk_is_crammed_once_vectors_are_small() -> None:
    assert is_worth(PROSE[:300], [75], DEFAULT, 288)


@pytest.mark.parametrize(("more", "is_stored"), [(GROWTH_BYTES, False), (GROWTH_BYTES + 1, True)])
def test_a_file_does_not_grow(more: int, is_stored: bool) -> None:
    data = PROSE[:300]
    stored = stored_draft(data)

    class Sized(Draft):
        @property
        def num_bytes(self) -> int:
            return len(data) + more

    draft = Sized(container=stored.container)
    found = smaller_draft(draft, data, DEFAULT)
    assert (found is not draft) == is_stored
    assert smaller_draft(draft, data, replace(DEFAULT, bits=2)) is draft


def test_no_step_is_made_for_a_small_text(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmzip.codecs.cram.engine import Engine

    def fail(*args: object, **more: object) -> None:
        raise AssertionError("a step")

    monkeypatch.setattr(Engine, "run", fail)
    model = str(tiny_model("llama"))
    text = SHORT_TEXT[:90]  # of a model that predicts nothing: many chunks
    packed = llmzip.compress(text, model=model)
    assert llmzip.info(packed).codec == "stored"
    forecast = estimate_bytes(text, CompressSettings(model=model))
    assert forecast.seconds == 0.0 and forecast.container_bytes == len(packed)
    with pytest.raises(AssertionError, match="a step"):
        llmzip.compress(text, model=model, bits=2)


@pytest.mark.real_model
@pytest.mark.parametrize("first", [0, 5000])
def test_three_hundred_bytes_of_prose(first: int) -> None:
    data = PROSE[first : first + 300]
    packed = llmzip.compress(data)
    assert len(packed) <= len(data) + GROWTH_BYTES
    assert llmzip.decompress(packed) == data
