"""The cram codec: chunks of text to optimised input vectors of a language model.

Owns what the rest of the package sees of it; `encoder`, `decoder` and `estimate` do the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from llmzip.codecs.base import Codec, DecodingModel, Request
from llmzip.codecs.context import Context
from llmzip.codecs.cram.decoder import decode_chunks_of
from llmzip.codecs.cram.encoder import encode_cram
from llmzip.codecs.cram.estimate import estimate_cram
from llmzip.config import CompressSettings
from llmzip.errors import SettingsError
from llmzip.store.container import Container
from llmzip.store.cram_payload import CramPayload

_TRIAL_SECONDS = 60.0  # a machine that takes longer is told so


class CramCodec(Codec):
    """See `cram.encoder` and `cram.decoder`."""

    name: ClassVar[str] = CramPayload.codec
    # Vectors as they are, not signs: the fewest steps.
    trial: ClassVar[Mapping[str, Any]] = {
        "bits": 16,
        "preset": "fast",
        "time_budget_s": _TRIAL_SECONDS,
    }
    trial_hint: ClassVar[str] = (
        f"vectors took too much room, or more than {_TRIAL_SECONDS:.0f} s: see the line cpu"
    )
    # So short a text would be stored, had nobody said how many bits vectors are to have.
    demo: ClassVar[Mapping[str, Any]] = {"preset": "fast", "bits": 1}

    def check(self, settings: CompressSettings, context: Context) -> None:
        if context.workers is not None and settings.time_budget_s is not None:
            raise SettingsError("--ray is for cramming, and not within a time budget")

    encode = staticmethod(encode_cram)
    estimate = staticmethod(estimate_cram)

    def decode(
        self, container: Container, model: DecodingModel, request: Request, context: Context
    ) -> list[bytes | None]:
        assert isinstance(container.payload, CramPayload)
        return decode_chunks_of(container.payload, model, request, context)
