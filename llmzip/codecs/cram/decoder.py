"""A container and its model -> the texts of its chunks, each checked.

Owns what a container's numbers must satisfy before the model is run, how far segments are decoded,
and the retries after a failed check or for lack of memory. Knows nothing of files or settings, nor
of the whole that the texts make.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import torch

from llmzip.codecs.cram.greedy import DecodeChunk, decode_segments
from llmzip.errors import Corrupt
from llmzip.lm.devices import no_room, out_of_room
from llmzip.lm.model import FrozenLM
from llmzip.lm.tokens import Tokens
from llmzip.progress import OnProgress, Progress, Stage
from llmzip.store.container import Chunk, Container, chunk_check
from llmzip.store.pieces import segments_of
from llmzip.store.residual import Patch
from llmzip.store.vectors import mem_bits

# Rows decoded together: as many as the positions allow that memory is meant to hold, since a step
# for many rows takes little more than one for a few.
_BATCH_POSITIONS = {"cpu": 4608, "cuda": 1 << 17, "mps": 1 << 14}
_FEWEST_ROWS, _MOST_ROWS = 16, {"cpu": 96, "cuda": 1024, "mps": 128}


# Takes a chunk's number, its tokens and their margins.
OnDecoded: TypeAlias = Callable[[int, list[int], list[float]], None]


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """One way to decode; the later ones are tried on segments whose check failed."""

    lm: Callable[[], FrozenLM]
    batch: int


def decode_chunks_of(
    container: Container,
    lm: FrozenLM,
    tokens: Tokens,
    *,
    wanted: range | None = None,
    unreadable: Collection[int] | None = None,
    batch: int | None = None,
    fallback: Callable[[], FrozenLM] | None = None,
    stage: Stage = "decode",
    on_decoded: OnDecoded | None = None,
    on_progress: OnProgress = lambda event: None,
    cancel: threading.Event | None = None,
) -> list[bytes | None]:
    """The text of each chunk; None where it is not needed for those `wanted`, or fails its check.

    unreadable: chunks of a damaged file that cannot be decoded, nor what follows them in their
    segments. on_decoded: sees every chunk that passes its check. fallback: loads the model for the
    CPU, used when another device gives other tokens or has no room. Raises LimitExceeded where
    there is none and a single chunk does not fit.
    """
    chunks = container.chunks
    wanted = range(len(chunks)) if wanted is None else wanted
    if unreadable is not None:  # any token may stand in a damaged file
        foreign = {index for index, chunk in enumerate(chunks) if _foreign(chunk, lm)}
        unreadable = foreign.union(unreadable)
    segments = _segments(chunks, wanted, unreadable or ())
    needed = [[chunks[index] for index in each] for each in segments]
    _check_fits(container, needed, lm)
    texts: list[bytes | None] = [None] * len(chunks)
    progress = Progress(
        stage=stage,
        chunks_total=sum(map(len, needed)),
        bytes_total=sum(chunk.num_bytes for each in needed for chunk in each),
    )
    rows = batch or _batch_rows(needed, container.num_mem, lm)
    attempts = deque([_Attempt(lm=lambda: lm, batch=rows), _Attempt(lm=lambda: lm, batch=1)])
    if fallback is not None and lm.device.type != "cpu":
        attempts.append(_Attempt(lm=fallback, batch=1))
    while attempts:
        attempt = attempts.popleft()
        todo = [each for each in segments if any(texts[index] is None for index in each)]

        def on_chunk(
            segment: int, wave: int, ids: list[int], margins: list[float], todo: list[range] = todo
        ) -> bool:
            nonlocal progress
            index = todo[segment][wave]
            if texts[index] is not None:
                return True
            texts[index] = _checked_text(chunks[index], ids, tokens)
            if texts[index] is not None:
                if on_decoded is not None:
                    on_decoded(index, ids, margins)
                progress = replace(
                    progress,
                    chunks_done=progress.chunks_done + 1,
                    bytes_done=progress.bytes_done + chunks[index].num_bytes,
                )
            on_progress(progress)
            return texts[index] is not None

        if not todo:
            break
        decode = partial(
            decode_segments,
            attempt.lm(),
            [[_decode_chunk(chunks[index]) for index in each] for each in todo],
            start_id=container.start_id,
            batch=attempt.batch,
            on_chunk=on_chunk,
            cancel=cancel,
        )
        error = out_of_room(decode, lm.device)
        if error is not None and attempt.batch > 1:
            attempts.appendleft(replace(attempt, batch=attempt.batch // 2))
        elif error is not None and not attempts:
            raise no_room("decoding one chunk") from error
    return texts


def _checked_text(chunk: Chunk, ids: list[int], tokens: Tokens) -> bytes | None:
    try:
        text = tokens.bytes_of(ids)
    except Corrupt:  # wrong tokens may be ones that stand for no bytes
        return None
    same = len(text) == chunk.num_bytes and chunk_check(text) == chunk.check
    return text if same else None


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


def _segments(chunks: Sequence[Chunk], wanted: range, unreadable: Collection[int]) -> list[range]:
    """The chunks of each segment that has wanted ones: from its first to the last wanted, and no
    further than can be read."""
    found = []
    for segment in segments_of(chunks):
        first, last = segment.start, segment.stop
        if first < wanted.stop and wanted.start < last:
            last = min(last, wanted.stop)
            last = next((index for index in range(first, last) if index in unreadable), last)
            found.append(range(first, last))
    return [each for each in found if each]


def _check_fits(container: Container, segments: Sequence[Sequence[Chunk]], lm: FrozenLM) -> None:
    """Refuse what would make the model's arithmetic fail; the digest says it is the right model."""
    if container.mem_dim != lm.dim:
        raise Corrupt(f"vectors of {container.mem_dim} dimensions for a model of {lm.dim}")
    if container.start_id is not None and container.start_id >= lm.vocab_size:
        raise Corrupt(f"start token {container.start_id} of {lm.vocab_size}")
    for segment in segments:
        for chunk in segment:
            for position, token in _foreign(chunk, lm):
                raise Corrupt(f"patch at position {position}: token {token} of {lm.vocab_size}")
        length = 1 + container.num_mem + sum(chunk.num_tokens for chunk in segment)
        if length > lm.max_positions:
            raise Corrupt(f"a segment of {length} positions, for a model of {lm.max_positions}")


def _foreign(chunk: Chunk, lm: FrozenLM) -> list[Patch]:
    """Patches whose token the model does not have."""
    return [(p, t) for p, t in chunk.patches if isinstance(t, int) and t >= lm.vocab_size]
