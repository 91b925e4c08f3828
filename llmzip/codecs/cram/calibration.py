"""What is known of a model before any text is seen: how much one mem vector holds, and how far its
logits differ between the ways to decode. Measured once per model and remembered.

Owns the probe and the margin that follows from the noise. Knows nothing of containers.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from llmzip.codecs.cram.chunking import CutRule, Segment, plan_segments
from llmzip.codecs.cram.greedy import decode_chunks
from llmzip.codecs.cram.optimizer import probe_gain_bits
from llmzip.codecs.cram.slots import as_stored, init_rms
from llmzip.lm.layout import mem_and_chunk, pad_ids, predicting_rows
from llmzip.lm.loaded import LoadedModel
from llmzip.lm.model import FrozenLM, target_margins
from llmzip.lm.zoo import MODELS, cache_dir
from llmzip.store.atomic import write_cache

PROBE_STEPS = 32
BF16_SAFE_MARGIN = 2.0  # logits; bf16 differs from fp32 by 1 to 2 at most with vectors this large
_PROBE_TOKENS = 64
_LEAST_MARGIN = 0.05  # logits
_MARGIN_OF_NOISE = 128.0  # a margin so many times the noise measured here holds elsewhere, too
_NOISE_ROWS = 4

_PASSAGE = (
    "The ferry left at half past six, while the lamps along the quay were still lit. Anna had "
    "counted the coins twice before she bought the ticket, and now she stood at the rail with her "
    "collar up and watched the town grow small. Nobody had come to see her off, which was what "
    "she had asked for. The harbour master raised two fingers from his chair, as he did for every "
    "boat, and went back to his newspaper."
)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A model's figures. gain_bits: of one vector on the probe; noise: in logits."""

    gain_bits: float
    noise: float

    @property
    def min_margin(self) -> float:
        """The margin below which a token is not safe on another machine, in logits."""
        return max(_LEAST_MARGIN, _MARGIN_OF_NOISE * self.noise)


def calibration_of(loaded: LoadedModel) -> Calibration:
    """A model's figures: pinned with a named model, else measured at first use and kept in the
    cache."""
    files = loaded.files
    pinned = MODELS.get(files.model_id)
    if pinned is not None and pinned.digest == files.digest and pinned.gain_bits:
        return Calibration(gain_bits=pinned.gain_bits, noise=pinned.noise)
    ids = loaded.tokens.ids_of(probe_text())
    cache = cache_dir() / "calibration" / f"{files.digest.hex()}.json"
    return remembered_calibration(
        loaded.lm, loaded.decode_lm, ids, start_id=loaded.start_id, cache=cache
    )


def remembered_calibration(
    lm: FrozenLM, decode_lm: FrozenLM, ids: list[int], *, start_id: int | None, cache: Path
) -> Calibration:
    """`calibrate`, measured once and kept in the file `cache`.

    lm: optimises. decode_lm: decodes (fp32). ids: tokens of `probe_text()`. Measuring takes as long
    as PROBE_STEPS steps on 64 tokens and a little more.
    """
    found = _recall(cache)
    if found is None:
        found = calibrate(lm, decode_lm, ids, start_id=start_id)
        write_cache(cache, json.dumps(asdict(found)).encode())
    return found


def probe_text() -> bytes:
    """The passage that calibration crams."""
    return _PASSAGE.encode()


def calibrate(
    lm: FrozenLM, decode_lm: FrozenLM, ids: list[int], *, start_id: int | None
) -> Calibration:
    """Gain and noise of a model on the passage, without left context.

    The gain is how far one vector lowers the passage's cross-entropy in PROBE_STEPS steps; at least
    1, for models that a vector cannot steer at all.
    """
    ids = ids[:_PROBE_TOKENS]
    rule = CutRule(context_tokens=0, budget_bits=float("inf"))
    whole = next(plan_segments(lm, ids, rule, start_id=start_id))
    gain = max(1.0, probe_gain_bits(lm, whole, steps=PROBE_STEPS))
    return Calibration(gain_bits=gain, noise=measure_noise(decode_lm, whole))


@torch.no_grad()
def measure_noise(lm: FrozenLM, segment: Segment) -> float:
    """The largest difference of a margin between reading a chunk at once and decoding it token by
    token, in one batch and row by row, with vectors as large as the optimiser makes them."""
    generator = torch.Generator().manual_seed(0)
    mem = torch.randn(_NOISE_ROWS, 1, lm.dim, generator=generator) * init_rms(lm)
    mem = as_stored(mem).to(lm.device)
    ids, live = pad_ids([segment.ids] * _NOISE_ROWS, lm.device)  # [R, L]
    lead, lead_live = pad_ids([segment.start_ids] * _NOISE_ROWS, lm.device)
    _, state = lm.extend(lm.empty(_NOISE_ROWS), lm.embed(lead), lead_live)
    embeds, live = mem_and_chunk(mem.to(lm.dtype), lm.embed(ids), live)
    hidden, _ = lm.extend(state, embeds, live)
    rows = predicting_rows(hidden, 1).flatten(0, 1)
    at_once = target_margins(lm.logits(rows), ids.flatten()).view_as(ids)
    noise = 0.0
    truth = dict(enumerate(segment.ids))
    for size in (_NOISE_ROWS, 1):
        leads, rows_wanted = [segment.start_ids] * size, [(len(segment.ids), truth)] * size
        decoded, _ = decode_chunks(lm, lm.empty(size), leads, mem[:size], rows_wanted)
        difference = (decoded.margins - at_once[:size]).abs()
        noise = max(noise, float(difference.max()))
    return noise


def _recall(cache: Path) -> Calibration | None:
    try:
        found = json.loads(cache.read_text("utf-8"))
        gain, noise = float(found["gain_bits"]), float(found["noise"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a damaged cache is measured anew
    sound = 0 < gain < 1e6 and 0 <= noise < 1e3
    return Calibration(gain_bits=gain, noise=noise) if sound else None
