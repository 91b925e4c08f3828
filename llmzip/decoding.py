"""A container and its model -> the original bytes, checked chunk by chunk and as a whole.

Owns what a container's numbers must satisfy before the model is run, the retries after a failed
check, and the order in which bytes are put together. Knows nothing of files or settings. Called
by `codec`, when decompressing and to verify what was compressed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from llmzip.cram.decode import DecodeChunk, decode_segments
from llmzip.errors import Corrupt, IntegrityError
from llmzip.lm.model import FrozenLM
from llmzip.lm.tokens import Tokens
from llmzip.progress import OnProgress, Progress, Stage
from llmzip.store.container import Chunk, Container, CramRun, StoredRun, chunk_check, content_hash
from llmzip.store.vectors import mem_bits

# Rows decoded together: as many as the positions allow that memory is meant to hold, since a step
# for many rows takes little more than one for a few.
_BATCH_POSITIONS = {"cpu": 4608, "cuda": 1 << 17, "mps": 1 << 14}
_FEWEST_ROWS, _MOST_ROWS = 16, {"cpu": 96, "cuda": 1024, "mps": 128}


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """One way to decode; the later ones are tried on segments whose check failed."""

    lm: Callable[[], FrozenLM]
    batch: int


def decode_container(
    container: Container,
    lm: FrozenLM,
    tokens: Tokens,
    *,
    batch: int | None = None,
    fallback: Callable[[], FrozenLM] | None = None,
    stage: Stage = "decode",
    on_progress: OnProgress = lambda event: None,
    cancel: threading.Event | None = None,
) -> bytes:
    """The original bytes. IntegrityError, naming the first bad chunk, where they fail their hashes.

    fallback: loads the model for the CPU, used when another device gives other tokens.
    """
    chunks = container.chunks
    segments = _segments(chunks)
    _check_fits(container, segments, lm)
    first_chunk = [0]
    for segment in segments:
        first_chunk.append(first_chunk[-1] + len(segment))
    texts: list[bytes | None] = [None] * len(chunks)
    progress = Progress(
        stage=stage, chunks_total=len(chunks), bytes_total=sum(c.num_bytes for c in chunks)
    )

    attempts = [
        _Attempt(lm=lambda: lm, batch=batch or _batch_rows(segments, container.num_mem, lm))
    ]
    attempts.append(_Attempt(lm=lambda: lm, batch=1))
    if fallback is not None and lm.device.type != "cpu":
        attempts.append(_Attempt(lm=fallback, batch=1))
    for attempt in attempts:
        todo = [
            i for i in range(len(segments)) if None in texts[first_chunk[i] : first_chunk[i + 1]]
        ]

        def on_chunk(segment: int, wave: int, ids: list[int], todo: list[int] = todo) -> None:
            nonlocal progress
            index = first_chunk[todo[segment]] + wave
            if texts[index] is not None:
                return
            texts[index] = _checked_text(chunks[index], ids, tokens)
            if texts[index] is not None:
                progress = replace(
                    progress,
                    chunks_done=progress.chunks_done + 1,
                    bytes_done=progress.bytes_done + chunks[index].num_bytes,
                )
            on_progress(progress)

        if todo:
            decode_segments(
                attempt.lm(),
                [[_decode_chunk(chunk) for chunk in segments[i]] for i in todo],
                start_id=container.start_id,
                batch=attempt.batch,
                on_chunk=on_chunk,
                cancel=cancel,
            )
    return join_runs(container, texts)


def join_runs(container: Container, texts: Sequence[bytes | None]) -> bytes:
    """The whole original from the texts of its chunks, checked.

    texts: None for a chunk that failed its check. Raises IntegrityError.
    """
    hint = "the file is intact but decodes to other text here; try --device cpu"
    if None in texts:
        bad = texts.index(None)
        raise IntegrityError(
            f"chunk {bad + 1} of {len(texts)} decodes to different text. Nothing was written.",
            hint=hint,
        )
    parts: list[bytes] = []
    decoded = iter(texts)
    for run in container.runs:
        if isinstance(run, CramRun):
            parts.extend(next(decoded) or b"" for _ in run.chunks)
        elif isinstance(run, StoredRun):
            parts.append(run.data)
    data = b"".join(parts)
    if len(data) != container.original_bytes or content_hash(data) != container.original_hash:
        raise IntegrityError(
            "the decoded text fails the hash of the whole file. Nothing was written.", hint=hint
        )
    return data


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
    longest = max(sum(chunk.num_tokens for chunk in segment) for segment in segments)
    rows = _BATCH_POSITIONS[kind] // (1 + longest + num_mem)
    return min(max(rows, _FEWEST_ROWS), _MOST_ROWS[kind])


def _segments(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    segments: list[list[Chunk]] = []
    for chunk in chunks:
        if chunk.starts_segment:
            segments.append([])
        segments[-1].append(chunk)
    return segments


def _check_fits(container: Container, segments: Sequence[Sequence[Chunk]], lm: FrozenLM) -> None:
    """Refuse what would make the model's arithmetic fail; the digest says it is the right model."""
    if container.mem_dim != lm.dim:
        raise Corrupt(f"vectors of {container.mem_dim} dimensions for a model of {lm.dim}")
    if container.start_id is not None and container.start_id >= lm.vocab_size:
        raise Corrupt(f"start token {container.start_id} of {lm.vocab_size}")
    for chunk in container.chunks:
        for position, token in chunk.patches:
            if isinstance(token, int) and token >= lm.vocab_size:
                raise Corrupt(f"patch at position {position}: token {token} of {lm.vocab_size}")
    for segment in segments:
        length = 1 + container.num_mem + sum(chunk.num_tokens for chunk in segment)
        if length > lm.max_positions:
            raise Corrupt(f"a segment of {length} positions, for a model of {lm.max_positions}")
