"""What a `.crm` file holds, as data, and the rules that hold for every one of them.

Owns the dataclasses (re-exported by `container`) but those of arith files, the hash of the original
bytes, the checks of a chunk and of a segment, and the one-byte scale of margins. Does not know how
any of it is laid out in a file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeAlias

import numpy as np

from llmzip.errors import Corrupt
from llmzip.store.arith_payload import Arith, ArithRun, check_arith, check_text
from llmzip.store.cram_columns import MAX_CHUNK_TOKENS
from llmzip.store.residual import MAX_TOKEN_ID, Patch, check_patches
from llmzip.store.suffix import check_suffix
from llmzip.store.varint import MAX_VARINT
from llmzip.store.vectors import (
    MAX_MEM_DIM,
    MAX_NUM_MEM,
    RAW_BITS,
    GridMem,
    MemBits,
    check_bits,
)

HASH_BYTES = 32
DIGEST_BYTES = 16
COMMIT_BYTES = 20
MAX_NAME_BYTES = 255
MAX_CONTEXT_TOKENS = 2**31 - 1
_OF_ANY_FILE = (
    "original_bytes", "original_hash", "xz_bytes", "zstd_bytes", "runs", "suffix", "settings_check",
)  # fmt: skip

# Line breaks, terminal controls, bidirectional overrides: what could make a printed name look like
# something else. A fixed list, so that no file is valid under one version of Unicode only.
_UNPRINTABLE = frozenset(
    chr(code)
    for first, last in (
        (0x00, 0x1F), (0x7F, 0x9F), (0x200E, 0x200F), (0x2028, 0x202E), (0x2066, 0x2069)
    )
    for code in range(first, last + 1)
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """Consecutive tokens held by one set of mem vectors, or token by token."""

    num_tokens: int
    num_bytes: int  # the original bytes that these tokens stand for
    check: int  # `chunk_check` of those bytes
    starts_segment: bool  # no left context
    patches: tuple[Patch, ...]
    # [K, D] bf16 bits, or a grid in coded files. None: a literal chunk, every token is a patch.
    mem: MemBits | GridMem | None

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
class CramRun:
    """Text that the language model decodes. Its first chunk starts a segment."""

    chunks: tuple[Chunk, ...]

    @property
    def num_bytes(self) -> int:
        return sum(chunk.num_bytes for chunk in self.chunks)


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """Bytes kept as they are (in the file: raw, or zstd if that is smaller)."""

    data: bytes

    @property
    def num_bytes(self) -> int:
        return len(self.data)


Run: TypeAlias = CramRun | ArithRun | StoredRun


@dataclass(frozen=True, kw_only=True)
class Container:
    """The contents of one `.crm` file.

    Runs alternate between StoredRun and one other kind: CramRun, or ArithRun in arith files, which
    have `arith`. Without a run of another kind the file needs no model, and every field about the
    model keeps its default. So do `bits`, `context_tokens`, `min_margin` and `bf16_safe` of arith
    files; `num_mem` and `mem_dim` are there those of the shared vectors.
    """

    original_bytes: int
    original_hash: bytes  # `content_hash` of the original
    xz_bytes: int  # what `xz -9e` and `zstd -19` made of the original when it was compressed
    zstd_bytes: int
    runs: tuple[Run, ...]
    model_id: str = ""
    revision: str = ""  # a commit, a label, or nothing
    model_digest: bytes = b""  # 16 bytes: identity of weights, config and vocabulary
    num_mem: int = 0
    mem_dim: int = 0
    bits: int = 0
    context_tokens: int = 0
    start_id: int | None = None  # start token: stands before the first token of every segment
    min_margin: float | None = None  # weakest unpatched margin in logits; None: no such token
    bf16_safe: bool = False
    arith: Arith | None = None
    suffix: str = ""  # that the original's name had, with its dot; nothing: none, or not known
    settings_check: int | None = None  # of model and settings, for `llmzip.api.existing`

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """All chunks in file order, across runs."""
        return tuple(chunk for run in self.runs if isinstance(run, CramRun) for chunk in run.chunks)

    @property
    def num_tokens(self) -> int:
        """What the model has to decode for all of it."""
        pieces = self.arith.segments if self.arith else self.chunks
        return sum(piece.num_tokens for piece in pieces)

    @property
    def is_coded(self) -> bool:
        """Whether its chunks' vectors are on grids, and its planes entropy-coded."""
        return self.needs_model and self.arith is None and self.bits < RAW_BITS

    @property
    def needs_model(self) -> bool:
        return not all(isinstance(run, StoredRun) for run in self.runs)


def content_hash(data: bytes) -> bytes:
    """BLAKE2b-256 of the original bytes."""
    return new_content_hash(data).digest()


def new_content_hash(data: bytes = b"") -> blake2b:
    """The same for bytes that come in parts: has update, copy and digest."""
    return blake2b(data, digest_size=HASH_BYTES)


def chunk_check(data: bytes) -> int:
    """16 bits to find the chunk that went wrong: the first two bytes of `content_hash`.

    Not a proof of anything; the hash of the whole original is.
    """
    return int.from_bytes(content_hash(data)[:2], "little")


def segment_check(data: bytes) -> int:
    """32 bits to find the segment that went wrong: the first four bytes of `content_hash`."""
    return int.from_bytes(content_hash(data)[:4], "little")


def margin_code(margin: float | None) -> int:
    """A margin in logits as one byte, rounded down. Code 1 also stands for all that is smaller."""
    if margin is None:
        return 0
    code = max(1, min(255, 128 + math.floor(16 * math.log2(margin)))) if margin > 0 else 1
    # log2 may be off by an ulp: decide by the decoded values, so that code -> value -> code holds.
    while code < 255 and margin_value(code + 1) <= margin:
        code += 1
    while code > 1 and margin_value(code) > margin:
        code -= 1
    return code


def margin_value(code: int) -> float:
    """The margin in logits that a code of 1..255 stands for."""
    return float(2.0 ** ((code - 128) / 16))


def is_commit(revision: str) -> bool:
    """Whether a revision is a full commit in the one spelling that is stored as raw bytes."""
    return len(revision) == 2 * COMMIT_BYTES and set(revision) <= set("0123456789abcdef")


def check_container(container: Container) -> None:
    """Raise Corrupt (UnsupportedVersion for `bits`) unless every rule of the format holds."""
    for name in ("original_bytes", "xz_bytes", "zstd_bytes"):
        _require(0 <= getattr(container, name) <= MAX_VARINT, f"{name} is out of range")
    _require(len(container.original_hash) == HASH_BYTES, f"a hash has {HASH_BYTES} bytes")
    if container.suffix:
        check_suffix(container.suffix)
    check = container.settings_check
    _require(check is None or 0 <= check <= 0xFFFF, "the check of the settings has 16 bits")
    total = sum(run.num_bytes for run in container.runs)
    _require(
        total == container.original_bytes,
        f"the runs hold {total} bytes, the original has {container.original_bytes}",
    )
    for before, run in zip(container.runs, container.runs[1:], strict=False):
        _require(type(before) is not type(run), "two runs of one kind in a row: join them")
    for run in container.runs:
        _require(run.num_bytes > 0, "an empty run")
        if isinstance(run, CramRun):
            _require(run.chunks[0].starts_segment, "a run's first chunk must start a segment")
    if container.needs_model:
        _check_model(container)
        _check_kind(container)
    else:
        kept = {name: getattr(container, name) for name in _OF_ANY_FILE}
        blank = Container(**kept)
        _require(
            container == blank, "without a run that needs a model all model fields must be empty"
        )
    for number, chunk in enumerate(container.chunks):
        check_chunk(chunk, container, number=number)


def check_name(name: str, *, what: str) -> None:
    """Raise Corrupt for a name too long, or with characters that could mislead a reader."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise Corrupt(f"{what} is not valid Unicode") from error
    _require(size <= MAX_NAME_BYTES, f"{what} of {size} bytes, at most {MAX_NAME_BYTES}")
    _require(_UNPRINTABLE.isdisjoint(name), f"{what} has control characters")


def _check_model(container: Container) -> None:
    _require(container.model_id != "", "text that needs a model needs a model id")
    check_name(container.model_id, what="model id")
    check_name(container.revision, what="revision")
    _require(
        len(container.model_digest) == DIGEST_BYTES, f"a model digest has {DIGEST_BYTES} bytes"
    )
    check_start(container.start_id)


def _check_kind(container: Container) -> None:
    """The fields that are not the same in all files with a model."""
    arith, runs = container.arith, [run for run in container.runs if isinstance(run, ArithRun)]
    _require((arith is not None) == bool(runs), "arith runs and segments do not agree")
    if arith:
        _require(
            not any(isinstance(run, CramRun) for run in container.runs), "crammed and arith runs"
        )
        _check_arith_file(container, arith)
        check_text(arith, runs)
        return
    check_geometry(container.num_mem, container.mem_dim, container.bits, container.context_tokens)
    margin = container.min_margin
    has_free_token = any(len(chunk.patches) < chunk.num_tokens for chunk in container.chunks)
    _require((margin is not None) == has_free_token, "a margin needs an unpatched token")
    _require(
        margin is None or (math.isfinite(margin) and margin >= 0),
        f"the weakest margin cannot be {margin}",
    )


def _check_arith_file(container: Container, arith: Arith) -> None:
    check_arith(arith)
    shape = (container.num_mem, container.mem_dim)
    _require(shape == (arith.num_mem, arith.mem_dim), f"shared mem vectors are not {list(shape)}")
    unused = (container.bits, container.context_tokens, container.min_margin, container.bf16_safe)
    _require(unused == (0, 0, None, False), "fields of crammed text in an arith file")


def check_geometry(num_mem: int, mem_dim: int, bits: int, context_tokens: int) -> None:
    """Raise Corrupt or UnsupportedVersion unless K, D, bits and context are in range."""
    _require(1 <= num_mem <= MAX_NUM_MEM, f"{num_mem} mem vectors per chunk")
    _require(1 <= mem_dim <= MAX_MEM_DIM, f"mem vectors of {mem_dim} dimensions")
    _require(0 <= context_tokens <= MAX_CONTEXT_TOKENS, f"{context_tokens} context tokens")
    check_bits(bits)


def check_start(start_id: int | None) -> None:
    """Raise Corrupt unless there is no start token, or its id is in range."""
    if start_id is not None:
        _require(0 <= start_id <= MAX_TOKEN_ID, f"start token {start_id}, at most {MAX_TOKEN_ID}")


def check_chunk(chunk: Chunk, container: Container, *, number: int) -> None:
    """Raise Corrupt for a chunk that breaks a rule: all rules but that against infinities and NaNs
    of raw vectors, which `vectors` refuses for all at once."""
    wrong, mem = "", chunk.mem
    if not 1 <= chunk.num_tokens <= MAX_CHUNK_TOKENS:
        wrong = f"{chunk.num_tokens} tokens, at most {MAX_CHUNK_TOKENS}"
    elif chunk.num_bytes < chunk.num_tokens:
        wrong = f"{chunk.num_bytes} bytes for {chunk.num_tokens} tokens"
    elif not 0 <= chunk.check <= 0xFFFF:
        wrong = "the check has 16 bits"
    elif mem is None and len(chunk.patches) != chunk.num_tokens:
        wrong = f"literal, but {len(chunk.patches)} of {chunk.num_tokens} tokens known"
    elif mem is not None:
        wrong = _mem_problem(mem, container)
    if wrong:
        raise Corrupt(f"chunk {number}: {wrong}")
    allow_ranked = container.is_coded and mem is not None
    check_patches(chunk.patches, num_tokens=chunk.num_tokens, allow_ranked=allow_ranked)


def _mem_problem(mem: MemBits | GridMem, container: Container) -> str:
    shape = (container.num_mem, container.mem_dim)
    if isinstance(mem, GridMem) != container.is_coded:
        return f"mem is a {type(mem).__name__} at {container.bits} bits"
    if isinstance(mem, GridMem):
        return mem.problem(*shape)
    fits = mem.dtype == np.uint16 and mem.shape == shape
    return "" if fits else f"mem is {mem.dtype} {list(mem.shape)}, not uint16 {list(shape)}"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise Corrupt(message)
