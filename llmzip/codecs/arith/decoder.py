"""An arith container and its model -> the texts of its segments, each checked.

Owns what a container's numbers must satisfy before the model is run, which segments are decoded
side by side, and the retries after a failed check or for lack of memory. Knows nothing of files or
settings, nor of the whole that the texts make.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, takewhile

from llmzip.codecs.arith.line_breaks import rewrap, walk_flags
from llmzip.codecs.arith.reader import Reader
from llmzip.codecs.arith.segment_coding import Encoded, SegmentDecoder, decode_wave
from llmzip.codecs.arith.segments import BLOCK_TOKENS, shape_of
from llmzip.codecs.base import DecodingModel, Request
from llmzip.codecs.context import Context
from llmzip.codecs.shared import SharedMem, opening_embeds
from llmzip.codecs.token_odds import token_odds_of
from llmzip.errors import Corrupt
from llmzip.lm.devices import out_of_memory_error, too_little_memory
from llmzip.lm.layout import segment_start
from llmzip.lm.model import FrozenLM
from llmzip.progress import Progress
from llmzip.store.arith_payload import ArithPayload, ArithSegment, guard_value
from llmzip.store.original import segment_check

# Positions that the lanes of a wave remember, all together: 46 KB each in the default model.
_WAVE_POSITIONS = {"cpu": 20_000, "cuda": 1 << 19, "mps": 1 << 16}


def decode_segments_of(
    payload: ArithPayload, model: DecodingModel, request: Request, context: Context
) -> list[bytes | None]:
    """The text of each segment; None where it is not wanted or unreadable, or fails its check.
    Raises what `Codec.decode` raises."""
    unreadable = request.unreadable or ()
    wanted = [index for index in request.wanted if index not in unreadable]
    texts: list[bytes | None] = [None] * len(payload.segments)
    attempts: list[Callable[[], FrozenLM]] = [lambda: model.lm]
    if model.fallback is not None and model.lm.device.type != "cpu":
        attempts.append(model.fallback)
    for load in attempts:
        todo = [index for index in wanted if texts[index] is None]
        if todo:
            own = [payload.segments[index] for index in todo]
            progress = Progress(
                stage=request.stage,
                chunks_total=len(wanted),
                bytes_total=sum(segment.num_bytes for segment in own),
                tokens_total=sum(segment.num_tokens for segment in own),
            )
            decoder = _Decoder(payload, replace(model, lm=load()), request, context)
            error = decoder.decode(todo, texts, progress)
            if error is not None and load is attempts[-1]:
                raise too_little_memory("decoding one segment") from error
    return texts


class _Decoder:
    """A container's segments under one model and batch."""

    def __init__(
        self, payload: ArithPayload, model: DecodingModel, request: Request, context: Context
    ) -> None:
        self._payload, self._tokens, self._batch = payload, model.tokens, request.batch
        self._context = context
        lm, start_id = model.lm, payload.model.start_id
        mem = None
        if payload.mem is not None:
            if payload.mem_dim != lm.dim:
                raise Corrupt(f"vectors of {payload.mem_dim} dimensions for a model of {lm.dim}")
            mem = SharedMem(grid=payload.mem).mem
        if start_id is not None and start_id >= lm.vocab_size:
            raise Corrupt(f"start token {start_id} of {lm.vocab_size}")
        if payload.window_tokens % BLOCK_TOKENS:
            raise Corrupt(f"a window of {payload.window_tokens} tokens, not of whole blocks")
        opening = opening_embeds(lm, segment_start(start_id), mem)
        self._shapes = [
            shape_of(segment.num_tokens, segment.num_lanes, payload.prefix_tokens)
            for segment in payload.segments
        ]
        for shape in self._shapes:
            length = opening.shape[1] + shape.prefix_tokens + shape.longest
            if length > lm.max_positions:
                raise Corrupt(f"a lane of {length} positions, for a model of {lm.max_positions}")
        self._device = lm.device
        self._wave_positions = _WAVE_POSITIONS[lm.device.type]
        noise = request.perturb * guard_value(payload.guard_code)
        self._token_odds = token_odds_of(lm, model.tokens, noise=noise)
        self._reader = Reader(lm, self._token_odds, opening, window_tokens=payload.window_tokens)

    def decode(
        self, todo: Sequence[int], texts: list[bytes | None], progress: Progress
    ) -> RuntimeError | None:
        """Decode segments and add the texts of those that pass their check. An error: the device
        had no room for one of them, and decoding ended there."""

        def on_tokens(num_read: int) -> None:
            nonlocal progress
            progress = replace(progress, tokens_right=progress.tokens_right + num_read)
            self._context.report(progress)

        left = list(todo)
        while left:
            # As many as memory is meant to hold side by side, one at least.
            totals = accumulate(map(self._positions, left))
            fit = sum(1 for _ in takewhile(lambda total: total <= self._wave_positions, totals))
            wave, before = left[: max(1, fit)], progress
            decoded = self._decode_wave(wave, on_tokens)
            if isinstance(decoded, RuntimeError):
                if len(wave) == 1:
                    return decoded
                self._wave_positions = sum(map(self._positions, wave)) // 2
                progress = before
                continue
            left = left[len(wave) :]
            for index, segment in zip(wave, decoded, strict=True):
                texts[index] = text = self._text(self._payload.segments[index], segment)
                if text is not None:
                    done, num_bytes = progress.chunks_done + 1, progress.bytes_done + len(text)
                    progress = replace(progress, chunks_done=done, bytes_done=num_bytes)
            self._context.report(progress)
        return None

    def _decode_wave(
        self, wave: Sequence[int], on_tokens: Callable[[int], None]
    ) -> list[SegmentDecoder] | RuntimeError:
        """An error: the device has no room for as much."""
        encoded = [
            Encoded(lanes=self._shapes[i], stream=self._payload.segments[i].stream) for i in wave
        ]
        rows = self._batch or sum(each.lanes.num_lanes for each in encoded)
        decoded: list[SegmentDecoder] = []
        decode = partial(
            decode_wave, self._reader, self._token_odds, encoded,
            batch=rows, on_tokens=on_tokens, cancel=self._context.cancel,
        )  # fmt: skip
        error = out_of_memory_error(lambda: decoded.extend(decode()), self._device)
        return error or decoded

    def _positions(self, index: int) -> int:
        """That the lanes of a segment remember, all together."""
        shape = self._shapes[index]
        lane = min(shape.longest, self._payload.window_tokens + BLOCK_TOKENS)
        return shape.num_lanes * (shape.prefix_tokens + lane)

    def _text(self, segment: ArithSegment, decoded: SegmentDecoder) -> bytes | None:
        """The text of a segment, or None where it fails its check."""
        if decoded.has_failed:
            return None
        text = self._tokens.bytes_of(decoded.ids)
        if self._payload.wrap:
            try:
                flags = walk_flags(decoded.reader, text, None)
            except Corrupt:  # what the coder reads of wrong tokens' stream may be no code at all
                return None
            text = rewrap(text, flags, self._payload.wrap)
        same = len(text) == segment.num_bytes and segment_check(text) == segment.check
        return text if same else None
