"""Chunks of text held by mem vectors, as a file keeps them, and the rules for them.

Owns the dataclasses of the cram codec and every limit on them. Does not know how any of it is laid
out in a file; `cram_fields` does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import ClassVar

import numpy as np

from llmzip.errors import Corrupt
from llmzip.store.cram_signs import are_signs
from llmzip.store.figures import PieceFigures, PieceKind
from llmzip.store.model_ref import ModelRef
from llmzip.store.payload import Payload, Run, StoredRun, Tensors
from llmzip.store.residual import Name, Patch, Ranked, check_patches
from llmzip.store.shared_vectors import SharedMems, check_shared_mems, shared_sets
from llmzip.store.varint import require
from llmzip.store.vectors import (
    MAX_MEM_DIM,
    MAX_NUM_MEM,
    RAW_BITS,
    GridMem,
    MemBits,
    check_bits,
    mem_bits,
)

# Of the token of a patch, by id, by rank, in a stream: usual figures.
ID_BITS, _RANK_BITS, STREAM_BITS = 15.0, 3.0, 12.0


def vector_weights(mems: Sequence[MemBits | GridMem | None]) -> list[float]:
    """In proportion to what each chunk's vectors take: symbols by how rare they are in the file."""
    grids = [mem.symbols.flatten().tolist() if isinstance(mem, GridMem) else [] for mem in mems]
    own = list(map(Counter, grids))
    counts = Counter(chain.from_iterable(grids))
    total = counts.total()
    return [
        16.0 * mem.size
        if isinstance(mem, np.ndarray)
        else sum((n * -math.log2(counts[s] / total) for s, n in symbols.items()), 0.0)
        for mem, symbols in zip(mems, own, strict=True)
    ]


def patch_weight(patches: Sequence[Patch], num_tokens: int) -> float:
    """In proportion to what a chunk's patches take: a place and a name each."""
    if not patches:
        return 0.0
    names = sum(_name_bits(token) for _, token in patches)
    return names + math.log2(max(2, math.comb(num_tokens, len(patches))))


def _name_bits(token: Name) -> float:
    if token is None:
        return STREAM_BITS
    return ID_BITS if isinstance(token, int) else _RANK_BITS


def shares(weights: Sequence[float], plane_bytes: int) -> list[float]:
    """The bits of a plane in proportion to the weights; nothing for each where all are 0."""
    whole = sum(weights)
    return [8 * plane_bytes * weight / whole if whole else 0.0 for weight in weights]


MAX_CHUNK_TOKENS = 65535
MAX_CONTEXT_TOKENS = 2**31 - 1
BF16_SAFE = 1  # an optional feature
_COLUMNS = ("chunk", "first_byte", "num_bytes", "num_tokens", "starts_segment")


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """Consecutive tokens held by one set of mem vectors, or token by token."""

    num_tokens: int
    num_bytes: int  # the original bytes that these tokens stand for
    check: int  # `chunk_check` of those bytes, in as many bytes as the payload says
    starts_segment: bool  # no left context
    patches: tuple[Patch, ...]
    # [K, D] bf16 bits, or a grid in coded files. None: a literal chunk, every token is a patch.
    mem: MemBits | GridMem | None

    @property
    def in_stream(self) -> bool:
        """Whether it has tokens that only the segment's stream names."""
        return any(token is None for _, token in self.patches)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Chunk):
            return NotImplemented
        if self._plain() != other._plain() or type(self.mem) is not type(other.mem):
            return False
        if isinstance(self.mem, np.ndarray) and isinstance(other.mem, np.ndarray):
            return np.array_equal(self.mem, other.mem)
        return self.mem == other.mem

    __hash__ = None  # type: ignore[assignment]  # arrays have none

    def _plain(self) -> tuple[object, ...]:
        return (self.num_tokens, self.num_bytes, self.check, self.starts_segment, self.patches)


@dataclass(frozen=True, kw_only=True)
class CramPayload(Payload):
    """All that the cram codec holds of a file's text. A run of text starts a segment."""

    codec: ClassVar[str] = "cram"
    noun: ClassVar[str] = "chunk"
    # A segment takes as long alone as beside seven others: a step reads all weights anyway.
    segments_ahead: ClassVar[int] = 8

    model: ModelRef
    num_mem: int
    mem_dim: int
    bits: int
    context_tokens: int
    min_margin: float | None  # weakest unpatched margin in logits; None: no such token
    bf16_safe: bool = False
    signs: bool = False  # the vectors are stored as signs (`cram_signs`)
    chunks: tuple[Chunk, ...]  # in file order, across runs
    # Of each segment, the stream of its patched tokens; nothing where patches name their tokens.
    streams: tuple[bytes, ...] = ()
    shared: SharedMems = ()  # the vectors before each segment

    @property
    def pieces(self) -> tuple[Chunk, ...]:
        return self.chunks

    @property
    def segment_ranges(self) -> list[range]:
        starts = [index for index, chunk in enumerate(self.chunks) if chunk.starts_segment]
        return [range(a, b) for a, b in pairwise([*starts, len(self.chunks)])]

    @property
    def shared_mems(self) -> Sequence[GridMem | None]:
        return self.shared or super().shared_mems

    @property
    def bits_per_dimension(self) -> int:
        return self.bits

    @property
    def is_coded(self) -> bool:
        """Whether its vectors are on grids, and its planes entropy-coded."""
        return self.bits < RAW_BITS

    @property
    def check_bytes(self) -> int:
        """Of the check of each chunk."""
        return 1 if self.signs else 2

    @property
    def optional(self) -> int:
        return BF16_SAFE * self.bf16_safe

    def check(self, runs: Sequence[Run]) -> None:
        self.check_geometry()
        for number, chunk in enumerate(self.chunks):
            check_chunk(chunk, self, number=number)
        if self.signs:
            mems = [chunk.mem for chunk in self.chunks if isinstance(chunk.mem, GridMem)]
            require(self.is_coded and are_signs(mems), "vectors that are not all signs")
        self._check_streams()
        num_segments = len(self.segment_ranges)
        check_shared_mems(self.shared, num_segments=num_segments, mem_dim=self.mem_dim)
        require(self.is_coded or not self.shared, "shared vectors beside raw ones")
        for chunks in chunks_of_runs(self.chunks, runs):
            require(chunks[0].starts_segment, "a run's first chunk must start a segment")
        margin = self.min_margin
        has_free_token = any(len(chunk.patches) < chunk.num_tokens for chunk in self.chunks)
        require((margin is not None) == has_free_token, "a margin needs an unpatched token")
        require(
            margin is None or (math.isfinite(margin) and margin >= 0),
            f"the weakest margin cannot be {margin}",
        )

    def _check_streams(self) -> None:
        if not self.streams:
            return
        segments = self.segment_ranges
        require(len(self.streams) == len(segments), f"{len(self.streams)} streams of patches")
        for stream, segment in zip(self.streams, segments, strict=True):
            has_some = any(self.chunks[index].in_stream for index in segment)
            require(bool(stream) == has_some, "a stream of patches and its segment do not agree")
        require(any(self.streams), "streams of patches without a patch")

    def check_geometry(self) -> None:
        """Raise Corrupt or UnsupportedVersion unless K, D, bits and context are in range."""
        num_mem, mem_dim, context = self.num_mem, self.mem_dim, self.context_tokens
        require(1 <= num_mem <= MAX_NUM_MEM, f"{num_mem} mem vectors per chunk")
        require(1 <= mem_dim <= MAX_MEM_DIM, f"mem vectors of {mem_dim} dimensions")
        require(0 <= context <= MAX_CONTEXT_TOKENS, f"{context} context tokens")
        check_bits(self.bits)

    def piece_figures(self, planes: Mapping[str, int]) -> list[PieceFigures]:
        vectors = shares(vector_weights([chunk.mem for chunk in self.chunks]), planes["vectors"])
        weights = [patch_weight(chunk.patches, chunk.num_tokens) for chunk in self.chunks]
        patches = shares(weights, planes["patches"])
        return [
            PieceFigures(
                kind=_kind(chunk),
                num_tokens=chunk.num_tokens,
                num_patches=0 if chunk.mem is None else len(chunk.patches),
                vector_bits=vector_bits,
                patch_bits=patch_bits,
                starts_segment=chunk.starts_segment,
            )
            for chunk, vector_bits, patch_bits in zip(self.chunks, vectors, patches, strict=True)
        ]

    def patched_positions(self) -> list[list[int]]:
        return [[position for position, _ in chunk.patches] for chunk in self.chunks]

    def tensors(self, first_bytes: Sequence[int]) -> Tensors:
        """Of the chunks that have vectors: chunk (from 0), first_byte, num_bytes, num_tokens,
        starts_segment: [N] int64. patches: [P, 6] int64: row of mem, position, token or -1, and of
        one that is named by rank skip, size and index, else -1. Where all of these are -1, only the
        language model gives the token. With shared vectors, shared: [S, K, D], and shared_row: [N]
        int64, which of these stand before the segment of each chunk, or -1."""
        mems = [mem_bits(chunk.mem) for chunk in self.chunks if chunk.mem is not None]
        held = [
            (number, chunk) for number, chunk in enumerate(self.chunks) if chunk.mem is not None
        ]
        rows = [
            [number, first_bytes[number], chunk.num_bytes, chunk.num_tokens, chunk.starts_segment]
            for number, chunk in held
        ]
        patches = [
            [row, position, *_name_columns(token)]
            for row, (_, chunk) in enumerate(held)
            for position, token in chunk.patches
        ]
        columns = np.array(rows, dtype=np.int64).reshape(-1, len(_COLUMNS)).T
        empty = np.empty((0, self.num_mem, self.mem_dim), dtype=np.uint16)
        tensors: Tensors = {
            "mem": np.stack(mems) if mems else empty,
            **dict(zip(_COLUMNS, columns, strict=True)),
            "patches": np.array(patches, dtype=np.int64).reshape(-1, 6),
        }
        if self.shared:
            places, sets = shared_sets(self.shared)
            segments = zip(self.segment_ranges, places, strict=True)
            of_chunks = [place for segment, place in segments for _ in segment]
            tensors["shared"] = np.stack([mem_bits(mem) for mem in sets])
            tensors["shared_row"] = np.array([of_chunks[n] for n, _ in held], dtype=np.int64)
        return tensors


def _name_columns(token: Name) -> list[int]:
    if isinstance(token, Ranked):
        return [-1, token.skip, token.size, token.index]
    return [-1 if token is None else token, -1, -1, -1]


def chunks_of_runs(chunks: Sequence[Chunk], runs: Sequence[Run]) -> list[Sequence[Chunk]]:
    """The chunks of each run of text. Raises Corrupt where a run ends inside a chunk."""
    ends = [0, *accumulate(chunk.num_bytes for chunk in chunks)]
    places = {end: index for index, end in enumerate(ends)}
    found: list[Sequence[Chunk]] = []
    begin = 0
    for run in runs:
        if not isinstance(run, StoredRun):
            first, last = places.get(begin), places.get(begin + run.num_bytes)
            if first is None or last is None:
                raise Corrupt(f"a run of {run.num_bytes} bytes does not end where a chunk does")
            found.append(chunks[first:last])
            begin += run.num_bytes
    require(begin == ends[-1], f"the chunks hold {ends[-1]} bytes, the runs take {begin}")
    return found


def check_chunk(chunk: Chunk, payload: CramPayload, *, number: int) -> None:
    """Raise Corrupt for a chunk that breaks a rule: all rules but that against infinities and NaNs
    of raw vectors, which `vectors` refuses for all at once."""
    wrong, mem = "", chunk.mem
    if not 1 <= chunk.num_tokens <= MAX_CHUNK_TOKENS:
        wrong = f"{chunk.num_tokens} tokens, at most {MAX_CHUNK_TOKENS}"
    elif chunk.num_bytes < chunk.num_tokens:
        wrong = f"{chunk.num_bytes} bytes for {chunk.num_tokens} tokens"
    elif not 0 <= chunk.check < 1 << 8 * payload.check_bytes:
        wrong = f"the check has {8 * payload.check_bytes} bits"
    elif mem is None and len(chunk.patches) != chunk.num_tokens:
        wrong = f"literal, but {len(chunk.patches)} of {chunk.num_tokens} tokens known"
    elif mem is not None:
        wrong = _mem_problem(mem, payload)
    if wrong:
        raise Corrupt(f"chunk {number}: {wrong}")
    has_names_of_model = payload.is_coded and mem is not None
    check_patches(
        chunk.patches, num_tokens=chunk.num_tokens, allow_ranked=has_names_of_model,
        in_stream=has_names_of_model and bool(payload.streams),
    )  # fmt: skip


def _mem_problem(mem: MemBits | GridMem, payload: CramPayload) -> str:
    shape = (payload.num_mem, payload.mem_dim)
    if isinstance(mem, GridMem) != payload.is_coded:
        return f"mem is a {type(mem).__name__} at {payload.bits} bits"
    if isinstance(mem, GridMem):
        return mem.problem(*shape)
    fits = mem.dtype == np.uint16 and mem.shape == shape
    return "" if fits else f"mem is {mem.dtype} {list(mem.shape)}, not uint16 {list(shape)}"


def _kind(chunk: Chunk) -> PieceKind:
    if chunk.mem is None:
        return "literal"
    return "patched" if chunk.patches else "crammed"
