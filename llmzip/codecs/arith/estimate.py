"""A forecast for the arith codec: what a text will take and give, from reading a little of it.

Owns the sample and how its figures are stretched to the whole.
"""

from __future__ import annotations

import time

import numpy as np

from llmzip.codecs.arith.line_breaks import choose_wrap, unwrap
from llmzip.codecs.arith.reader import Reader
from llmzip.codecs.arith.segments import WINDOW_TOKENS, shape_of
from llmzip.codecs.base import Estimate, Source
from llmzip.codecs.context import Context
from llmzip.codecs.shared import opening_embeds
from llmzip.codecs.token_odds import token_odds_of
from llmzip.config import CompressSettings
from llmzip.lm.layout import segment_start
from llmzip.lm.loaded import LoadedModel
from llmzip.progress import Progress
from llmzip.store.arith_payload import ArithPayload
from llmzip.store.stored import pack_stored, xz_bytes

_SAMPLES, _SAMPLE_TOKENS = 4, 512
_SHORT_SAMPLE_LOSS = 0.97  # a sample sees less of the text than the real lanes do
_CODING_S = 2.5e-4  # seconds a token for the integer model, twice: to code and to check
_FILE_BYTES = 130


def estimate_arith(
    source: Source, loaded: LoadedModel, settings: CompressSettings, context: Context
) -> Estimate:
    """The forecast; shared vectors are left out of account."""
    data, parts = source.data, source.parts
    text = b"".join(part.data for part in parts if part.ids is not None)
    stored = b"".join(part.data for part in parts if part.ids is None)
    wrap = choose_wrap(text)
    ids = loaded.tokens.ids_of(unwrap(text, wrap)[0] if wrap else text)
    context.report(Progress(stage="measure", tokens_total=len(ids), bytes_total=len(data)))
    token_odds = token_odds_of(loaded.decode_lm, loaded.tokens)
    opening = opening_embeds(loaded.decode_lm, segment_start(loaded.start_id), None)
    reader = Reader(loaded.decode_lm, token_odds, opening, window_tokens=WINDOW_TOKENS)
    began = time.monotonic()
    bits = num_read = 0.0
    size = min(_SAMPLE_TOKENS, len(ids), loaded.decode_lm.max_positions - opening.shape[1])
    count = max(1, min(_SAMPLES, len(ids) // size))
    for number in range(count):
        first = (len(ids) - size) * number // max(1, count - 1)
        sample = ids[first : first + size]
        context.check()
        odds = reader.known_odds(shape_of(size, 1, 0), sample)
        bits += token_odds.path_bits(odds, np.array(sample)).sum()
        num_read += size
    seconds_a_token = (time.monotonic() - began) / num_read
    coded = bits / num_read * len(ids) / 8 * (_SHORT_SAMPLE_LOSS if len(ids) > size else 1.0)
    packed = round(coded) + (len(pack_stored(stored)) if stored else 0) + _FILE_BYTES
    asked = {
        "--try-cram": settings.try_cram,
        "--shared-mem": bool(settings.shared_mem),
        "--verify full": settings.verify == "full",
    }
    return Estimate(
        codec=ArithPayload.codec,
        result="codec arith",
        sample="a small part of the text",
        left_out=tuple(option for option, is_asked in asked.items() if is_asked),
        original_bytes=len(data),
        container_bytes=min(packed, len(pack_stored(data))),
        xz_bytes=xz_bytes(data),
        seconds=len(ids) * (seconds_a_token + 2 * _CODING_S),
    )
