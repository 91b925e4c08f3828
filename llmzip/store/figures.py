"""The figures of a payload, and small words that several of them need.

Owns what every codec says of what it stores. Needs no numpy, so that what only prints figures does
not wait for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

STORED = "stored"  # in the place of a codec's name, where no model holds the text
PieceKind = Literal["crammed", "patched", "literal", "segment", "stored"]


@dataclass(frozen=True, kw_only=True)
class PieceFigures:
    """What one piece takes. Bits are its share of its plane, to the bit where pieces are stored
    apart, else by the lengths that their symbols have in the code of the whole file."""

    kind: PieceKind
    num_tokens: int
    num_patches: int = 0
    vector_bits: float = 0.0
    patch_bits: float = 0.0
    stream_bits: int = 0
    starts_segment: bool = True


class Figures(ABC):
    """The figures of a payload, ready to be shown."""

    codec: ClassVar[str]
    noun: ClassVar[str]  # what a piece is called
    shown_planes: ClassVar[tuple[str, ...]] = ()  # named by `info` though they hold nothing
    num_segments: int
    num_tokens: int

    @property
    @abstractmethod
    def num_pieces(self) -> int: ...

    @property
    def count_text(self) -> str:
        """The number of pieces with what they are called: "3 chunks"."""
        return count_text(self.num_pieces, self.noun)

    @abstractmethod
    def fields(self) -> dict[str, object]:
        """What stands under the payload's own names in JSON."""

    def head_lines(self) -> list[str]:
        """What `info` says before it names the model."""
        return []

    @abstractmethod
    def lines(self) -> list[str]:
        """What `info` says of the payload."""

    @abstractmethod
    def summary(self) -> str:
        """What `compress` says behind the sizes: ", 3 vectors"."""

    def growth_reason(self) -> str:
        """Why a file is larger than its original; nothing where that is not the payload's doing."""
        return ""


def count_text(number: int, noun: str, plural: str = "s") -> str:
    """ "1 vector", "2 vectors"."""
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def ratio(numerator: float, denominator: int) -> float | None:
    """Their quotient; None for a denominator of 0."""
    return numerator / denominator if denominator else None
