"""The arith codec: text to the streams of an arithmetic coder that a language model predicts for.

Owns what the rest of the package sees of it; `encoder`, `decoder` and `estimate` do the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from llmzip.codecs.arith.decoder import decode_segments_of
from llmzip.codecs.arith.encoder import encode_arith
from llmzip.codecs.arith.estimate import estimate_arith
from llmzip.codecs.base import Codec, DecodingModel, Request
from llmzip.codecs.context import Context
from llmzip.config import CompressSettings
from llmzip.errors import SettingsError
from llmzip.store.arith_payload import ArithPayload
from llmzip.store.container import Container


class ArithCodec(Codec):
    """See `arith.encoder` and `arith.decoder`."""

    name: ClassVar[str] = ArithPayload.codec
    bears_noise: ClassVar[bool] = True
    trial: ClassVar[Mapping[str, Any]] = {"shared_mem": 0}  # no search for shared vectors
    demo: ClassVar[Mapping[str, Any]] = {"shared_mem": 0}

    def check(self, settings: CompressSettings, context: Context) -> None:
        if context.workers is not None and settings.codec == self.name:
            raise SettingsError("--ray is for cramming, and not within a time budget")

    encode = staticmethod(encode_arith)
    estimate = staticmethod(estimate_arith)

    def decode(
        self, container: Container, model: DecodingModel, request: Request, context: Context
    ) -> list[bytes | None]:
        assert isinstance(container.payload, ArithPayload)
        return decode_segments_of(container.payload, model, request, context)
