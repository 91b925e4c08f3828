"""An arith container and its model -> the original bytes, each segment checked, then the whole.

Owns what a container's numbers must satisfy before the model is run, which segments are decoded
side by side, the retry after a failed check, and the choice of segments that a range of bytes
needs. Knows nothing of files or settings. Called by `codec` and `arith_encoding`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from llmzip.arith.decode import Encoded, SegmentDecoder, decode_wave
from llmzip.arith.lanes import BLOCK_TOKENS, Lanes, shape_of
from llmzip.arith.outlook import outlook_of
from llmzip.arith.reading import Reader, opening_embeds
from llmzip.arith.shared import SharedMem
from llmzip.arith.wrap import rewrap, walk_flags
from llmzip.errors import Corrupt, IntegrityError
from llmzip.lm.model import FrozenLM
from llmzip.lm.tokens import Tokens
from llmzip.progress import OnProgress, Progress, Stage
from llmzip.store.arithrecords import guard_value
from llmzip.store.container import (
    Arith,
    ArithRun,
    ArithSegment,
    Container,
    StoredRun,
    content_hash,
    segment_check,
)

# Positions that the lanes of a wave remember, all together: 46 KB each in the default model.
_WAVE_POSITIONS = {"cpu": 20_000, "cuda": 1 << 19, "mps": 1 << 16}
_HINT = "the file is intact but decodes to other text here; try --device cpu"


def decode_arith(
    container: Container,
    lm: FrozenLM,
    tokens: Tokens,
    *,
    span: tuple[int, int] | None = None,
    perturb: float = 0.0,
    batch: int | None = None,
    fallback: Callable[[], FrozenLM] | None = None,
    stage: Stage = "decode",
    on_progress: OnProgress = lambda event: None,
    cancel: threading.Event | None = None,
) -> bytes:
    """The original bytes, or those of `span` (first, last), for which only the segments that hold
    them are decoded. IntegrityError, naming the first bad segment, where they fail their checks.

    perturb: random noise to add to the model's log-odds, as a share of the file's guard.
    fallback: loads the model for the CPU, used when another device gives other tokens.
    """
    arith = container.arith
    assert arith is not None
    first, last = span or (0, container.original_bytes)
    wanted = _segments_of(container, first, last)
    texts: dict[int, bytes] = {}
    attempts: list[Callable[[], FrozenLM]] = [lambda: lm]
    if fallback is not None and lm.device.type != "cpu":
        attempts.append(fallback)
    for load in attempts:
        todo = [index for index in wanted if index not in texts]
        if todo:
            progress = Progress(
                stage=stage,
                chunks_total=len(wanted),
                bytes_total=sum(arith.segments[index].num_bytes for index in todo),
                tokens_total=sum(arith.segments[index].num_tokens for index in todo),
            )
            decoder = _Decoder(container, arith, load(), tokens, batch, perturb)
            decoder.decode(todo, texts, progress, on_progress, cancel)
    for index in wanted:
        if index not in texts:
            raise IntegrityError(
                f"segment {index + 1} of {len(arith.segments)} decodes to different text. Nothing "
                "was written.",
                hint=_HINT,
            )
    data = _gather(container, [texts.get(i, b"") for i in range(len(arith.segments))], first, last)
    if span is None and content_hash(data) != container.original_hash:
        raise IntegrityError(
            "the decoded text fails the hash of the whole file. Nothing was written.", hint=_HINT
        )
    return data


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
        self._device = lm.device.type
        self._outlook = outlook_of(lm, tokens, noise=perturb * guard_value(arith.guard_code))
        self._reader = Reader(lm, self._outlook, opening, window_tokens=arith.window_tokens)

    def decode(
        self,
        todo: Sequence[int],
        texts: dict[int, bytes],
        progress: Progress,
        on_progress: OnProgress,
        cancel: threading.Event | None,
    ) -> None:
        """Decode segments and add the texts of those that pass their check."""
        for wave in self._waves(todo):
            encoded = [
                Encoded(lanes=self._shapes[i], stream=self._arith.segments[i].stream) for i in wave
            ]

            def on_tokens(num_read: int) -> None:
                nonlocal progress
                progress = replace(progress, tokens_right=progress.tokens_right + num_read)
                on_progress(progress)

            rows = self._batch or sum(each.lanes.num_lanes for each in encoded)
            decoded = decode_wave(
                self._reader, self._outlook, encoded,
                batch=rows, on_tokens=on_tokens, cancel=cancel,
            )  # fmt: skip
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

    def _waves(self, todo: Sequence[int]) -> Iterator[list[int]]:
        """Segments decoded side by side: as many as memory is meant to hold, one at least."""
        wave: list[int] = []
        positions = 0
        for index in todo:
            shape = self._shapes[index]
            longest = max(end - begin for begin, end in shape.spans)
            lane = shape.prefix_tokens + min(longest, self._arith.window_tokens + BLOCK_TOKENS)
            own = shape.num_lanes * lane
            if wave and positions + own > _WAVE_POSITIONS[self._device]:
                yield wave
                wave, positions = [], 0
            wave.append(index)
            positions += own
        if wave:
            yield wave

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


def _segments_of(container: Container, first: int, last: int) -> list[int]:
    """The segments that hold text of the original's bytes from `first` up to `last`."""
    assert container.arith is not None
    needed = []
    place = text = 0
    for run in container.runs:
        if isinstance(run, ArithRun):
            low, high = max(first - place, 0), min(last - place, run.num_bytes)
            if low < high:
                needed.append((text + low, text + high))
            text += run.num_bytes
        place += run.num_bytes
    found = []
    start = 0
    for index, segment in enumerate(container.arith.segments):
        end = start + segment.num_bytes
        if any(low < end and start < high for low, high in needed):
            found.append(index)
        start = end
    return found


def _gather(container: Container, texts: Sequence[bytes], first: int, last: int) -> bytes:
    """The original's bytes from `first` up to `last`. texts: of all segments, empty where no byte
    of it is asked for."""
    assert container.arith is not None
    text = b"".join(
        found.ljust(segment.num_bytes, b"\0")
        for found, segment in zip(texts, container.arith.segments, strict=True)
    )
    parts = []
    place = at = 0
    for run in container.runs:
        low = min(max(first - place, 0), run.num_bytes)
        high = max(min(last - place, run.num_bytes), low)
        if isinstance(run, StoredRun):
            parts.append(run.data[low:high])
        else:
            parts.append(text[at + low : at + high])
            at += run.num_bytes
        place += run.num_bytes
    return b"".join(parts)
