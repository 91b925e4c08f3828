"""Streams of an arithmetic coder, as a file keeps them, and the rules for them.

Owns the dataclasses of the arith codec and every limit on them. Does not know how any of it is laid
out in a file (`arith_fields` does), nor what is in a stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from llmzip.errors import Corrupt
from llmzip.store.figures import PieceFigures
from llmzip.store.model_ref import ModelRef
from llmzip.store.payload import Payload, Run, StoredRun, Tensors
from llmzip.store.varint import MAX_VARINT
from llmzip.store.vectors import MAX_MEM_DIM, GridMem, mem_bits

MAX_PREFIX_TOKENS = 65535
MAX_WINDOW_TOKENS = 1 << 24
MAX_SEGMENT_TOKENS = 1 << 24
MAX_LANES = 64
MAX_SHARED_MEM = 64
MAX_CHECK = 2**32 - 1

# The line break that the line-wrap transform put back.
WRAP_NONE, WRAP_LF, WRAP_CRLF = range(3)

# A stream has a byte at least for as many tokens: the work on a segment is bounded by its size.
TOKENS_PER_STREAM_BYTE = 4096


@dataclass(frozen=True, kw_only=True)
class ArithSegment:
    """Consecutive bytes of the text, decodable without the other segments."""

    num_tokens: int
    num_bytes: int  # bytes of the text that these tokens stand for
    check: int  # `segment_check` of those bytes
    num_lanes: int  # parts of the segment that are predicted side by side
    stream: bytes  # of the arithmetic coder


@dataclass(frozen=True, kw_only=True)
class ArithPayload(Payload):
    """All that the language model and the arithmetic coder hold of a file's text."""

    codec: ClassVar[str] = "arith"
    noun: ClassVar[str] = "segment"

    model: ModelRef
    segments: tuple[ArithSegment, ...]
    prefix_tokens: int  # the first tokens of each segment, which all its lanes see
    window_tokens: int  # tokens that a lane remembers besides
    guard_code: int  # noise in log-odds that the file tolerates, see `guard_value`
    wrap: int  # WRAP_NONE, WRAP_LF or WRAP_CRLF
    mem: GridMem | None  # [K, D] mem vectors, the same for all segments

    @property
    def pieces(self) -> tuple[ArithSegment, ...]:
        return self.segments

    @property
    def num_mem(self) -> int:
        return len(self.mem.steps) if self.mem else 0

    @property
    def mem_dim(self) -> int:
        return self.mem.symbols.shape[-1] if self.mem else 0

    def check(self, runs: Sequence[Run]) -> None:
        check_prediction(
            prefix_tokens=self.prefix_tokens,
            window_tokens=self.window_tokens,
            guard_code=self.guard_code,
            wrap=self.wrap,
        )
        if self.mem is not None:
            check_shared(self.num_mem, self.mem_dim)
            wrong = self.mem.problem(self.num_mem, self.mem_dim)
            if wrong:
                raise Corrupt(f"shared mem vectors: {wrong}")
        if not self.segments:
            raise Corrupt("an arith file without a segment")
        for number, segment in enumerate(self.segments):
            check_segment(
                number,
                num_tokens=segment.num_tokens,
                num_bytes=segment.num_bytes,
                num_lanes=segment.num_lanes,
                stream_bytes=len(segment.stream),
            )
            if not 0 <= segment.check <= MAX_CHECK:
                raise Corrupt(f"segment {number}: the check has 32 bits")
        held = sum(segment.num_bytes for segment in self.segments)
        total = sum(run.num_bytes for run in runs if not isinstance(run, StoredRun))
        if held != total:
            raise Corrupt(f"the segments hold {held} bytes, the runs take {total}")

    def piece_figures(self, planes: Mapping[str, int]) -> list[PieceFigures]:
        return [
            PieceFigures(
                kind="segment", num_tokens=segment.num_tokens, stream_bits=8 * len(segment.stream)
            )
            for segment in self.segments
        ]

    def tensors(self, first_bytes: Sequence[int]) -> Tensors:
        """The vectors shared by all segments: [1, K, D]."""
        if self.mem is None:
            return super().tensors(first_bytes)
        return {"mem": mem_bits(self.mem)[None]}


def guard_value(code: int) -> float:
    """The noise in log-odds (nats) that a code of 1 to 255 stands for."""
    return float(2.0 ** ((code - 256) / 16))


def guard_code(guard: float) -> int:
    """The smallest code that stands for a guard or more; the largest for all above it."""
    return next((code for code in range(1, 255) if guard_value(code) >= guard), 255)


def least_stream_bytes(num_tokens: int) -> int:
    """The fewest bytes that a segment's stream may have, however well its tokens are predicted."""
    return max(1, num_tokens // TOKENS_PER_STREAM_BYTE)


def check_prediction(*, prefix_tokens: int, window_tokens: int, guard_code: int, wrap: int) -> None:
    """Raise Corrupt unless the settings of the prediction are in range."""
    if not 0 <= prefix_tokens <= MAX_PREFIX_TOKENS:
        raise Corrupt(f"a prefix of {prefix_tokens} tokens, at most {MAX_PREFIX_TOKENS}")
    if not 1 <= window_tokens <= MAX_WINDOW_TOKENS:
        raise Corrupt(f"a window of {window_tokens} tokens, 1 to {MAX_WINDOW_TOKENS}")
    if not 1 <= guard_code <= 255:
        raise Corrupt(f"guard code {guard_code}, 1 to 255")
    if wrap not in (WRAP_NONE, WRAP_LF, WRAP_CRLF):
        raise Corrupt(f"line break {wrap}, at most {WRAP_CRLF}")


def check_shared(num_mem: int, mem_dim: int) -> None:
    """Raise Corrupt unless so many shared mem vectors of so many dimensions may be there."""
    if not 1 <= num_mem <= MAX_SHARED_MEM:
        raise Corrupt(f"{num_mem} shared mem vectors, at most {MAX_SHARED_MEM}")
    if not 1 <= mem_dim <= MAX_MEM_DIM:
        raise Corrupt(f"shared mem vectors of {mem_dim} dimensions")


def check_segment(
    number: int, *, num_tokens: int, num_bytes: int, num_lanes: int, stream_bytes: int
) -> None:
    """Raise Corrupt unless the sizes of a segment are in range and can all be true."""
    wrong = ""
    if not 1 <= num_tokens <= MAX_SEGMENT_TOKENS:
        wrong = f"{num_tokens} tokens, 1 to {MAX_SEGMENT_TOKENS}"
    elif not num_tokens <= num_bytes <= MAX_VARINT:
        wrong = f"{num_bytes} bytes for {num_tokens} tokens"
    elif not 1 <= num_lanes <= min(MAX_LANES, num_tokens):
        wrong = f"{num_lanes} lanes for {num_tokens} tokens, at most {MAX_LANES}"
    elif stream_bytes < least_stream_bytes(num_tokens):
        wrong = f"a stream of {stream_bytes} bytes for {num_tokens} tokens"
    if wrong:
        raise Corrupt(f"segment {number}: {wrong}")
