"""The interface that every codec has, and what goes in and out of it.

Owns these types. `table` has the codecs by name; nothing outside `codecs` and the payloads of
`store` asks which one it is. Knows no codec.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeAlias

from llmzip.codecs.context import Context
from llmzip.codecs.input import Part
from llmzip.config import CompressSettings
from llmzip.lm.loaded import LoadedModel
from llmzip.lm.model import FrozenLM
from llmzip.lm.tokens import Tokens
from llmzip.progress import Stage
from llmzip.store.container import Container, write_container
from llmzip.store.figures import STORED, ratio
from llmzip.store.header import SETTINGS_BYTES
from llmzip.store.model_ref import ModelRef
from llmzip.store.pieces import Texts
from llmzip.store.stored import pack_stored, stored_container, xz_bytes

# Takes a piece's number, its tokens and their margins.
OnDecoded: TypeAlias = Callable[[int, list[int], list[float]], None]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file: its bytes, and the same as parts, of which those with tokens are for the model."""

    data: bytes
    parts: Sequence[Part]

    @property
    def has_text(self) -> bool:
        return any(part.ids is not None for part in self.parts)


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A container that has not been read back. read_back: takes the file's bytes and the container
    that was read from them; gives the texts of its pieces, as the decompressor has them; none
    without a model."""

    container: Container
    read_back: Callable[[bytes, Container], Texts] = lambda packed, container: []

    @cached_property
    def num_bytes(self) -> int:
        """What it takes, all but the fields that `api.compress` adds."""
        return len(write_container(self.container))


def stored_draft(data: bytes) -> Draft:
    """A container that holds `data` without a model."""
    return Draft(container=stored_container(data))


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A forecast. seconds: of the whole run, start-up included, however short a time budget is.
    Counts of chunks and vectors are 0 where a codec has none."""

    codec: str  # STORED: nothing is worth the model, and the figures are exact
    original_bytes: int
    container_bytes: int
    xz_bytes: int  # what `xz -9e` makes of the original
    seconds: float
    result: str = ""  # what the container will hold, in words
    sample: str = ""  # what the forecast is made from, in words
    left_out: tuple[str, ...] = ()  # settings whose work is not in it
    keeps_budget: bool = False  # whether a time budget ends the run before these seconds
    num_chunks: int = 0
    num_vectors: int = 0
    steps_a_chunk: float = 0.0
    tried_chunks: int = 0  # crammed for this forecast

    def bits_per_byte(self, num_bytes: int) -> float | None:
        """Bits that `num_bytes` are for each byte of the original; None for an empty original."""
        return ratio(8 * num_bytes, self.original_bytes)


def estimate_stored(data: bytes) -> Estimate:
    """The forecast where nothing is worth the model: exact, and done in no time."""
    return Estimate(
        codec=STORED,
        original_bytes=len(data),
        container_bytes=len(pack_stored(data)) + SETTINGS_BYTES,
        xz_bytes=xz_bytes(data),
        seconds=0.0,
    )


def model_ref(loaded: LoadedModel) -> ModelRef:
    """How a container names this model."""
    files = loaded.files
    return ModelRef(
        model_id=files.model_id,
        revision=files.revision,
        digest=files.digest,
        start_id=loaded.start_id,
    )


@dataclass(frozen=True, kw_only=True)
class DecodingModel:
    """The model that a container was made with, ready to decode. fallback: loads it for the CPU,
    for when another device gives other tokens or has no room; None where there is nothing to fall
    back to."""

    lm: FrozenLM
    tokens: Tokens
    fallback: Callable[[], FrozenLM] | None = None

    @classmethod
    def of(cls, loaded: LoadedModel) -> DecodingModel:
        """That of a model loaded to compress, by which its containers are read back."""
        return cls(lm=loaded.decode_lm, tokens=loaded.tokens)


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which pieces of a container are to be decoded, and how."""

    wanted: range
    # Pieces of a damaged file that cannot be decoded, nor those that depend on them. None: the file
    # is sound, and a token that the model does not have is an error.
    unreadable: Collection[int] | None = None
    batch: int | None = None  # rows decoded together; None: as many as memory is meant to hold
    perturb: float = 0.0  # noise on the model's output, as a share of what the file bears
    stage: Stage = "decode"
    on_decoded: OnDecoded | None = None  # sees every piece that passes its check


class Encoder(ABC):
    """Text to a container."""

    name: ClassVar[str]

    @abstractmethod
    def check(self, settings: CompressSettings, context: Context) -> None:
        """Raise SettingsError where settings and context do not go together. What settings say by
        themselves was checked when they were made."""

    @abstractmethod
    def encode(
        self, source: Source, loaded: LoadedModel, settings: CompressSettings, context: Context
    ) -> Draft:
        """The container of a source that has text; a stored one where the model does not pay.
        Raises Interrupted."""

    @abstractmethod
    def estimate(
        self, source: Source, loaded: LoadedModel, settings: CompressSettings, context: Context
    ) -> Estimate:
        """What `encode` will take and give, from working on a small part. Raises Interrupted."""


class Codec(Encoder):
    """Both directions. `name` is that of its payload."""

    # For a round trip of a sentence, with the least work: settings, and why it may be stored.
    trial: ClassVar[Mapping[str, Any]] = {}
    trial_hint: ClassVar[str] = "this model knows little of such text: another one may do better"
    # For a short text that is shown.
    demo: ClassVar[Mapping[str, Any]] = {}

    # Whether its containers are made to bear noise on the model's output (`Request.perturb`).
    bears_noise: ClassVar[bool] = False

    @abstractmethod
    def decode(
        self, container: Container, model: DecodingModel, request: Request, context: Context
    ) -> list[bytes | None]:
        """The text of each piece; None where it is not needed for those wanted, or fails its check.
        Raises Corrupt for a container that does not fit the model, LimitExceeded where a single
        piece does not fit the device, Interrupted."""
