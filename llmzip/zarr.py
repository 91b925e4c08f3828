"""The codec "llmzip" of zarr's format 3.

    >>> import numpy, zarr
    >>> from llmzip.zarr import LlmzipCodec
    >>> lines = zarr.create_array(
    ...     zarr.storage.MemoryStore(), shape=2, chunks=2, dtype="string",
    ...     compressors=[LlmzipCodec(model=model)],
    ... )
    >>> lines[:] = numpy.array(["Once.", "Twice."])
    >>> str(lines[1])
    'Twice.'

zarr finds it by itself, by an entry point, when an array names it. Owns how zarr calls the codec
of `llmzip.numcodecs`, which serves format 2 as it is.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from zarr.abc.codec import BytesBytesCodec

from llmzip.config import Codec, Preset
from llmzip.numcodecs import Llmzip

if TYPE_CHECKING:
    from typing_extensions import Self
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer


@dataclass(frozen=True)
class LlmzipCodec(BytesBytesCodec):  # type: ignore[misc]
    """A chunk as a `.crm` container. Its settings are those of `llmzip.numcodecs.Llmzip`."""

    codec: Codec = "arith"
    model: str | None = None
    preset: Preset = "balanced"

    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """From an array's metadata. Raises ValueError where they are of another codec."""
        if data.get("name") != Llmzip.codec_id:
            raise ValueError(f"not {Llmzip.codec_id!r}: {data.get('name')!r}")
        return cls(**data.get("configuration", {}))

    def to_dict(self) -> dict[str, Any]:
        """For an array's metadata."""
        return {"name": Llmzip.codec_id, "configuration": asdict(self)}

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        data = await asyncio.to_thread(self._codec.decode, chunk_bytes.to_bytes())
        return chunk_spec.prototype.buffer.from_bytes(data)

    async def _encode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer | None:
        data = await asyncio.to_thread(self._codec.encode, chunk_bytes.to_bytes())
        return chunk_spec.prototype.buffer.from_bytes(data)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Depends on the bytes."""
        raise NotImplementedError

    @property
    def _codec(self) -> Llmzip:
        return Llmzip(**asdict(self))
