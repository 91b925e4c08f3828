"""The figures of arith files, and the words for them.

Owns what follows from the counts of a file's header and columns. Does not know how they are read,
nor who shows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from llmzip.store.arith_payload import WRAP_CRLF, WRAP_LF, guard_value
from llmzip.store.figures import Figures, count_text

LineEnd = Literal["LF", "CR LF"]
_LINE_ENDS: dict[int, LineEnd] = {WRAP_LF: "LF", WRAP_CRLF: "CR LF"}
_NOISE_OF_GUARD = "an eighth"  # at most: the encoder asks for eight times the noise it measures


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
    guard_code: int
    wrap: int
    text_bytes: int  # original bytes that the streams hold
    stream_bytes: int
    num_shared_vectors: int
    shared_dim: int  # 0 without vectors
    shared_bits: int  # of all shared vectors

    @property
    def guard_nats(self) -> float:
        """Noise in log-odds that decoding bears."""
        return guard_value(self.guard_code)

    @property
    def line_end(self) -> LineEnd | None:
        """That was taken out of the text and coded apart."""
        return _LINE_ENDS.get(self.wrap)

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
        return {
            "arith": {
                "num_lanes": self.num_lanes,
                "prefix_tokens": self.prefix_tokens,
                "window_tokens": self.window_tokens,
                "guard_nats": self.guard_nats,
                "line_end": self.line_end,
                "text_bytes": self.text_bytes,
                "bits_per_token": self.bits_per_token,
                "bits_per_byte": self.bits_per_byte,
                "num_shared_vectors": self.num_shared_vectors,
                "shared_dim": self.shared_dim,
                "shared_bits": self.shared_bits,
            }
        }

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
            f"was at most {_NOISE_OF_GUARD} of it"
        )
