"""What `bench.py size` runs: a text through the whole product, and what else makes of the text.

Owns what is measured of a finished container: its figures, the bits that its vectors give, and the
time that it took. A job is a plain function of picklable arguments that returns a frozen sample;
`bench.py` orders the jobs and prints. Other scripts call `size_job` alike.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from bench_speed import bf16_flops
from torch import Tensor

from llmzip.api.compress import compress_bytes
from llmzip.api.decompress import decompress_bytes
from llmzip.codecs.input import split_stretches, tokenised_parts
from llmzip.codecs.shared import opening_embeds, openings
from llmzip.config import CompressSettings, DecompressSettings
from llmzip.errors import IntegrityError
from llmzip.inspect.baselines import others
from llmzip.inspect.explain import read_alone
from llmzip.inspect.report import Report, read_report
from llmzip.lm.devices import borrowed_torch, pick_device
from llmzip.lm.layout import mem_and_chunk, pad_ids, predicting_rows, segment_start
from llmzip.lm.model import FrozenLM, load_model, start_token
from llmzip.lm.state import State
from llmzip.lm.tokens import Tokens
from llmzip.lm.zoo import DEFAULT_MODEL, ModelFiles, resolve
from llmzip.store.container import read_container
from llmzip.store.cram_payload import CramPayload
from llmzip.store.original import chunk_check
from llmzip.store.vectors import mem_bits

WINDOW_TOKENS = 2048


@dataclass(frozen=True, kw_only=True)
class Information:
    """What the frozen model knows of a container's text, and what the vectors add to that.

    Every token is given all that the decoder has when it comes to it: the start token and the
    tokens left of it in its segment. All in fp32. Without a model all are 0.
    """

    surprisal_bits: float  # of the tokens of all chunks, without mem
    gain_bits: float  # less of it with mem, in chunks that have vectors
    unpatched_gain_bits: float  # of it, on tokens that are no patches


@dataclass(frozen=True, kw_only=True)
class SizeSample:
    """What one job measured."""

    report: Report
    information: Information
    crammed_bytes: int  # original bytes of all chunks
    compress_seconds: float  # of the whole call, with loading and checking
    decompress_seconds: float
    threads: int
    bf16_flops: float  # a second, of this machine, just before

    @property
    def seconds(self) -> float:
        return self.compress_seconds + self.decompress_seconds

    @property
    def stored_bits_per_token(self) -> float | None:
        """Vectors alone, for each token of a chunk that has them."""
        return _ratio(self.report.bit_counts.vectors, self.report.num_vector_tokens)

    @property
    def stored_bits_per_information_bit(self) -> float | None:
        """Vectors alone, for each bit that they give of what no patch gives; None for no gain."""
        gain = self.information.unpatched_gain_bits
        return _ratio(self.report.bit_counts.vectors, max(0.0, gain))

    @property
    def patched_token_share(self) -> float | None:
        """Patches among the tokens of chunks that have vectors."""
        return _ratio(self.report.num_patches, self.report.num_vector_tokens)

    @property
    def model_bits_per_byte(self) -> float | None:
        """Cross-entropy of the frozen model alone on the crammed text, in the same segments."""
        return _ratio(self.information.surprisal_bits, self.crammed_bytes)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        report = self.report
        return {
            "bytes": report.container_bytes,
            "file_bits_per_byte": report.file_bits_per_byte,
            "stored_bits_per_dimension": report.stored_bits_per_dimension,
            "stored_bits_per_token": self.stored_bits_per_token,
            "stored_bits_per_information_bit": self.stored_bits_per_information_bit,
            "shares": report.bit_counts.shares(),
            "chunks": report.num_chunks,
            "chunks_literal": report.num_literal,
            "segments": report.num_segments,
            "context_tokens": report.context_tokens,
            "tokens": report.num_tokens,
            "tokens_per_vector": report.tokens_per_vector,
            "patched_token_share": self.patched_token_share,
            "gain_bits": self.information.gain_bits,
            "unpatched_gain_bits": self.information.unpatched_gain_bits,
            "surprisal_bits": self.information.surprisal_bits,
            "model_bits_per_byte": self.model_bits_per_byte,
            "compress_seconds": self.compress_seconds,
            "compress_bytes_per_second": report.original_bytes / self.compress_seconds,
            "decompress_seconds": self.decompress_seconds,
            "decompress_bytes_per_second": report.original_bytes / self.decompress_seconds,
        }


@dataclass(frozen=True, kw_only=True)
class WindowSample:
    """The frozen model alone, with a long left context."""

    surprisal_bits: float
    num_bytes: int  # of the text that has tokens
    num_tokens: int
    window_tokens: int
    seconds: float

    @property
    def bits_per_byte(self) -> float | None:
        return _ratio(self.surprisal_bits, self.num_bytes)


def size_job(text: bytes, settings: CompressSettings) -> SizeSample:
    """Compress and decompress `text`, and measure what its vectors give."""
    if settings.time_budget_s is not None:
        raise ValueError("sizes are of the whole text: no time budget")
    with borrowed_torch(settings.compute.threads):
        threads, rate = torch.get_num_threads(), bf16_flops()
    began = time.monotonic()
    packed = compress_bytes(text, settings)
    compressed = time.monotonic()
    back = DecompressSettings(
        model=settings.model,
        revision=settings.revision,
        max_output_bytes=len(text),
        offline=settings.offline,
        compute=settings.compute,
    )
    decoded = decompress_bytes(packed, back)
    decompressed = time.monotonic()
    if decoded != text:
        raise IntegrityError("the container does not give the text back")
    payload = read_container(packed).payload
    if not isinstance(payload, CramPayload | None):
        raise ValueError("only what vectors of chunks give is measured")
    return SizeSample(
        report=read_report(packed),
        information=_information(text, payload, settings),
        crammed_bytes=sum(chunk.num_bytes for chunk in payload.chunks) if payload else 0,
        compress_seconds=compressed - began,
        decompress_seconds=decompressed - compressed,
        threads=threads,
        bf16_flops=rate,
    )


def window_job(text: bytes, settings: CompressSettings) -> WindowSample:
    """The model alone over windows of WINDOW_TOKENS, each half new: what the other half and the
    start token tell of it."""
    began = time.monotonic()
    with borrowed_torch(settings.compute.threads):
        files, lm, tokens = _open(settings)
        opening = opening_embeds(lm, segment_start(start_token(files, tokens)), None)
        window = min(WINDOW_TOKENS, lm.max_positions - opening.shape[1])
        parts = [part for part in tokenised_parts(split_stretches(text), tokens) if part.ids]
        bits = sum(window_bits(lm, opening, part.ids or (), window) for part in parts)
    return WindowSample(
        surprisal_bits=bits,
        num_bytes=sum(len(part.data) for part in parts),
        num_tokens=sum(len(part.ids or ()) for part in parts),
        window_tokens=window,
        seconds=time.monotonic() - began,
    )


def other_sizes(text: bytes) -> dict[str, int]:
    """Bytes that other compressors make of `text`, each at its best."""
    return {each.name: each.num_bytes for each in others(text)}


@torch.no_grad()
def information(
    payload: CramPayload, chunk_ids: Sequence[Sequence[int]], lm: FrozenLM
) -> Information:
    """Read every chunk twice, behind its left context alone and behind its vectors, too.

    chunk_ids: the tokens of each chunk.
    """
    surprisal = gain = unpatched = 0.0
    whole = list(zip(payload.chunks, chunk_ids, strict=True))
    for own, opening in zip(payload.segment_ranges, openings(lm, payload), strict=True):
        segment = whole[own.start : own.stop]
        ids = [token for _, part in segment for token in part]
        plain, state = read_alone(lm, opening, ids)
        surprisal += float(plain.sum())
        begin = 0
        for chunk, part in segment:
            end = begin + len(part)
            if chunk.mem is not None:
                mem = torch.from_numpy(mem_bits(chunk.mem)).view(torch.bfloat16)  # [K, D]
                given = _read_with_mem(lm, state.first(opening.shape[1] + begin), mem, part)
                saved = plain[begin:end] - given  # [L]
                gain += float(saved.sum())
                saved[[position for position, _ in chunk.patches]] = 0.0
                unpatched += float(saved.sum())
            begin = end
    return Information(surprisal_bits=surprisal, gain_bits=gain, unpatched_gain_bits=unpatched)


@torch.no_grad()
def window_bits(lm: FrozenLM, opening: Tensor, ids: Sequence[int], window: int) -> float:
    """Surprisal of `ids` in windows of so many tokens, of which each but the first adds half."""
    total, known = 0.0, 0
    for begin in range(0, len(ids), max(1, window // 2)):
        if known == len(ids):
            break
        bits, _ = read_alone(lm, opening, ids[begin : begin + window])
        total += float(bits[known - begin :].sum())
        known = begin + len(bits)
    return total


def _read_with_mem(lm: FrozenLM, state: State, mem: Tensor, ids: Sequence[int]) -> Tensor:
    """Surprisal of each token of a chunk behind its context and vectors: [L] fp64 on the CPU."""
    block, live = pad_ids([ids], lm.device)
    stored = mem.to(lm.device, lm.dtype)[None]  # [1, K, D]
    embeds, live_new = mem_and_chunk(stored, lm.embed(block), live)
    hidden, _ = lm.extend(state, embeds, live_new)
    rows = predicting_rows(hidden, stored.shape[1])  # [1, L, Dh]
    return lm.surprisal_bits(rows[0], block[0]).double().cpu()


def _information(
    text: bytes, payload: CramPayload | None, settings: CompressSettings
) -> Information:
    if payload is None:
        return Information(surprisal_bits=0.0, gain_bits=0.0, unpatched_gain_bits=0.0)
    with borrowed_torch(settings.compute.threads):
        _, lm, tokens = _open(settings)
        return information(payload, list(ids_of_chunks(text, payload, tokens)), lm)


def ids_of_chunks(text: bytes, payload: CramPayload, tokens: Tokens) -> Iterator[tuple[int, ...]]:
    """The tokens of each chunk: those of the text, cut as the file says.

    Without a time budget every token is in a chunk. Raises IntegrityError where one is not.
    """
    parts = tokenised_parts(split_stretches(text), tokens)
    ids = tuple(token for part in parts for token in part.ids or ())
    begin = 0
    for number, chunk in enumerate(payload.chunks):
        found = ids[begin : begin + chunk.num_tokens]
        own = chunk_check(tokens.bytes_of(found), size=payload.check_bytes)
        if own != chunk.check:
            raise IntegrityError(f"chunk {number}: not the text's tokens")
        yield found
        begin += chunk.num_tokens
    if begin != len(ids):
        raise IntegrityError(f"the chunks hold {begin} of {len(ids)} tokens")


def _open(settings: CompressSettings) -> tuple[ModelFiles, FrozenLM, Tokens]:
    """The model in the decoder's precision, laid out to read many tokens at once."""
    compute = settings.compute
    files = resolve(
        settings.model or DEFAULT_MODEL, revision=settings.revision, offline=settings.offline
    )
    device = pick_device(compute.device)
    lm = load_model(files, device=device, dtype=torch.float32, attention=compute.attention)
    return files, lm, Tokens.load(files.path)


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None
