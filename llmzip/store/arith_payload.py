"""Streams of an arithmetic coder, as a file keeps them, the rules for them, and their figures.

Owns the dataclasses of the arith codec, every limit on them, and the words for what a file holds.
Does not know how any of it is laid out in a file (`arith_fields` does), nor what is in a stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from llmzip.store.figures import Figures, PieceFigures, count_text
from llmzip.store.model_ref import ModelRef
from llmzip.store.payload import Payload, Run, StoredRun, Tensors
from llmzip.store.shared_vectors import check_shared
from llmzip.store.varint import MAX_VARINT, require
from llmzip.store.vectors import GridMem, mem_bits

MAX_PREFIX_TOKENS = 65535
MAX_WINDOW_TOKENS = 1 << 24
MAX_SEGMENT_TOKENS = 1 << 24
MAX_LANES = 64
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

    def verify(self, number: int, stream_bytes: int) -> None:
        """Raise Corrupt unless the sizes are in range and can all be true. stream_bytes: those that
        the stream has, or will have once it is read."""
        wrong = ""
        if not 1 <= self.num_tokens <= MAX_SEGMENT_TOKENS:
            wrong = f"{self.num_tokens} tokens, 1 to {MAX_SEGMENT_TOKENS}"
        elif not self.num_tokens <= self.num_bytes <= MAX_VARINT:
            wrong = f"{self.num_bytes} bytes for {self.num_tokens} tokens"
        elif not 1 <= self.num_lanes <= min(MAX_LANES, self.num_tokens):
            wrong = f"{self.num_lanes} lanes for {self.num_tokens} tokens, at most {MAX_LANES}"
        elif stream_bytes < least_stream_bytes(self.num_tokens):
            wrong = f"a stream of {stream_bytes} bytes for {self.num_tokens} tokens"
        elif not 0 <= self.check <= MAX_CHECK:
            wrong = "the check has 32 bits"
        require(not wrong, f"segment {number}: {wrong}")


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
    def shared_mems(self) -> Sequence[GridMem | None]:
        return [self.mem] * len(self.segments)

    @property
    def num_mem(self) -> int:
        return len(self.mem.steps) if self.mem else 0

    @property
    def mem_dim(self) -> int:
        return self.mem.symbols.shape[-1] if self.mem else 0

    @property
    def line_end(self) -> str | None:
        """The line end that the line-wrap transform took out of the text; None: it took none."""
        return {WRAP_LF: "LF", WRAP_CRLF: "CR LF"}.get(self.wrap)

    def check(self, runs: Sequence[Run]) -> None:
        self.check_prediction()
        if self.mem is not None:
            check_shared(self.num_mem, self.mem_dim)
            wrong = self.mem.problem(self.num_mem, self.mem_dim)
            require(not wrong, f"shared mem vectors: {wrong}")
        require(self.segments, "an arith file without a segment")
        for number, segment in enumerate(self.segments):
            segment.verify(number, len(segment.stream))
        held = sum(segment.num_bytes for segment in self.segments)
        total = sum(run.num_bytes for run in runs if not isinstance(run, StoredRun))
        require(held == total, f"the segments hold {held} bytes, the runs take {total}")

    def check_prediction(self) -> None:
        """Raise Corrupt unless the settings of the prediction are in range."""
        prefix, window = self.prefix_tokens, self.window_tokens
        is_prefix, is_window = 0 <= prefix <= MAX_PREFIX_TOKENS, 1 <= window <= MAX_WINDOW_TOKENS
        require(is_prefix, f"a prefix of {prefix} tokens, at most {MAX_PREFIX_TOKENS}")
        require(is_window, f"a window of {window} tokens, 1 to {MAX_WINDOW_TOKENS}")
        require(1 <= self.guard_code <= 255, f"guard code {self.guard_code}, 1 to 255")
        is_wrap = WRAP_NONE <= self.wrap <= WRAP_CRLF
        require(is_wrap, f"line break {self.wrap}, at most {WRAP_CRLF}")

    def piece_figures(self, planes: Mapping[str, int]) -> list[PieceFigures]:
        return [
            PieceFigures(kind="segment", num_tokens=s.num_tokens, stream_bits=8 * len(s.stream))
            for s in self.segments
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


# What JSON shows of `ArithFigures`, in this order.
_IN_JSON = (
    *("num_lanes", "prefix_tokens", "window_tokens", "guard_nats", "line_end", "text_bytes"),
    *("bits_per_token", "bits_per_byte", "num_shared_vectors", "shared_dim", "shared_bits"),
)


@dataclass(frozen=True, kw_only=True)
class ArithFigures(Figures):
    """How the text of a file is predicted, and what that took."""

    codec: ClassVar[str] = "arith"
    noun: ClassVar[str] = "segment"

    num_segments: int
    num_tokens: int
    num_lanes: int  # of all segments
    prefix_tokens: int
    window_tokens: int
    guard_nats: float  # noise in log-odds that decoding bears
    line_end: str | None  # that was taken out of the text and coded apart
    text_bytes: int  # original bytes that the streams hold
    stream_bytes: int
    num_shared_vectors: int
    shared_dim: int  # 0 without vectors
    shared_bits: int  # of all shared vectors

    @property
    def bits_per_token(self) -> float:
        return 8 * self.stream_bytes / self.num_tokens  # every segment has a token

    @property
    def bits_per_byte(self) -> float:
        """Of the text, without what is stored, and without metadata."""
        return 8 * self.stream_bytes / self.text_bytes

    @property
    def num_pieces(self) -> int:
        return self.num_segments

    def fields(self) -> dict[str, object]:
        return {"arith": {name: getattr(self, name) for name in _IN_JSON}}

    def head_lines(self) -> list[str]:
        return ["codec     arith: language model and arithmetic coder"]

    def lines(self) -> list[str]:
        lanes = count_text(self.num_lanes, "lane")
        if self.num_segments == 1:
            size = f"1 of {count_text(self.num_tokens, 'token')}, {lanes}"
        else:
            mean = round(self.num_tokens / self.num_segments)
            size = f"{self.num_segments:,} of about {mean:,} tokens, {lanes} in all"
        if self.num_lanes > self.num_segments:  # a lane alone in its segment needs no prefix
            size += f", prefix {self.prefix_tokens:,}"
        lines = [
            f"segments  {size}, window {self.window_tokens:,} tokens",
            f"tokens    {self.num_tokens:,}, {self.bits_per_token:.2f} bits each, "
            f"{self.bits_per_byte:.2f} bits per byte of text",
        ]
        if self.num_shared_vectors:
            rate = self.shared_bits / (self.num_shared_vectors * self.shared_dim)
            lines.append(
                f"vectors   {self.num_shared_vectors:,} shared by all segments, each "
                f"{self.shared_dim:,} dimensions x {rate:.3g} bits, "
                f"{self.shared_bits // 8:,} bytes in all"
            )
        if self.line_end is not None:
            lines.append(f"wrap      line ends taken out: {self.line_end}")
        lines.append(f"guard     {self.guard_text()}")
        return lines

    def summary(self) -> str:
        if not self.num_shared_vectors:
            return ""
        return f", {count_text(self.num_shared_vectors, 'shared vector')}"

    def guard_text(self) -> str:
        """The guard in words: how much noise decoding bears."""
        return (
            f"{self.guard_nats:.2g} nats: decodes the same wherever the model's log-odds differ by "
            "less than that from those of the machine that compressed; the noise measured there "
            "was at most an eighth of it"  # as the encoder asks for eight times what it measures
        )
