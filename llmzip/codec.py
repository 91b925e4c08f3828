"""Compress and decompress: joins the rooms. Verification uses the decompressor's own path."""

from __future__ import annotations

import threading

from llmzip.config import CompressSettings, DecompressSettings
from llmzip.progress import OnProgress


def compress_bytes(
    data: bytes,
    settings: CompressSettings,
    *,
    on_progress: OnProgress | None = None,
    cancel: threading.Event | None = None,
) -> bytes:
    """The `.crm` container of `data`, already decoded once and found equal."""
    raise NotImplementedError


def decompress_bytes(
    data: bytes,
    settings: DecompressSettings,
    *,
    on_progress: OnProgress | None = None,
    cancel: threading.Event | None = None,
) -> bytes:
    """The original bytes, verified by the hashes in the container."""
    raise NotImplementedError
