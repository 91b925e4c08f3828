"""An arith container and its model -> the texts of its segments, each checked.

Owns what a container's numbers must satisfy before the model is run, which segments are decoded
side by side, and the retries after a failed check or for lack of memory. Knows nothing of files or
settings, nor of the whole that the texts make.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import accumulate, takewhile

from llmzip.codecs.arith.lanes import BLOCK_TOKENS, Lanes, shape_of
from llmzip.codecs.arith.line_breaks import rewrap, walk_flags
from llmzip.codecs.arith.reader import Reader, opening_embeds
from llmzip.codecs.arith.segment_decoder import Encoded, SegmentDecoder, decode_wave
from llmzip.codecs.arith.shared import SharedMem
from llmzip.codecs.arith.token_odds import token_odds_of
from llmzip.errors import Corrupt
from llmzip.lm.devices import no_room, out_of_room
from llmzip.lm.model import FrozenLM
from llmzip.lm.tokens import Tokens
from llmzip.progress import OnProgress, Progress, Stage
from llmzip.store.arith_payload import guard_value
from llmzip.store.container import Arith, ArithSegment, Container, segment_check

# Positions that the lanes of a wave remember, all together: 46 KB each in the default model.
_WAVE_POSITIONS = {"cpu": 20_000, "cuda": 1 << 19, "mps": 1 << 16}


def decode_segments_of(
    container: Container,
    lm: FrozenLM,
    tokens: Tokens,
    *,
    wanted: Iterable[int] | None = None,
    perturb: float = 0.0,
    batch: int | None = None,
    fallback: Callable[[], FrozenLM] | None = None,
    stage: Stage = "decode",
    on_progress: OnProgress = lambda event: None,
    cancel: threading.Event | None = None,
) -> list[bytes | None]:
    """The text of each segment; None where it is not `wanted`, or fails its check.

    perturb: random noise to add to the model's log-odds, as a share of the file's guard.
    fallback: loads the model for the CPU, used when another device gives other tokens or has no
    room. Raises LimitExceeded where there is none and a single segment does not fit.
    """
    arith = container.arith
    assert arith is not None
    wanted = list(range(len(arith.segments)) if wanted is None else wanted)
    texts: list[bytes | None] = [None] * len(arith.segments)
    attempts: list[Callable[[], FrozenLM]] = [lambda: lm]
    if fallback is not None and lm.device.type != "cpu":
        attempts.append(fallback)
    for load in attempts:
        todo = [index for index in wanted if texts[index] is None]
        if todo:
            progress = Progress(
                stage=stage,
                chunks_total=len(wanted),
                bytes_total=sum(arith.segments[index].num_bytes for index in todo),
                tokens_total=sum(arith.segments[index].num_tokens for index in todo),
            )
            decoder = _Decoder(container, arith, load(), tokens, batch, perturb)
            error = decoder.decode(todo, texts, progress, on_progress, cancel)
            if error is not None and load is attempts[-1]:
                raise no_room("decoding one segment") from error
    return texts


class _Decoder:
    """A container's segments under one model and batch."""

    def __init__(
        self,
        container: Container,
        arith: Arith,
        lm: FrozenLM,
        tokens: Tokens,
        batch: int | None,
        perturb: float,
    ) -> None:
        self._arith, self._tokens, self._batch = arith, tokens, batch
        mem = None
        if arith.mem is not None:
            if arith.mem_dim != lm.dim:
                raise Corrupt(f"vectors of {arith.mem_dim} dimensions for a model of {lm.dim}")
            mem = SharedMem(grid=arith.mem).mem
        if container.start_id is not None and container.start_id >= lm.vocab_size:
            raise Corrupt(f"start token {container.start_id} of {lm.vocab_size}")
        if arith.window_tokens % BLOCK_TOKENS:
            raise Corrupt(f"a window of {arith.window_tokens} tokens, not of whole blocks")
        opening = opening_embeds(lm, container.start_id, mem)
        self._shapes = [_shape(segment, arith) for segment in arith.segments]
        for shape in self._shapes:
            longest = max(end - begin for begin, end in shape.spans)
            length = opening.shape[1] + shape.prefix_tokens + longest
            if length > lm.max_positions:
                raise Corrupt(f"a lane of {length} positions, for a model of {lm.max_positions}")
        self._device = lm.device
        self._wave_positions = _WAVE_POSITIONS[lm.device.type]
        self._token_odds = token_odds_of(lm, tokens, noise=perturb * guard_value(arith.guard_code))
        self._reader = Reader(lm, self._token_odds, opening, window_tokens=arith.window_tokens)

    def decode(
        self,
        todo: Sequence[int],
        texts: list[bytes | None],
        progress: Progress,
        on_progress: OnProgress,
        cancel: threading.Event | None,
    ) -> RuntimeError | None:
        """Decode segments and add the texts of those that pass their check. An error: the device
        had no room for one of them, and decoding ended there."""
        left = list(todo)
        while left:
            wave = self._wave(left)

            def on_tokens(num_read: int) -> None:
                nonlocal progress
                progress = replace(progress, tokens_right=progress.tokens_right + num_read)
                on_progress(progress)

            before = progress
            decoded = self._decode_wave(wave, on_tokens, cancel)
            if isinstance(decoded, RuntimeError):
                if len(wave) == 1:
                    return decoded
                self._wave_positions = sum(map(self._positions, wave)) // 2
                progress = before
                continue
            left = left[len(wave) :]
            for index, segment in zip(wave, decoded, strict=True):
                text = self._text(self._arith.segments[index], segment)
                if text is None:
                    continue
                texts[index] = text
                progress = replace(
                    progress,
                    chunks_done=progress.chunks_done + 1,
                    bytes_done=progress.bytes_done + len(text),
                )
            on_progress(progress)
        return None

    def _decode_wave(
        self, wave: Sequence[int], on_tokens: Callable[[int], None], cancel: threading.Event | None
    ) -> list[SegmentDecoder] | RuntimeError:
        """An error: the device has no room for as much."""
        encoded = [
            Encoded(lanes=self._shapes[i], stream=self._arith.segments[i].stream) for i in wave
        ]
        rows = self._batch or sum(each.lanes.num_lanes for each in encoded)
        decoded: list[SegmentDecoder] = []

        def decode() -> None:
            decoded.extend(
                decode_wave(
                    self._reader, self._token_odds, encoded,
                    batch=rows, on_tokens=on_tokens, cancel=cancel,
                )
            )  # fmt: skip

        return out_of_room(decode, self._device) or decoded

    def _wave(self, left: Sequence[int]) -> list[int]:
        """Segments to decode side by side next: as many as memory is meant to hold, one at
        least."""
        totals = accumulate(map(self._positions, left))
        fit = sum(1 for _ in takewhile(lambda total: total <= self._wave_positions, totals))
        return list(left[: max(1, fit)])

    def _positions(self, index: int) -> int:
        """That the lanes of a segment remember, all together."""
        shape = self._shapes[index]
        longest = max(end - begin for begin, end in shape.spans)
        lane = shape.prefix_tokens + min(longest, self._arith.window_tokens + BLOCK_TOKENS)
        return shape.num_lanes * lane

    def _text(self, segment: ArithSegment, decoded: SegmentDecoder) -> bytes | None:
        """The text of a segment, or None where it fails its check."""
        if decoded.has_failed:
            return None
        text = self._tokens.bytes_of(decoded.ids)
        if self._arith.wrap:
            try:
                flags = walk_flags(decoded.reader, text, None)
            except Corrupt:  # what the coder reads of wrong tokens' stream may be no code at all
                return None
            text = rewrap(text, flags, self._arith.wrap)
        same = len(text) == segment.num_bytes and segment_check(text) == segment.check
        return text if same else None


def _shape(segment: ArithSegment, arith: Arith) -> Lanes:
    return shape_of(segment.num_tokens, segment.num_lanes, arith.prefix_tokens)
