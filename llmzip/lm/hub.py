"""Models of the Hugging Face hub: finding a snapshot on this machine, and fetching one.

Owns which files are fetched (safetensors weights and JSON, never pickles, never code) and the
translation of the hub's errors into `ModelUnavailable`. Knows nothing of named models or digests.
Only `fetch_snapshot` uses the network.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from llmzip.errors import ModelUnavailable
from llmzip.lm.digest import model_files

_WANTED = ["*.safetensors", "*.json", "tokenizer.model"]
_UNWANTED = ["*/*", "consolidated*"]  # exports for other frameworks, copies of the weights
_TRUE = {"1", "ON", "YES", "TRUE"}


def hub_is_offline() -> bool:
    """Whether the environment forbids the hub now; huggingface_hub knows it as it was on import."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in _TRUE for name in names)


def find_snapshot(repo: str, revision: str | None) -> Path | None:
    """The complete snapshot of `repo` on this machine, or None. Does not use the network. The name
    of its directory is the commit. Raises `ModelUnavailable` for an invalid name."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        # Only one file is asked for: `model_files` checks what else the model needs.
        found = snapshot_download(
            repo, revision=revision, local_files_only=True, allow_patterns=["config.json"]
        )
    except LocalEntryNotFoundError:
        return None
    except Exception as cause:
        raise _unavailable(repo, revision, cause) from cause
    with suppress(ModelUnavailable):
        model_files(Path(found))
        return Path(found)
    return None  # fetching was interrupted, or another tool needed fewer files


def fetch_snapshot(
    repo: str, revision: str | None, *, report: Callable[[str], None] | None = None
) -> Path:
    """Fetch `repo` into the hub's own cache and return the directory of the snapshot. `report` gets
    one line with size and target first; without it there are no progress bars."""
    from huggingface_hub import HfApi, constants, snapshot_download

    try:
        with no_progress_bars() if report is None else nullcontext():
            listing = HfApi().model_info(repo, revision=revision, files_metadata=True)
            sizes = {file.rfilename: file.size or 0 for file in listing.siblings or ()}
            _check_listing(repo, set(sizes))
            if report is not None:
                num_bytes = sum(size for name, size in sizes.items() if _is_wanted(name))
                report(
                    f"Fetching {repo} at {listing.sha} ({num_bytes / 1e6:,.0f} MB) "
                    f"into {constants.HF_HUB_CACHE}"
                )
            found = snapshot_download(
                repo, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED
            )
            return Path(found)
    except ModelUnavailable:
        raise
    except Exception as cause:
        raise _unavailable(repo, revision, cause) from cause


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Turn the progress bars of huggingface_hub off, and restore the setting afterwards."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    restore = disable_progress_bars if are_progress_bars_disabled() else enable_progress_bars
    disable_progress_bars()
    try:
        yield
    finally:
        restore()


def _is_wanted(name: str) -> bool:
    is_refused = any(fnmatchcase(name, pattern) for pattern in _UNWANTED)
    return not is_refused and any(fnmatchcase(name, pattern) for pattern in _WANTED)


def _check_listing(repo: str, names: set[str]) -> None:
    """Refuse a repository that could not be used, before anything is fetched."""
    if not any(name.endswith(".safetensors") and _is_wanted(name) for name in names):
        kind = "only .bin weights" if any(name.endswith(".bin") for name in names) else "no weights"
        raise ModelUnavailable(
            f"{repo} has {kind}; llmzip reads safetensors only",
            hint="choose a repository with safetensors files, or convert it and name the directory",
        )
    for needed in ("config.json", "tokenizer.json"):
        if needed not in names:
            reason = " (a fast tokenizer is needed)" if needed == "tokenizer.json" else ""
            raise ModelUnavailable(f"{repo} has no {needed}{reason}")


def _unavailable(repo: str, revision: str | None, cause: Exception) -> ModelUnavailable:
    lines = str(cause).strip().splitlines()
    reason = f"{type(cause).__name__}: {lines[0]}" if lines else type(cause).__name__
    at = f" at {revision}" if revision else ""
    return ModelUnavailable(
        f"cannot get {repo}{at} from the hub: {reason}",
        hint="check the name, the network and, for gated models, `hf auth login`",
    )
