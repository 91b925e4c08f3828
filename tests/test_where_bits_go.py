"""What `scripts/where_bits_go.py` counts, beside the file that llmzip writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from where_bits_go import count

from llmzip.api.compress import compress_bytes
from llmzip.codecs.arith import encoder
from llmzip.config import CompressSettings
from llmzip.store.arith_payload import ArithPayload
from llmzip.store.container import read_container
from tests.tiny_models import TEXT


def test_the_parts_are_those_of_the_file(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "pack_stored", lambda data: bytes(1 << 20))
    words = TEXT.split()
    data = "\n".join(" ".join(words[i : i + 9]) for i in range(0, len(words), 9)).encode() * 3
    model = str(tiny_model("llama"))
    found = dict(count(data, model))
    *parts, whole = found.values()
    surprisal, mixed, coded, offsets, flags = parts
    assert mixed < surprisal  # the text repeats itself
    assert abs(coded - mixed) < 0.02 * mixed
    assert offsets > 0 and flags >= 0 and whole == coded + offsets + flags
    settings = CompressSettings(model=model, codec="arith", shared_mem=0)
    payload = read_container(compress_bytes(data, settings)).payload
    assert isinstance(payload, ArithPayload)
    num_bits = 8 * sum(len(segment.stream) for segment in payload.segments)
    assert abs(num_bits - whole) < 0.02 * whole + 16
