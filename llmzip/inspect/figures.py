"""The figures of one container, as data.

Owns what follows from the numbers that every container gives; those of a payload are its own. Does
not know how they are read, shown or put in words; needs no model and no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmzip.store.cram_figures import CramFigures
from llmzip.store.figures import Figures as PayloadFigures
from llmzip.store.figures import ratio

MODEL_NOT_COUNTED = "model not counted"
STORED = "stored"  # in the place of a codec's name


class BitCounts(dict[str, int]):
    """Where the bits of a container went, by plane: those of payloads, "stored", "metadata". They
    add up to its size, and are attributes, too."""

    def __getattr__(self, name: str) -> int:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def shares(self) -> dict[str, float]:
        """Fractions of the container, by name."""
        return {name: count / sum(self.values()) for name, count in self.items()}


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures of one container. Those of its payload are attributes, too, and the payload
    itself by its codec's name; figures of chunks are 0 or None in files without any."""

    format_version: int
    original_bytes: int
    original_hash: str  # hex, of BLAKE2b-256
    suffix: str  # of the original's name, with its dot; nothing: none, or not known
    container_bytes: int
    bit_counts: BitCounts
    num_stored_runs: int
    stored_original_bytes: int  # original bytes that no model touches
    model_id: str  # empty where no model is needed
    revision: str
    model_digest: str  # hex
    xz_bytes: int  # what `xz -9e` and `zstd -19` made of the original at compress time
    zstd_bytes: int
    payload: PayloadFigures | None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "payload" not in self.__dict__:  # not yet made
            raise AttributeError(name)
        from llmzip.store.payloads import PAYLOADS  # here: numpy

        if name in PAYLOADS:
            return self.payload if self.codec == name else None
        return getattr(self.payload if hasattr(self.payload, name) else _NO_CHUNKS, name)

    @property
    def codec(self) -> str:
        """What holds the text; "stored" where no model does."""
        return self.payload.codec if self.payload else STORED

    @property
    def needs_model(self) -> bool:
        return self.payload is not None

    @property
    def compression_ratio(self) -> float:
        """Original bytes per container byte: above 1 is smaller."""
        return self.original_bytes / self.container_bytes

    @property
    def file_bits_per_byte(self) -> float | None:
        return self.bits_per_byte(self.container_bytes)

    @property
    def is_larger(self) -> bool:
        return self.container_bytes > self.original_bytes

    def bits_per_byte(self, num_bytes: int) -> float | None:
        """Bits that `num_bytes` are for each byte of the original; None for an empty original."""
        return ratio(8 * num_bytes, self.original_bytes)


_NO_CHUNKS = CramFigures()


def printable(text: str) -> str:
    """`text` with all that a terminal could act on, and all that cannot be seen, escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )
