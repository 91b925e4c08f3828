"""A container and its model -> the texts of its chunks, each checked.

Owns what a container's numbers must satisfy before the model is run, how far segments are decoded,
and the retries after a failed check or for lack of memory. Knows nothing of files or settings, nor
of the whole that the texts make.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import torch

from llmzip.codecs.base import DecodingModel, Request
from llmzip.codecs.context import Context
from llmzip.codecs.cram.greedy import DecodeChunk, decode_segments
from llmzip.codecs.cram.patch_tokens import TokenReader
from llmzip.codecs.shared import openings
from llmzip.codecs.token_odds import token_odds_of
from llmzip.errors import Corrupt
from llmzip.lm.devices import out_of_memory_error, too_little_memory
from llmzip.lm.model import FrozenLM
from llmzip.lm.tokens import Tokens
from llmzip.progress import Progress
from llmzip.store.cram_payload import Chunk, CramPayload
from llmzip.store.original import chunk_check
from llmzip.store.residual import Patch
from llmzip.store.vectors import mem_bits

# Rows decoded together: as many as the positions allow that memory is meant to hold, since a step
# for many rows takes little more than one for a few.
_BATCH_POSITIONS = {"cpu": 4608, "cuda": 1 << 17, "mps": 1 << 14}
_FEWEST_ROWS, _MOST_ROWS = 16, {"cpu": 96, "cuda": 1024, "mps": 128}


def decode_chunks_of(
    payload: CramPayload, model: DecodingModel, request: Request, context: Context
) -> list[bytes | None]:
    """The text of each chunk; None where it is not needed for those wanted, or fails its check.
    Raises what `Codec.decode` raises."""
    lm, chunks, unreadable = model.lm, payload.chunks, request.unreadable
    if unreadable is not None:  # any token may stand in a damaged file
        foreign = {index for index, chunk in enumerate(chunks) if _foreign(chunk, lm)}
        unreadable = foreign.union(unreadable)
    segments = _segments(payload, request.wanted, unreadable or ())
    needed = [[chunks[index] for index in each] for each in segments]
    _check_fits(payload, needed, lm)
    rows = request.batch or _batch_rows(needed, payload.num_mem, lm)
    # Loads a model, and rows at a time; the later ones are tried on segments whose check failed.
    attempts: deque[tuple[Callable[[], FrozenLM], int]] = deque(
        [(lambda: lm, rows), (lambda: lm, 1)]
    )
    if model.fallback is not None and lm.device.type != "cpu":
        attempts.append((model.fallback, 1))
    streams = {
        each.start: stream
        for each, stream in zip(payload.segment_ranges, payload.streams, strict=False)
    }
    texts = _Texts(payload, segments, model.tokens, request, context)
    while attempts:
        load, batch = attempts.popleft()
        todo = [each for each in segments if any(texts.found[index] is None for index in each)]
        if not todo:
            break
        now = load()
        firsts = (segment.start for segment in payload.segment_ranges)
        opening_of = dict(zip(firsts, openings(now, payload), strict=True))
        decode = partial(
            decode_segments,
            now,
            [[_decode_chunk(chunks[index]) for index in each] for each in todo],
            openings=[opening_of[each.start] for each in todo],
            batch=batch,
            on_chunk=partial(texts.take, todo),
            readers=_token_readers(now, model.tokens, [streams[s.start] for s in todo if streams]),
            context=context,
        )
        error = out_of_memory_error(decode, lm.device)
        if error is not None and batch > 1:
            attempts.appendleft((load, batch // 2))
        elif error is not None and not attempts:
            raise too_little_memory("decoding one chunk") from error
    return texts.found


class _Texts:
    """The texts of chunks that have passed their checks."""

    def __init__(
        self,
        payload: CramPayload,
        segments: Sequence[range],
        tokens: Tokens,
        request: Request,
        context: Context,
    ) -> None:
        chunks = payload.chunks
        self.found: list[bytes | None] = [None] * len(chunks)
        self._chunks, self._tokens, self._request = chunks, tokens, request
        self._check_bytes = payload.check_bytes
        self._context = context
        sizes = [chunks[index].num_bytes for each in segments for index in each]
        total, size = len(sizes), sum(sizes)
        self._progress = Progress(stage=request.stage, chunks_total=total, bytes_total=size)

    def take(
        self, todo: Sequence[range], segment: int, place: int, ids: list[int], margins: list[float]
    ) -> bool:
        """What the decoder has made of a chunk of a segment. Returns whether its text is known, so
        that the segment may go on."""
        index = todo[segment][place]
        if self.found[index] is not None:
            return True
        chunk, before = self._chunks[index], self._progress
        is_right = False
        with suppress(Corrupt):  # wrong tokens may be ones that stand for no bytes
            text = self._tokens.bytes_of(ids)
            is_right = (
                len(text) == chunk.num_bytes
                and chunk_check(text, size=self._check_bytes) == chunk.check
            )
        if is_right:
            self.found[index] = text
            if self._request.on_decoded is not None:
                self._request.on_decoded(index, ids, margins)
            done, num_bytes = before.chunks_done + 1, before.bytes_done + chunk.num_bytes
            self._progress = replace(before, chunks_done=done, bytes_done=num_bytes)
        self._context.report(self._progress)
        return is_right


def _token_readers(lm: FrozenLM, tokens: Tokens, streams: Sequence[bytes]) -> list[TokenReader]:
    if not streams:
        return []
    token_odds = token_odds_of(lm, tokens)
    return [TokenReader(token_odds, stream) for stream in streams]


def _decode_chunk(chunk: Chunk) -> DecodeChunk:
    mem = None
    if chunk.mem is not None:
        mem = torch.from_numpy(mem_bits(chunk.mem)).view(torch.bfloat16).float()  # [K, D]
    return DecodeChunk(num_tokens=chunk.num_tokens, mem=mem, patches=dict(chunk.patches))


def _batch_rows(segments: Sequence[Sequence[Chunk]], num_mem: int, lm: FrozenLM) -> int:
    kind = lm.device.type
    longest = max((sum(chunk.num_tokens for chunk in each) for each in segments), default=0)
    rows = _BATCH_POSITIONS[kind] // (1 + longest + num_mem)
    return min(max(rows, _FEWEST_ROWS), _MOST_ROWS[kind])


def _segments(payload: CramPayload, wanted: range, unreadable: Collection[int]) -> list[range]:
    """The chunks of each segment that has wanted ones: from its first to the last wanted, and no
    further than can be read."""
    found = []
    for segment in payload.segment_ranges:
        first, last = segment.start, segment.stop
        if first < wanted.stop and wanted.start < last:
            last = min(last, wanted.stop)
            last = next((index for index in range(first, last) if index in unreadable), last)
            found.append(range(first, last))
    return [each for each in found if each]


def _check_fits(payload: CramPayload, segments: Sequence[Sequence[Chunk]], lm: FrozenLM) -> None:
    """Refuse what would make the model's arithmetic fail; the digest says it is the right model."""
    if payload.mem_dim != lm.dim:
        raise Corrupt(f"vectors of {payload.mem_dim} dimensions for a model of {lm.dim}")
    if payload.model.start_id is not None and payload.model.start_id >= lm.vocab_size:
        raise Corrupt(f"start token {payload.model.start_id} of {lm.vocab_size}")
    most_shared = max((len(mem.steps) for mem in payload.shared if mem is not None), default=0)
    for segment in segments:
        for chunk in segment:
            for position, token in _foreign(chunk, lm):
                raise Corrupt(f"patch at position {position}: token {token} of {lm.vocab_size}")
        length = 1 + most_shared + payload.num_mem + sum(chunk.num_tokens for chunk in segment)
        if length > lm.max_positions:
            raise Corrupt(f"a segment of {length} positions, for a model of {lm.max_positions}")


def _foreign(chunk: Chunk, lm: FrozenLM) -> list[Patch]:
    """Patches whose token the model does not have."""
    return [(p, t) for p, t in chunk.patches if isinstance(t, int) and t >= lm.vocab_size]
