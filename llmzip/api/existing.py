"""Whether a container is what compressing would give: of these bytes, this model, these settings.

Owns the check of the settings that a container keeps. Loads no model and fetches none.
"""

from __future__ import annotations

import json
from dataclasses import fields

from llmzip.codecs.input import split_stretches
from llmzip.config import CompressSettings
from llmzip.errors import FormatError, LimitExceeded, ModelUnavailable, NotACrmFile
from llmzip.lm.zoo import DEFAULT_MODEL, MODELS, resolve
from llmzip.store.container import read_container
from llmzip.store.original import content_hash

# Settings that change how a file is made, not what is in it: the model's digest says which it is.
NOT_BINDING = ("model", "revision", "offline", "compute")
_OTHER_BYTES = "holds other bytes"
_NOT_IN_FILE = (*NOT_BINDING, "verify")


def settings_check(settings: CompressSettings, model_digest: bytes) -> int:
    """16 bits of the settings that are not as usual, and of the model. model_digest: empty where
    there is no text that asks for one."""
    unusual = {
        field.name: getattr(settings, field.name)
        for field in fields(settings)
        if field.name not in _NOT_IN_FILE and getattr(settings, field.name) != field.default
    }
    text = json.dumps({"settings": unusual, "model": model_digest.hex()}, sort_keys=True)
    return int.from_bytes(content_hash(text.encode())[:2], "little")


def difference(packed: bytes, data: bytes, settings: CompressSettings, *, suffix: str) -> str:
    """Why a file's bytes are not a sound container that keeps this suffix, made of `data` with
    these settings, in words; nothing where they are.

    Not known of files of before containers kept a check of their settings, nor where the model is
    not on this machine: then it is taken for another one.
    """
    try:
        found = read_container(packed, max_output_bytes=len(data))
    except NotACrmFile:
        return "is no .crm file"
    except FormatError:
        return "is damaged"
    except LimitExceeded:
        return _OTHER_BYTES
    if found.original_bytes != len(data) or found.original_hash != content_hash(data):
        return _OTHER_BYTES
    if found.suffix != suffix:
        return f"is of a file with {f'the suffix {found.suffix}' if found.suffix else 'no suffix'}"
    try:
        is_same = found.settings_check == check_of(data, settings)
    except ModelUnavailable:
        is_same = False
    return "" if is_same else "was made with another model or other settings"


def check_of(data: bytes, settings: CompressSettings) -> int:
    """The check in a container of `data`. Raises ModelUnavailable where the model is not here."""
    name = settings.model or DEFAULT_MODEL
    if not any(stretch.is_text for stretch in split_stretches(data)):
        digest = b""
    elif name in MODELS:
        digest = MODELS[name].digest
    else:
        files = resolve(
            name, revision=settings.revision, allow_fetch=False, offline=settings.offline
        )
        digest = files.digest
    return settings_check(settings, digest)
