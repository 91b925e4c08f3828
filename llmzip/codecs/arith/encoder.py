"""Text and a model -> a container of the arith codec, and how it is read back.

Owns the steps: cut, read, measure the decoder's noise, code. Knows nothing of how models are found.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from llmzip.codecs.arith.decoder import decode_segments_of
from llmzip.codecs.arith.line_breaks import choose_wrap
from llmzip.codecs.arith.reader import Reader, opening_embeds
from llmzip.codecs.arith.resume import ResumeCache
from llmzip.codecs.arith.segment_decoder import measure_noise
from llmzip.codecs.arith.segment_encoder import encode_segment, replay_segment
from llmzip.codecs.arith.segments import WINDOW_TOKENS, Segment, cut_segments, prefix_tokens
from llmzip.codecs.arith.shared import MOST_TRIED, SharedMem, learn_shared
from llmzip.codecs.arith.token_odds import Floats, TokenOdds, token_odds_of
from llmzip.codecs.cram.plan import Part
from llmzip.config import CompressSettings
from llmzip.lm.layout import segment_start
from llmzip.lm.loaded import LoadedModel
from llmzip.progress import OnProgress, Progress, Stage
from llmzip.store.arith_payload import guard_code, guard_value
from llmzip.store.container import (
    Arith,
    ArithRun,
    ArithSegment,
    Container,
    Run,
    StoredRun,
    segment_check,
)
from llmzip.store.journal import Journal
from llmzip.store.pieces import Texts
from llmzip.store.stored import Draft, blank_container, pack_stored, stored_draft, zstd_bytes

_GUARD_OF_NOISE = 8.0  # a file bears so many times the noise measured on it
_LEAST_GUARD = 3e-4  # nats
_NOISE_STEPS = 32
_FULLY_VERIFIED_TOKENS = 1024  # a text so short is decoded whole to verify it, whatever was asked
_CHECKED_SHARE = 0.9  # of the guard: how far the log-odds are moved to check a stream


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What every step needs."""

    loaded: LoadedModel
    settings: CompressSettings
    token_odds: TokenOdds
    resume: ResumeCache
    tell: OnProgress
    cancel: threading.Event | None


def arith_parts(
    data: bytes,
    parts: Sequence[Part],
    loaded: LoadedModel,
    settings: CompressSettings,
    *,
    journal: Journal | None = None,
    on_progress: OnProgress,
    cancel: threading.Event | None,
) -> Draft:
    """The container of `data`, whose parts are `parts`; what zstd holds in less is stored.
    journal: where finished segments are kept, and those of an earlier run are found."""
    job = _Job(
        loaded=loaded,
        settings=settings,
        token_odds=token_odds_of(loaded.decode_lm, loaded.tokens),
        resume=ResumeCache(journal),
        tell=on_progress,
        cancel=cancel,
    )
    draft = _draft(data, parts, job)
    if draft is None or draft.num_bytes >= len(pack_stored(data)):
        return stored_draft(data)
    return draft


def _draft(data: bytes, parts: Sequence[Part], job: _Job) -> Draft | None:
    """The container, or None where no part is left that the model holds in less than zstd."""
    text = b"".join(part.data for part in parts if part.ids is not None)
    wrap = choose_wrap(text)
    segments = _cut(text, wrap, job)
    if segments is None and wrap:
        wrap, segments = 0, _cut(text, 0, job)
    if not text or segments is None:
        return None
    shared = _learn_shared(segments, job)
    reader = _reader(shared, job)
    odds = _read(reader, segments, shared, job)
    dear = _dear_parts(parts, segments, odds, job)
    if dear and any(part.ids is not None for i, part in enumerate(parts) if i not in dear):
        kept = [replace(p, ids=None) if i in dear else p for i, p in enumerate(parts)]
        return _draft(data, kept, job)
    noise = _noise(reader, segments[0], odds[0], job)
    code = guard_code(max(_LEAST_GUARD, _GUARD_OF_NOISE * noise))
    container = replace(
        blank_container(data, _runs(parts)),
        model_id=job.loaded.files.model_id,
        revision=job.loaded.files.revision,
        model_digest=job.loaded.files.digest,
        num_mem=0 if shared is None else shared.mem.shape[0],
        mem_dim=0 if shared is None else shared.mem.shape[1],
        start_id=job.loaded.start_id,
        arith=Arith(
            segments=_code(segments, odds, guard_value(code), job),
            prefix_tokens=prefix_tokens(job.loaded.decode_lm.max_positions),
            window_tokens=WINDOW_TOKENS,
            guard_code=code,
            wrap=wrap,
            mem=None if shared is None else shared.grid,
        ),
    )
    return Draft(container=container, decode=partial(_read_back, segments, odds, job))


def _cut(text: bytes, wrap: int, job: _Job) -> list[Segment] | None:
    most_mem = job.settings.shared_mem or MOST_TRIED
    return cut_segments(
        text,
        wrap,
        job.loaded.tokens,
        head_tokens=len(segment_start(job.loaded.start_id)) + most_mem,
        max_positions=job.loaded.decode_lm.max_positions,
    )


def _learn_shared(segments: Sequence[Segment], job: _Job) -> SharedMem | None:
    def on_step(done: int, total: int) -> None:
        job.tell(Progress(stage="share", tokens_right=done, tokens_total=total))

    num_mem, seed = job.settings.shared_mem, job.settings.seed
    learn = partial(
        learn_shared, job.loaded.lm, segments, start_id=job.loaded.start_id,
        num_mem=num_mem, seed=seed, on_step=on_step, cancel=job.cancel,
    )  # fmt: skip
    mem_dim = job.loaded.decode_lm.dim
    return job.resume.shared(segments, num_mem, seed, learn, mem_dim=mem_dim)


def _reader(shared: SharedMem | None, job: _Job) -> Reader:
    decode_lm = job.loaded.decode_lm
    opening = opening_embeds(decode_lm, job.loaded.start_id, None if shared is None else shared.mem)
    return Reader(decode_lm, job.token_odds, opening, window_tokens=WINDOW_TOKENS)


def _teller(stage: Stage, segments: Sequence[Segment], job: _Job) -> Callable[[int, int], None]:
    """A function of a segment's index and how many of its tokens are done."""
    before = np.concatenate(([0], np.cumsum([len(s.ids) for s in segments]))).tolist()
    bytes_a_token = sum(len(s.original) for s in segments) / before[-1]
    progress = Progress(
        stage=stage,
        tokens_total=before[-1],
        bytes_total=sum(len(segment.original) for segment in segments),
    )

    def tell(index: int, num_tokens: int) -> None:
        done = before[index] + num_tokens
        job.tell(replace(progress, tokens_right=done, bytes_done=round(done * bytes_a_token)))

    return tell


def _read(
    reader: Reader, segments: Sequence[Segment], shared: SharedMem | None, job: _Job
) -> list[Floats]:
    tell = _teller("measure", segments, job)

    def read(index: int, segment: Segment) -> Floats:
        return reader.known_odds(
            segment.lanes, segment.ids, on_tokens=partial(tell, index), cancel=job.cancel
        )

    return [
        job.resume.odds(segment, shared, partial(read, index, segment))
        for index, segment in enumerate(segments)
    ]


def _dear_parts(
    parts: Sequence[Part], segments: Sequence[Segment], odds: Sequence[Floats], job: _Job
) -> set[int]:
    """Which parts the model alone needs more bits for than zstd does; of one part, none."""
    if sum(part.ids is not None for part in parts) < 2:
        return set()
    meanings = job.loaded.tokens.meanings
    ends, costs = [], []  # of each token: where it ends in the unwrapped text, and its bits
    for segment, own in zip(segments, odds, strict=True):
        sizes = np.array([len(meanings[token] or b"") for token in segment.ids])
        # A text of line ends taken out is a little shorter than the original: stretch it.
        stretch = len(segment.original) / max(1, len(segment.unwrapped))
        ends.append(sizes * stretch)
        costs.append(job.token_odds.path_bits(own, np.array(segment.ids)))
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


def _noise(reader: Reader, segment: Segment, odds: Floats, job: _Job) -> float:
    return measure_noise(
        reader, job.token_odds, segment.lanes, segment.ids, odds,
        num_steps=_NOISE_STEPS, cancel=job.cancel,
    )  # fmt: skip


def _code(
    segments: Sequence[Segment], odds: Sequence[Floats], guard: float, job: _Job
) -> tuple[ArithSegment, ...]:
    tell = _teller("code", segments, job)

    def code(index: int, segment: Segment, own: Floats) -> bytes:
        return encode_segment(
            job.token_odds.tree, segment, own,
            guard=guard, on_tokens=partial(tell, index), cancel=job.cancel,
        )  # fmt: skip

    return tuple(
        ArithSegment(
            num_tokens=len(segment.ids),
            num_bytes=len(segment.original),
            check=segment_check(segment.original),
            num_lanes=segment.lanes.num_lanes,
            stream=job.resume.stream(segment, own, guard, partial(code, index, segment, own)),
        )
        for index, (segment, own) in enumerate(zip(segments, odds, strict=True))
    )


def _runs(parts: Sequence[Part]) -> tuple[Run, ...]:
    runs: list[Run] = []
    for part in parts:
        last = runs[-1] if runs else None
        if part.ids is not None:
            size = len(part.data)
            if isinstance(last, ArithRun):
                runs[-1] = ArithRun(num_bytes=last.num_bytes + size)
            else:
                runs.append(ArithRun(num_bytes=size))
        elif isinstance(last, StoredRun):
            runs[-1] = StoredRun(data=last.data + part.data)
        else:
            runs.append(StoredRun(data=part.data))
    return tuple(runs)


def _read_back(
    segments: Sequence[Segment],
    odds: Sequence[Floats],
    job: _Job,
    packed: bytes,
    container: Container,
) -> Texts:
    """The texts of the finished container's segments: by the decompressor, or, where that would
    take several times as long as all the rest, from the container's streams with the encoder's own
    log-odds, moved at random by nearly as much as the file must bear. None of a segment that does
    not give its text back."""
    assert container.arith is not None
    num_tokens = sum(len(segment.ids) for segment in segments)
    if job.settings.verify == "full" or num_tokens <= _FULLY_VERIFIED_TOKENS:
        return decode_segments_of(
            container, job.loaded.decode_lm, job.loaded.tokens,
            batch=job.settings.compute.batch, stage="verify",
            on_progress=job.tell, cancel=job.cancel,
        )  # fmt: skip
    tell = _teller("verify", segments, job)
    shift = _CHECKED_SHARE * guard_value(container.arith.guard_code)
    texts: list[bytes | None] = []
    for index, (segment, own) in enumerate(zip(segments, odds, strict=True)):
        noise = np.random.default_rng(index).uniform(-shift, shift, own.shape)
        same = replay_segment(
            job.token_odds.tree, segment, own + noise, container.arith.segments[index].stream,
            on_tokens=partial(tell, index), cancel=job.cancel,
        )  # fmt: skip
        texts.append(segment.original if same else None)
    return texts
