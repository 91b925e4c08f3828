"""Text and a model -> a container of the arith codec, and how it is read back.

Owns the steps: cut, read, measure the decoder's noise, code. Knows nothing of how models are found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from llmzip.codecs.arith.decoder import decode_segments_of
from llmzip.codecs.arith.line_breaks import choose_wrap
from llmzip.codecs.arith.reader import Reader
from llmzip.codecs.arith.resume import ResumeCache
from llmzip.codecs.arith.segment_coding import encode_segment, measure_noise, replay_segment
from llmzip.codecs.arith.segments import WINDOW_TOKENS, Segment, cut_segments, prefix_tokens
from llmzip.codecs.arith.shared import MOST_TRIED, learn_shared
from llmzip.codecs.base import DecodingModel, Draft, Request, Source, model_ref, stored_draft
from llmzip.codecs.context import Context
from llmzip.codecs.input import Part
from llmzip.codecs.shared import SharedMem, opening_embeds
from llmzip.codecs.token_odds import Floats, TokenOdds, token_odds_of
from llmzip.config import CompressSettings
from llmzip.lm.layout import segment_start
from llmzip.lm.loaded import LoadedModel
from llmzip.progress import Progress, Stage
from llmzip.store.arith_payload import ArithPayload, ArithSegment, guard_code, guard_value
from llmzip.store.container import Container
from llmzip.store.original import segment_check
from llmzip.store.payload import Run, StoredRun, TextRun
from llmzip.store.pieces import Texts
from llmzip.store.stored import container_with, pack_stored, zstd_bytes

_GUARD_OF_NOISE = 8.0  # a file bears so many times the noise measured on it
_LEAST_GUARD = 3e-4  # nats
_NOISE_STEPS = 32
_IMPLAUSIBLE_NOISE = 1e-3  # nats; usually a tenth of it or less: the text is read again
_FULLY_VERIFIED_TOKENS = 1024  # a text so short is decoded whole to verify it, whatever was asked
_CHECKED_SHARE = 0.9  # of the guard: how far the log-odds are moved to check a stream


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What every step needs."""

    loaded: LoadedModel
    settings: CompressSettings
    context: Context
    token_odds: TokenOdds
    resume: ResumeCache


def encode_arith(
    source: Source, loaded: LoadedModel, settings: CompressSettings, context: Context
) -> Draft:
    """The container of a source; what zstd holds in less is stored."""
    work = _Work(
        loaded=loaded,
        settings=settings,
        context=context,
        token_odds=token_odds_of(loaded.decode_lm, loaded.tokens),
        resume=ResumeCache(context.journal),
    )
    draft = _draft(source.data, source.parts, work)
    if draft is None or draft.num_bytes >= len(pack_stored(source.data)):
        return stored_draft(source.data)
    return draft


def _draft(data: bytes, parts: Sequence[Part], work: _Work) -> Draft | None:
    """The container, or None where no part is left that the model holds in less than zstd."""
    text = b"".join(part.data for part in parts if part.ids is not None)
    wrap = choose_wrap(text)
    segments = _cut(text, wrap, work)
    if segments is None and wrap:
        wrap, segments = 0, _cut(text, 0, work)
    if not text or segments is None:
        return None
    shared = _learn_shared(segments, work)
    decode_lm, mem = work.loaded.decode_lm, None if shared is None else shared.mem
    opening = opening_embeds(decode_lm, segment_start(work.loaded.start_id), mem)
    reader = Reader(decode_lm, work.token_odds, opening, window_tokens=WINDOW_TOKENS)
    odds = _read(reader, segments, shared, work)
    dear = _dear_parts(parts, segments, odds, work)
    if dear and any(part.ids is not None for i, part in enumerate(parts) if i not in dear):
        kept = [replace(p, ids=None) if i in dear else p for i, p in enumerate(parts)]
        return _draft(data, kept, work)
    noise = _noise(reader, segments[0], odds[0], work)
    if noise > _IMPLAUSIBLE_NOISE:
        odds = _read(reader, segments, shared, replace(work, resume=ResumeCache(None)))
        noise = _noise(reader, segments[0], odds[0], work)
    code = guard_code(max(_LEAST_GUARD, _GUARD_OF_NOISE * noise))
    payload = ArithPayload(
        model=model_ref(work.loaded),
        segments=_code(segments, odds, guard_value(code), work),
        prefix_tokens=prefix_tokens(decode_lm.max_positions),
        window_tokens=WINDOW_TOKENS,
        guard_code=code,
        wrap=wrap,
        mem=None if shared is None else shared.grid,
    )
    runs: list[Run] = [
        StoredRun(data=part.data) if part.ids is None else TextRun(num_bytes=len(part.data))
        for part in parts
    ]
    container = container_with(data, runs, payload)
    return Draft(container=container, read_back=partial(_read_back, segments, odds, work))


def _cut(text: bytes, wrap: int, work: _Work) -> list[Segment] | None:
    loaded = work.loaded
    head = len(segment_start(loaded.start_id)) + (work.settings.shared_mem or MOST_TRIED)
    most = loaded.decode_lm.max_positions
    return cut_segments(text, wrap, loaded.tokens, head_tokens=head, max_positions=most)


def _learn_shared(segments: Sequence[Segment], work: _Work) -> SharedMem | None:
    def on_step(done: int, total: int) -> None:
        work.context.check()
        work.context.report(Progress(stage="share", tokens_right=done, tokens_total=total))

    num_mem, seed = work.settings.shared_mem, work.settings.seed
    learn = partial(
        learn_shared, work.loaded.lm, segments, start_id=work.loaded.start_id,
        num_mem=num_mem, seed=seed, on_step=on_step,
    )  # fmt: skip
    mem_dim = work.loaded.decode_lm.dim
    return work.resume.shared(segments, num_mem, seed, learn, mem_dim=mem_dim)


def _teller(stage: Stage, segments: Sequence[Segment], work: _Work) -> Callable[[int, int], None]:
    """A function of a segment's index and how many of its tokens are done. Raises Interrupted."""
    before = np.concatenate(([0], np.cumsum([len(s.ids) for s in segments]))).tolist()
    num_bytes = sum(len(segment.original) for segment in segments)
    progress = Progress(stage=stage, tokens_total=before[-1], bytes_total=num_bytes)

    def tell(index: int, num_tokens: int) -> None:
        work.context.check()
        done = before[index] + num_tokens
        num_done = round(done * (num_bytes / before[-1]))
        work.context.report(replace(progress, tokens_right=done, bytes_done=num_done))

    return tell


def _read(
    reader: Reader, segments: Sequence[Segment], shared: SharedMem | None, work: _Work
) -> list[Floats]:
    tell, odds = _teller("measure", segments, work), []
    for index, segment in enumerate(segments):
        on_tokens = partial(tell, index)
        read = partial(reader.known_odds, segment.lanes, segment.ids, on_tokens=on_tokens)
        odds.append(work.resume.odds(segment, shared, read))
    return odds


def _noise(reader: Reader, segment: Segment, odds: Floats, work: _Work) -> float:
    return measure_noise(
        reader, work.token_odds, segment.lanes, segment.ids, odds,
        num_steps=_NOISE_STEPS, context=work.context,
    )  # fmt: skip


def _dear_parts(
    parts: Sequence[Part], segments: Sequence[Segment], odds: Sequence[Floats], work: _Work
) -> set[int]:
    """Which parts the model alone needs more bits for than zstd does; of one part, none."""
    if sum(part.ids is not None for part in parts) < 2:
        return set()
    meanings = work.loaded.tokens.meanings
    ends, costs = [], []  # of each token: where it ends in the unwrapped text, and its bits
    for segment, own in zip(segments, odds, strict=True):
        sizes = np.array([len(meanings[token] or b"") for token in segment.ids])
        # A text of line ends taken out is a little shorter than the original: stretch it.
        stretch = len(segment.original) / max(1, len(segment.unwrapped))
        ends.append(sizes * stretch)
        costs.append(work.token_odds.path_bits(own, np.array(segment.ids)))
    places, bits = np.cumsum(np.concatenate(ends)), np.concatenate(costs)
    dear = set()
    begin = 0
    for index, part in enumerate(parts):
        if part.ids is None:
            continue
        first, last = np.searchsorted(places, (begin + 0.5, begin + len(part.data) + 0.5))
        if bits[first:last].sum() > 8 * zstd_bytes(part.data):
            dear.add(index)
        begin += len(part.data)
    return dear


def _code(
    segments: Sequence[Segment], odds: Sequence[Floats], guard: float, work: _Work
) -> tuple[ArithSegment, ...]:
    tell, coded = _teller("code", segments, work), []
    encode = partial(encode_segment, work.token_odds.tree, guard=guard)
    for index, (segment, own) in enumerate(zip(segments, odds, strict=True)):
        code = partial(encode, segment, own, on_tokens=partial(tell, index))
        coded.append(
            ArithSegment(
                num_tokens=len(segment.ids),
                num_bytes=len(segment.original),
                check=segment_check(segment.original),
                num_lanes=segment.lanes.num_lanes,
                stream=work.resume.stream(segment, own, guard, code),
            )
        )
    return tuple(coded)


def _read_back(
    segments: Sequence[Segment], odds: Sequence[Floats], work: _Work, _: bytes, container: Container
) -> Texts:
    """The texts of the finished container's segments: by the decompressor, or, where that would
    take several times as long as all the rest, from the container's streams with the encoder's own
    log-odds, moved at random by nearly as much as the file must bear. None of a segment that does
    not give its text back."""
    payload = container.payload
    assert isinstance(payload, ArithPayload)
    num_tokens = sum(len(segment.ids) for segment in segments)
    if work.settings.verify == "full" or num_tokens <= _FULLY_VERIFIED_TOKENS:
        model = DecodingModel.of(work.loaded)
        wanted, batch = range(len(payload.segments)), work.settings.compute.batch
        request = Request(wanted=wanted, batch=batch, stage="verify")
        return decode_segments_of(payload, model, request, work.context)
    tell = _teller("verify", segments, work)
    shift = _CHECKED_SHARE * guard_value(payload.guard_code)
    texts: list[bytes | None] = []
    for index, (segment, own) in enumerate(zip(segments, odds, strict=True)):
        noise = np.random.default_rng(index).uniform(-shift, shift, own.shape)
        tree, stream = work.token_odds.tree, payload.segments[index].stream
        same = replay_segment(tree, segment, own + noise, stream, on_tokens=partial(tell, index))
        texts.append(segment.original if same else None)
    return texts
