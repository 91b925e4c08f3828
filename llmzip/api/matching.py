"""The model that a container was made with, on this machine.

Owns what a file may say of models: it names one, and nothing is fetched or opened because of that.
"""

from __future__ import annotations

import re
import shlex

from llmzip.config import DecompressSettings
from llmzip.errors import ModelMismatch, ModelUnavailable
from llmzip.lm.zoo import MODELS, ModelFiles, resolve
from llmzip.store.container import Container

_HUB_NAME = re.compile(r"[a-z0-9][\w.-]*/[a-z0-9][\w.-]*", re.ASCII | re.IGNORECASE)


def matching_model(container: Container, settings: DecompressSettings) -> ModelFiles:
    """The model that the user names, or the one that the file names if it is already here;
    digests must agree."""
    wanted = container.model_digest.hex()
    name = settings.model or container.model_id
    # A path in a file is not followed: only known names, and names of the hub that are cached.
    if settings.model is None and name not in MODELS and not _HUB_NAME.fullmatch(name):
        raise ModelUnavailable(
            f"this file was made with the local model {name!r} (digest {wanted})",
            hint="name its directory with --model",
        )
    # What a file names is looked up, never fetched: only the user starts a download.
    files = resolve(
        name,
        revision=settings.revision or (container.revision or None if "/" in name else None),
        allow_fetch=settings.model is not None,
        offline=settings.offline or settings.model is None,
        follow_paths=settings.model is not None,
    )
    if files.digest != container.model_digest:
        raise ModelMismatch(
            f"this file needs model {container.model_id} with digest {wanted}, but {name} has "
            f"{files.digest.hex()}. Nothing was written.",
            expected=wanted,
            got=files.digest.hex(),
            hint=f"llmzip model pull {shlex.quote(container.model_id)}, or name the right one with "
            "--model",
        )
    return files
