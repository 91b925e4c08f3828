"""A forecast for the arith codec: what a text will take and give, from reading a little of it.

Owns the sample and how its figures are stretched to the whole. Called by `codec`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np

from llmzip.arith.lanes import shape_of
from llmzip.arith.outlook import outlook_of
from llmzip.arith.reading import Reader, opening_embeds
from llmzip.arith.segments import WINDOW_TOKENS
from llmzip.arith.wrap import choose_wrap, unwrap
from llmzip.assembly import pack_stored, xz_bytes
from llmzip.config import CompressSettings
from llmzip.estimate import Estimate
from llmzip.planning import Part
from llmzip.progress import OnProgress, Progress
from llmzip.workshop import Workshop

_SAMPLES, _SAMPLE_TOKENS = 4, 512
_SHORT_SAMPLE_LOSS = 0.97  # a sample sees less of the text than the real lanes do
_CODING_S = 2.5e-4  # seconds a token for the integer model, twice: to code and to check
_FILE_BYTES = 130


def estimate_arith(
    data: bytes,
    parts: Sequence[Part],
    shop: Workshop,
    settings: CompressSettings,
    *,
    startup_s: float,
    on_progress: OnProgress,
    cancel: threading.Event | None,
) -> Estimate:
    """The forecast; shared vectors are left out of account. parts: of `data`."""
    text = b"".join(part.data for part in parts if part.ids is not None)
    stored = b"".join(part.data for part in parts if part.ids is None)
    wrap = choose_wrap(text)
    ids = shop.tokens.ids_of(unwrap(text, wrap)[0] if wrap else text)
    on_progress(Progress(stage="measure", tokens_total=len(ids), bytes_total=len(data)))
    outlook = outlook_of(shop.judge, shop.tokens)
    opening = opening_embeds(shop.judge, shop.start_id, None)
    reader = Reader(shop.judge, outlook, opening, window_tokens=WINDOW_TOKENS)
    began = time.monotonic()
    bits = num_read = 0.0
    size = min(_SAMPLE_TOKENS, len(ids), shop.judge.max_positions - opening.shape[1])
    count = max(1, min(_SAMPLES, len(ids) // size))
    for number in range(count):
        first = (len(ids) - size) * number // max(1, count - 1)
        sample = ids[first : first + size]
        odds = reader.known_odds(shape_of(size, 1, 0), sample, cancel=cancel)
        bits += outlook.path_bits(odds, np.array(sample)).sum()
        num_read += size
    seconds_a_token = (time.monotonic() - began) / num_read
    coded = bits / num_read * len(ids) / 8 * (_SHORT_SAMPLE_LOSS if len(ids) > size else 1.0)
    packed = round(coded) + (len(pack_stored(stored)) if stored else 0) + _FILE_BYTES
    return Estimate(
        original_bytes=len(data),
        container_bytes=min(packed, len(pack_stored(data))),
        xz_bytes=xz_bytes(data),
        seconds=startup_s + len(ids) * (seconds_a_token + 2 * _CODING_S),
    )
